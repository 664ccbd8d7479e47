"""Images at web addresses: downloaded once into a cache, whole or not at all.

A download that was cut short goes on where it stopped, where the server lets it and the file is still the same by its
ETag or date; what has a known size or SHA-256 is held against it. http and https are read by httpx; whatever else
fsspec knows (s3, gs, ftp, …), by fsspec with the package it asks for.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import fsspec
import httpx
from pydantic import BaseModel, ConfigDict, Field

from greenpea.errors import GreenpeaError
from greenpea.files import sha256
from greenpea.formats import Unreadable

CACHE = "GREENPEA_CACHE"  # the environment variable that names the folder of downloads
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
LATER = (408, 425, 429, 500, 502, 503, 504)  # answers after which another try makes sense
FORGIVEN = 300.0  # seconds for which a failed address is not asked again
SILENT = 16  # failures in a row after which a server is left alone for a minute
CHUNK = 1 << 16  # bytes


class Fetching(BaseModel):
    """How images at web addresses are downloaded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cache: str = Field("", description="folder of the downloads; empty: GREENPEA_CACHE, else the user's cache folder")
    connections: int = Field(8, ge=1, description="downloads at a time, per process")
    timeout: float = Field(20, gt=0, description="seconds without a byte after which a try is given up")
    longest: float = Field(300, gt=0, description="seconds for one image, all tries together")
    tries: int = Field(4, ge=1, description="tries per image")
    pause: float = Field(0.5, ge=0, description="seconds before the second try; twice as many before each further one")
    largest: float = Field(1024, gt=0, description="MiB; what is larger is refused")

    @property
    def folder(self) -> Path:
        """Where the downloads are."""
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(self.cache or os.environ.get(CACHE) or Path(home) / "greenpea" / "images").expanduser()


def is_address(text: str) -> bool:
    """Whether a table's cell is a web address rather than a file's name."""
    return ADDRESS.match(text) is not None


class _Again(Exception):
    """A try that failed in a way that the next one need not."""

    def __init__(self, reason: str, wait: float = 0.0, restart: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.wait, self.restart = reason, wait, restart


class Cache:
    """Downloads images and remembers where they are. May be used from several threads and processes."""

    def __init__(self, options: Fetching) -> None:
        self.options = options
        self._lock = threading.Lock()
        self._client: httpx.Client | None = None
        self._failed: dict[str, tuple[float, str]] = {}
        self._silent: dict[str, tuple[int, float]] = {}  # server → failures in a row, when the last was

    def __del__(self) -> None:
        if self._client is not None:
            self._client.close()

    def path_of(self, address: str) -> Path:
        """Return where the file at ``address`` is once it is downloaded."""
        key = hashlib.sha256(address.encode("utf-8", "surrogatepass")).hexdigest()
        return self.options.folder / key[:2] / key

    def get(self, address: str, size: int | None = None, checksum: str | None = None) -> Path:
        """Return the file at ``address``, downloaded where it is not here yet.

        ``size`` (bytes) and ``checksum`` (SHA-256, hexadecimal) are checked where they are known. Raises `Unreadable`
        where the server does not give the file; it is then not asked for it again for five minutes.
        """
        path = self.path_of(address)
        if path.is_file():
            if not _differs(path, size, checksum):
                return path
            path.unlink(missing_ok=True)
        at, reason = self._failed.get(address, (0.0, ""))
        if reason and time.monotonic() - at < FORGIVEN:
            raise Unreadable(reason)
        try:
            self._download(address, path, size, checksum)
        except Unreadable as error:
            self._failed[address] = time.monotonic(), error.reason
            raise
        except OSError as error:
            raise GreenpeaError(f"{self.options.folder} cannot keep downloads: {error.strerror or error}") from error
        return path

    def fetch(self, wanted: Iterable[tuple[str, int | None, str | None]]) -> None:
        """Download several (address, size, checksum) at a time; what fails, `get` tells."""
        missing = {one[0]: one for one in wanted if not self.path_of(one[0]).is_file()}

        def one(wish: tuple[str, int | None, str | None]) -> None:
            try:
                self.get(*wish)
            except GreenpeaError:
                return

        if missing:
            with ThreadPoolExecutor(min(self.options.connections, len(missing)), thread_name_prefix="fetch") as pool:
                list(pool.map(one, missing.values()))

    # ---- one image ---------------------------------------------------------------------------------

    def _download(self, address: str, path: Path, size: int | None, checksum: str | None) -> None:
        server = urlsplit(address).netloc
        self._refuse_silent(server)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        with part.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # for this thread of this process alone; closing lets go of it
            if path.is_file():  # another was quicker
                part.unlink(missing_ok=True)
                return
            self._try(address, server, file, size, checksum)
            part.replace(path)
            path.with_suffix(".json").unlink(missing_ok=True)

    def _try(self, address: str, server: str, file: BinaryIO, size: int | None, checksum: str | None) -> None:
        """Try until the file is whole and as expected. Raises `Unreadable` with the last reason."""
        chosen = self.options
        ends = time.monotonic() + chosen.longest
        wait, reason = 0.0, ""
        for number in range(chosen.tries):
            if number:
                pause = max(wait, chosen.pause * 2 ** (number - 1))
                if time.monotonic() + pause > ends:
                    break
                time.sleep(pause)
            try:
                (self._by_http if _is_http(address) else self._by_fsspec)(address, file, ends)
                file.flush()
                if problem := _differs(Path(file.name), size, checksum):
                    raise _Again(problem, restart=True)
                self._silent.pop(server, None)
                return
            except _Again as again:
                wait, reason = again.wait, again.reason
                if again.restart:
                    _empty(file)
        count, _ = self._silent.get(server, (0, 0.0))
        self._silent[server] = count + 1, time.monotonic()
        raise Unreadable(f"it could not be downloaded: {reason}")

    def _refuse_silent(self, server: str) -> None:
        count, last = self._silent.get(server, (0, 0.0))
        if count >= SILENT and time.monotonic() - last < 60:
            raise Unreadable(f"it could not be downloaded: {server} failed {count} times in a row and is left alone")

    # ---- http --------------------------------------------------------------------------------------

    @property
    def _http(self) -> httpx.Client:
        with self._lock:
            if self._client is None:
                self._client = httpx.Client(
                    follow_redirects=True,
                    timeout=self.options.timeout,
                    limits=httpx.Limits(max_connections=self.options.connections),
                    # Unpacked on the way, a file's length would not be the one that was told.
                    headers={"User-Agent": "greenpea", "Accept-Encoding": "identity"},
                )
            return self._client

    def _by_http(self, address: str, file: BinaryIO, ends: float) -> None:
        have, mark = _so_far(file)
        headers = {"Range": f"bytes={have}-", "If-Range": mark} if have else {}
        try:
            with self._http.stream("GET", address, headers=headers) as answer:
                total = self._begin(answer, file, have, mark)
                self._write(answer.iter_raw(), file, ends)
        except httpx.TimeoutException:
            raise _Again(f"no answer for {self.options.timeout:g} s") from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError) as error:
            raise Unreadable(f"{address} is no web address: {error}") from error
        except httpx.RequestError as error:
            raise _Again(f"the connection failed ({str(error).strip() or type(error).__name__})") from error
        if total is not None and file.tell() != total:
            raise _Again(f"{file.tell():,} of {total:,} bytes came", restart=file.tell() > total)

    def _begin(self, answer: httpx.Response, file: BinaryIO, have: int, mark: str) -> int | None:
        """Judge the answer, make ready to write, and return how large the whole file is, if that is told."""
        status = answer.status_code
        if status in LATER or status == 416:
            raise _Again(f"the server says {_said(answer)}", _seconds(answer), restart=status == 416)
        if status not in (200, 206):
            raise Unreadable(f"it could not be downloaded: the server says {_said(answer)}")
        if answer.headers.get("content-type", "").startswith("text/html"):
            raise Unreadable("it could not be downloaded: the server sends a web page and no image")
        found = _mark(answer)
        if status == 206:
            start, total = _range(answer)
            if start != have or (found and found != mark):
                raise _Again("the file changed on the server", restart=True)
            return total
        _empty(file)
        _note(file, found)
        length = answer.headers.get("content-length", "")
        return int(length) if length.isdigit() else None

    def _write(self, chunks: Iterator[bytes], file: BinaryIO, ends: float) -> None:
        for chunk in chunks:
            file.write(chunk)
            if file.tell() > self.options.largest * 2**20:
                _empty(file)
                raise Unreadable(f"it is larger than {self.options.largest:g} MiB (fetching.largest)")
            if time.monotonic() > ends:
                raise _Again(f"it took longer than {self.options.longest:g} s")

    # ---- everything else ---------------------------------------------------------------------------

    def _by_fsspec(self, address: str, file: BinaryIO, ends: float) -> None:
        try:
            system, path = fsspec.core.url_to_fs(address)
            mark = system.ukey(path)
            have, known = _so_far(file)
            if known != mark:
                have = 0
                _empty(file)
                _note(file, mark)
            with system.open(path, "rb") as source:
                source.seek(have)
                self._write(iter(lambda: source.read(CHUNK), b""), file, ends)
        except (ImportError, ValueError) as error:
            raise Unreadable(f"it could not be downloaded: {error}") from error
        except FileNotFoundError:
            raise Unreadable("it could not be downloaded: there is no such file") from None
        except OSError as error:
            raise _Again(f"the connection failed ({error})") from error


def _is_http(address: str) -> bool:
    return address.lower().startswith(("http://", "https://"))


def _differs(path: Path, size: int | None, checksum: str | None) -> str:
    """Say in what a file differs from what is known of it, or ""."""
    if size is not None and path.stat().st_size != size:
        return f"it has {path.stat().st_size:,} bytes and {size:,} were expected"
    if checksum and (found := sha256(path)) != checksum.lower():
        return f"its SHA-256 begins with {found[:12]} and {checksum[:12].lower()} was expected: the file is another"
    return ""


# ---- what is known of an unfinished download ---------------------------------------------------------


def _so_far(file: BinaryIO) -> tuple[int, str]:
    """Return how many bytes are there, and by what mark the server would know the same file; (0, "") to begin anew."""
    file.seek(0, os.SEEK_END)
    try:
        mark = json.loads(Path(file.name).with_suffix(".json").read_text(encoding="utf-8"))["mark"]
    except (OSError, ValueError, KeyError):
        mark = ""
    if mark and file.tell():
        return file.tell(), str(mark)
    _empty(file)
    return 0, ""


def _note(file: BinaryIO, mark: str) -> None:
    Path(file.name).with_suffix(".json").write_text(json.dumps({"mark": mark}), encoding="utf-8")


def _empty(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()


def _mark(answer: httpx.Response) -> str:
    """Return a strong ETag or the date; "" where what was begun cannot be told from a newer file (RFC 9110, 13.1.5)."""
    etag = str(answer.headers.get("etag", ""))
    return etag if etag and not etag.startswith("W/") else str(answer.headers.get("last-modified", ""))


def _range(answer: httpx.Response) -> tuple[int, int | None]:
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("content-range", "").strip())
    if not found:
        raise _Again("the server sends a part without saying which", restart=True)
    return int(found[1]), None if found[2] == "*" else int(found[2])


def _said(answer: httpx.Response) -> str:
    return f"{answer.status_code} ({answer.reason_phrase})" if answer.reason_phrase else str(answer.status_code)


def _seconds(answer: httpx.Response) -> float:
    wait = answer.headers.get("retry-after", "")
    return float(wait) if wait.isdigit() else 0.0

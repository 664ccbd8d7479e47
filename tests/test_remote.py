"""Images at web addresses, from a server that hangs, cuts, changes and lies: each is whole, or has a reason."""

from __future__ import annotations

import hashlib
import io
import pickle
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from greenpea import remote
from greenpea.cli import app
from greenpea.errors import GreenpeaError
from greenpea.formats import Unreadable
from greenpea.images import Preparation, load
from greenpea.packing import pack
from greenpea.remote import Cache, Fetching, is_address
from greenpea.subjects import SubjectSet


def picture(value: int, side: int = 24) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(value).integers(0, 255, (side, side, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


LARGE = picture(99, 120)


class Server(ThreadingHTTPServer):
    """Answers by the first word of the path: what a server may do wrong."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked: Counter[str] = Counter()
        self.ranges: list[str] = []
        self.let_go = threading.Event()
        self.busy = self.most_busy = 0
        self.guard = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *values: object) -> None:
        """Nothing is said."""

    def do_GET(self) -> None:
        with self.server.guard:
            self.server.asked[self.path] += 1
            number = self.server.asked[self.path]
            self.server.busy += 1
            self.server.most_busy = max(self.server.most_busy, self.server.busy)
        wanted = self.headers.get("Range")
        if wanted:
            self.server.ranges.append(wanted)
        getattr(self, f"do_{self.path.split('/')[1]}")(number)
        with self.server.guard:
            self.server.busy -= 1

    def send(self, body: bytes, status: int = 200, upto: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body[:upto])
        self.close_connection = upto is not None

    def send_range(self, body: bytes, **headers: str) -> None:
        start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        told = f"bytes {start}-{len(body) - 1}/{len(body)}"
        self.send(body[start:], 206, Content_Range=told, **headers)

    def do_good(self, number: int) -> None:
        time.sleep(0.02)
        self.send(picture(int(self.path.rpartition("/")[2].split(".")[0])))

    def do_cut(self, number: int) -> None:
        """The first answer breaks off in the middle; the rest can be asked for."""
        if number == 1:
            self.send(LARGE, upto=len(LARGE) // 2, ETag='"a"')
        elif self.headers.get("If-Range") == '"a"':
            self.send_range(LARGE, ETag='"a"')
        else:
            self.send(LARGE, ETag='"a"')

    def do_always_cut(self, number: int) -> None:
        self.send(LARGE, upto=100)

    def do_changed(self, number: int) -> None:
        """In between, the file becomes another: the server says so by sending it whole."""
        self.send(LARGE, upto=len(LARGE) // 2, ETag='"a"') if number == 1 else self.send(picture(5), ETag='"b"')

    def do_lies(self, number: int) -> None:
        """In between, the file becomes another, and the server sends a part of it all the same."""
        if number == 1:
            self.send(LARGE, upto=len(LARGE) // 2, ETag='"a"')
        elif self.headers.get("Range"):
            self.send_range(bytes(len(LARGE)), ETag='"b"')
        else:
            self.send(picture(5), ETag='"b"')

    def do_hangs(self, number: int) -> None:
        self.server.let_go.wait(20)
        self.close_connection = True

    def do_drips(self, number: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        while not self.server.let_go.wait(0.05):
            try:
                self.wfile.write(b"x")
            except OSError:
                break
        self.close_connection = True

    def do_busy(self, number: int) -> None:
        if number < 3:
            self.send(b"later", 503, Retry_After="0")
        else:
            self.send(picture(7))

    def do_missing(self, number: int) -> None:
        self.send(b"no", 404)

    def do_page(self, number: int) -> None:
        self.send(b"<html>Please log in</html>", Content_Type="text/html; charset=utf-8")

    def do_text(self, number: int) -> None:
        self.send(b"This is no image", Content_Type="image/png")

    def do_moved(self, number: int) -> None:
        self.send(b"", 302, Location="/good/3.png")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield found
        found.let_go.set()
        found.shutdown()
        thread.join()


@pytest.fixture
def quick(tmp_path: Path) -> Fetching:
    return Fetching(cache=str(tmp_path / "cache é"), timeout=3, longest=10, pause=0.01)


# ---- one image ---------------------------------------------------------------------------------------


def test_what_is_downloaded_once_is_not_asked_for_again(server: Server, quick: Fetching) -> None:
    cache = Cache(quick)
    path = cache.get(f"{server.url}/good/1.png")
    assert path.read_bytes() == picture(1)
    assert Cache(quick).get(f"{server.url}/good/1.png") == path
    assert server.asked == {"/good/1.png": 1}
    assert cache.get(f"{server.url}/moved/1").read_bytes() == picture(3)


def test_a_download_that_was_cut_goes_on_where_it_stopped(server: Server, quick: Fetching) -> None:
    assert Cache(quick).get(f"{server.url}/cut/1").read_bytes() == LARGE
    assert server.ranges == [f"bytes={len(LARGE) // 2}-"]
    assert [path.suffix for path in quick.folder.rglob("*") if path.is_file()] == [""]


def test_it_goes_on_in_another_process_too(server: Server, quick: Fetching) -> None:
    once = quick.model_copy(update={"tries": 1})
    with pytest.raises(Unreadable, match="could not be downloaded"):
        Cache(once).get(f"{server.url}/cut/1")
    assert Cache(once).get(f"{server.url}/cut/1").read_bytes() == LARGE
    assert server.ranges == [f"bytes={len(LARGE) // 2}-"]


@pytest.mark.parametrize("kind", ["changed", "lies"])
def test_a_file_that_changed_in_between_is_never_pieced_together(server: Server, quick: Fetching, kind: str) -> None:
    assert Cache(quick).get(f"{server.url}/{kind}/1").read_bytes() == picture(5)


def test_size_and_checksum_are_held_against_what_comes(server: Server, quick: Fetching) -> None:
    right = hashlib.sha256(picture(1)).hexdigest()
    address = f"{server.url}/good/1.png"
    path = Cache(quick).get(address, len(picture(1)), right.upper())
    with pytest.raises(Unreadable, match=r"its SHA-256 begins with .* and 000000000000 was expected"):
        Cache(quick).get(address, None, "0" * 64)
    assert not path.exists()  # what is known to be wrong is not kept
    with pytest.raises(Unreadable, match=r"has 1,\d\d\d bytes and 3 were expected"):
        Cache(quick).get(address, 3)
    Cache(quick).get(address).write_bytes(b"damaged on the disk")
    assert Cache(quick).get(address, checksum=right).read_bytes() == picture(1)


@pytest.mark.parametrize(
    ("kind", "reason", "asked"),
    [
        ("hangs", r"no answer for 0\.4 s", 2),
        ("always_cut", "peer closed", 2),
        ("missing", r"the server says 404 \(Not Found\)", 1),
        ("page", "sends a web page and no image", 1),
    ],
)
def test_a_server_in_trouble_is_a_reason(server: Server, quick: Fetching, kind: str, reason: str, asked: int) -> None:
    cache = Cache(quick.model_copy(update={"tries": 2, "timeout": 0.4 if kind == "hangs" else 3}))
    for _ in range(2):  # the second time from memory
        with pytest.raises(Unreadable, match=reason):
            cache.get(f"{server.url}/{kind}/1")
    assert server.asked[f"/{kind}/1"] == asked


def test_a_server_that_drips_is_left_after_a_while(server: Server, quick: Fetching) -> None:
    began = time.monotonic()
    with pytest.raises(Unreadable, match=r"took longer than 0\.4 s"):
        Cache(quick.model_copy(update={"longest": 0.4})).get(f"{server.url}/drips/1")
    assert time.monotonic() - began < 3


def test_a_busy_server_is_asked_again(server: Server, quick: Fetching) -> None:
    assert Cache(quick).get(f"{server.url}/busy/1").read_bytes() == picture(7)
    assert server.asked["/busy/1"] == 3


def test_what_is_too_large_is_refused(server: Server, quick: Fetching) -> None:
    with pytest.raises(Unreadable, match=r"larger than 0\.0001 MiB \(fetching\.largest\)"):
        Cache(quick.model_copy(update={"largest": 0.0001})).get(f"{server.url}/good/1.png")


def test_a_server_that_is_gone_is_left_alone_after_a_while(quick: Fetching, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "SILENT", 3)
    cache = Cache(quick.model_copy(update={"tries": 1}))
    for number in range(3):
        with pytest.raises(Unreadable, match="connection failed"):
            cache.get(f"http://127.0.0.1:9/{number}")
    with pytest.raises(Unreadable, match=r"127\.0\.0\.1:9 failed 3 times in a row and is left alone"):
        cache.get("http://127.0.0.1:9/4")


def test_what_no_address_is_and_what_is_one(quick: Fetching) -> None:
    assert [is_address(text) for text in ("http://a/b", "s3://b/k", "a/b.png", "/a", "C:\\a", "a:b", "")] == [
        *(True, True),
        *(False,) * 5,
    ]
    with pytest.raises(Unreadable, match="could not be downloaded: Protocol not known: nonsense"):
        Cache(quick).get("nonsense://a/b")


def test_other_protocols_go_by_fsspec(quick: Fetching) -> None:
    system = fsspec.filesystem("memory")
    system.pipe_file("/sky/a.png", LARGE)
    cache = Cache(quick)
    assert cache.get("memory://sky/a.png").read_bytes() == LARGE
    with pytest.raises(Unreadable, match="there is no such file"):
        cache.get("memory://sky/b.png")
    system.rm("/sky", recursive=True)


def test_a_cache_that_cannot_be_written_says_so(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(GreenpeaError, match=r"file/cache cannot keep downloads"):
        Cache(Fetching(cache=str(tmp_path / "file" / "cache"))).get(f"{server.url}/good/1.png")


def test_the_folder_is_the_settings_or_the_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENPEA_CACHE", str(tmp_path / "a"))
    assert Fetching().folder == tmp_path / "a"
    assert Fetching(cache=str(tmp_path / "b")).folder == tmp_path / "b"
    monkeypatch.delenv("GREENPEA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Fetching().folder == tmp_path / "greenpea" / "images"


# ---- many --------------------------------------------------------------------------------------------


def table_of(server: Server, folder: Path) -> Path:
    """Twelve good addresses, a file, and one of each trouble."""
    (folder / "local.png").write_bytes(picture(50))
    cells = [f"{server.url}/good/{number}.png" for number in range(12)]
    cells += ["local.png", *(f"{server.url}/{kind}/1" for kind in ("hangs", "missing", "text"))]
    lines = [f"s{number},{cell},{number}" for number, cell in enumerate(cells)]
    (folder / "t.csv").write_text("id,image,ra\n" + "\n".join(lines) + "\n")
    return folder / "t.csv"


def test_subjects_at_addresses_are_read_and_failures_listed(server: Server, tmp_path: Path, quick: Fetching) -> None:
    subjects = SubjectSet.open(table_of(server, tmp_path)).fetching(quick.model_copy(update={"tries": 1}))
    loaded = load(subjects, Preparation(size=8))
    np.testing.assert_array_equal(loaded.rows, np.arange(13))
    reasons = {bad.subject_id: bad.reason for bad in loaded.unreadable}
    assert reasons["s13"] == "it could not be downloaded: no answer for 3 s"
    assert reasons["s14"] == "it could not be downloaded: the server says 404 (Not Found)"
    assert reasons["s15"].startswith("not an image Greenpea reads")
    assert 1 < server.most_busy <= 2 * quick.connections  # several at a time; two threads load
    asked = sum(server.asked.values())
    load(pickle.loads(pickle.dumps(subjects)).select(np.arange(13)), Preparation(size=8))
    assert sum(server.asked.values()) == asked


def test_addresses_pass_through_a_campaigns_folder_and_shards(server: Server, tmp_path: Path, quick: Fetching) -> None:
    subjects = SubjectSet.open(table_of(server, tmp_path)).fetching(quick).select(np.arange(13))
    subjects.save(tmp_path)
    again = SubjectSet.load(tmp_path)
    assert again == subjects
    assert (again.place(0), again.place(12)) == (None, tmp_path.resolve() / "local.png")
    assert not again.changed_since(time.time() - 60 + 60)
    assert again.changed_since(time.time() - 2 * 86_400)
    done = pack(subjects, tmp_path / "shards")
    assert done.missing == ()
    assert SubjectSet.open(tmp_path / "shards").source(3) == picture(3)


def test_checksums_come_from_the_table(server: Server, tmp_path: Path, quick: Fetching) -> None:
    digests = [hashlib.sha256(picture(number)).hexdigest() for number in (0, 0)]
    lines = [f"s{number},{server.url}/good/{number}.png,{digest}," for number, digest in enumerate(digests)]
    (tmp_path / "t.csv").write_text("id,image,sha256,file_size\n" + "\n".join(lines) + "\n")
    subjects = SubjectSet.open(tmp_path / "t.csv").fetching(quick)
    assert subjects.metadata.column_names == ["sha256", "file_size"]
    loaded = load(subjects, Preparation(size=8))
    assert loaded.rows.tolist() == [0]
    assert "SHA-256" in loaded.unreadable[0].reason


def test_the_command_makes_a_campaign_of_addresses(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"s{number},{server.url}/good/{number}.png" for number in range(5)]
    (tmp_path / "t.csv").write_text("id,url\n" + "\n".join(lines) + "\n")
    monkeypatch.setenv("GREENPEA_CACHE", str(tmp_path / "cache"))
    line = ["init", str(tmp_path / "c"), "--tree", "binary", "--subjects", str(tmp_path / "t.csv")]
    done = CliRunner().invoke(app, [*line, "--set", "fetching.timeout=2"])
    assert done.exit_code == 0, done.output
    assert "24 × 24 pixels" in done.output
    assert len([path for path in (tmp_path / "cache").rglob("*") if path.is_file()]) == 5

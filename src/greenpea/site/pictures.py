"""Pictures: a subject's images as a browser can show them, and as nothing else.

What a file is, its first bytes say, never its name. No path ever comes from an address: only a subject's number
and which of its images.
"""

from __future__ import annotations

import hashlib
import io
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fastapi import APIRouter, Request, Response
from PIL import Image
from starlette.concurrency import run_in_threadpool

from greenpea.errors import GreenpeaError
from greenpea.formats import Unreadable, read_bytes, usual_ending
from greenpea.images import Preparation, assemble
from greenpea.remote import Cache, Fetching, is_address
from greenpea.site import logs
from greenpea.site.context import Site, site_of
from greenpea.store import Subject
from greenpea.subjects import FILE, SubjectSet

CACHE_BYTES = 64 * 2**20
LARGEST_SIDE = 4096  # pixels; `Preparation.size` allows no more
PATIENCE = 20.0  # seconds for a picture at a web address
REMEMBERED = 10_000  # missing pictures that are not told about again
HEADERS = {
    "Cache-Control": "public, max-age=31536000, immutable",
    "X-Content-Type-Options": "nosniff",
    # Should somebody open a picture that is a page as well, it may do nothing.
    "Content-Security-Policy": "default-src 'none'; sandbox",
}


@dataclass(frozen=True)
class Picture:
    """What is sent: bytes, their media type, and a name for these very bytes."""

    data: bytes
    media_type: str
    etag: str


class NoPicture(GreenpeaError):
    """There is no such picture, or it cannot be shown; the message says why, without a path."""


def sniff(data: bytes) -> str | None:
    """Return the media type of a picture that browsers show, by its first bytes; None for anything else."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png" if data[24:25] != b"\x10" else None  # of 16 bits: dark without a stretch
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "image/webp"
    return None


def render(data: bytes | Sequence[bytes], preparation: Preparation) -> bytes:
    """Return any image (of several files, if need be) as PNG: its central square at its own size, stretched as for
    the network.

    More or fewer bands than make a colour picture become grey by their mean, and a FITS is turned over, since
    its first row is the lowest. Raises `Unreadable`.
    """
    files = [data] if isinstance(data, bytes) else data
    array = assemble(files, preparation.extensions)
    if usual_ending(files[0]).startswith(".fits"):
        array = array[::-1]
    side = min(*array.shape[:2], LARGEST_SIDE)
    bands = np.asarray(preparation.model_copy(update={"size": side, "crop": 1.0, "channels": None}).prepare(array))
    if bands.dtype != np.uint8:
        bands = np.rint(bands * 255).astype(np.uint8)
    if bands.shape[0] != 3:
        bands = np.rint(bands.mean(axis=0, keepdims=True)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(np.moveaxis(bands, 0, 2).squeeze()).save(file, "PNG")
    return file.getvalue()


def picture(data: bytes | Sequence[bytes], preparation: Preparation) -> Picture:
    """Return an image's bytes as they are where browsers show them, else rendered. Raises `Unreadable`."""
    media_type = sniff(data) if isinstance(data, bytes) else None
    if media_type is None or not isinstance(data, bytes):
        data, media_type = render(data, preparation), "image/png"
    return Picture(data, media_type, f'"{hashlib.blake2b(data, digest_size=12).hexdigest()}"')


class Pictures:
    """The pictures of a campaign, the latest of them held in memory. May be used from several threads.

    A subject's key ``""`` means its own image in the campaign's ``subjects.parquet``; any other is the path of
    a file, relative to the campaign's folder if it is not absolute, or a web address.
    """

    def __init__(self, folder: Path, preparation: Preparation, fetching: Fetching | None = None) -> None:
        self._folder = folder
        self._preparation = preparation
        # Somebody is waiting: one try, and not for long.
        chosen = fetching or Fetching()
        longest = min(chosen.longest, PATIENCE)
        self._fetching = chosen.model_copy(
            update={"tries": 1, "longest": longest, "timeout": min(chosen.timeout, longest)}
        )
        self._cache = Cache(self._fetching)
        # Two, since `kept` is asked by the event loop and must not wait until a large table has been read.
        self._lock, self._reading = threading.Lock(), threading.Lock()
        self._kept: OrderedDict[tuple[int, int], Picture] = OrderedDict()
        self._bytes = 0
        self._set: SubjectSet | None = None
        self._rows: dict[str, int] = {}
        self._read_at: int | None = None  # when the file that was read last had been written, ns
        self._missing: set[tuple[int, int]] = set()

    @property
    def missing(self) -> frozenset[tuple[int, int]]:
        """The pictures that could not be shown since the start: subject's number, which image."""
        return frozenset(self._missing)

    def kept(self, number: int, index: int) -> Picture | None:
        """Return a picture that is held in memory, without looking at a disk."""
        with self._lock:
            found = self._kept.get((number, index))
            if found is not None:
                self._kept.move_to_end((number, index))
            return found

    def get(self, subject: Subject, index: int) -> Picture:
        """Return image ``index`` of a subject. Raises `NoPicture`, and writes it to the log the first time."""
        if not 0 <= index < len(subject.images):
            raise NoPicture(f"subject {subject.subject_id!r} has {len(subject.images)} images, counted from 0")
        try:
            files = [read_bytes(source) for source in self._sources(subject, subject.images[index])]
            found = picture(files if len(files) > 1 else files[0], self._preparation)
        except GreenpeaError as error:
            self._tell(subject, index, str(error))
            reason = error.reason if isinstance(error, Unreadable) else str(error)
            if isinstance(error, NoPicture | Unreadable):
                raise NoPicture(reason) from error
            raise NoPicture("the table that holds the image was moved or rewritten: import it again") from error
        self._keep((subject.id, index), found)
        return found

    def _sources(self, subject: Subject, key: str) -> tuple[Path | bytes, ...]:
        if key:
            return (self._cache.get(key) if is_address(key) else self._folder / key,)
        with self._reading:
            row = self._row(subject.subject_id)
            subjects = self._set
        if row is None or subjects is None:
            raise NoPicture(f"{FILE} names no subject {subject.subject_id!r}: import it again")
        return subjects.sources(row)

    def _row(self, subject_id: str) -> int | None:
        """Return the row of a subject; the file is read again only when it has changed since."""
        if subject_id not in self._rows:
            path = self._folder / FILE
            written = path.stat().st_mtime_ns if path.is_file() else None
            if written != self._read_at or written is None:
                self._set = SubjectSet.load(self._folder).fetching(self._fetching)
                self._rows = {subject: row for row, subject in enumerate(self._set.subject_ids)}
                self._read_at = written
        return self._rows.get(subject_id)

    def _keep(self, key: tuple[int, int], found: Picture) -> None:
        with self._lock:
            if key in self._kept or len(found.data) > CACHE_BYTES:
                return
            self._kept[key] = found
            self._bytes += len(found.data)
            while self._bytes > CACHE_BYTES:
                _, dropped = self._kept.popitem(last=False)
                self._bytes -= len(dropped.data)

    def _tell(self, subject: Subject, index: int, reason: str) -> None:
        key = (subject.id, index)
        with self._lock:
            if key in self._missing or len(self._missing) >= REMEMBERED:
                return
            self._missing.add(key)
        logs.log.warning("no picture", subject_id=subject.subject_id, image=index, reason=reason)


# ---- the router ----------------------------------------------------------------------------------------

router = APIRouter()


@router.get(
    "/images/{number}/{index}",
    tags=["look up"],
    response_class=Response,
    responses={
        200: {"description": "The picture", "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}},
        304: {"description": "The picture is as it was"},
        404: {"description": "There is no picture; the text says why", "content": {"text/plain": {}}},
    },
)
async def image(request: Request, number: int, index: int) -> Response:
    """Return image ``index``, from 0, of the subject with this number, as a browser can show it."""
    site = site_of(request)
    pictures = pictures_of(request, site)
    found = pictures.kept(number, index)
    if found is None:
        try:
            found = await run_in_threadpool(_find, site, pictures, number, index)
        except NoPicture as error:
            return Response(f"no picture: {error}\n", 404, {"Cache-Control": "no-store"}, "text/plain")
    headers = HEADERS | {"ETag": found.etag}
    if found.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(found.data, headers=headers, media_type=found.media_type)


def _find(site: Site, pictures: Pictures, number: int, index: int) -> Picture:
    subject = site.store.subjects.by_number(number) if 0 < number < 2**63 else None
    if subject is None:
        raise NoPicture(f"there is no subject number {number}")
    return pictures.get(subject, index)


def pictures_of(request: Request, site: Site) -> Pictures:
    """Return the site's pictures, made when the first is asked for."""
    state = request.app.state
    if not hasattr(state, "pictures"):
        state.pictures = Pictures(site.folder, site.settings.images, site.settings.fetching)
    pictures: Pictures = state.pictures
    return pictures

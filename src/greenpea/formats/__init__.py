"""Image formats: from a file's bytes to an array. PNG, JPEG, FITS, TIFF and NumPy, told by their first bytes.

The file's name does not count, so that bytes embedded in tables read alike. Rows of an array are in the
order the file holds them: FITS images, whose first row is at the bottom by convention, are not turned over,
and the orientation that a camera notes in a JPEG is not applied.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Num

from greenpea.formats import arrays, fits, pictures, tiff
from greenpea.formats.common import MAX_UNPACKED, checked
from greenpea.formats.common import Extension as Extension
from greenpea.formats.common import Unreadable as Unreadable
from greenpea.formats.common import joined as joined

Decoder = Callable[[bytes, int | None, Sequence[Extension] | None], np.ndarray]
DECODERS: tuple[tuple[str, str, bytes, Decoder], ...] = (  # name, usual ending, first bytes
    ("PNG", ".png", b"\x89PNG\r\n\x1a\n", pictures.decode_png),
    ("JPEG", ".jpg", b"\xff\xd8\xff", pictures.decode_jpeg),
    ("FITS", ".fits", b"SIMPLE  =", fits.decode),
    ("TIFF", ".tif", b"II*\0", tiff.decode),
    ("TIFF", ".tif", b"MM\0*", tiff.decode),
    ("TIFF", ".tif", b"II+\0", tiff.decode),
    ("TIFF", ".tif", b"MM\0+", tiff.decode),
    ("NPY", ".npy", b"\x93NUMPY", arrays.decode_npy),
    ("NPZ", ".npz", b"PK\x03\x04", arrays.decode_npz),
)

# By which files in a folder or a tar are taken for images. Of two endings that both fit, the longer stands first.
ENDINGS = (
    *(".fits.gz", ".fits.fz", ".fit.gz", ".png", ".jpg", ".jpeg", ".fits", ".fit", ".fts", ".tif", ".tiff"),
    *(".npy", ".npz"),
)


def ending_of(name: str) -> str:
    """Return the ending by which a file's name says that it is an image, such as ``.fits.gz``, or ""."""
    return next((ending for ending in ENDINGS if name.lower().endswith(ending)), "")


def usual_ending(data: bytes) -> str:
    """Return the ending that a file with these bytes should have, by its first ones; ".bin" for no image."""
    if data.startswith(b"\x1f\x8b"):
        return ".fits.gz"
    return next((ending for _, ending, magic, _ in DECODERS if data.startswith(magic)), ".bin")


# ---- reading -----------------------------------------------------------------------------------------


def read(
    source: Path | bytes, name: str = "", extensions: Sequence[Extension] | None = None
) -> Num[np.ndarray, "y x channel"]:
    """Return an image as uint8, uint16 or float32, in the machine's byte order.

    PNG: grey or RGB, of 8 or 16 bits; a palette is looked up, transparency is laid over black. JPEG: grey or RGB.
    FITS, also gzipped or tile-compressed: the first image of two axes, or three as [band, y, x], scaled by BSCALE
    and BZERO, BLANK as NaN. TIFF: see `tiff`. NumPy: [y, x], [y, x, channel] or [channel, y, x], the channels being
    the shortest axis; of an NPZ the first such array.

    ``extensions`` chooses other parts, in this order, whose channels are joined: of a FITS, extensions by number (the
    primary is 0), name or ``"NAME,version"``; of a TIFF, pages; of an NPZ, arrays.
    ``name`` stands in the message of the `Unreadable` that anything else raises.
    """
    name = name or (str(source) if isinstance(source, Path) else "")
    try:
        return decode(read_bytes(source), None, extensions)
    except Unreadable as error:
        raise Unreadable(error.reason, name) from error


def read_bytes(source: Path | bytes) -> bytes:
    """Return a file's bytes, or bytes as they are; `Unreadable` where the file cannot be opened."""
    if isinstance(source, bytes):
        return source
    try:
        return source.read_bytes()
    except FileNotFoundError:
        raise Unreadable(f"file not found: {source.name}") from None
    except IsADirectoryError:
        raise Unreadable(f"{source.name} is a folder, not a file") from None
    except OSError as error:
        raise Unreadable(f"the file {source.name} cannot be opened: {error.strerror or error}") from error


def decode(
    data: bytes, at_least: int | None = None, extensions: Sequence[Extension] | None = None
) -> Num[np.ndarray, "y x channel"]:
    """Decode an image's bytes, or the ``extensions`` of it (see `read`).

    A JPEG may come smaller, its shorter side no less than ``at_least`` pixels.
    """
    if not data:
        raise Unreadable("the image is empty (0 bytes)")
    if data.startswith(b"\x1f\x8b"):
        data = _gunzip(data)
    for kind, _, magic, decoder in DECODERS:
        if data.startswith(magic):
            try:
                return checked(decoder(data, at_least, extensions))
            except (Unreadable, MemoryError):
                raise
            except Exception as error:  # whatever a decoder trips over, it is the file that is broken
                told = " ".join(str(error).split())[:200]
                state = "truncated" if "truncated" in told else f"broken: {told}"
                raise Unreadable(f"the {kind} is {state}") from error
    raise Unreadable("not an image Greenpea reads: PNG, JPEG, FITS, TIFF, NPY, NPZ")


def _gunzip(data: bytes) -> bytes:
    unpack = zlib.decompressobj(wbits=31)
    try:
        plain = unpack.decompress(data, MAX_UNPACKED)
    except zlib.error as error:
        raise Unreadable(f"the gzip is broken: {error}") from error
    if not unpack.eof:
        raise Unreadable("the gzip is truncated, or holds more than 1 GiB")
    return plain

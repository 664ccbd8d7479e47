"""Image formats: from a file's bytes to an array. PNG, JPEG, FITS and NumPy, told by their first bytes.

The file's name does not count, so that bytes embedded in tables read alike. Rows of an array are in the
order the file holds them: FITS images, whose first row is at the bottom by convention, are not turned over,
and the orientation that a camera notes in a JPEG is not applied.
"""

from __future__ import annotations

import ast
import io
import math
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Num
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from greenpea.errors import GreenpeaError

# A few kilobytes can claim to be an image of gigabytes. Ten thousand pixels squared is more than a cutout.
MAX_PIXELS = 10**8
MAX_GUNZIPPED = 2**30  # bytes
MAX_CHANNELS_BY_GUESS = 16  # a NumPy axis longer than this is not taken for the channels

# By which files in a folder or a tar are taken for images. Of two endings that both fit, the longer stands first.
ENDINGS = (".fits.gz", ".fits.fz", ".fit.gz", ".png", ".jpg", ".jpeg", ".fits", ".fit", ".fts", ".npy")


def ending_of(name: str) -> str:
    """Return the ending by which a file's name says that it is an image, such as ``.fits.gz``, or ""."""
    return next((ending for ending in ENDINGS if name.lower().endswith(ending)), "")


class Unreadable(GreenpeaError):
    """An image that cannot be used; ``reason`` says why in plain words, without the name."""

    def __init__(self, reason: str, name: str = "") -> None:
        super().__init__(f"{name}: {reason}" if name else reason)
        self.reason = reason


# ---- reading -----------------------------------------------------------------------------------------


def read(source: Path | bytes, name: str = "") -> Num[np.ndarray, "y x channel"]:
    """Return an image as uint8, uint16 or float32, in the machine's byte order.

    PNG: grey or RGB; a palette is looked up, transparency is laid over black; 16 bits are kept where the
    image is grey (colour comes down to 8, as Pillow reads it). JPEG: grey or RGB. FITS, also gzipped or
    tile-compressed: the first image of two axes, or three as [band, y, x], scaled by BSCALE and BZERO, BLANK
    as NaN. NumPy: [y, x], [y, x, channel] or [channel, y, x], the channels being the shortest axis.
    ``name`` stands in the message of the `Unreadable` that anything else raises.
    """
    name = name or (str(source) if isinstance(source, Path) else "")
    try:
        return decode(read_bytes(source))
    except Unreadable as error:
        raise Unreadable(error.reason, name) from error


def read_bytes(source: Path | bytes) -> bytes:
    """Return a file's bytes, or bytes as they are; `Unreadable` where the file cannot be opened."""
    if isinstance(source, bytes):
        return source
    try:
        return source.read_bytes()
    except FileNotFoundError:
        raise Unreadable("file not found") from None
    except IsADirectoryError:
        raise Unreadable("it is a folder, not a file") from None
    except OSError as error:
        raise Unreadable(f"the file cannot be opened: {error.strerror or error}") from error


def decode(data: bytes, at_least: int | None = None) -> Num[np.ndarray, "y x channel"]:
    """Decode an image's bytes; a JPEG may come smaller, its shorter side no less than ``at_least`` pixels."""
    if not data:
        raise Unreadable("the image is empty (0 bytes)")
    if data.startswith(b"\x1f\x8b"):
        data = _gunzip(data)
    for kind, magic, decoder in DECODERS:
        if data.startswith(magic):
            try:
                return _checked(decoder(data, at_least))
            except (Unreadable, MemoryError):
                raise
            except Exception as error:  # whatever a decoder trips over, it is the file that is broken
                told = " ".join(str(error).split())[:200]
                state = "truncated" if "truncated" in told else f"broken: {told}"
                raise Unreadable(f"the {kind} is {state}") from error
    raise Unreadable("not an image Greenpea reads: PNG, JPEG, FITS, NPY")


def usual_ending(data: bytes) -> str:
    """Return the ending that a file with these bytes should have, by its first ones; ".bin" for no image."""
    if data.startswith(b"\x1f\x8b"):
        return ".fits.gz"
    kinds = {"PNG": ".png", "JPEG": ".jpg", "FITS": ".fits", "NPY": ".npy"}
    return next((kinds[kind] for kind, magic, _ in DECODERS if data.startswith(magic)), ".bin")


def _gunzip(data: bytes) -> bytes:
    unpack = zlib.decompressobj(wbits=31)
    try:
        plain = unpack.decompress(data, MAX_GUNZIPPED)
    except zlib.error as error:
        raise Unreadable(f"the gzip is broken: {error}") from error
    if not unpack.eof:
        raise Unreadable("the gzip is truncated, or holds more than 1 GiB")
    return plain


def _check_size(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise Unreadable(f"{width} × {height} pixels is more than Greenpea opens ({MAX_PIXELS:,}): cut it out smaller")


def _checked(array: np.ndarray) -> Num[np.ndarray, "y x channel"]:
    """Bring numbers of any kind to uint8, uint16 or float32; refuse an image that says nothing."""
    if array.size == 0:
        raise Unreadable(f"it has no pixels (shape {array.shape})")
    if array.dtype.kind == "b":
        array = array.astype(np.uint8) * np.uint8(255)
    native = array.dtype.newbyteorder("=")
    if array.dtype.kind not in "iuf":
        raise Unreadable(f"its values are {array.dtype}: save whole or real numbers")
    if native not in (np.uint8, np.uint16):
        native = np.dtype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        array = array.astype(native)
    if native == np.float32 and not np.isfinite(array).any():
        raise Unreadable("every pixel is NaN")
    return array


def _decode_png(data: bytes, at_least: int | None) -> np.ndarray:
    # The classes, not Image.open, which would warn of large images: a warning cannot be caught in a thread.
    return _decode_pillow(PngImageFile(io.BytesIO(data)))


class _Jpeg(JpegImageFile):
    def getexif(self) -> Image.Exif:
        # Opening looks up the resolution in EXIF, and warns where EXIF is corrupt. It is not needed here.
        raise KeyError("EXIF is not read")


def _decode_jpeg(data: bytes, at_least: int | None) -> np.ndarray:
    image = _Jpeg(io.BytesIO(data))
    if at_least is not None:
        image.draft(None, (at_least, at_least))
    return _decode_pillow(image)


def _decode_pillow(image: Image.Image) -> np.ndarray:
    _check_size(image.height, image.width)
    if image.mode.startswith("I"):
        return np.asarray(image)[..., None].astype(np.uint16)
    grey = image.mode in ("1", "L", "LA")
    if not image.has_transparency_data:
        mode = "L" if grey else "RGB"
        array = np.asarray(image if image.mode == mode else image.convert(mode))
        return array[..., None] if grey else array
    array = np.asarray(image.convert("LA" if grey else "RGBA")).astype(np.uint16)
    over_black = (array[..., :-1] * array[..., -1:] + 127) // 255
    return np.asarray(over_black, np.uint8)


def _decode_npy(data: bytes, at_least: int | None) -> np.ndarray:
    """The format of numpy.lib.format, read without trusting its header with memory, or with pickles."""
    long = data[6] > 1
    start = (12 if long else 10) + int.from_bytes(data[8 : 12 if long else 10], "little")
    header = ast.literal_eval(data[12 if long else 10 : min(start, 10_000)].decode("latin-1").strip())
    dtype, shape = np.dtype(header["descr"]), header["shape"]
    if dtype.hasobject:
        raise Unreadable("the NPY holds Python objects, which are never opened: save an array of numbers")
    if len(data) < start + dtype.itemsize * math.prod(shape):
        raise Unreadable("the NPY is truncated")
    flat = np.frombuffer(data, dtype, math.prod(shape), start)
    array = flat.reshape(shape, order="F" if header["fortran_order"] else "C")
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3:
        raise Unreadable(f"the NPY has shape {shape}: save [y, x] or [y, x, channel]")
    array = np.moveaxis(array, _channel_axis(shape) if len(shape) == 3 else 2, 2)
    _check_size(*array.shape[:2])
    return array


def _channel_axis(shape: tuple[int, int, int]) -> int:
    shortest = [axis for axis in range(3) if shape[axis] == min(shape)]
    if len(shortest) > 1 or shortest == [1] or min(shape) > MAX_CHANNELS_BY_GUESS:
        raise Unreadable(
            f"which axis of {shape} is the channels is ambiguous: save [y, x, channel] with fewer channels than "
            f"pixels, at most {MAX_CHANNELS_BY_GUESS}"
        )
    return shortest[0]


# ---- FITS --------------------------------------------------------------------------------------------
# The part of the standard that plain images need (FITS 4.0, sections 3–5). astropy reads them as well, but
# warns of headers that are merely unusual, and warnings cannot be silenced safely from worker threads.

BLOCK, CARD = 2880, 80  # bytes
FITS_TYPES = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}


def _decode_fits(data: bytes, at_least: int | None) -> np.ndarray:
    at = 0
    while at < len(data):
        header, start = _fits_header(data, at)
        compressed = header.get("ZIMAGE") == "T"
        shape = _fits_shape(header, "Z" if compressed else "")
        end = start + _fits_length(header)
        is_image = compressed or header.get("XTENSION", "IMAGE") in ("IMAGE", "IUEIMAGE")
        if is_image and len(shape) in (2, 3) and math.prod(shape) > 0:
            _check_size(*shape[-2:])
            if end > len(data):
                raise Unreadable("the FITS is truncated")
            array = _unpack_tiles(data, at, start, end) if compressed else _fits_values(header, data, start)
            array = array.reshape(shape)
            return np.moveaxis(array, 0, 2) if array.ndim == 3 else array[..., None]
        at = start + -(-(end - start) // BLOCK) * BLOCK
    raise Unreadable("the FITS holds no image of two or three axes")


def _fits_header(data: bytes, at: int) -> tuple[dict[str, str], int]:
    """Return keyword → value as text, of the header that begins at ``at``, and where its data begin."""
    header: dict[str, str] = {}
    while True:
        card = data[at : at + CARD]
        at += CARD
        if len(card) < CARD:
            raise Unreadable("the FITS is truncated, or its header has no END")
        keyword = card[:8].decode("latin-1").rstrip()
        if keyword == "END":
            return header, -(-at // BLOCK) * BLOCK
        if card[8:10] == b"= ":
            value = card[10:].decode("latin-1").strip()
            is_text = value.startswith("'")
            header.setdefault(keyword, (value[1:].partition("'") if is_text else value.partition("/"))[0].strip())


def _fits_axes(header: dict[str, str], prefix: str = "") -> list[int]:
    count = int(header.get(f"{prefix}NAXIS", "0"))
    axes = [int(header[f"{prefix}NAXIS{axis}"]) for axis in range(1, count + 1)]
    if min(axes, default=0) < 0:
        raise Unreadable("the FITS is broken: an axis has negative length")
    return axes


def _fits_shape(header: dict[str, str], prefix: str) -> tuple[int, ...]:
    """Axes in NumPy's order; leading axes of length 1 (frequency, polarisation) beyond two are dropped."""
    shape = _fits_axes(header, prefix)[::-1]
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    return tuple(shape)


def _fits_length(header: dict[str, str]) -> int:
    axes = _fits_axes(header)
    if axes and axes[0] == 0:  # random groups
        axes = axes[1:]
    groups, parameters = int(header.get("GCOUNT", "1")), int(header.get("PCOUNT", "0"))
    if groups < 0 or parameters < 0:
        raise Unreadable("the FITS is broken: GCOUNT or PCOUNT is negative")
    return abs(int(header["BITPIX"])) // 8 * groups * (parameters + math.prod(axes)) if axes else 0


def _fits_number(header: dict[str, str], keyword: str, default: float) -> float:
    return float(header.get(keyword, str(default)).upper().replace("D", "E"))


def _fits_values(header: dict[str, str], data: bytes, start: int) -> np.ndarray:
    """physical = BZERO + BSCALE × stored; whole numbers equal to BLANK are NaN."""
    stored = np.frombuffer(data, FITS_TYPES[int(header["BITPIX"])], math.prod(_fits_axes(header)), start)
    scale, zero = _fits_number(header, "BSCALE", 1.0), _fits_number(header, "BZERO", 0.0)
    has_blank = "BLANK" in header and stored.dtype.kind in "iu"
    if not has_blank and scale == 1.0:
        if zero == 0.0:
            return stored if stored.dtype.kind in "uf" else stored.astype(np.float32)
        if zero == 32768.0 and stored.dtype == ">i2":  # how FITS writes unsigned 16-bit numbers
            return (stored.astype(np.int32) + 32768).astype(np.uint16)
    with np.errstate(over="ignore", invalid="ignore"):
        physical = zero + scale * stored.astype(np.float64)
    return np.where(stored == int(header["BLANK"]), np.nan, physical) if has_blank else physical


# What describes the compressed table itself. Nothing else is passed on: astropy warns of odd cards.
TILE_CARDS = re.compile(
    rb"(XTENSION|BITPIX|NAXIS\d*|[PG]COUNT|TFIELDS|T[A-Z]{3,4}\d+|THEAP|Z\w+|BSCALE|BZERO|BLANK) *="
)


def _unpack_tiles(data: bytes, at: int, start: int, end: int) -> np.ndarray:
    from astropy.io import fits  # a quarter of a second to import, and most campaigns do without

    cards = (data[card : card + CARD] for card in range(at, start, CARD))
    primary = fits.PrimaryHDU().header.tostring().encode()
    table = b"".join(card for card in cards if TILE_CARDS.match(card)) + b"END"
    plain = primary + _padded(table, b" ") + _padded(data[start:end], b"\0")
    with fits.open(io.BytesIO(plain), memmap=False) as units:
        return np.asarray(units[1].data)


def _padded(data: bytes, filler: bytes) -> bytes:
    return data.ljust(-(-len(data) // BLOCK) * BLOCK, filler)


DECODERS: tuple[tuple[str, bytes, Callable[[bytes, int | None], np.ndarray]], ...] = (
    ("PNG", b"\x89PNG\r\n\x1a\n", _decode_png),
    ("JPEG", b"\xff\xd8\xff", _decode_jpeg),
    ("FITS", b"SIMPLE  =", _decode_fits),
    ("NPY", b"\x93NUMPY", _decode_npy),
)

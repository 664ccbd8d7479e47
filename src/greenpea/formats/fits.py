"""FITS: the part of the standard that images need (FITS 4.0, sections 3–5).

astropy reads them as well, but warns of headers that are merely unusual, and warnings cannot be silenced safely from
worker threads.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from greenpea.formats.common import Extension, Unreadable, check_size, joined

BLOCK, CARD = 2880, 80  # bytes
TYPES = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}


@dataclass(frozen=True)
class _Unit:
    """One header and its data: where they are, and what they hold."""

    number: int
    header: dict[str, str]
    at: int
    start: int
    end: int

    @property
    def compressed(self) -> bool:
        return self.header.get("ZIMAGE") == "T"

    @property
    def shape(self) -> tuple[int, ...]:
        return _shape(self.header, "Z" if self.compressed else "")

    @property
    def is_image(self) -> bool:
        kind = self.compressed or self.header.get("XTENSION", "IMAGE") in ("IMAGE", "IUEIMAGE")
        return kind and len(self.shape) in (2, 3) and math.prod(self.shape) > 0

    @property
    def name(self) -> str:
        return self.header.get("EXTNAME", "PRIMARY" if self.number == 0 else "")

    def is_called(self, wanted: Extension) -> bool:
        """By number, by name, or by name and version parted by a comma."""
        if isinstance(wanted, int):
            return wanted == self.number
        name, _, version = wanted.upper().partition(",")
        return self.name.upper() == name.strip() and version.strip() in ("", self.header.get("EXTVER", "1"))


def decode(data: bytes, at_least: int | None, extensions: Sequence[Extension] | None) -> np.ndarray:
    """The first image of two axes, or three as [band, y, x]; or the ``extensions``, their channels joined."""
    if extensions is None:
        for unit in _units(data):
            if unit.is_image:
                return _pixels(data, unit)
        raise Unreadable("the FITS holds no image of two or three axes")
    units = list(_units(data))
    return joined([_pixels(data, _find(units, wanted)) for wanted in extensions])


def _units(data: bytes) -> Iterator[_Unit]:
    at = number = 0
    while at < len(data):
        header, start = _header(data, at)
        end = start + _length(header)
        yield _Unit(number, header, at, start, end)
        at = start + -(-(end - start) // BLOCK) * BLOCK
        number += 1


def _find(units: Sequence[_Unit], wanted: Extension) -> _Unit:
    for unit in units:
        if unit.is_called(wanted):
            if not unit.is_image:
                raise Unreadable(f"the FITS's extension {wanted!r} is no image of two or three axes: {_listed(units)}")
            return unit
    raise Unreadable(f"the FITS has no extension {wanted!r}: it has {_listed(units)}")


def _listed(units: Sequence[_Unit]) -> str:
    told = [f"{unit.number} {unit.name}".strip() + ("" if unit.is_image else " (no image)") for unit in units[:20]]
    return ", ".join(told) + (", …" if len(units) > 20 else "")


def _pixels(data: bytes, unit: _Unit) -> np.ndarray:
    shape = unit.shape
    height, width = shape[-2:]
    check_size(height, width, math.prod(shape[:-2]))
    if unit.end > len(data):
        raise Unreadable("the FITS is truncated")
    array = _unpack_tiles(data, unit) if unit.compressed else _values(unit.header, data, unit.start)
    array = array.reshape(shape)
    return np.moveaxis(array, 0, 2) if array.ndim == 3 else array[..., None]


def _header(data: bytes, at: int) -> tuple[dict[str, str], int]:
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


def _axes(header: dict[str, str], prefix: str = "") -> list[int]:
    count = int(header.get(f"{prefix}NAXIS", "0"))
    axes = [int(header[f"{prefix}NAXIS{axis}"]) for axis in range(1, count + 1)]
    if min(axes, default=0) < 0:
        raise Unreadable("the FITS is broken: an axis has negative length")
    return axes


def _shape(header: dict[str, str], prefix: str) -> tuple[int, ...]:
    """Axes in NumPy's order; leading axes of length 1 (frequency, polarisation) beyond two are dropped."""
    shape = _axes(header, prefix)[::-1]
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    return tuple(shape)


def _length(header: dict[str, str]) -> int:
    axes = _axes(header)
    if axes and axes[0] == 0:  # random groups
        axes = axes[1:]
    groups, parameters = int(header.get("GCOUNT", "1")), int(header.get("PCOUNT", "0"))
    if groups < 0 or parameters < 0:
        raise Unreadable("the FITS is broken: GCOUNT or PCOUNT is negative")
    return abs(int(header["BITPIX"])) // 8 * groups * (parameters + math.prod(axes)) if axes else 0


def _number(header: dict[str, str], keyword: str, default: float) -> float:
    return float(header.get(keyword, str(default)).upper().replace("D", "E"))


def _values(header: dict[str, str], data: bytes, start: int) -> np.ndarray:
    """physical = BZERO + BSCALE × stored; whole numbers equal to BLANK are NaN."""
    stored = np.frombuffer(data, TYPES[int(header["BITPIX"])], math.prod(_axes(header)), start)
    scale, zero = _number(header, "BSCALE", 1.0), _number(header, "BZERO", 0.0)
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


def _unpack_tiles(data: bytes, unit: _Unit) -> np.ndarray:
    from astropy.io import fits  # a quarter of a second to import, and most campaigns do without

    cards = (data[card : card + CARD] for card in range(unit.at, unit.start, CARD))
    primary = fits.PrimaryHDU().header.tostring().encode()
    table = b"".join(card for card in cards if TILE_CARDS.match(card)) + b"END"
    plain = primary + _padded(table, b" ") + _padded(data[unit.start : unit.end], b"\0")
    with fits.open(io.BytesIO(plain), memmap=False) as units:
        return np.asarray(units[1].data)


def _padded(data: bytes, filler: bytes) -> bytes:
    return data.ljust(-(-len(data) // BLOCK) * BLOCK, filler)

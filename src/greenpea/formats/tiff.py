"""TIFF of any depth and number of channels, by tifffile; by Pillow where a codec is wanted that tifffile lacks.

tifffile unpacks deflate, PackBits and LZMA by itself, and the others (LZW, JPEG, …) with the package imagecodecs.
Without it, Pillow reads what it can hold in full: 8-bit grey and colour, grey of 16 bits, grey as real numbers.
"""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL.TiffImagePlugin import TiffImageFile

from greenpea.formats.common import Extension, Unreadable, check_size, checked, chosen, joined, over_black
from greenpea.formats.pictures import from_pillow

BLACK_IS_ZERO, RGB = 1, 2  # PhotometricInterpretation (TIFF 6.0, section 8)
UNASSOCIATED_ALPHA = 2  # ExtraSamples


def decode(data: bytes, at_least: int | None, extensions: Sequence[Extension] | None) -> np.ndarray:
    """The first image, pages of one size and kind being its channels; or the pages that ``extensions`` names.

    Opacity is laid over black, palettes are looked up. An axis beyond two is the channels, whatever it is called.
    """
    from tifffile import TiffFile, TiffFileError  # a fifth of a second to import, and most campaigns do without

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it would tell of tags that are merely unusual
    try:
        with TiffFile(io.BytesIO(data)) as file:
            if extensions is None:
                return _image(data, file.series[0], list(range(len(file.series[0].pages))))
            numbers = [
                int(chosen(part, [str(n) for n in range(len(file.pages))], "TIFF", "page")) for part in extensions
            ]
            return joined([checked(_image(data, file.pages[number], [number])) for number in numbers])
    except TiffFileError as error:
        raise Unreadable(f"the TIFF is broken: {error}") from error


def _image(data: bytes, image: Any, pages: list[int]) -> np.ndarray:
    """Return a page or a series of pages as [y, x, channel]."""
    page = getattr(image, "keyframe", image)
    check_size(page.imagelength, page.imagewidth, math.prod(image.shape) // max(1, page.imagelength * page.imagewidth))
    if page.photometric not in (BLACK_IS_ZERO, RGB):
        return _by_pillow(data, page, pages, f"its colours are {_name(page.photometric)}")
    try:
        array = image.asarray()
    except (ValueError, KeyError, ImportError) as error:
        if "imagecodecs" not in str(error) and not isinstance(error, ImportError):
            raise
        return _by_pillow(data, page, pages, f"it is compressed as {_name(page.compression)}")
    array = _channels_last(array, image.axes)
    has_opacity = tuple(page.extrasamples) == (UNASSOCIATED_ALPHA,) and array.dtype.kind == "u"
    return over_black(array) if has_opacity and array.shape[2] == page.samplesperpixel else array


def _channels_last(array: np.ndarray, axes: str) -> np.ndarray:
    """Bring an image to [y, x, channel]; axes of length 1 beyond two are dropped."""
    kept = [axis for axis, size in zip(axes, array.shape, strict=True) if size > 1 or axis in "YX"]
    array = array.reshape([size for axis, size in zip(axes, array.shape, strict=True) if size > 1 or axis in "YX"])
    others = [place for place, axis in enumerate(kept) if axis not in "YX"]
    if len(others) > 1:
        raise Unreadable(f"the TIFF has the axes {''.join(kept)}: choose pages with images.extensions")
    return np.moveaxis(array, others[0], 2) if others else array[..., None]


def _name(value: Any) -> str:
    return str(getattr(value, "name", value))


def _by_pillow(data: bytes, page: Any, pages: list[int], why: str) -> np.ndarray:
    """Read pages by Pillow where it keeps every bit. Raises `Unreadable` with ``why`` where it does not."""
    if page.bitspersample > 8 and page.samplesperpixel > 1:
        raise Unreadable(
            f"the TIFF cannot be unpacked: {why}, with {page.samplesperpixel} channels of {page.bitspersample} bits. "
            f"Install imagecodecs (pip install 'greenpea[tiff]'), or save it uncompressed or with deflate"
        )
    image = TiffImageFile(io.BytesIO(data))
    found = []
    for number in pages:
        image.seek(number)
        found.append(from_pillow(image))
    return joined(found)

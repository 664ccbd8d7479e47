"""PNG and JPEG, by Pillow."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from greenpea.formats.common import Extension, check_size, over_black, refuse_parts


def decode_png(data: bytes, at_least: int | None, extensions: Sequence[Extension] | None) -> np.ndarray:
    """Grey or RGB of 8 or 16 bits; a palette is looked up, transparency is laid over black."""
    refuse_parts("PNG", extensions)
    # The classes, not Image.open, which would warn of large images: a warning cannot be caught in a thread.
    image = PngImageFile(io.BytesIO(data))
    raw = image.tile[0].args if image.tile else None
    if raw in ("RGB;16B", "RGBA;16B") and "transparency" not in image.info:
        return _deep_png(data, str(raw))
    return from_pillow(image)


def _deep_png(data: bytes, raw: str) -> np.ndarray:
    """Colour of 16 bits, of which Pillow keeps the upper 8. Read as if the bytes were swapped, it keeps the lower."""
    halves = []
    for order in (raw, raw.replace("16B", "16L")):
        image = PngImageFile(io.BytesIO(data))
        check_size(image.height, image.width)
        image.tile = [image.tile[0]._replace(args=order)]
        halves.append(np.asarray(image).astype(np.uint16))
    return over_black((halves[0] << 8) | halves[1])


class _Jpeg(JpegImageFile):
    def getexif(self) -> Image.Exif:
        # Opening looks up the resolution in EXIF, and warns where EXIF is corrupt. It is not needed here.
        raise KeyError("EXIF is not read")


def decode_jpeg(data: bytes, at_least: int | None, extensions: Sequence[Extension] | None) -> np.ndarray:
    """Grey or RGB, decoded smaller where ``at_least`` allows it."""
    refuse_parts("JPEG", extensions)
    image = _Jpeg(io.BytesIO(data))
    if at_least is not None:
        image.draft(None, (at_least, at_least))
    return from_pillow(image)


def from_pillow(image: Image.Image) -> np.ndarray:
    """Return what Pillow has opened: grey or RGB, transparency laid over black."""
    check_size(image.height, image.width)
    if image.mode == "F":
        return np.asarray(image)[..., None]
    if image.mode.startswith("I"):
        return np.asarray(image)[..., None].astype(np.uint16)
    grey = image.mode in ("1", "L", "LA")
    if not image.has_transparency_data:
        mode = "L" if grey else "RGB"
        array = np.asarray(image if image.mode == mode else image.convert(mode))
        return array[..., None] if grey else array
    return over_black(np.asarray(image.convert("LA" if grey else "RGBA")))

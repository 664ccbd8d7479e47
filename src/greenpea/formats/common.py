"""What all formats share: what is refused, how much is opened, how parts are chosen and joined."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Num

from greenpea.errors import GreenpeaError

# A few kilobytes can claim to be an image of gigabytes. Ten thousand pixels squared is more than a cutout.
MAX_PIXELS = 10**8
MAX_VALUES = 10**9  # of all channels together
MAX_UNPACKED = 2**30  # bytes

Extension = int | str  # a part of a file: by its number, from 0, or its name


class Unreadable(GreenpeaError):
    """An image that cannot be used; ``reason`` says why in plain words, without the name."""

    def __init__(self, reason: str, name: str = "") -> None:
        super().__init__(f"{name}: {reason}" if name else reason)
        self.reason = reason


def check_size(height: int, width: int, channels: int = 1) -> None:
    """Raise `Unreadable` for an image of too many pixels or channels."""
    if height * width > MAX_PIXELS:
        raise Unreadable(f"{width} × {height} pixels is more than Greenpea opens ({MAX_PIXELS:,}): cut it out smaller")
    if height * width * channels > MAX_VALUES:
        raise Unreadable(f"{channels} channels of {width} × {height} pixels are more than Greenpea opens: cut it out")


def checked(array: np.ndarray) -> Num[np.ndarray, "y x channel"]:
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


def chosen(part: Extension, names: Sequence[str], kind: str, what: str) -> str:
    """Return the name of a part given by number or name. Raises `Unreadable` that lists what there is."""
    if isinstance(part, int) and part < len(names):
        return names[part]
    if part in names:
        return str(part)
    listed = ", ".join(name if name == str(number) else f"{number} {name}" for number, name in enumerate(names[:20]))
    raise Unreadable(f"the {kind} has no {what} {part!r}: it has {listed or 'none'}")


def joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Join the channels of images of one size."""
    sizes = list(dict.fromkeys(array.shape[:2] for array in arrays))
    if len(sizes) > 1:
        listed = ", ".join(f"{width} × {height}" for height, width in sizes)
        raise Unreadable(f"its parts have different sizes in pixels: {listed}")
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=2)


def over_black(array: np.ndarray) -> np.ndarray:
    """Lay colour or grey with a last channel of opacity, all of 8 or of 16 bits, over black."""
    if array.shape[2] not in (2, 4):
        return array
    most = np.iinfo(array.dtype).max
    wide = array.astype(np.uint32)
    return ((wide[..., :-1] * wide[..., -1:] + most // 2) // most).astype(array.dtype)


def refuse_parts(kind: str, extensions: Sequence[Extension] | None) -> None:
    """Raise `Unreadable` where another part than the first is wanted of a file that has only one."""
    if extensions is not None and any(part != 0 for part in extensions):
        raise Unreadable(f"a {kind} holds one image, and images.extensions asks for {list(extensions)}")

"""NPY and NPZ: NumPy's arrays, read without trusting a header with memory, or with pickles."""

from __future__ import annotations

import ast
import io
import math
import zipfile
from collections.abc import Sequence

import numpy as np

from greenpea.formats.common import (
    MAX_UNPACKED,
    Extension,
    Unreadable,
    check_size,
    checked,
    chosen,
    joined,
    refuse_parts,
)

MAX_CHANNELS_BY_GUESS = 16  # an axis longer than this is not taken for the channels


def decode_npy(data: bytes, at_least: int | None, extensions: Sequence[Extension] | None) -> np.ndarray:
    """[y, x], [y, x, channel] or [channel, y, x], the channels being the shortest axis (numpy.lib.format)."""
    refuse_parts("NPY", extensions)
    return _array(data)


def _array(data: bytes) -> np.ndarray:
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
    check_size(*array.shape[:2])
    return array


def decode_npz(data: bytes, at_least: int | None, extensions: Sequence[Extension] | None) -> np.ndarray:
    """A zip of NPY files; without ``extensions`` the first that is an image."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        if extensions is not None:
            found = [_member(archive, chosen(part, names, "NPZ", "array")) for part in extensions]
            return joined(found)
        for name in names:
            try:
                return _member(archive, name)
            except Unreadable as error:
                problem = error
    raise Unreadable(f"the NPZ holds no image: {problem.reason}" if names else "the NPZ holds no array")


def _member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    if archive.getinfo(f"{name}.npy").file_size > MAX_UNPACKED:
        raise Unreadable(f"the NPZ's array {name!r} takes more than 1 GiB")
    return checked(_array(archive.read(f"{name}.npy")))


def _channel_axis(shape: tuple[int, int, int]) -> int:
    shortest = [axis for axis in range(3) if shape[axis] == min(shape)]
    if len(shortest) > 1 or shortest == [1] or min(shape) > MAX_CHANNELS_BY_GUESS:
        raise Unreadable(
            f"which axis of {shape} is the channels is ambiguous: save [y, x, channel] with fewer channels than "
            f"pixels, at most {MAX_CHANNELS_BY_GUESS}"
        )
    return shortest[0]

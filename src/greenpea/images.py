"""Images: prepared as a network sees them, many at a time; one that cannot be read is never lost.

The formats are in `formats`. Cost to 64 pixels, in processor time per image: 0.32 ms for an 88-pixel JPEG,
0.55 ms for one of 200 pixels, 1.2 ms for one of 1,024, 0.32 ms for a 64-pixel FITS with the asinh stretch.
About half of it holds Python's lock, so that threads can at most double the speed: many images are read in processes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int, Num
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from greenpea.errors import GreenpeaError
from greenpea.formats import Extension, decode, joined, read_bytes
from greenpea.formats import Unreadable as Unreadable
from greenpea.formats import read as read
from greenpea.runner import Runner, choose
from greenpea.subjects import SubjectSet

# ---- preparation -------------------------------------------------------------------------------------

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Preparation(BaseModel):
    """How an image becomes what a network sees; stored with every model, since it must not change later.

    In this order: ``extensions`` are opened, ``bands`` are chosen, the central square is cut out, missing pixels are
    filled, the square is resized, brightness is stretched, grey and RGB are converted. Resizing comes
    before stretching, so that flux is averaged and not its logarithm, with a filter that has no negative lobes: no
    dark rings around stars.

    Brightness, for ``linear`` and ``asinh``: x = (value − black) / scale, cut off to [0, 1], and for
    ``asinh`` y = asinh(x / softening) / asinh(1 / softening) (astropy's AsinhStretch). For ``lupton``:
    astropy's make_lupton_rgb with minimum = black, stretch = scale and Q = q (Lupton et al. 2004).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    size: Annotated[int, Field(ge=1, le=4096)] = 64
    """Side of the square, pixels."""
    crop: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Central share of the shorter side that is kept."""
    extensions: tuple[Annotated[int, Field(ge=0)] | str, ...] | None = None
    """Parts of each file to use, by number from 0 or by name: of a FITS its extensions, of a TIFF its pages, of an NPZ
    its arrays. Their channels are joined in this order. None: the first that is an image."""
    bands: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Channels to use, from 0, in this order. None: all; for ``lupton`` (2, 1, 0), red first, as files often
    hold their bands from blue to red."""
    stretch: Literal["auto", "none", "linear", "asinh", "lupton"] = "auto"
    """``auto``: ``none`` for 8-bit images, else ``asinh``. ``none``: 8-bit values stay as they are, 16-bit
    ones are divided by 65535, others must lie in [0, 1]."""
    percentiles: tuple[Finite, Finite] = (0.25, 99.75)
    """The black and the white level, in per cent of the prepared pixels of all channels together (so that
    colours survive), where ``black`` or ``scale`` is None. Each image then has its own levels."""
    black: Finite | None = None
    """Value shown as black, in the image's own unit."""
    scale: Positive | None = None
    """In the image's own unit: white minus black for ``linear`` and ``asinh``, make_lupton_rgb's ``stretch``
    for ``lupton``. With ``black`` and ``scale`` given, brightness compares between images."""
    softening: Positive = 0.1
    """Where ``asinh`` turns from linear to logarithmic, as a share of ``scale``."""
    q: Positive = 8.0
    """Lupton's Q: how strongly bright parts are held back; no unit."""
    channels: Annotated[int, Field(ge=1)] | None = None
    """Channels wanted: grey becomes RGB by repetition (3), any number becomes grey by the mean (1). None: as
    the images are, which then must all be alike."""

    @model_serializer(mode="wrap")
    def _as_it_was(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without ``extensions`` where none are chosen: what older encoders were fingerprinted with stays the same."""
        known: dict[str, Any] = dump(self)
        return {key: value for key, value in known.items() if key != "extensions" or value is not None}

    @model_validator(mode="after")
    def _consistent(self) -> Preparation:
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(f"percentiles {self.percentiles} must rise, from 0 to 100")
        if self.bands is not None and len(self.bands) == 0:
            raise ValueError("bands is empty: leave it out to use all")
        if self.extensions is not None and len(self.extensions) == 0:
            raise ValueError("extensions is empty: leave it out to use the first image")
        if self.stretch == "lupton" and self.bands is not None and len(self.bands) != 3:
            raise ValueError(f"lupton makes RGB of three bands, and bands names {len(self.bands)}")
        return self

    def prepare(self, array: Num[np.ndarray, "y x channel"]) -> Num[np.ndarray, "channel size size"]:
        """Return uint8 for an 8-bit image left as it is and for ``lupton``, else float32 in [0, 1].

        Raises `Unreadable` where the image does not fit: too few bands, nothing finite in the centre,
        values outside [0, 1] with ``none``. A blank image is allowed.
        """
        return _prepare(array, self)[0]


def assemble(
    sources: Sequence[Path | bytes], extensions: Sequence[Extension] | None = None, at_least: int | None = None
) -> Num[np.ndarray, "y x channel"]:
    """Return the image of a subject, all its channels: of several files, one after the other.

    A JPEG may come smaller (`formats.decode`). Raises `Unreadable`.
    """
    return joined([_part(sources, number, extensions, at_least) for number in range(len(sources))])


def _part(
    sources: Sequence[Path | bytes], number: int, extensions: Sequence[Extension] | None, at_least: int | None
) -> Num[np.ndarray, "y x channel"]:
    source = sources[number]
    try:
        if source == b"":  # what `SubjectSet.source` gives where the table's cell is blank
            raise Unreadable("no image is named")
        return decode(read_bytes(source), at_least, extensions)
    except Unreadable as error:
        if len(sources) == 1:
            raise
        raise Unreadable(f"file {number + 1} of {len(sources)}: {error.reason}") from error


def _prepare(array: np.ndarray, how: Preparation) -> tuple[Num[np.ndarray, "channel size size"], int]:
    """Return the prepared image, and how many of its pixels, before resizing, were missing and filled in."""
    array = _central_square(_choose_bands(array, how), how.crop)
    stretch = how.stretch if how.stretch != "auto" else "none" if array.dtype == np.uint8 else "asinh"
    if stretch == "none" and array.dtype == np.uint16:
        array = array / np.float32(65535)
    array, filled = _fill(array)
    array = STRETCHES[stretch](_resize(array, how.size), how)
    return np.ascontiguousarray(np.moveaxis(_convert(array, how.channels), 2, 0)), filled


def _choose_bands(array: np.ndarray, how: Preparation) -> np.ndarray:
    bands = how.bands or ((2, 1, 0) if how.stretch == "lupton" else None)
    if bands is None:
        return array
    if max(bands) >= array.shape[2]:
        raise Unreadable(
            f"band {max(bands)} is wanted and the image has {array.shape[2]}, counted from 0: choose bands"
        )
    return array[..., list(bands)]


def _central_square(array: np.ndarray, crop: float) -> np.ndarray:
    height, width = array.shape[:2]
    side = max(1, round(crop * min(height, width)))
    top, left = (height - side) // 2, (width - side) // 2
    return array[top : top + side, left : left + side]


def _fill(array: np.ndarray) -> tuple[np.ndarray, int]:
    """Fill pixels that are not finite with their channel's median: in most science images, the background."""
    if array.dtype != np.float32:
        return array, 0
    finite = np.isfinite(array)
    if finite.all():
        return array, 0
    if not finite.any():
        raise Unreadable("every pixel is NaN in the part that is used")
    everywhere = np.median(array[finite])
    medians = [
        np.median(array[..., band][finite[..., band]]) if finite[..., band].any() else everywhere
        for band in range(array.shape[2])
    ]
    filled = np.where(finite, array, np.asarray(medians, np.float32))
    return filled, int((~finite.all(axis=2)).sum())


def _resize(array: np.ndarray, size: int) -> np.ndarray:
    """Resize a square with antialiasing; 8-bit stays 8-bit, all else becomes float32."""
    if array.dtype != np.uint8:
        array = array.astype(np.float32)
    if array.shape[0] == size:
        return array
    if array.dtype == np.uint8 and array.shape[2] == 3:
        return np.asarray(_resized(array, size))
    return np.stack([_resized(array[..., band], size) for band in range(array.shape[2])], axis=2)


def _resized(plane: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize((size, size), Image.Resampling.BILINEAR))


def _levels(array: np.ndarray, how: Preparation) -> tuple[float, float]:
    """Return black, and white − black, where not given from percentiles over all channels."""
    if how.black is not None and how.scale is not None:
        return how.black, how.scale
    low, high = np.percentile(array, how.percentiles)
    black = float(low) if how.black is None else how.black
    return black, float(high) - black


def _unstretched(array: np.ndarray, how: Preparation) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    low, high = float(array.min()), float(array.max())
    if low < -1e-6 or high > 1 + 1e-6:
        raise Unreadable(f"its values run from {low:g} to {high:g}, not from 0 to 1: choose stretch asinh or linear")
    return np.asarray(np.clip(array, 0, 1))


def _linear(array: np.ndarray, how: Preparation) -> np.ndarray:
    black, scale = _levels(array, how)
    scale = how.scale or scale
    if scale <= 0:
        return np.zeros(array.shape, np.float32)
    share = (array.astype(np.float32) - np.float32(black)) / np.float32(scale)
    return np.asarray(np.clip(share, 0, 1))


def _asinh(array: np.ndarray, how: Preparation) -> np.ndarray:
    softening = np.float32(how.softening)
    return np.asarray(np.arcsinh(_linear(array, how) / softening) / np.arcsinh(1 / softening))


def _lupton(array: np.ndarray, how: Preparation) -> np.ndarray:
    from astropy.visualization import make_lupton_rgb  # slow to import, and most campaigns do without

    black, width = _levels(array, how)
    # Without a scale, the one that makes the white level white: asinh(Q width / scale) · 0.1 / asinh(0.1 Q) = 1.
    scale = how.scale or width * how.q / np.sinh(np.arcsinh(0.1 * how.q) / 0.1)
    if scale <= 0:
        return np.zeros(array.shape, np.uint8)
    with np.errstate(divide="ignore", invalid="ignore"):
        rgb = make_lupton_rgb(*np.moveaxis(array.astype(np.float64) - black, 2, 0), stretch=scale, Q=how.q)
    return np.asarray(rgb)


STRETCHES: dict[str, Callable[[np.ndarray, Preparation], np.ndarray]] = {
    "none": _unstretched,
    "linear": _linear,
    "asinh": _asinh,
    "lupton": _lupton,
}


def _convert(array: np.ndarray, channels: int | None) -> np.ndarray:
    have = array.shape[2]
    if channels is None or channels == have:
        return array
    if channels == 1:
        mean = array.mean(axis=2, keepdims=True, dtype=np.float32)
        return np.asarray(np.rint(mean) if array.dtype == np.uint8 else mean, array.dtype)
    if (have, channels) == (1, 3):
        return np.repeat(array, 3, axis=2)
    raise Unreadable(f"it has {have} channels and {channels} are wanted: choose them with bands")


# ---- loading -----------------------------------------------------------------------------------------

CHUNK = 16  # images a worker takes at a time, so that handing over work costs little


@dataclass(frozen=True)
class UnreadableSubject:
    """A subject whose image cannot be used, and why."""

    subject_id: str
    reason: str


@dataclass(frozen=True, eq=False)
class Loaded:
    """The prepared images of a subject set: every subject is either in ``rows`` or in ``unreadable``.

    ``rows`` are indices into the set, rising. ``filled`` counts, per readable subject, the pixels that were
    missing (NaN, infinite or BLANK) in the part used and hold the background instead.
    """

    images: Num[np.ndarray, "readable channel y x"]
    rows: Int[np.ndarray, " readable"]
    unreadable: tuple[UnreadableSubject, ...]
    filled: Int[np.ndarray, " readable"]

    def __len__(self) -> int:
        return len(self.rows)


def load(
    subjects: SubjectSet,
    preparation: Preparation,
    workers: int = 2,
    progress: Callable[[int], None] | None = None,
) -> Loaded:
    """Read and prepare every image, in ``workers`` threads or processes; ``progress`` hears how many are done.

    Takes the memory of the result, and of some 50 images per worker. A JPEG more than four times too large
    is decoded at a half, a quarter or an eighth of its size, never below twice the size wanted.
    Raises GreenpeaError where images have different numbers of channels, or some are 8-bit and others not.
    """
    images: np.ndarray | None = None
    unreadable: dict[int, UnreadableSubject] = {}
    filled = np.zeros(len(subjects), np.int64)
    layouts = _Layouts()
    prepared = _prepared(subjects, preparation, subjects.reading_order(), workers, 4 * CHUNK * workers)
    for done, (row, result) in enumerate(prepared, start=1):
        if isinstance(result, UnreadableSubject):
            unreadable[row] = result
        else:
            array, filled[row] = result
            if images is None:
                images = np.empty((len(subjects), *array.shape), array.dtype)
            if layouts.add(array, subjects.subject_ids[row]):
                images[row] = array
        if progress is not None:
            progress(done)
    layouts.refuse_mixed()
    rows = np.setdiff1d(np.arange(len(subjects)), np.fromiter(unreadable, np.int64))
    images = _no_images(preparation) if images is None else _compact(images, rows)
    return Loaded(images, rows, tuple(unreadable[row] for row in sorted(unreadable)), filled[rows])


def batches(
    subjects: SubjectSet,
    preparation: Preparation,
    batch_size: int,
    workers: int = 2,
    runner: Runner | None = None,
) -> Iterator[tuple[Int[np.ndarray, " readable"], Num[np.ndarray, "readable channel y x"], list[UnreadableSubject]]]:
    """Yield, for ``batch_size`` subjects at a time, the readable rows, their images, and the unreadable ones.

    The next batch is read while the caller works on this one, by ``runner``, or else by ``workers`` threads or
    processes; memory is flat in the number of subjects.
    A batch may hold no readable image at all. Subjects go in the set's order: embedded images that were
    shuffled read their table's row groups many times over (see `SubjectSet.reading_order`).
    Raises GreenpeaError where an image differs in channels or depth from those before it.
    """
    prepared = _prepared(subjects, preparation, np.arange(len(subjects)), workers, batch_size, runner)
    layouts = _Layouts()
    empty = _no_images(preparation)
    try:
        while batch := list(islice(prepared, batch_size)):
            unreadable = [result for _, result in batch if isinstance(result, UnreadableSubject)]
            readable = {row: result[0] for row, result in batch if not isinstance(result, UnreadableSubject)}
            for row, array in readable.items():
                layouts.add(array, subjects.subject_ids[row])
            layouts.refuse_mixed()
            images = np.stack(list(readable.values())) if readable else empty
            empty = images[:0]
            yield np.fromiter(readable, np.int64), images, unreadable
    finally:
        prepared.close()


def native_size(subjects: SubjectSet, extensions: Sequence[Extension] | None = None, sample: int = 32) -> int:
    """Return the median shorter side, in pixels, of up to ``sample`` readable images spread over the set."""
    sides = []
    for row in np.unique(np.linspace(0, len(subjects) - 1, min(sample, len(subjects))).astype(np.int64)):
        try:
            sides.append(min(assemble(subjects.sources(row), extensions).shape[:2]))
        except GreenpeaError as error:
            problem = f"of {subjects.subject_ids[row]!r} in {subjects.locations['image'][row].as_py()!r}: {error}"
    if not sides:
        raise GreenpeaError(f"none of {min(sample, len(subjects))} images can be read; the last one, {problem}")
    return int(np.median(sides))


Result = tuple[Num[np.ndarray, "channel size size"], int] | UnreadableSubject


def _prepared(
    subjects: SubjectSet,
    preparation: Preparation,
    order: Int[np.ndarray, " subject"],
    workers: int,
    ahead: int,
    runner: Runner | None = None,
) -> Generator[tuple[int, Result]]:
    """Yield (row, result) in ``order``; at most ``ahead`` images, and a chunk, are read in advance."""
    chunks = [order[start : start + CHUNK] for start in range(0, len(order), CHUNK)]
    # Who and where, no more: what else is known of them need not travel.
    bare = replace(subjects, metadata=_NOTHING, note="")
    with nullcontext(runner) if runner is not None else choose(workers, len(order)) as chosen:
        tasks = (bare.select(rows) for rows in chunks)
        found = chosen.map(partial(_prepare_some, preparation), tasks, ahead=ahead // CHUNK)
        try:
            for rows, results in zip(chunks, found, strict=True):
                yield from zip(rows.tolist(), results, strict=True)
        finally:
            found.close()


_NOTHING = pa.table({})


def _prepare_some(preparation: Preparation, subjects: SubjectSet) -> list[Result]:
    subjects.fetch()
    return [_prepare_one(subjects, preparation, row) for row in range(len(subjects))]


def _prepare_one(subjects: SubjectSet, preparation: Preparation, row: int) -> Result:
    # A JPEG decoded small is not quite the image made small: at twice the size wanted they
    # differ by half a level of 255 (root mean square), and it costs a sixth at 1,024 pixels.
    at_least = math.ceil(2 * preparation.size / preparation.crop)
    try:
        return _prepare(assemble(subjects.sources(row), preparation.extensions, at_least), preparation)
    except Unreadable as error:
        return UnreadableSubject(str(subjects.subject_ids[row]), error.reason)
    except GreenpeaError as error:
        return UnreadableSubject(str(subjects.subject_ids[row]), str(error))


def _compact(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Move the readable images to the front, in place: a copy would take the memory twice."""
    for place, row in enumerate(rows):
        if place != row:
            images[place] = images[row]
    return images[: len(rows)]


def _no_images(preparation: Preparation) -> Float[np.ndarray, "0 channel y x"]:
    return np.zeros((0, preparation.channels or 1, preparation.size, preparation.size), np.float32)


@dataclass(frozen=True)
class _Layouts:
    """How many images have which channels and depth, with an example of each: an array holds one kind only."""

    counts: Counter[tuple[int, str]] = field(default_factory=Counter)
    examples: dict[tuple[int, str], str] = field(default_factory=dict)

    def add(self, image: np.ndarray, subject_id: str) -> bool:
        """Count an image; return whether all have been alike so far."""
        layout = image.shape[0], image.dtype.name
        self.counts[layout] += 1
        self.examples.setdefault(layout, subject_id)
        return len(self.counts) == 1

    def refuse_mixed(self) -> None:
        if len(self.counts) <= 1:
            return
        seen = ", ".join(
            f"{count} with {channels} channel{'s' * (channels != 1)} of {'8' if depth == 'uint8' else '32'} bits "
            f"(such as {self.examples[channels, depth]!r})"
            for (channels, depth), count in self.counts.most_common()
        )
        different = {channels for channels, _ in self.counts}
        if len(different) == 1:
            remedy = "--set images.stretch=asinh"
        elif different == {1, 3}:
            remedy = "--set images.channels=3 (or 1)"
        else:
            remedy = "--set images.channels=1, or choose bands that all have (images.bands)"
        raise GreenpeaError(f"the images are not alike: {seen}. Make them so with {remedy}")

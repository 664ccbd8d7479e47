"""Embeddings: what an encoder makes of every image, computed once and kept; half precision, mapped from disk.

::

    DIR/embeddings/<encoder>/embeddings.f16   one row a subject, in the order in which they were computed
                             subjects.txt     their ids, one a line, as JSON texts
                             unreadable.txt   ids of images that cannot be read, and why, as JSON pairs
                             embeddings.json  how many rows and lines of each count: replaced after they are written

What a process was writing when it was killed lies behind the counts, and is written over by the next.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from greenpea.errors import GreenpeaError
from greenpea.files import replacing

FOLDER, ROWS, SUBJECTS, UNREADABLE, FACTS = (
    "embeddings", "embeddings.f16", "subjects.txt", "unreadable.txt", "embeddings.json",
)  # fmt: skip
FORMAT = "greenpea-embeddings/1"
NAMED = 16  # characters of the encoder's fingerprint that name the folder


@dataclass(frozen=True)
class Embeddings:
    """The embeddings of one encoder, as they stood when they were opened."""

    folder: Path
    encoder: str  # its fingerprint
    length: int  # numbers in an embedding
    count: int  # subjects
    sizes: tuple[int, int]  # bytes of SUBJECTS and UNREADABLE that count

    @classmethod
    def open(cls, campaign: Path, encoder: str) -> Embeddings:
        """Open what was kept for an encoder. Raises GreenpeaError where nothing was, or it is damaged."""
        folder = place_of(campaign, encoder)
        try:
            known = json.loads((folder / FACTS).read_text(encoding="utf-8"))
            found = cls(folder, known["encoder"], known["length"], known["count"], (known["subjects"], known["bad"]))
            kind = known["format"]
        except FileNotFoundError as error:
            raise GreenpeaError(
                f"{folder} holds no embeddings of encoder {encoder[:NAMED]}: 'greenpea round' computes those of the "
                f"campaign's encoder"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise _damaged(folder, f"{FACTS} is not what was written") from error
        if kind != FORMAT or found.encoder != encoder:
            raise _damaged(folder, f"it says format {kind!r} and encoder {found.encoder[:NAMED]!r}")
        if (folder / ROWS).stat().st_size < found.count * found.length * 2:
            raise _damaged(folder, f"{ROWS} is shorter than its {found.count:,} subjects")
        return found

    @classmethod
    def create(cls, campaign: Path, encoder: str, length: int) -> Embeddings:
        """Open what is kept for an encoder, or begin with nothing. Raises GreenpeaError where the lengths differ."""
        folder = place_of(campaign, encoder)
        if not (folder / FACTS).is_file():
            folder.mkdir(parents=True, exist_ok=True)
            for name in (ROWS, SUBJECTS, UNREADABLE):
                (folder / name).touch()
            cls(folder, encoder, length, 0, (0, 0))._note()
        found = cls.open(campaign, encoder)
        if found.length != length:
            raise _damaged(folder, f"its embeddings are {found.length} long, the encoder's {length}")
        return found

    def __len__(self) -> int:
        return self.count

    @cached_property
    def ids(self) -> np.ndarray:
        """The subjects' ids, row by row."""
        return np.array(list(self._lines(SUBJECTS, self.sizes[0])), dtype=object)

    @cached_property
    def unreadable(self) -> dict[str, str]:
        """Subjects whose image could not be read, and why."""
        return dict(self._lines(UNREADABLE, self.sizes[1]))

    @cached_property
    def _place(self) -> dict[str, int]:
        return {subject: row for row, subject in enumerate(self.ids)}

    def rows_of(self, subject_ids: Iterable[object]) -> Int[np.ndarray, " subject"]:
        """Return the row of each subject, −1 where there is none."""
        return np.array([self._place.get(str(subject), -1) for subject in subject_ids], dtype=np.int64)

    def take(self, rows: Sequence[int] | np.ndarray) -> Float[np.ndarray, "row embedding"]:
        """Return some rows, float32. Raises GreenpeaError where one is −1: a subject without an embedding."""
        rows = np.asarray(rows, dtype=np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= self.count):
            raise GreenpeaError(f"a subject has no embedding in {self.folder}: leave out those whose row is -1")
        return self._matrix[rows].astype(np.float32) if rows.size else np.zeros((0, self.length), np.float32)

    @cached_property
    def _matrix(self) -> np.ndarray:
        if not self.count:
            return np.zeros((0, self.length), np.float16)
        return np.memmap(self.folder / ROWS, np.float16, "r", shape=(self.count, self.length))

    # ---- writing -----------------------------------------------------------------------------------

    def append(
        self,
        subject_ids: Sequence[str] | np.ndarray,
        embeddings: Float[np.ndarray, "row embedding"],
        unreadable: Iterable[tuple[str, str]] = (),
    ) -> Embeddings:
        """Add subjects and those whose image could not be read (id, why); return what there is then.

        Written and flushed before it counts: killed anywhere, either all of it counts or nothing. One process at a
        time. Raises GreenpeaError where a number does not fit half precision.
        """
        with np.errstate(over="ignore"):  # what overflows is refused below, by name
            half = np.asarray(embeddings, np.float32).astype(np.float16)
        if half.shape != (len(subject_ids), self.length):
            raise GreenpeaError(f"embeddings of shape {half.shape}; expected {(len(subject_ids), self.length)}")
        if not np.isfinite(half).all():
            row = int(np.flatnonzero(~np.isfinite(half).all(axis=1))[0])
            raise GreenpeaError(
                f"the embedding of {subject_ids[row]!r} is not finite in half precision: the encoder gives numbers "
                f"that are none, or above 65,504; use another"
            )
        _write(self.folder / ROWS, self.count * self.length * 2, half.tobytes())
        sizes = (
            _write(self.folder / SUBJECTS, self.sizes[0], _as_lines(str(subject) for subject in subject_ids)),
            _write(self.folder / UNREADABLE, self.sizes[1], _as_lines(list(pair) for pair in unreadable)),
        )
        grown = Embeddings(self.folder, self.encoder, self.length, self.count + len(subject_ids), sizes)
        grown._note()
        return grown

    def forget_unreadable(self) -> Embeddings:
        """Let the images that could not be read be tried again."""
        again = Embeddings(self.folder, self.encoder, self.length, self.count, (self.sizes[0], 0))
        again._note()
        return again

    def _note(self) -> None:
        subjects, bad = self.sizes
        known = {"format": FORMAT, "encoder": self.encoder, "length": self.length, "count": self.count}
        with replacing(self.folder / FACTS) as temporary:
            temporary.write_text(json.dumps(known | {"subjects": subjects, "bad": bad}) + "\n", encoding="utf-8")

    def _lines(self, name: str, size: int) -> Iterator[Any]:
        with (self.folder / name).open("rb") as file:
            content = file.read(size)
        try:
            yield from (json.loads(line) for line in content.splitlines())
        except ValueError as error:
            raise _damaged(self.folder, f"{name} is not what was written") from error


def place_of(campaign: Path, encoder: str) -> Path:
    """Return the folder of an encoder's embeddings within a campaign's."""
    return campaign / FOLDER / encoder[:NAMED]


def _as_lines(values: Iterable[Any]) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def _write(path: Path, at: int, content: bytes) -> int:
    """Write behind what counts, over what does not; return where it ends, safe on the disk."""
    with path.open("r+b") as file:
        file.truncate(at)
        file.seek(at)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return at + len(content)


def _damaged(folder: Path, why: str) -> GreenpeaError:
    return GreenpeaError(f"the embeddings in {folder} are damaged: {why}. Remove the folder; they are computed anew")

"""Prediction that streams: images are decoded and the catalogue is described beside the network, part by part.

The network runs in this process; a runner's processes decode the images of the next blocks and turn the posteriors
of the last ones into rows of the catalogue. Blocks are the same however often the work was interrupted, and so are
the bytes of every part.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from greenpea import catalogue, images
from greenpea.describing import Block, Left, describe, joined
from greenpea.embeddings import Embeddings
from greenpea.errors import GreenpeaError
from greenpea.files import saving
from greenpea.images import UnreadableSubject
from greenpea.learning.kept import encoder_of
from greenpea.learning.model import Model
from greenpea.learning.prediction import as_kept, from_embeddings
from greenpea.learning.settings import Learning
from greenpea.parts import DRAWS, MAIN, Unfinished
from greenpea.posterior import Posterior
from greenpea.runner import Runner, choose
from greenpea.settings import Catalogue
from greenpea.subjects import SubjectSet

BLOCK = 1024  # subjects that the network sees, and that are described, at a time

Report = Callable[[str, float, str], None]  # stage, share done, a few words
Source = Callable[[np.ndarray, Runner], Iterator[Block]]  # rows of the subjects, in blocks


@dataclass(frozen=True, eq=False)
class Prediction:
    """What is to be predicted: of whom, how they are seen, and what the catalogue says of them."""

    subjects: SubjectSet
    source: Source
    settings: Catalogue
    seed: int
    draws: bool = False  # whether the long table of draws is wanted as well
    about: Mapping[str, str] = field(default_factory=dict)  # metadata of the catalogue

    @property
    def parts(self) -> int:
        """How many parts there are."""
        return -(-len(self.subjects) // self.settings.part)

    def rows_of(self, part: int) -> np.ndarray:
        """Return the rows of a part's subjects."""
        return np.arange(part * self.settings.part, min((part + 1) * self.settings.part, len(self.subjects)))


def write(
    prediction: Prediction,
    out: Path,
    job: Mapping[str, Any],
    draws_out: Path | None,
    report: Report,
    anew: bool = False,
) -> tuple[int, tuple[UnreadableSubject, ...]]:
    """Write the catalogue to a ``.parquet`` file, or to a folder of parts; return how many rows, and who was left out.

    Goes on where a process that was asked for the same ``job`` stopped. Raises GreenpeaError where nobody could be
    seen.
    """
    with Unfinished.open(out, job, prediction.parts, anew) as unfinished:
        _fill(prediction, unfinished, report)
        rows, left = unfinished.rows(), unfinished.left()
        if not rows:
            unfinished.forget()
            raise GreenpeaError(
                f"none of the {len(prediction.subjects)} images could be read; the first: {left[0][1]}"
                if left
                else "there are no subjects: import some first"
            )
        report("writing", 0.0, "joining the parts")
        if out.suffix:
            unfinished.join({DRAWS: draws_out} if draws_out else None)
        else:
            unfinished.keep()
        report("writing", 1.0, "")
    return rows, tuple(UnreadableSubject(*pair) for pair in left)


def _fill(prediction: Prediction, unfinished: Unfinished, report: Report) -> None:
    """Predict the parts that are not done."""
    missing, chosen = unfinished.missing, prediction.settings
    rows = np.concatenate([prediction.rows_of(part) for part in missing]) if missing else np.zeros(0, np.int64)
    pace = _Pace(len(prediction.subjects), len(prediction.subjects) - len(rows), report)
    with choose(chosen.workers, len(rows)) as runner:
        blocks = prediction.source(rows, runner)
        tasks = ((block, prediction.subjects.select(block.rows).metadata) for block in blocks)
        found = runner.map(partial(describe, chosen, prediction.seed, prediction.draws), tasks, chosen.workers)
        for part in missing:
            described, done = [], 0
            while done < len(prediction.rows_of(part)):
                described.append(next(found))
                done += described[-1].subjects
                pace.tell(described[-1].subjects)
            tables, left = joined(described), [pair for one in described for pair in one.left]
            unfinished.add(part, tables, left, _about(prediction, tables))


def _about(prediction: Prediction, tables: Mapping[str, Sequence[pa.Table]]) -> Mapping[str, str]:
    """Return what a part of the catalogue says of itself, also in the way of VOTables (`catalogue.described`)."""
    if not (prediction.about and tables.get(MAIN)):
        return prediction.about
    known = catalogue.described(tables[MAIN][0].schema, dict(prediction.about)).metadata
    return {key.decode(): value.decode() for key, value in known.items()}


# ---- seeing ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Eye:
    """A model with draws of its weights, where it computes, and how it looks: images, ids → posterior."""

    model: Model
    drawn: Any
    where: Learning
    look: Callable[[np.ndarray, np.ndarray], Posterior]

    def of_images(self, prepared: np.ndarray, subject_ids: np.ndarray) -> Posterior | None:
        """Return what the model makes of images; None of none."""
        return self.look(prepared, subject_ids) if len(subject_ids) else None

    def of_embeddings(self, embeddings: np.ndarray, subject_ids: np.ndarray) -> Posterior | None:
        """Return what the head makes of embeddings; None of none. Raises where the method needs the images."""
        return from_embeddings(self.model, embeddings, subject_ids, self.drawn) if len(subject_ids) else None


def of_images(subjects: SubjectSet, eye: Eye, kept: Path | None, settings: Catalogue) -> Source:
    """Return a source that decodes images with the runner, and sees them in this process.

    ``kept`` is a folder in which embeddings are kept; then they are seen as they come back from there.
    """
    keeper = None if kept is None else _Keeper(eye, kept)

    def source(rows: np.ndarray, runner: Runner) -> Iterator[Block]:
        some, at, how = subjects.select(rows), 0, (_block(settings), settings.workers, runner)
        for seen, block, failed in images.batches(some, eye.model.preparation, *how):
            where = rows[seen]
            left = tuple((one.subject_id, one.reason) for one in failed)
            ids = subjects.subject_ids[where]
            posterior = keeper.see(block, ids, left) if keeper else eye.of_images(block, ids)
            yield Block(int(rows[at]), where, posterior, left)
            at += len(seen) + len(failed)

    return source


class _Keeper:
    """Sees images by way of embeddings that are kept."""

    def __init__(self, eye: Eye, place: Path) -> None:
        self.eye, self.place, self.encoder = eye, place, encoder_of(eye.model)
        with saving(place):
            self.kept = Embeddings.create(place, self.encoder.fingerprint, self.encoder.length)
        self.known = set(self.kept.ids) | set(self.kept.unreadable)  # a part that was not finished may be here already

    def see(self, prepared: np.ndarray, subject_ids: np.ndarray, left: Left) -> Posterior | None:
        values = np.zeros((0, self.encoder.length), np.float32)
        if len(subject_ids):
            values = self.encoder.embed(prepared, self.eye.where.precision, self.eye.where.accelerator)
        new = np.array([str(subject) not in self.known for subject in subject_ids], dtype=bool)
        with saving(self.place):
            self.kept = self.kept.append(
                subject_ids[new], values[new], [pair for pair in left if pair[0] not in self.known]
            )
        return self.eye.of_embeddings(as_kept(values), subject_ids)


def of_embeddings(subjects: SubjectSet, eye: Eye, place: Path, settings: Catalogue) -> Source:
    """Return a source that looks embeddings up; a subject without one is left out."""
    kept = Embeddings.open(place, encoder_of(eye.model).fingerprint)

    def source(rows: np.ndarray, runner: Runner) -> Iterator[Block]:
        for at in range(0, len(rows), _block(settings)):
            some = rows[at : at + _block(settings)]
            places = kept.rows_of(subjects.subject_ids[some])
            found, lost = some[places >= 0], some[places < 0]
            left = tuple((str(one), _why(kept, str(one))) for one in subjects.subject_ids[lost])
            posterior = eye.of_embeddings(kept.take(places[places >= 0]), subjects.subject_ids[found])
            yield Block(int(some[0]), found, posterior, left)

    return source


def _block(settings: Catalogue) -> int:
    return min(BLOCK, settings.part)  # of which a part is a multiple


def _why(kept: Embeddings, subject: str) -> str:
    return kept.unreadable.get(subject, f"no embedding of it is kept in {kept.folder}: predict from the images")


class _Pace:
    """How many are done, how fast, and how long the rest will take."""

    def __init__(self, total: int, before: int, report: Report) -> None:
        self.total, self.before, self.report, self.done, self.started = total, before, report, 0, time.monotonic()
        report("predicting", before / max(1, total), f"{before:,} of {total:,}" + " were done already" * bool(before))

    def tell(self, more: int) -> None:
        self.done += more
        rate = self.done / max(time.monotonic() - self.started, 1e-9)
        all_done = self.before + self.done
        left = (self.total - all_done) / rate
        words = f"{all_done:,} of {self.total:,}, {rate:,.0f} a second, {_duration(left)} left"
        self.report("predicting", all_done / self.total, words)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"

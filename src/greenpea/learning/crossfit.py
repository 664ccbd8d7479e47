"""Cross-fitting: a head a fold, learned from all other folds, with its doubt; fast enough to follow the votes.

The head is the most probable one under a Gaussian prior around the constant predictor, its doubt Laplace's Gaussian.
How stiff the prior is, how wide the doubt, and the recalibration are chosen by the votes kept aside, all folds
together: a handful of numbers, from thousands of votes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from greenpea.calibration import Recalibration, recalibrate
from greenpea.errors import GreenpeaError
from greenpea.heads import HALVES, Heads, fold_of
from greenpea.learning import heads
from greenpea.learning.fitting import Objective, most_probable, one_thread, stiffness
from greenpea.learning.model import Report, generator, silent
from greenpea.learning.settings import Learning
from greenpea.learning.uncertainty import laplace
from greenpea.outputs import Geometry, Layout
from greenpea.posterior import Posterior
from greenpea.votes import Votes

FEWEST = 10  # subjects with votes
PRECISIONS = (
    0.1,
    0.3,
    1.0,
    3.0,
    10.0,
    30.0,
    100.0,
    300.0,
    1000.0,
    3000.0,
    10000.0,
)  # of the prior on standardised embeddings
WIDTHS = (0.3, 1.0, 3.0, 10.0)  # precisions tried for the doubt's prior, as multiples of the fit's
FIRST_PRECISION, FIRST_WIDTH = 100.0, 1.0
CHANCE = 4.0  # nats by which heads must beat the constant predictor on votes kept aside, else they stay beside it
SEARCHED = 2000  # subjects among which the prior's precision is chosen
CURVED = 4000  # subjects a fold by which the doubt's shape is measured: it is an average, which more would not change
JUDGED = 800  # subjects by whose votes the doubt and the recalibration are chosen
FEWEST_JUDGES, FEWEST_JUDGING = 30, 500  # subjects chosen by chance and their answers to a question, from which on
# they alone judge it

Each = Callable[[Callable[..., Any], Iterable[Any]], list[Any]]  # map, in threads


def cross_fit(
    embeddings: Float[np.ndarray, "subject embedding"],
    votes: Votes,
    settings: Learning,
    *,
    folds: int = 5,
    halves: bool = False,
    salt: str = "",
    reserve: int = 90,
    start: Heads | None = None,
    encoder: str = "",
    by_chance: Bool[np.ndarray, " subject"] | None = None,
    report: Report = silent,
    threads: int = 2,
) -> Heads:
    """Fit heads on ``embeddings``, whose rows are the subjects of ``votes``; those without a vote teach nothing.

    ``settings`` gives the likelihood, the number of draws, their seed, and whether to recalibrate. ``reserve`` more
    draws are kept. ``by_chance`` marks subjects that nobody chose for what they are: questions that enough of them have
    answered (`FEWEST_JUDGES`) are recalibrated by them alone, because subjects chosen for their doubt, or asked until
    they were clear, do not stand for the others. ``halves``: the embeddings of odd and of even folds were made by two
    encoders, each of which has learned from the other's votes (`learning.tuned`); then a head learns from the other
    folds of its own half alone, and ``folds`` must be even. ``start``, the heads of an earlier round, makes the fit
    faster where tree, encoder and folds are the same, and is not looked at otherwise. The same arguments give the same
    bits, whatever ``threads``.
    Raises GreenpeaError where fewer than `FEWEST` subjects have votes, an embedding is not finite, or a fit diverges.
    """
    rows = _voted(embeddings, votes)
    values, some = embeddings[rows], votes.select(rows)
    layout, fold = Layout(votes.tree, settings.likelihood), fold_of(some.subject_ids, folds, salt)
    judging = _judging(some, None if by_chance is None else by_chance[rows])
    standards = tuple(_Standard.of(values[part]) for part in _halves(fold, folds, halves))
    learned = _Learned(values, some, layout, standards, fold, folds, salt, judging)
    warm = start if start is not None and learned.continues(start, encoder) else None
    with one_thread(), ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:

        def each(work: Callable[..., Any], items: Iterable[Any]) -> list[Any]:
            return list(pool.map(work, items))

        ready = _fitted(learned, warm, settings, reserve, encoder, report, each)
    if settings.recalibrate:
        report("heads", 0.9, "recalibration")
        ready = replace(ready, recalibration=recalibrate(*learned.judged(ready)))
    report("heads", 1.0, "")
    return ready


def _fitted(
    learned: _Learned, warm: Heads | None, settings: Learning, reserve: int, encoder: str, report: Report, each: Each
) -> Heads:
    report("heads", 0.0, f"{len(learned.votes):,} subjects with votes")
    precision, parts, means = _most_probable(learned, warm, each, report)
    report("heads", 0.5, "doubt")
    curvatures = each(lambda pair: pair[0].curvatures(pair[1]), list(zip(parts, means, strict=True)))
    name = f"{encoder}:{learned.salt}"  # of the noise: the same in every fold and round (see `Heads`)
    draw = partial(_draws, learned, means, curvatures, name, settings.seed, each)
    plain = learned.heads(means, np.empty(0), settings, encoder)
    width = _widest(learned, plain, lambda width: draw(settings.draws, width * precision), warm)
    facts = {"precision": precision, "width": width} | learned.facts()
    return replace(plain, weights=draw(settings.draws + reserve, width * precision), facts=facts)


def _voted(embeddings: np.ndarray, votes: Votes) -> Int[np.ndarray, " row"]:
    """Return the rows that have votes. Raises GreenpeaError where they will not do."""
    if len(embeddings) != len(votes):
        raise GreenpeaError(f"{len(embeddings)} embeddings for the votes of {len(votes)} subjects: give one each")
    rows = np.flatnonzero(votes.total > 0)
    if len(rows) < FEWEST:
        raise GreenpeaError(f"{len(rows)} subjects have votes and at least {FEWEST} are needed: wait for more")
    broken = rows[~np.isfinite(embeddings[rows]).all(axis=1)]
    if len(broken):
        raise GreenpeaError(
            f"the embeddings of {len(broken)} subjects are not finite, the first of {votes.subject_ids[broken[0]]!r}: "
            f"compute them anew, or look at its image"
        )
    return rows


def _halves(fold: Int[np.ndarray, " subject"], folds: int, halves: bool) -> list[Bool[np.ndarray, " subject"]]:
    """Return who learns together: everybody, or the two halves. Raises GreenpeaError where these will not do."""
    if not halves:
        return [np.ones(len(fold), dtype=bool)]
    if folds % HALVES:
        raise GreenpeaError(f"{folds} folds cannot be halved: give an even number")
    found = [fold % HALVES == half for half in range(HALVES)]
    fewest = min(int(half.sum()) for half in found)
    if fewest < FEWEST:
        raise GreenpeaError(f"{fewest} subjects of one half have votes and at least {FEWEST} are needed: wait for more")
    return found


def _judging(votes: Votes, by_chance: Bool[np.ndarray, " row"] | None) -> tuple[Int[np.ndarray, " judge"], Votes]:
    """Return the rows by whose votes the doubt is chosen and heads are recalibrated, and those votes.

    A question is judged by those chosen by chance alone, where enough of them have reached it; by everybody else too
    where not. At most `JUDGED` rows, those chosen by chance first, the others evenly spread.
    """
    chosen = np.zeros(len(votes), bool) if by_chance is None else by_chance
    counts, reached = dict(votes.counts), dict(votes.reached)
    for slug in votes.tree.slugs:
        told = reached[slug][chosen]
        if (told > 0).sum() >= FEWEST_JUDGES and told.sum() >= FEWEST_JUDGING:
            counts[slug] = np.where(chosen[:, None], counts[slug], 0)
            reached[slug] = np.where(chosen, reached[slug], 0)
    some = replace(votes, counts=counts, reached=reached, effective={})
    first, others = (np.flatnonzero((some.total > 0) & one) for one in (chosen, ~chosen))
    first = _spread(first, JUDGED)
    rows = np.concatenate([first, _spread(others, JUDGED - len(first))])
    return rows, some.select(rows)


def _spread(rows: Int[np.ndarray, " row"], most: int) -> Int[np.ndarray, " some"]:
    """Return at most so many of the rows, evenly spread."""
    return rows[:: max(1, -(-len(rows) // most))] if most > 0 else rows[:0]


@dataclass(frozen=True, eq=False)
class _Standard:
    """The shift and scale that give embeddings zero mean and unit variance, so that one prior suits all of them.

    Heads live in these coordinates while they are fitted, and are handed on for the embeddings as they are.
    """

    mean: Float[np.ndarray, " embedding"]
    scale: Float[np.ndarray, " embedding"]

    @classmethod
    def of(cls, embeddings: np.ndarray) -> _Standard:
        mean, scale = embeddings.mean(axis=0, dtype=np.float64), embeddings.std(axis=0, dtype=np.float64)
        return cls(mean, np.where(scale > 1e-6 * max(1.0, scale.max()), scale, 1.0))

    def __call__(self, embeddings: np.ndarray) -> Tensor:
        return torch.from_numpy((embeddings - self.mean) / self.scale)

    def enter(self, head: Float[np.ndarray, "row output"]) -> Tensor:
        """Return a head for embeddings as they are as one for standardised ones."""
        weights = head[:-1].astype(np.float64)
        return torch.from_numpy(np.vstack([weights * self.scale[:, None], head[-1:] + self.mean @ weights]))

    def leave(self, head: Tensor) -> Float[np.ndarray, "*draw row output"]:
        """Return heads for standardised embeddings as ones for embeddings as they are, in float32."""
        weights = head[..., :-1, :].double().numpy() / self.scale[:, None]
        bias = head[..., -1:, :].double().numpy() - np.einsum("e,...eo->...o", self.mean, weights)[..., None, :]
        return np.concatenate([weights, bias], axis=-2).astype(np.float32)


class _Part:
    """One fold: the votes outside it, from which its head learns, and those inside, by which it is judged."""

    def __init__(
        self, layout: Layout, values: Tensor, votes: Votes, packed: Tensor, outside: np.ndarray, inside: np.ndarray
    ) -> None:
        learned, kept = torch.from_numpy(np.flatnonzero(outside)), torch.from_numpy(np.flatnonzero(inside))
        self.layout = layout
        self.learned = Objective(layout, values[learned], packed[learned])
        self.kept = Objective(layout, values[kept], packed[kept])
        self.anchor = heads.anchor(layout, votes.select(outside), values.shape[1]).double()

    def fit(self, precision: float, start: Tensor | None) -> Tensor:
        return most_probable(self.learned, self.anchor, precision, start)

    def curvatures(self, head: Tensor) -> dict[str, Tensor]:
        step = max(1, -(-len(self.learned.inputs) // CURVED))
        some = self.learned.inputs[::step], self.learned.packed[::step]
        return {name: step * found for name, found in laplace.curvatures(self.layout, head, *some).items()}


@dataclass(frozen=True, eq=False)
class _Learned:
    """What the heads learn from: subjects with votes, their embeddings, and the fold that each is in."""

    embeddings: Float[np.ndarray, "subject embedding"]
    votes: Votes
    layout: Layout
    standards: tuple[_Standard, ...]  # one, or one a half
    fold: Int[np.ndarray, " subject"]
    folds: int
    salt: str
    judging: tuple[Int[np.ndarray, " judge"], Votes]  # whose votes choose the doubt and recalibrate, and these

    def every(self, most: int) -> _Learned:
        """Return at most so many of the subjects, evenly spread over them."""
        rows = np.arange(0, len(self.votes), -(-len(self.votes) // most))
        if len(rows) == len(self.votes):
            return self
        return replace(self, embeddings=self.embeddings[rows], votes=self.votes.select(rows), fold=self.fold[rows])

    def standard(self, fold: int) -> _Standard:
        """Return the coordinates in which the head of a fold is fitted."""
        return self.standards[fold % len(self.standards)]

    def parts(self, each: Each) -> list[_Part]:
        packed, spaces = heads.Targets(self.layout).pack(self.votes), len(self.standards)
        values = [standard(self.embeddings) for standard in self.standards]

        def part(number: int) -> _Part:
            inside, together = self.fold == number, self.fold % spaces == number % spaces
            return _Part(self.layout, values[number % spaces], self.votes, packed, together & ~inside, inside)

        return each(part, range(self.folds))

    def judged(self, ready: Heads) -> tuple[Posterior, Votes]:
        """Return what heads say of some of the subjects, each from outside its fold, and the votes to judge it by."""
        rows, votes = self.judging
        return ready.posterior(self.embeddings[rows], votes.subject_ids), votes

    def continues(self, start: Heads, encoder: str) -> bool:
        """Whether a fit may begin with ``start``: the same questions, encoder, folds."""
        same = start.layout.tree.structure == self.layout.tree.structure
        shape = (self.folds, self.embeddings.shape[1] + 1, self.layout.outputs)
        mine = (self.layout.likelihood, encoder, self.salt)
        return same and start.means.shape == shape and (start.layout.likelihood, start.encoder, start.salt) == mine

    def heads(self, means: Sequence[Tensor], weights: np.ndarray, settings: Learning, encoder: str) -> Heads:
        """Return heads without recalibration."""
        geometry, *other = [self._geometry(half) for half in range(len(self.standards))]
        return Heads(
            layout=self.layout,
            weights=weights,
            means=np.stack([self.standard(fold).leave(mean) for fold, mean in enumerate(means)]),
            draws=settings.draws,
            salt=self.salt,
            recalibration=Recalibration.identity(self.layout.tree),
            geometry=geometry,
            encoder=encoder,
            other=other[0] if other else None,
        )

    def _geometry(self, half: int) -> Geometry:
        """Return where embeddings lie, in units of the distance of subjects that the Gaussian was not fitted on."""
        mine = self.embeddings[self.fold % len(self.standards) == half]
        aside = np.arange(len(mine)) % 5 == 0
        return Geometry.of(mine[~aside], mine[aside])

    def facts(self) -> dict[str, Any]:
        return {
            "subjects": len(self.votes),
            "answers": int(self.votes.total.sum()),
            "subjects_in_fold": np.bincount(self.fold, minlength=self.folds).tolist(),
        }


def _most_probable(
    learned: _Learned, warm: Heads | None, each: Each, report: Report
) -> tuple[float, list[_Part], list[Tensor]]:
    """Return the prior's precision, the folds, and their most probable heads.

    The precision is looked for among some of the subjects: a prior is the same however many there are. It is the
    stiffest where looking does not pay beyond `CHANCE`.
    """
    begin = (
        [learned.standard(fold).enter(mean) for fold, mean in enumerate(warm.means)] if warm else [None] * learned.folds
    )
    few = learned.every(SEARCHED)
    parts = few.parts(each)
    fitted: dict[float, list[Tensor]] = {}

    def score(precision: float) -> float:
        near = fitted[min(fitted, key=lambda known: abs(np.log(known / precision)))] if fitted else begin
        fitted[precision] = _fit(parts, precision, near, each)
        report("heads", 0.1, f"prior precision {precision:g}")
        return _kept_aside(parts, fitted[precision])

    precision = climb(PRECISIONS, warm.facts["precision"] if warm else FIRST_PRECISION, score)
    never_looking = _kept_aside(parts, [part.anchor for part in parts])
    if _kept_aside(parts, fitted[precision]) < never_looking + CHANCE:
        precision = PRECISIONS[-1]
        score(precision)
    if few is learned:
        return precision, parts, fitted[precision]
    parts = learned.parts(each)
    return precision, parts, _fit(parts, precision, begin if warm else fitted[precision], each)


def _kept_aside(parts: list[_Part], means: list[Tensor]) -> float:
    """Return ln p of the votes kept aside, each fold's under its own head, but for a constant; nats."""
    return -sum(part.kept.value(head) for part, head in zip(parts, means, strict=True))


def _fit(parts: list[_Part], precision: float, begin: Sequence[Tensor | None], each: Each) -> list[Tensor]:
    return each(lambda pair: pair[0].fit(precision, pair[1]), list(zip(parts, begin, strict=True)))


def _widest(learned: _Learned, plain: Heads, draw: Callable[[float], np.ndarray], warm: Heads | None) -> float:
    """Return the width of doubt under which the votes kept aside are likeliest."""

    def score(width: float) -> float:
        posterior, votes = learned.judged(replace(plain, weights=draw(width)))
        return float(sum(posterior.log_pmf(slug, votes).sum() for slug in votes.tree.slugs))

    return climb(WIDTHS, warm.facts["width"] if warm else FIRST_WIDTH, score)


def climb(values: Sequence[float], first: float, score: Callable[[float], float]) -> float:
    """Return the value of the highest score, looking from ``first`` upwards, else downwards, until it falls."""
    at = min(range(len(values)), key=lambda index: abs(np.log(values[index] / first)))
    best = score(values[at])
    for step in (1, -1):
        moved = False
        while 0 <= at + step < len(values) and (found := score(values[at + step])) > best:
            at, best, moved = at + step, found, True
        if moved:
            break
    return values[at]


def _draws(
    learned: _Learned,
    means: list[Tensor],
    curvatures: list[dict[str, Tensor]],
    name: str,
    seed: int,
    each: Each,
    count: int,
    precision: float,
) -> Float[np.ndarray, "fold draw row output"]:
    """Return draws of every fold's head under a prior of this precision, the same noise in each fold."""

    def one(fold: int) -> np.ndarray:
        prior = stiffness(len(means[fold]), precision)[:, 0]
        state = laplace.around(learned.layout, means[fold], curvatures[fold], prior)
        return learned.standard(fold).leave(laplace.draws(state, [generator(name, seed, t) for t in range(count)]))

    return np.stack(each(one, range(learned.folds)))

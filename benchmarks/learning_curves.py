"""Learning curves: what a campaign knows after so many answers, and how many answers one way of asking saves.

A curve is a record of rounds. The figure read off two curves is a ratio: answers that an acquisition needs to reach
the held-out likelihood that random asking has at a fixed budget, over the answers that random asking took.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.optimize import isotonic_regression

OVERALL, JOINT = "overall", "joint"  # every vote by itself; all votes of a subject together
RESAMPLES = 2_000
SHARES = np.linspace(0.05, 1.0, 191)  # of the budget: where curves of several seeds are averaged


@dataclass(frozen=True)
class Curve:
    """One campaign, round by round: subjects asked about, answers given, and nats per held-out vote by question.

    Answers are annotations: one volunteer's reply to one question. ``nats[question]`` is the mean ln p of the held-out
    subjects' votes.
    """

    subjects: tuple[int, ...]
    answers: tuple[int, ...]
    nats: Mapping[str, tuple[float, ...]]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Curve:
        nats = {question: tuple(values) for question, values in kept["nats"].items()}
        return cls(tuple(kept["subjects"]), tuple(kept["answers"]), nats)


def rising(nats: Sequence[float]) -> Float[np.ndarray, " round"]:
    """Return the isotonic fit: the nearest curve, by least squares, that never falls."""
    return np.asarray(isotonic_regression(np.asarray(nats, float)).x)


@dataclass(frozen=True)
class Pair:
    """Two campaigns of one seed, alike but for the way of asking. The budget is what ``random`` spent, in answers."""

    random: Curve
    other: Curve

    def along(self, question: str) -> tuple[Float[np.ndarray, " share"], Float[np.ndarray, " share"]]:
        """Return both curves' nats at `SHARES` of the budget; before the first round, what the first round knew."""
        budget = self.random.answers[-1]
        both = (self.random, self.other)
        first, second = (np.interp(SHARES * budget, one.answers, one.nats[question]) for one in both)
        return first, second


def ratio(random: Float[np.ndarray, " share"], other: Float[np.ndarray, " share"]) -> float:
    """Return the share of the budget at which ``other`` is as good as ``random`` at its end; infinite: never.

    Both are fitted before they are compared, since a lucky last round is no likelihood to be reached.
    """
    fit = rising(other)
    reached = np.flatnonzero(fit >= rising(random)[-1])
    return float(SHARES[reached[0]]) if len(reached) else np.inf


@dataclass(frozen=True)
class Ratio:
    """A ratio of answers with its 95 % interval by bootstrap over paired seeds; infinite where censored."""

    value: float
    low: float
    high: float
    seeds: tuple[float, ...]  # each pair alone

    def figures(self) -> dict[str, Any]:
        """Return the figures to print: a censored one, infinite here, is told as above 1."""
        return {
            "labels_ratio": _told(self.value),
            "interval": [_told(self.low), _told(self.high)],
            "seeds": [_told(value) for value in self.seeds],
        }


def labels_ratio(pairs: Sequence[Pair], question: str, rng: np.random.Generator) -> Ratio:
    """Return the ratio between the curves averaged over seeds, seeds resampled in pairs for the interval.

    The mean is taken before the fit: near the end curves are flat, and where one seed alone crosses a level is luck.
    """
    random, other = (np.array(curves) for curves in zip(*(pair.along(question) for pair in pairs), strict=True))
    draws = rng.integers(len(pairs), size=(RESAMPLES, len(pairs)))
    resampled = [ratio(random[rows].mean(axis=0), other[rows].mean(axis=0)) for rows in draws]
    low, high = np.quantile(resampled, [0.025, 0.975], method="inverted_cdf")
    alone = tuple(ratio(one, two) for one, two in zip(random, other, strict=True))
    return Ratio(ratio(random.mean(axis=0), other.mean(axis=0)), float(low), float(high), alone)


def _told(value: float) -> float | str:
    return value if np.isfinite(value) else "> 1"

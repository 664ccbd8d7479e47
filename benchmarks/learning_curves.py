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

OVERALL = "overall"
RESAMPLES = 10_000


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


def answers_needed(curve: Curve, question: str, level: float) -> float:
    """Return after how many answers the curve's isotonic fit reaches ``level``; infinite where it never does.

    Interpolated between rounds; never less than the first round's answers.
    """
    fit = rising(curve.nats[question])
    at = int(np.argmax(fit >= level))
    if fit[at] < level:
        return np.inf
    if at == 0:
        return float(curve.answers[0])
    return float(np.interp(level, fit[at - 1 : at + 1], curve.answers[at - 1 : at + 1]))


def ratio(random: Curve, other: Curve, question: str = OVERALL) -> float:
    """Return the answers that ``other`` needs to be as good as ``random`` at its end, over random's; infinite: never.

    Both curves are fitted before they are compared, since a lucky last round is no likelihood to be reached.
    """
    level = float(rising(random.nats[question])[-1])
    return answers_needed(other, question, level) / random.answers[-1]


@dataclass(frozen=True)
class Ratio:
    """The median over paired seeds, with its 95 % interval by bootstrap over seeds; infinite where censored."""

    value: float
    low: float
    high: float
    seeds: tuple[float, ...]

    def figures(self) -> dict[str, Any]:
        """Return the figures to print: a censored one, infinite here, is told as above 1."""
        return {
            "labels_ratio": _told(self.value),
            "interval": [_told(self.low), _told(self.high)],
            "seeds": [_told(value) for value in self.seeds],
            "censored": sum(not np.isfinite(value) for value in self.seeds),
        }


def median_ratio(ratios: Sequence[float], rng: np.random.Generator) -> Ratio:
    """Return the median of paired ratios with its interval; half of them censored, and so is the median."""
    values = np.sort(np.asarray(ratios, float))
    resampled = np.sort(rng.choice(values, (RESAMPLES, len(values))), axis=1)
    medians = _median(resampled)
    low, high = np.quantile(medians, [0.025, 0.975], method="inverted_cdf")
    return Ratio(float(_median(values[None])[0]), float(low), float(high), tuple(map(float, ratios)))


def _median(ascending: Float[np.ndarray, "resample seed"]) -> Float[np.ndarray, " resample"]:
    """Return the mean of the two middle values, without ∞ − ∞."""
    count = ascending.shape[1]
    return np.asarray((ascending[:, (count - 1) // 2] + ascending[:, count // 2]) / 2)


def _told(value: float) -> float | str:
    return value if np.isfinite(value) else "> 1"

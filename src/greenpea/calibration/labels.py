"""Probabilities of classes: proper scores, calibration errors with what chance makes of them, reliability.

All take probabilities [subject, class], such as a posterior's mean, and the true classes' places [subject].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from greenpea.errors import GreenpeaError

Binning = Literal["width", "mass"]
Of = Literal["top", "class"]
SMALLEST = 1e-300  # probability, so that its logarithm is finite


# ---- proper scores -----------------------------------------------------------------------------------


def log_score(
    probabilities: Float[np.ndarray, "subject answer"], codes: Int[np.ndarray, " subject"]
) -> Float[np.ndarray, " subject"]:
    """Return −ln p of the true class, in nats; 0 is perfect."""
    check(probabilities, codes)
    return -np.log(np.maximum(probabilities[np.arange(len(codes)), codes], SMALLEST))


def brier(
    probabilities: Float[np.ndarray, "subject answer"], codes: Int[np.ndarray, " subject"]
) -> Float[np.ndarray, " subject"]:
    """Return Σ_c (p_c − [c is true])², from 0 to 2 (Brier 1950)."""
    check(probabilities, codes)
    return np.square(probabilities - one_hot(codes, probabilities.shape[1])).sum(axis=1)


def ranked_probability(
    probabilities: Float[np.ndarray, "subject answer"], codes: Int[np.ndarray, " subject"]
) -> Float[np.ndarray, " subject"]:
    """Return the CRPS of ordered answers: Σ_c (P(answer ≤ c) − [true ≤ c])², in steps of the scale (Epstein 1969).

    To miss by two answers costs more than to miss by one. Answers are in their order.
    """
    check(probabilities, codes)
    return _ranked(probabilities, one_hot(codes, probabilities.shape[1]))


def ranked_probability_of_votes(
    probabilities: Float[np.ndarray, "subject answer"], counts: Int[np.ndarray, "subject answer"]
) -> Float[np.ndarray, " subject"]:
    """Return the mean over a subject's votes of `ranked_probability`; NaN where there is none."""
    each = np.stack(
        [_ranked(probabilities, np.eye(counts.shape[1])[answer]) for answer in range(counts.shape[1])], axis=1
    )
    votes = counts.sum(axis=1)
    return np.where(votes > 0, (each * counts).sum(axis=1) / np.maximum(votes, 1), np.nan)


def _ranked(probabilities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return np.asarray(np.square(np.cumsum(probabilities - truth, axis=1)[:, :-1]).sum(axis=1))


def one_hot(codes: Int[np.ndarray, " subject"], classes: int) -> Float[np.ndarray, "subject answer"]:
    """Return 1 at the true class and 0 elsewhere."""
    return np.eye(classes)[codes]


def check(probabilities: np.ndarray, codes: np.ndarray) -> None:
    """Raise GreenpeaError unless every subject has probabilities and one of their classes."""
    if len(probabilities) != len(codes) or not len(codes):
        raise GreenpeaError(
            f"{len(probabilities)} subjects have probabilities and {len(codes)} a class: bring the same"
        )
    if codes.min() < 0 or codes.max() >= probabilities.shape[1]:
        row = int(np.argmax((codes < 0) | (codes >= probabilities.shape[1])))
        raise GreenpeaError(
            f"class {codes[row]} in row {row} is none of the {probabilities.shape[1]}: leave unknown labels out"
        )


# ---- calibration errors ------------------------------------------------------------------------------


@dataclass(frozen=True)
class CalibrationError:
    """How far confidence and frequency are apart, over bins; and how far chance alone would set them apart.

    ``expected`` is ECE, the mean over bins weighted by their subjects; ``maximum`` is MCE, the largest gap. Both are
    above 0 for a perfectly calibrated predictor too: ``null`` holds the mean and the 95 % quantile of ECE for labels
    drawn from the probabilities themselves (Bröcker & Smith 2007; Vaicenavicius+2019), and ``p`` is the share of such
    draws with an ECE at least as large as the one observed.
    """

    expected: float
    maximum: float
    null: tuple[float, float]
    null_maximum: tuple[float, float]
    p: float


@dataclass(frozen=True, eq=False)
class Bins:
    """Cells (of a subject, or of a subject and class) in bins of confidence; ``groups`` bins belong to each class."""

    place: Int[np.ndarray, " cell"]
    confidence: Float[np.ndarray, " cell"]
    count: int
    groups: int

    def gaps(self, hits: Bool[np.ndarray, " cell"]) -> Float[np.ndarray, " bin"]:
        """Return |Σ (confidence − hit)| of each bin."""
        return np.abs(np.bincount(self.place, self.confidence - hits, self.count))


def calibration_error(
    probabilities: Float[np.ndarray, "subject answer"],
    codes: Int[np.ndarray, " subject"],
    rng: np.random.Generator,
    bins: int = 15,
    binning: Binning = "width",
    of: Of = "top",
    simulations: int = 500,
) -> CalibrationError:
    """Return ECE and MCE with their null.

    ``of`` "top" compares the largest probability with how often it is right (Guo+2017); "class" every class's with its
    frequency, the mean over classes (Kumar+2019). Bins have equal ``width``, the last one holding 1.0, or equal
    ``mass``.
    """
    check(probabilities, codes)
    cells = _bins(probabilities, bins, binning, of)
    observed = _errors(cells, _hits(probabilities, codes, of), len(codes))
    cumulative = np.cumsum(probabilities, axis=1)
    null = np.empty((simulations, 2))
    for index in range(simulations):
        drawn = (rng.random((len(codes), 1)) * cumulative[:, -1:] > cumulative[:, :-1]).sum(axis=1)
        null[index] = _errors(cells, _hits(probabilities, drawn, of), len(codes))
    means, highest = null.mean(axis=0), np.quantile(null, 0.95, axis=0)
    return CalibrationError(
        expected=observed[0],
        maximum=observed[1],
        null=(float(means[0]), float(highest[0])),
        null_maximum=(float(means[1]), float(highest[1])),
        p=float((1 + (null[:, 0] >= observed[0]).sum()) / (1 + simulations)),
    )


def _bins(probabilities: np.ndarray, bins: int, binning: Binning, of: Of) -> Bins:
    if of == "top":
        confidence = probabilities.max(axis=1)
        return Bins(_place(confidence, bins, binning), confidence, bins, 1)
    classes = probabilities.shape[1]
    places = [_place(probabilities[:, c], bins, binning) + c * bins for c in range(classes)]
    return Bins(np.concatenate(places), probabilities.T.ravel(), bins * classes, classes)


def _place(confidence: Float[np.ndarray, " cell"], bins: int, binning: Binning) -> Int[np.ndarray, " cell"]:
    """Return each cell's bin: [0, 1/B), …, [1 − 1/B, 1]; by mass, equal confidences stay together."""
    if binning == "width":
        return np.minimum((confidence * bins).astype(np.int64), bins - 1)
    edges = np.unique(np.quantile(confidence, np.linspace(0, 1, bins + 1)[1:-1]))
    return np.searchsorted(edges, confidence, side="right").astype(np.int64)


def _hits(probabilities: np.ndarray, codes: np.ndarray, of: Of) -> np.ndarray:
    if of == "top":
        return probabilities.argmax(axis=1) == codes
    return (np.arange(probabilities.shape[1])[:, None] == codes).ravel()


def _errors(cells: Bins, hits: np.ndarray, subjects: int) -> tuple[float, float]:
    gaps = cells.gaps(hits)
    sizes = np.bincount(cells.place, minlength=cells.count)
    return float(gaps.sum() / (subjects * cells.groups)), float((gaps / np.maximum(sizes, 1)).max())


# ---- reliability -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LabelReliability:
    """How often a class was right against how probable it was said to be, by bin.

    ``low`` and ``high`` hold 95 % of the frequencies that a perfectly calibrated predictor would show.
    """

    confidence: Float[np.ndarray, " bin"]
    frequency: Float[np.ndarray, " bin"]
    low: Float[np.ndarray, " bin"]
    high: Float[np.ndarray, " bin"]
    cells: Int[np.ndarray, " bin"]


def label_reliability(
    confidence: Float[np.ndarray, " cell"],
    hits: Bool[np.ndarray, " cell"],
    rng: np.random.Generator,
    bins: int = 10,
    binning: Binning = "width",
    simulations: int = 500,
) -> LabelReliability:
    """Return the reliability diagram with its null band; empty bins are left out.

    ``confidence`` is the probability of the top class and ``hits`` whether it is right, or those of one class.
    """
    place = _place(confidence, bins, binning)
    used, place, sizes = np.unique(place, return_inverse=True, return_counts=True)
    null = np.stack(
        [np.bincount(place, rng.random(len(place)) < confidence, len(used)) / sizes for _ in range(simulations)]
    )
    low, high = np.quantile(null, [0.025, 0.975], axis=0)
    return LabelReliability(
        np.bincount(place, confidence, len(used)) / sizes,
        np.bincount(place, hits, len(used)) / sizes,
        low,
        high,
        sizes,
    )

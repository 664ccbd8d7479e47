"""Redshift debiasing: what the vote fractions would be, were every galaxy as near as the nearest of its kind.

A galaxy further away is fainter and less resolved, so that fewer volunteers see its features. Galaxies of the same
luminosity and size are taken to be alike at every redshift of the sample, in which case the cumulative
distribution of a vote fraction must not depend on redshift either. It is made the same: a galaxy keeps its place
among its neighbours in redshift, and takes the fraction of the galaxy at that place in the nearest bin
(Willett et al. 2013, §3.3; Hart et al. 2016, §3, here with empirical quantiles instead of fitted curves).

What it cannot do: tell evolution from bias (it removes both), see features that nobody saw (a fraction of 0 stays
0), or say more of one galaxy than its place among its neighbours. Debiased fractions describe samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import ks_2samp

from greenpea.errors import GreenpeaError
from greenpea.votes import Votes

FLOOR = 1e-4  # smaller fractions are 0: less than one volunteer in any real crowd


@dataclass(frozen=True, eq=False)
class Debiased:
    """Debiased fractions of one question, and how they came about.

    ``fractions`` sum to 1 over the answers where the question is ``single``; NaN where nobody was asked, or where
    redshift or a property is not known. ``cell`` and ``bin`` are −1 there; bin 0 is the nearest of its cell and
    keeps its fractions. ``redshift[cell, bin]`` is the mean one. ``before`` and ``after`` are the
    Kolmogorov–Smirnov distances to bin 0 of the same cell, 0 in that bin, NaN where a cell has fewer bins.
    """

    fractions: Float[np.ndarray, "subject answer"]
    cell: Int[np.ndarray, " subject"]
    bin: Int[np.ndarray, " subject"]
    subjects: Int[np.ndarray, "cell bin"]
    redshift: Float[np.ndarray, "cell bin"]
    before: Float[np.ndarray, "cell bin answer"]
    after: Float[np.ndarray, "cell bin answer"]


def debias(
    fractions: Float[np.ndarray, "subject answer"],
    redshift: Float[np.ndarray, " subject"],
    properties: Sequence[Float[np.ndarray, " subject"]] = (),
    bins: int = 10,
    splits: int = 3,
    smallest: int = 50,
    trusted: Bool[np.ndarray, " subject"] | None = None,
    renormalise: bool = True,
) -> Debiased:
    """Match the distribution of each answer's fraction in every redshift bin to that of the nearest bin.

    Subjects are divided by each of the ``properties`` in turn (say absolute magnitude, then size) into ``splits``
    parts of equal number, the parts into parts: a simple stand-in for the Voronoi cells of Hart et al. Each such
    cell is cut along redshift into up to ``bins`` bins of equal number, none with fewer than ``smallest``
    subjects; a cell too small for two keeps its fractions. Distributions are those of the ``trusted`` subjects
    (all by default; Hart et al. take those with enough votes), and every subject is corrected by them. A fraction
    of 0 stays 0. With ``renormalise`` the answers sum to 1 again, as they must where the question is ``single``.

    Raises GreenpeaError where shapes or settings do not fit, and naming the row of a fraction outside [0, 1].
    Time ∝ subjects × answers × log(subjects).
    """
    asked, columns, trusted = _check(fractions, redshift, properties, trusted, bins, splits, smallest)
    cell, bin_ = _divide(columns, asked, trusted, bins, splits, smallest)
    mapped = np.where(cell[:, None] >= 0, fractions, np.nan)
    for one in range(cell.max(initial=-1) + 1):
        inside = cell == one
        reference = inside & (bin_ == 0) & trusted
        for step in range(1, bin_[inside].max() + 1):
            rows = inside & (bin_ == step)
            for answer in range(fractions.shape[1]):
                own, near = fractions[rows & trusted, answer], fractions[reference, answer]
                mapped[rows, answer] = match(fractions[rows, answer], own, near)
            if renormalise:
                mapped[rows] = _renormalised(mapped[rows], fractions[rows])
    return Debiased(mapped, cell, bin_, *_diagnose(fractions, mapped, np.asarray(redshift, float), cell, bin_, trusted))


def debias_votes(
    votes: Votes,
    redshift: Float[np.ndarray, " subject"],
    properties: Sequence[Float[np.ndarray, " subject"]] = (),
    bins: int = 10,
    splits: int = 3,
    smallest: int = 50,
    enough: int = 5,
) -> Mapping[str, Debiased]:
    """Return `debias` of every question's fractions; distributions are of subjects with ``enough`` votes on it."""
    return {
        question.slug: debias(
            votes.fractions(question.slug),
            redshift,
            properties,
            bins,
            splits,
            smallest,
            trusted=votes.reached[question.slug] >= enough,
            renormalise=question.kind == "single",
        )
        for question in votes.tree.questions
    }


def match(
    fractions: Float[np.ndarray, " subject"], own: Float[np.ndarray, " other"], near: Float[np.ndarray, " another"]
) -> Float[np.ndarray, " subject"]:
    """Map fractions so that the distribution of ``own`` becomes that of ``near``; never decreasing, 0 stays 0.

    Between the fractions that occur, cumulative distributions are linear in the logarithm of the fraction.
    """
    # f_debiased = F_near⁻¹(F_own(f)), with F a function of ln f
    place = np.interp(_log(fractions), *_cumulative(own))
    values, level = _cumulative(near)
    matched = np.exp(np.interp(place, level, values))
    return np.where((fractions <= FLOOR) | (matched <= FLOOR * (1 + 1e-9)), 0.0, np.minimum(matched, 1.0))


def _cumulative(fractions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the logarithms that occur, ascending, and the share of subjects below each, half of the ties included."""
    values, counts = np.unique(_log(fractions), return_counts=True)
    return values, (np.cumsum(counts) - counts / 2) / len(fractions)


def _log(fractions: np.ndarray) -> np.ndarray:
    return np.asarray(np.log(np.maximum(fractions, FLOOR)))


def _renormalised(mapped: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    """Return the rows so that they sum to 1; as they were before, where nothing is left of them."""
    total = mapped.sum(axis=1, keepdims=True)
    return np.where(total > 0, mapped / np.where(total > 0, total, 1), fractions)


def _divide(
    columns: Sequence[np.ndarray], asked: np.ndarray, trusted: np.ndarray, bins: int, splits: int, smallest: int
) -> tuple[Int[np.ndarray, " subject"], Int[np.ndarray, " subject"]]:
    """Return the cell and the redshift bin of every subject, −1 for those not asked; redshift is the last column."""
    *properties, redshift = columns
    cell, bin_ = np.where(asked, 0, -1), np.where(asked, 0, -1)
    for column in properties:
        parts = np.zeros_like(cell)
        for one in range(cell.max(initial=-1) + 1):
            rows = np.flatnonzero(cell == one)
            parts[rows] = _equal_parts(column[rows], trusted[rows], splits)
        cell = np.where(asked, cell * splits + parts, -1)
    cell[asked] = np.unique(cell[asked], return_inverse=True)[1]
    for one in range(cell.max(initial=-1) + 1):
        rows = np.flatnonzero(cell == one)
        most = max(1, min(bins, int(trusted[rows].sum()) // smallest))
        bin_[rows] = _equal_parts(redshift[rows], trusted[rows], most)
    return cell, bin_


def _equal_parts(values: np.ndarray, trusted: np.ndarray, parts: int) -> Int[np.ndarray, " subject"]:
    """Return the part of each value, between borders that divide the trusted values equally; ties stay together."""
    if parts == 1 or not trusted.any():
        return np.zeros(len(values), np.int64)
    borders = np.quantile(values[trusted], np.arange(1, parts) / parts)
    part = np.searchsorted(borders, values, side="right")
    # Many equal values can leave a part without a trusted subject: its subjects join the one below.
    filled = np.unique(part[trusted])
    return np.maximum(np.searchsorted(filled, part, side="right") - 1, 0)


def _diagnose(
    fractions: np.ndarray,
    mapped: np.ndarray,
    redshift: np.ndarray,
    cell: np.ndarray,
    bin_: np.ndarray,
    trusted: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return subjects, mean redshift, and the distances before and after, by cell and bin."""
    shape = cell.max(initial=-1) + 1, bin_.max(initial=-1) + 1
    subjects, mean = np.zeros(shape, np.int64), np.full(shape, np.nan)
    before, after = (np.full((*shape, fractions.shape[1]), np.nan) for _ in range(2))
    for one, step in np.ndindex(shape):
        rows, near = (cell == one) & (bin_ == step), (cell == one) & (bin_ == 0) & trusted
        subjects[one, step] = rows.sum()
        if rows.any():
            mean[one, step] = redshift[rows].mean()
        rows &= trusted
        if rows.any() and near.any():
            for answer in range(fractions.shape[1]):
                before[one, step, answer] = _distance(fractions[rows, answer], fractions[near, answer])
                after[one, step, answer] = _distance(mapped[rows, answer], fractions[near, answer])
    return subjects, mean, before, after


def _distance(some: np.ndarray, other: np.ndarray) -> float:
    return float(ks_2samp(some, other, method="asymp").statistic)


def _check(
    fractions: np.ndarray,
    redshift: np.ndarray,
    properties: Sequence[np.ndarray],
    trusted: np.ndarray | None,
    bins: int,
    splits: int,
    smallest: int,
) -> tuple[Bool[np.ndarray, " subject"], list[np.ndarray], Bool[np.ndarray, " subject"]]:
    """Return which subjects can be debiased, the properties and redshift as floats, and which set distributions."""
    if bins < 1 or splits < 1 or smallest < 2:
        raise GreenpeaError(f"bins {bins}, splits {splits}, smallest {smallest}: at least 1, 1 and 2 are needed")
    columns = [np.asarray(column, float) for column in (*properties, redshift)]
    for what, column in [*((f"property {i + 1}", c) for i, c in enumerate(columns[:-1])), ("redshift", columns[-1])]:
        if fractions.ndim != 2 or column.shape != fractions.shape[:1]:
            raise GreenpeaError(f"fractions have shape {fractions.shape}, {what} {column.shape}: give one per subject")
    for row in np.flatnonzero(((fractions < 0) | (fractions > 1)).any(axis=1))[:1]:
        raise GreenpeaError(f"fractions, row {row + 1}: {fractions[row].tolist()} are not all between 0 and 1")
    for row in np.flatnonzero(columns[-1] < 0)[:1]:
        raise GreenpeaError(f"redshift, row {row + 1}: {columns[-1][row]:g} is negative; use NaN where it is not known")
    asked = np.isfinite(fractions).all(axis=1) & np.all([np.isfinite(column) for column in columns], axis=0)
    if trusted is not None and np.shape(trusted) != fractions.shape[:1]:
        raise GreenpeaError(f"trusted has shape {np.shape(trusted)}: give one per subject")
    return asked, columns, asked if trusted is None else asked & np.asarray(trusted, bool)

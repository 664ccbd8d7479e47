"""Do people answer alike in every stream? Votes on the same subjects, compared by how these were chosen."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import norm

from greenpea.votes import Votes

FEWEST = 20  # votes in each stream, on subjects that both have, before anything is said


@dataclass(frozen=True)
class Difference:
    """How often an answer is given in one stream against another, on the same subjects (unit of ``shift``: 1)."""

    question: str
    answer: str
    shift: float  # mean difference of the vote fraction, first stream less second
    z: float  # the Cochran–Mantel–Haenszel statistic, standard normal if people answer alike
    p: float  # two-sided, times the number of answers compared (Bonferroni), at most 1
    votes: tuple[int, int]


def compare(first: Votes, second: Votes) -> list[Difference]:
    """Return the comparison of every answer on the subjects that both streams asked about, most different first.

    Within a subject the number of ``first``'s votes for an answer is hypergeometric if both streams answer alike;
    summed over subjects, its excess over the expected in standard deviations is z (Cochran 1954, Mantel & Haenszel
    1959). Subjects differ as they like: only differences within subjects count.
    """
    second = second.align(first.subject_ids)
    found = []
    for question in first.tree.questions:
        slug = question.slug
        both = np.flatnonzero((first.reached[slug] > 0) & (second.reached[slug] > 0))
        n, m = first.reached[slug][both], second.reached[slug][both]
        if n.sum() < FEWEST or m.sum() < FEWEST:
            continue
        for index, answer in enumerate(question.answer_slugs):
            a, b = first.counts[slug][both, index], second.counts[slug][both, index]
            found.append((slug, answer, *_mantel_haenszel(a, b, n, m), (int(n.sum()), int(m.sum()))))
    some = [
        Difference(slug, answer, shift, z, min(1.0, 2 * float(norm.sf(abs(z))) * len(found)), votes)
        for slug, answer, shift, z, votes in found
    ]
    return sorted(some, key=lambda one: one.p)


def _mantel_haenszel(a: np.ndarray, b: np.ndarray, n: np.ndarray, m: np.ndarray) -> tuple[float, float]:
    total, given = n + m, a + b
    expected = n * given / total
    # Var = n m k (N − k) / (N² (N − 1)), the hypergeometric's
    variance = (n * m * given * (total - given) / (total**2 * np.maximum(total - 1, 1))).sum()
    shift = float(np.average(a / n - b / m, weights=n * m / total))
    return shift, float((a - expected).sum() / np.sqrt(variance)) if variance > 0 else 0.0


def summary(differences: list[Difference], most: int = 5) -> dict[str, Any]:
    """Return what a round's record keeps: how many answers were compared, and those that differ most."""
    return {"compared": len(differences), "differences": [asdict(one) for one in differences[:most]]}

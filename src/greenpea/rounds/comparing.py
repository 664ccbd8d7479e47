"""What heads gain over the predictor that sees no image, in numbers that may be compared.

The audit set gains votes from round to round, and with them both its floor and the joint likelihood of a subject's
votes change: the more votes, the more they tell of each other, and the less an image adds per vote. So the excess,
or a difference of excesses, falls over rounds whatever the network has learned. Two numbers compare:
`one_by_one` between any rounds, `together` between heads that are judged on the same votes.

Both are by question, and of all questions together as None, in nats per vote; questions without votes are left out.
Posterior, constant and votes are of the same subjects in the same order. At a question with any number of answers,
each answer is a vote for yes or no.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy.special import xlogy

from greenpea.posterior import Posterior
from greenpea.votes import Votes

Gains = dict[str | None, float]


def one_by_one(posterior: Posterior, constant: Posterior, votes: Votes) -> Gains:
    """Return Σ k ln(p̄/c̄) / Σ k, where p̄ and c̄ are the mean fractions: each vote as if it were a subject's first."""

    def gained(slug: str) -> float:
        counts = _counts(votes, slug)
        said, blind = (_outcomes(one.mean(slug), votes, slug) for one in (posterior, constant))
        return float((xlogy(counts, said) - xlogy(counts, blind)).sum())

    return _per_vote(gained, votes)


def together(posterior: Posterior, constant: Posterior, votes: Votes) -> Gains:
    """Return Σ [ln p(k) − ln c(k)] / Σ k: all votes of a subject together, as the heads' spread expects them."""
    return _per_vote(lambda slug: float((posterior.log_pmf(slug, votes) - constant.log_pmf(slug, votes)).sum()), votes)


def _per_vote(gained: Callable[[str], float], votes: Votes) -> Gains:
    cast = {slug: int(_counts(votes, slug).sum()) for slug in votes.tree.slugs if votes.reached[slug].any()}
    gains = {slug: gained(slug) for slug in cast}
    by_question: Gains = {slug: gains[slug] / cast[slug] for slug in cast}
    return by_question | ({None: sum(gains.values()) / sum(cast.values())} if cast else {})


def _counts(votes: Votes, slug: str) -> Float[np.ndarray, "subject outcome"]:
    """Return the votes for every outcome: the answers, or yes and no to each."""
    counts = np.asarray(votes.counts[slug], np.float64)
    if votes.tree[slug].kind == "single":
        return counts
    return np.concatenate([counts, votes.reached[slug][:, None] - counts], axis=1)


def _outcomes(
    means: Float[np.ndarray, "subject answer"], votes: Votes, slug: str
) -> Float[np.ndarray, "subject outcome"]:
    return means if votes.tree[slug].kind == "single" else np.concatenate([means, 1 - means], axis=1)

"""The gate: new heads take over only if the audit set's votes do not speak against them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from greenpea.posterior import Posterior
from greenpea.records import Gate
from greenpea.votes import Votes

RESAMPLED = 2000  # bootstrap samples of the audit subjects
LEVEL = 0.05  # of the one-sided bound


class Gain(NamedTuple):
    """What one posterior gains over another, in nats per vote, with its one-sided 5 % bound."""

    value: float
    low: float


def judge(
    new: Posterior,
    incumbent: Posterior,
    votes: Votes,
    *,
    first: bool = False,
    margin: float,
    superior: bool,
    enough: int,
    rng: np.random.Generator,
) -> Gate:
    """Return whether ``new`` takes over, both judged on the same ``votes`` of audit subjects that neither learned from.

    With fewer than ``enough`` votes the new heads are promoted and marked "ungated". Otherwise the 5 % bound of the
    gain, by bootstrap over subjects, must lie above −``margin`` nats per vote (non-inferiority), or above 0 where they
    must be ``superior``, as a new encoder must. ``first``: there are no heads yet, and ``incumbent`` is the predictor
    that sees no image; then the gain itself must be above 0, since the bound would keep everybody waiting.
    """
    size = {"audit_votes": int(votes.total.sum()), "audit_subjects": int((votes.total > 0).sum())}
    if size["audit_votes"] < enough:
        why = f"{size['audit_votes']:,} votes on the audit set, {enough:,} are needed to judge"
        return Gate("ungated", why, **size)
    found = gain(new, incumbent, votes, rng)
    told = f"gain {found.value:+.4f} nats per vote of the audit set, 5 % bound {found.low:+.4f}"
    if first:
        passed, why = found.value > 0, f"against not looking at images: {told}; the gain must be above 0"
    else:
        bound = 0.0 if superior else -margin
        passed, why = found.low > bound, f"against the incumbent: {told}, which must be above {bound:+.3f}"
    return Gate("promoted" if passed else "kept", why, **size, gain=found.value, low=found.low)


def gain(new: Posterior, incumbent: Posterior, votes: Votes, rng: np.random.Generator) -> Gain:
    """Return Σ [ln p_new − ln p_incumbent] / Σ votes, and its 5 % quantile over resampled subjects."""
    differences = log_likelihood(new, votes) - log_likelihood(incumbent, votes)
    asked = np.flatnonzero(votes.total > 0)
    rows = rng.choice(asked, (RESAMPLED, len(asked)))
    resampled = differences[rows].sum(axis=1) / votes.total[rows].sum(axis=1)
    value = float(differences.sum() / votes.total.sum())
    # A gain that is not a number is no gain: NaN compares as lower than any bound.
    return Gain(value, float(np.quantile(resampled, LEVEL)))


def log_likelihood(posterior: Posterior, votes: Votes) -> Float[np.ndarray, " subject"]:
    """Return ln p(votes) of the mixture per subject, over all questions, in nats."""
    return np.asarray(np.sum([posterior.log_pmf(slug, votes) for slug in votes.tree.slugs], axis=0))

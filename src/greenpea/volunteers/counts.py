"""Plain counts: every reply counts one."""

from __future__ import annotations

import numpy as np

from greenpea.volunteers.consensus import Consensus, shares
from greenpea.volunteers.replies import Replies


def combine(replies: Replies) -> Consensus:
    """Return the fractions of the replies; every weight and skill is 1. One pass.

    A subject without replies has equal fractions.
    """
    ones = np.ones(len(replies.volunteer_ids))
    return Consensus(
        replies.subject_ids,
        replies.volunteer_ids,
        replies.answers,
        probabilities=shares(replies.counts()),
        weights=ones,
        skills=ones,
        iterations=1,
        converged=True,
    )

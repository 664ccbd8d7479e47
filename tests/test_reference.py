"""Figures that others measured, from the same public votes (REFERENCE §1)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from greenpea.calibration import constant, evaluate
from greenpea.posterior import Posterior
from greenpea.tree import DecisionTree
from greenpea.votes import Votes, read_votes


def _nats_per_vote(posterior: Posterior, votes: Votes) -> float:
    total = sum(float(posterior.log_pmf(slug, votes).sum()) for slug in votes.tree.slugs)
    return -total / float(votes.total.sum())


@pytest.mark.data
def test_the_constant_predictor_on_galaxy_zoo_2(data_folder: Path) -> None:
    """Constant Dirichlet–multinomial .298 nats per vote, constant fractions .449: beating the latter proves nothing."""
    votes = read_votes(data_folder / "gz2" / "votes.csv", DecisionTree.load("gz2"))
    order = np.random.default_rng(0).permutation(len(votes))
    training, held_out = votes.select(order[:150]), votes.select(order[150:])
    fitted = constant(training, held_out.subject_ids)
    fractions = Posterior(
        votes.tree,
        held_out.subject_ids,
        dict.fromkeys(votes.tree.slugs, "multinomial"),
        {
            slug: np.broadcast_to(training.counts[slug].sum(0) / training.counts[slug].sum(), (1, *counts.shape))
            for slug, counts in held_out.counts.items()
        },
    )
    assert _nats_per_vote(fitted, held_out) == pytest.approx(0.298, abs=0.012)
    assert _nats_per_vote(fractions, held_out) == pytest.approx(0.449, abs=0.02)
    judged = evaluate(fitted, held_out, fitted, np.random.default_rng(0), simulations=50)
    assert judged.overall.gain.value == 0  # it is its own baseline

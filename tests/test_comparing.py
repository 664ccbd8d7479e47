"""What compares between rounds, and what does not: on posteriors and votes written by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenpea import calibration
from greenpea.posterior import Posterior
from greenpea.rounds import comparing
from greenpea.tree import DecisionTree
from greenpea.votes import Votes
from rounds_hands import believing

TREE = DecisionTree.from_json(
    """{"name": "pair", "version": "1.0", "questions": [
        {"slug": "bar", "text": {"en": "Bar?"}, "answers": [
            {"slug": "yes", "text": {"en": "yes"}, "next": "odd"},
            {"slug": "no", "text": {"en": "no"}, "next": "odd"}]},
        {"slug": "odd", "text": {"en": "Odd?"}, "kind": "multiple", "answers": [
            {"slug": "ring", "text": {"en": "ring"}}, {"slug": "arc", "text": {"en": "arc"}}]}]}"""
)
IDS = np.array([f"s{number}" for number in range(6)], dtype=object)


def votes_of(seed: int, times: int = 1) -> Votes:
    rng = np.random.default_rng(seed)
    asked = rng.integers(1, 9, 6)
    yes, odd = rng.binomial(asked, 0.3), rng.binomial(asked[:, None], [0.2, 0.6], (6, 2))
    bar = np.stack([yes, asked - yes], axis=1)
    return Votes(TREE, IDS, {"bar": times * bar, "odd": times * odd}, {"bar": times * asked, "odd": times * asked})


def believed(seed: int) -> Posterior:
    parts = [believing(TREE, str(subject), seed + i) for i, subject in enumerate(IDS)]
    return Posterior.concatenate(parts)


@given(st.integers(0, 50))
def test_one_vote_by_itself_is_as_its_joint_likelihood(seed: int) -> None:
    one = Votes.empty(TREE, list(IDS))
    rng = np.random.default_rng(seed)
    for row in range(6):
        one.reached["bar"][row] = one.reached["odd"][row] = 1
        one.counts["bar"][row, rng.integers(2)] = 1
        one.counts["odd"][row] = rng.integers(0, 2, 2)
    new, blind = believed(seed), believed(seed + 100)
    assert comparing.one_by_one(new, blind, one)["bar"] == pytest.approx(comparing.together(new, blind, one)["bar"])


@given(st.integers(0, 50), st.integers(2, 30))
def test_more_votes_of_the_same_kind_leave_the_gain_as_it_is(seed: int, times: int) -> None:
    new, blind = believed(seed), calibration.constant(votes_of(seed + 1), IDS)
    few = comparing.one_by_one(new, blind, votes_of(seed))
    many = comparing.one_by_one(new, blind, votes_of(seed, times))
    assert many == pytest.approx(few)


def test_more_votes_shrink_what_an_image_adds_to_all_together() -> None:
    """Why a difference of excesses is no learning curve: votes tell of each other what the image told before."""
    votes = [votes_of(0, times) for times in (1, 10, 100)]
    # Knowing each subject's fractions, with the certainty of ten votes.
    alpha = {
        "bar": 10 * votes[0].fractions("bar").clip(0.02, 0.98)[None],
        "odd": 10 * np.stack([p := votes[0].fractions("odd").clip(0.02, 0.98), 1 - p], axis=-1)[None],
    }
    knowing = Posterior(TREE, IDS, {"bar": "dirichlet-multinomial", "odd": "beta-binomial"}, alpha)
    blind = calibration.constant(votes[1], IDS)
    few, more, many = (comparing.together(knowing, blind, one)[None] for one in votes)
    assert few > 2 * more > 8 * many > 0


def test_all_together_is_the_difference_of_the_excesses() -> None:
    votes, new = votes_of(3), believed(3)
    blind = calibration.constant(votes_of(4), IDS)
    gains = comparing.together(new, blind, votes)
    scores = calibration.evaluate(new, votes, blind, np.random.default_rng(0), simulations=5).scores
    assert len(scores) == len(gains) == 3
    for score in scores:
        gain = gains[None if score.question == "overall" else score.question]
        assert gain == pytest.approx(score.constant_excess - score.excess.value)


def test_a_gain_by_hand() -> None:
    votes = Votes.empty(TREE, list(IDS))
    votes.counts["bar"][0], votes.reached["bar"][0] = [3, 1], 4
    sure = np.broadcast_to(np.array([8.0, 2.0]), (1, 6, 2))
    even = np.broadcast_to(np.array([5.0, 5.0]), (1, 6, 2))
    families = {"bar": "dirichlet-multinomial", "odd": "beta-binomial"}
    new, blind = (Posterior(TREE, IDS, families, {"bar": one, "odd": np.ones((1, 6, 2, 2))}) for one in (sure, even))
    gain = (3 * np.log(0.8 / 0.5) + np.log(0.2 / 0.5)) / 4
    assert comparing.one_by_one(new, blind, votes) == {"bar": pytest.approx(gain), None: pytest.approx(gain)}


def test_without_votes_there_is_no_gain() -> None:
    nobody, new = Votes.empty(TREE, list(IDS)), believed(0)
    assert comparing.one_by_one(new, new, nobody) == comparing.together(new, new, nobody) == {}

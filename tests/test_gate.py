"""The gate, and the comparison of streams, on posteriors and votes written by hand."""

from __future__ import annotations

import numpy as np
import pytest

from greenpea.posterior import Posterior
from greenpea.rounds import gate, streams
from greenpea.tree import DecisionTree
from greenpea.votes import Votes

TREE = DecisionTree.from_json(
    """{"name": "pair", "version": "1.0", "questions": [
        {"slug": "bar", "text": {"en": "Bar?"}, "answers": [
            {"slug": "yes", "text": {"en": "yes"}}, {"slug": "no", "text": {"en": "no"}}]}]}"""
)


def votes_of(counts: np.ndarray) -> Votes:
    ids = np.array([f"s{number}" for number in range(len(counts))], dtype=object)
    return Votes(TREE, ids, {"bar": counts}, {"bar": counts.sum(axis=1)})


def saying(fractions: np.ndarray, certainty: float = 20.0) -> Posterior:
    alpha = certainty * np.stack([fractions, 1 - fractions], axis=-1)[None]
    ids = np.array([f"s{number}" for number in range(len(fractions))], dtype=object)
    return Posterior(TREE, ids, {"bar": "dirichlet-multinomial"}, {"bar": alpha})


def crowd(subjects: int, asked: int, seed: int = 0) -> tuple[np.ndarray, Votes]:
    rng = np.random.default_rng(seed)
    truth = rng.beta(1, 1, subjects)
    yes = rng.binomial(asked, truth)
    return truth, votes_of(np.stack([yes, asked - yes], axis=1))


def judged(new: Posterior, old: Posterior, votes: Votes, **how: object) -> gate.Gate:
    rules = {"margin": 0.01, "superior": False, "enough": 500, "rng": np.random.default_rng(0)} | how
    return gate.judge(new, old, votes, **rules)


def test_a_worse_model_is_not_promoted() -> None:
    truth, votes = crowd(100, 20)
    verdict = judged(saying(np.full(100, 0.5)), saying(truth.clip(0.05, 0.95)), votes)
    assert verdict.outcome == "kept"
    assert verdict.low is not None
    assert verdict.low < -0.01
    assert "which must be above -0.010" in verdict.why


def test_a_better_model_is_promoted_and_the_gain_is_the_mean_of_the_votes() -> None:
    truth, votes = crowd(100, 20)
    good, bad = saying(truth.clip(0.05, 0.95)), saying(np.full(100, 0.5))
    verdict = judged(good, bad, votes)
    assert verdict.outcome == "promoted"
    expected = (good.log_pmf("bar", votes) - bad.log_pmf("bar", votes)).sum() / 2000
    assert verdict.gain == pytest.approx(expected)
    assert verdict.low is not None
    assert 0 < verdict.low < expected


def test_heads_may_be_as_good_but_an_encoder_must_be_better() -> None:
    truth, votes = crowd(100, 20)
    same = saying(truth.clip(0.05, 0.95))
    assert judged(same, same, votes).outcome == "promoted"
    assert judged(same, same, votes, superior=True).outcome == "kept"


def test_without_enough_votes_it_is_promoted_and_says_so() -> None:
    truth, votes = crowd(20, 20)
    verdict = judged(saying(np.full(20, 0.5)), saying(truth.clip(0.05, 0.95)), votes)
    assert (verdict.outcome, verdict.audit_votes, verdict.gain) == ("ungated", 400, None)


def test_the_first_heads_must_be_no_worse_than_not_looking() -> None:
    truth, votes = crowd(100, 20)
    blind, wild = saying(np.full(100, 0.5), 2.0), saying(1 - truth.clip(0.05, 0.95))
    verdict = judged(wild, blind, votes, first=True)
    assert verdict.outcome == "kept"
    assert "not looking" in verdict.why
    assert judged(saying(truth.clip(0.05, 0.95)), blind, votes, first=True).outcome == "promoted"


def test_a_model_that_predicts_nothing_is_kept_out() -> None:
    truth, votes = crowd(100, 20)
    broken = saying(np.full(100, np.nan))
    assert judged(broken, saying(truth.clip(0.05, 0.95)), votes).outcome == "kept"


def test_streams_that_answer_alike_are_seldom_told_apart() -> None:
    rng = np.random.default_rng(1)
    low = 0
    for _ in range(200):
        truth = rng.beta(0.5, 0.5, 60)
        n, m = rng.integers(0, 9, 60), rng.integers(0, 9, 60)
        first, second = (np.stack([k := rng.binomial(size, truth), size - k], axis=1) for size in (n, m))
        found = streams.compare(votes_of(first), votes_of(second))
        low += found[0].p < 0.05
    assert low <= 20  # 10 are expected, of 200


def test_a_stream_that_answers_otherwise_is_found_whatever_the_subjects_are() -> None:
    rng = np.random.default_rng(2)
    truth = rng.beta(0.5, 0.5, 300)
    first = rng.binomial(8, truth * 0.7)
    second = rng.binomial(8, truth)
    found = streams.compare(votes_of(np.stack([first, 8 - first], 1)), votes_of(np.stack([second, 8 - second], 1)))
    assert found[0].p < 1e-6
    # truth falls by 30 % of its mean of one half
    assert next(one for one in found if one.answer == "yes").shift == pytest.approx(-0.15, abs=0.03)


def test_the_statistic_of_one_subject_is_the_hypergeometric_one() -> None:
    a, b, n, m = 15, 5, 20, 20
    first, second = votes_of(np.array([[a, n - a]])), votes_of(np.array([[b, m - b]]))
    one = streams.compare(first, second)[0]
    expected = n * (a + b) / (n + m)
    variance = n * m * (a + b) * (n + m - a - b) / ((n + m) ** 2 * (n + m - 1))
    assert abs(one.z) == pytest.approx(abs(a - expected) / np.sqrt(variance))
    assert abs(one.shift) == pytest.approx(0.5)


def test_streams_with_few_votes_in_common_are_not_compared() -> None:
    assert streams.compare(votes_of(np.array([[5, 5]])), votes_of(np.array([[5, 5]]))) == []
    apart = votes_of(np.array([[30, 0], [0, 0]])), votes_of(np.array([[0, 0], [30, 0]]))
    assert streams.compare(*apart) == []

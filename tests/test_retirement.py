"""Retirement rules: at their threshold and one below; audit subjects; what the posterior says."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from greenpea.classifications import Tally
from greenpea.errors import GreenpeaError
from greenpea.posterior import Posterior
from greenpea.retirement import (
    Confident,
    Consensus,
    Count,
    Early,
    Never,
    PosteriorRule,
    Rules,
    Settled,
    by_posterior,
    check,
    decide,
    gain_of,
    limit,
)
from greenpea.votes import Votes
from hands import galaxy_tree, one_question, opposite_draws, posterior

CONSENSUS = Consensus(rule="consensus", question="q", share=0.8, votes=10)
EARLY = Early(rule="answer", question="q", answer="a1", share=0.7, votes=5)


def _tally(*given: int) -> Tally:
    """The tally of a subject with so many votes for each answer of question ``q``, as the store counts it."""
    return {"q": sum(given)} | {f"q/a{i}": count for i, count in enumerate(given) if count}


@pytest.mark.parametrize(("classifications", "reason"), [(0, None), (39, None), (40, "count"), (41, "count")])
def test_count_retires_at_the_limit(classifications: int, reason: str | None) -> None:
    assert Count().decide(classifications, {}) == reason


@pytest.mark.parametrize(
    ("given", "retires"),
    [
        ((8, 2), True),
        ((7, 3), False),
        ((2, 8), True),  # whichever the answer is
        ((9, 0), False),  # of too few
        ((10, 0), True),
        ((10, 3), False),
        ((12, 3), True),
        ((0, 0), False),
    ],
)
def test_consensus_needs_its_share_of_enough_votes(given: tuple[int, ...], retires: bool) -> None:
    assert CONSENSUS.decide(99, _tally(*given)) == ("consensus on q" if retires else None)


@pytest.mark.parametrize(
    ("given", "retires"),
    [
        ((3, 7), True),
        ((4, 6), False),
        ((7, 3), False),  # the other answer
        ((0, 4), False),  # of too few
        ((0, 5), True),
        ((5, 0), False),
        ((0, 0), False),
    ],
)
def test_one_answer_retires_early(given: tuple[int, ...], retires: bool) -> None:
    assert EARLY.decide(99, _tally(*given)) == ("answer a1" if retires else None)


def test_shares_hold_to_the_vote() -> None:
    """Against exact fractions: 0.55 · 20 is more than 11 in floating point."""
    for hundredths in range(51, 101):
        share, exact = hundredths / 100, Fraction(hundredths, 100)
        consensus = Consensus(rule="consensus", question="q", share=share, votes=2)
        early = Early(rule="answer", question="q", answer="a0", share=share, votes=2)
        for reached in range(2, 61):
            for most in range((reached + 1) // 2, reached + 1):
                tally = _tally(most, reached - most)
                expected = Fraction(most, reached) >= exact
                assert bool(consensus.decide(0, tally)) == expected, (share, most, reached)
                assert bool(early.decide(0, tally)) == expected, (share, most, reached)


def test_early_looks_at_a_multiple_question_as_well() -> None:
    rule = Early(rule="answer", question="rare", answer="lens", share=0.5, votes=4)
    check((rule,), galaxy_tree())
    assert rule.decide(9, {"rare": 4, "rare/lens": 2, "rare/ring": 4}) == "answer lens"
    assert rule.decide(9, {"rare": 4, "rare/lens": 1, "rare/ring": 4}) is None


def test_a_question_is_not_taken_for_one_that_begins_alike() -> None:
    assert CONSENSUS.decide(99, {"q-2": 10, "q-2/a0": 10, "q": 10, "q/a0": 5, "q/a1": 5}) is None


def test_never_keeps_every_subject() -> None:
    assert decide((Never(rule="never"),), 10**9, _tally(10**9)) is None


@pytest.mark.parametrize("given", [(9, 1), (1, 9), (50, 0)])
def test_an_audit_subject_retires_by_the_count_alone(given: tuple[int, ...]) -> None:
    rules: Rules = (CONSENSUS, EARLY, Count(classifications=40))
    assert decide(rules, 39, _tally(*given), audit=True) is None
    assert decide(rules, 40, _tally(*given), audit=True) == "count"
    assert decide(rules[:2], 10**6, _tally(*given), audit=True) is None
    assert decide(rules, 39, _tally(*given)) is not None


def test_the_first_rule_that_holds_gives_the_reason() -> None:
    count, tally = Count(classifications=10), _tally(0, 10)
    assert decide((count, CONSENSUS, EARLY), 10, tally) == "count"
    assert decide((CONSENSUS, EARLY, count), 10, tally) == "consensus on q"
    assert decide((EARLY, CONSENSUS, count), 10, tally) == "answer a1"
    assert decide((EARLY, CONSENSUS, count), 10, _tally(5, 5)) == "count"
    assert decide((EARLY, CONSENSUS, count), 9, _tally(4, 5)) is None


def test_rules_are_checked_against_the_tree() -> None:
    check((CONSENSUS, EARLY, Count()), one_question(2))
    for rules, words in (
        ((CONSENSUS,), "no question 'q'"),
        ((Consensus(rule="consensus", question="rare"),), "'rare' is 'multiple'"),
        ((Early(rule="answer", question="bar", answer="yess"),), "did you mean 'yes'"),
        ((Never(rule="never"), Never(rule="never")), "stands alone"),
        ((Count(), Count()), "two retirement rules 'count'"),
    ):
        with pytest.raises(GreenpeaError, match=words):
            check(rules, galaxy_tree())


def test_limit_is_the_counts() -> None:
    assert limit((CONSENSUS, Count(classifications=7))) == 7
    assert limit((CONSENSUS,)) is None


# ---- by the posterior ----------------------------------------------------------------------------------

LIMIT = Count(classifications=40)


def _reasons(rule: PosteriorRule, known: Posterior, classifications: int = 20, seed: int = 0) -> list[str | None]:
    votes = Votes.empty(known.tree, list(known.subject_ids))
    counts = np.full(len(known), classifications)
    return by_posterior([rule, LIMIT], known, votes, counts, np.random.default_rng(seed))


def _confident(below: float) -> Confident:
    return Confident(rule="confident", question="q", below=below)


def test_confident_retires_below_the_standard_deviation_of_a_beta() -> None:
    """Dirichlet(a, b): the variance of either fraction is ab / ((a + b)² (a + b + 1))."""
    pairs = [(1.0, 1.0), (10.0, 30.0), (100.0, 300.0)]
    known = posterior(np.array(pairs)[None])
    deviations = [np.sqrt(a * b / ((a + b) ** 2 * (a + b + 1))) for a, b in pairs]
    for border, row in zip(deviations, range(3), strict=True):
        assert _reasons(_confident(border * 1.0001), known) == [None] * row + ["confident on q"] * (3 - row)
        assert _reasons(_confident(border * 0.9999), known) == [None] * (row + 1) + ["confident on q"] * (2 - row)


def test_draws_that_disagree_are_doubt() -> None:
    known = opposite_draws()  # each draw but one is sure to 0.02, and they contradict each other: 0.40 in all
    means = np.array([0.95, 0.05, 0.95, 0.05, 0.5])
    within = np.mean([m * (1 - m) / 101 for m in means])
    deviation = float(np.sqrt(within + means.var()))
    assert _reasons(_confident(deviation * 0.999), known) == [None]
    assert _reasons(_confident(deviation * 1.001), known) == ["confident on q"]


def test_every_answer_must_be_known() -> None:
    """Of three answers the rarest is known best: the least known decides."""
    alpha = np.array([[[30.0, 30.0, 1.0]]])
    known = posterior(alpha)
    total = alpha.sum()
    deviations = np.sqrt(alpha[0, 0] / total * (1 - alpha[0, 0] / total) / (total + 1))
    assert _reasons(_confident(float(deviations.min()) * 1.01), known) == [None]
    assert _reasons(_confident(float(deviations.max()) * 1.01), known) == ["confident on q"]


def test_without_a_question_those_that_half_of_the_volunteers_reach_are_looked_at() -> None:
    """Bar is reached by the 40 % who say "no" (then by 60 %), and is hardly known."""
    tree = galaxy_tree()
    sure = {
        "smooth": np.array([[[5e5, 4e5, 1e5], [3e5, 6e5, 1e5]]]),
        "bar": np.ones((1, 2, 2)),
        "merging": np.full((1, 2, 2), 5e5),
        "rare": np.full((1, 2, 2, 2), 5e5),
    }
    families = dict.fromkeys(sure, "dirichlet-multinomial") | {"rare": "beta-binomial"}
    known = Posterior(tree, np.array(["a", "b"], object), families, sure)
    assert _reasons(Confident(rule="confident"), known) == ["confident", None]
    assert _reasons(Confident(rule="confident", question="bar"), known) == [None, None]
    assert _reasons(Confident(rule="confident", question="smooth"), known) == ["confident on smooth"] * 2
    assert _reasons(Settled(rule="settled"), known) == ["settled", None]


def _exact_gain(known: Posterior, votes: int) -> float:
    """The gain of more votes on two answers, by enumeration of what they may be."""
    a, b = known.parameters["q"][:, 0, 0], known.parameters["q"][:, 0, 1]
    k = np.arange(votes + 1)[:, None]
    joint = stats.betabinom.pmf(k, votes, a, b) * np.exp(known.log_weights[:, 0])
    chance = joint.sum(axis=1)  # p(k)
    first = (joint / chance[:, None] * stats.beta.sf(0.5, a + k, b + votes - k)).sum(axis=1)  # P(a0 leads | k)
    return float(chance @ np.maximum(first, 1 - first) - max(chance @ first, 1 - chance @ first))


@pytest.mark.parametrize(
    ("pairs", "weights", "votes"),
    [
        ([(3, 1)], None, 37),
        ([(6, 3)], None, 30),
        ([(9, 2)], None, 30),
        ([(20, 20)], None, 20),
        ([(12, 5), (8, 4), (5, 20)], (0.6, 0.3, 0.1), 30),
        ([(12, 5), (8, 4), (5, 20)], (0.6, 0.3, 0.1), 3),
    ],
)
def test_the_gain_is_that_of_enumeration(
    pairs: list[tuple[float, float]], weights: tuple[float, ...] | None, votes: int
) -> None:
    known = posterior(np.array(pairs, float)[:, None])
    if weights is not None:
        known = replace(known, weights=np.array(weights)[:, None])
    gain = gain_of(known.select(np.zeros(60, int)), "q", np.full(60, votes), np.random.default_rng(1))
    exact = _exact_gain(known, votes)
    # Where neither answer leads, the larger of two noisy chances is a little above a half: less is left to gain.
    assert gain.mean() == pytest.approx(exact, rel=0.15, abs=3 * gain.std() / np.sqrt(60))
    assert gain.std() < 1.6 * np.sqrt(exact / 256)


def test_the_gain_of_three_answers_is_that_of_nested_simulation() -> None:
    """Future votes one by one, and after each the chance to lead from its own Dirichlet."""
    alpha, votes, rng = np.array([8.0, 5.0, 2.0]), 25, np.random.default_rng(2)
    futures = alpha + rng.multinomial(votes, rng.dirichlet(alpha, 8000))
    gammas = rng.standard_gamma(futures, (400, 8000, 3))
    after = (gammas.argmax(axis=-1)[..., None] == np.arange(3)).mean(axis=0)
    expected = after.max(axis=-1).mean() - after.mean(axis=0).max()
    known = posterior(np.tile(alpha, (1, 60, 1)))
    gain = gain_of(known, "q", np.full(60, votes), np.random.default_rng(3))
    assert gain.mean() == pytest.approx(expected, abs=0.01)


@given(
    alpha=st.lists(st.floats(0.05, 300), min_size=2, max_size=5),
    votes=st.integers(0, 60),
    family=st.sampled_from(["dirichlet-multinomial", "multinomial", "beta-binomial", "binomial"]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60)
def test_more_votes_never_do_harm(alpha: list[float], votes: int, family: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.array(alpha) * rng.gamma(3.0, 1.0, (4, 2, len(alpha)))
    if family == "multinomial":
        values /= values.sum(axis=-1, keepdims=True)
    elif family == "beta-binomial":
        values = np.stack([values, values[..., ::-1]], axis=-1)
    elif family == "binomial":
        values /= 1 + values
    gain = gain_of(posterior(values, family), "q", np.array([votes, 0]), rng, samples=64)
    assert (gain >= -1e-9).all()
    assert (gain <= 1 - 1 / len(alpha) if "multinomial" in family else gain <= 0.5 + 1e-9).all()
    assert gain[1] == 0


def _settled(pairs: list[tuple[float, float]], classifications: int) -> list[str | None]:
    return _reasons(Settled(rule="settled", question="q"), posterior(np.array(pairs, float)[None]), classifications)


def test_settled_where_the_answer_cannot_change() -> None:
    one_sided, even, known_to_be_even = (30.0, 3.0), (3.0, 3.0), (1e7, 1e7)
    reasons = _settled([one_sided, even, known_to_be_even], 6)
    assert reasons == ["settled on q", None, "settled on q"]


def test_settled_looks_at_the_votes_that_are_left() -> None:
    """One vote more cannot turn 10 to 6; thirty may."""
    assert _settled([(10.0, 6.0)], 39) == ["settled on q"]
    assert _settled([(10.0, 6.0)], 5) == [None]
    assert _settled([(1.0, 1.0)], 40) == ["settled on q"]  # nobody is to come


def test_of_a_multiple_question_each_answer_is_led_by_yes_or_no() -> None:
    known = posterior(np.array([[[[1.0, 60.0], [60.0, 1.0]], [[1.0, 60.0], [3.0, 3.0]]]]), "beta-binomial")
    assert _reasons(Settled(rule="settled", question="q"), known) == ["settled on q", None]


def test_a_rule_waits_for_its_classifications() -> None:
    known = posterior(np.tile([1e6, 1.0], (1, 2, 1)))
    votes = Votes.empty(known.tree, list(known.subject_ids))
    rules = [Confident(rule="confident", classifications=5), LIMIT]
    assert by_posterior(rules, known, votes, np.array([4, 5]), np.random.default_rng(0)) == [None, "confident"]


def test_the_first_rule_on_the_posterior_gives_the_reason_and_others_are_code() -> None:
    class Watched:
        classifications = 2

        def judge(
            self, combined: Posterior, votes: Votes, left: np.ndarray, rng: np.random.Generator
        ) -> list[str | None]:
            assert (combined.subject_ids == votes.subject_ids).all()
            return [f"{subject}: {count}" for subject, count in zip(combined.subject_ids, left, strict=True)]

    known = posterior(np.array([[[1e6, 1.0], [1.0, 1.0], [1.0, 1.0]]]))
    votes = Votes.empty(known.tree, list(known.subject_ids))
    counts = np.array([10, 10, 1])
    rules = [CONSENSUS, _confident(0.05), Watched(), LIMIT]
    reasons = by_posterior(rules, known, votes, counts, np.random.default_rng(0))
    assert reasons == ["confident on q", "s1: 30", None]


def test_nobody_to_judge() -> None:
    known = posterior(np.ones((2, 0, 2)))
    rules = [Confident(rule="confident"), Settled(rule="settled"), LIMIT]
    votes = Votes.empty(known.tree, [])
    assert by_posterior(rules, known, votes, np.zeros(0, int), np.random.default_rng(0)) == []


def test_the_store_passes_over_rules_on_the_posterior() -> None:
    rules: Rules = (Confident(rule="confident"), Settled(rule="settled"), LIMIT)
    assert decide(rules, 39, _tally(39)) is None
    assert decide(rules, 40, _tally(39)) == "count"


def test_settled_needs_a_full_limit_and_a_question_of_the_tree() -> None:
    settled = Settled(rule="settled")
    check((settled, LIMIT), one_question(2))
    check((settled.model_copy(update={"question": "rare"}), LIMIT), galaxy_tree())  # multiple, and well so
    with pytest.raises(GreenpeaError, match=r"add the rule .*count"):
        check((settled,), one_question(2))
    with pytest.raises(GreenpeaError, match="did you mean 'bar'"):
        check((Confident(rule="confident", question="barr"),), galaxy_tree())

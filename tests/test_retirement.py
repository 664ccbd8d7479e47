"""Retirement rules: at their threshold and one below; audit subjects; what the posterior says."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from greenpea.classifications import Tally
from greenpea.errors import GreenpeaError
from greenpea.retirement import Consensus, Count, Early, Never, Rules, check, confident, decide, limit
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


def test_confident_retires_below_the_standard_deviation_of_a_beta() -> None:
    """Dirichlet(a, b): the variance of either fraction is ab / ((a + b)² (a + b + 1))."""
    pairs = [(1.0, 1.0), (10.0, 30.0), (100.0, 300.0)]
    known = posterior(np.array(pairs)[None])
    deviations = [np.sqrt(a * b / ((a + b) ** 2 * (a + b + 1))) for a, b in pairs]
    votes = Votes.empty(known.tree, list(known.subject_ids))
    for border, row in zip(deviations, range(3), strict=True):
        above, below = confident("q", border * 1.0001), confident("q", border * 0.9999)
        assert above(known, votes) == [None] * row + ["confident on q"] * (3 - row)
        assert below(known, votes) == [None] * (row + 1) + ["confident on q"] * (2 - row)


def test_draws_that_disagree_are_doubt() -> None:
    known = opposite_draws()  # each draw but one is sure to 0.02, and they contradict each other: 0.40 in all
    means = np.array([0.95, 0.05, 0.95, 0.05, 0.5])
    within = np.mean([m * (1 - m) / 101 for m in means])
    deviation = np.sqrt(within + means.var())
    votes = Votes.empty(known.tree, list(known.subject_ids))
    assert confident("q", float(deviation) * 0.999)(known, votes) == [None]
    assert confident("q", float(deviation) * 1.001)(known, votes) == ["confident on q"]


def test_every_answer_must_be_known() -> None:
    """Of three answers the rarest is known best: the least known decides."""
    alpha = np.array([[[30.0, 30.0, 1.0]]])
    known = posterior(alpha)
    total = alpha.sum()
    deviations = np.sqrt(alpha[0, 0] / total * (1 - alpha[0, 0] / total) / (total + 1))
    votes = Votes.empty(known.tree, ["s0"])
    assert confident("q", float(deviations.min()) * 1.01)(known, votes) == [None]
    assert confident("q", float(deviations.max()) * 1.01)(known, votes) == ["confident on q"]

"""Scores, coverage and recalibration on votes drawn where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from greenpea import calibration
from greenpea.calibration import (
    Recalibration,
    accuracy,
    by_decile,
    constant,
    evaluate,
    fit_dirichlet_multinomial,
    highest_density_ranks,
    log_floor,
    randomised_pit,
    ratio_interval,
    recalibrate,
    reliability,
)
from greenpea.posterior import Posterior
from greenpea.votes import Votes
from hands import galaxy_tree, one_question, posterior, random_posterior


def _votes(some: Posterior, n: int, rng: np.random.Generator) -> Votes:
    """Votes of n volunteers on `one_question`, cast as the posterior says."""
    reached = np.full(len(some), n)
    counts = some.sample("q", reached, 1, rng)[0]
    return Votes(some.tree, some.subject_ids, {"q": counts}, {"q": reached})


def _calibrated(subjects: int = 1500, answers: int = 3) -> tuple[Posterior, Votes]:
    rng = np.random.default_rng(0)
    some = posterior(np.exp(rng.normal(0.5, 1, (1, subjects, answers)) + rng.normal(0, 0.4, (6, subjects, answers))))
    return some, _votes(some, 20, rng)


@pytest.mark.parametrize(("n", "expected"), [(1, 0.693), (10, 0.188), (40, 0.064)])
def test_the_perfect_predictor_of_a_fair_coin_scores_as_the_reference_says(n: int, expected: float) -> None:
    k = np.arange(n + 1)
    fair = posterior(np.full((1, n + 1, 2), 0.5), "multinomial")
    votes = Votes(fair.tree, fair.subject_ids, {"q": np.stack([k, n - k], 1)}, {"q": np.full(n + 1, n)})
    nats = -(stats.binom.pmf(k, n, 0.5) * fair.log_pmf("q", votes)).sum() / n
    assert nats == pytest.approx(expected, abs=5e-4)


def test_the_floor_is_each_subjects_own_fractions_and_beats_every_posterior() -> None:
    some, votes = _calibrated(200)
    own = votes.fractions("q")
    expected = [stats.multinomial.logpmf(k, 20, f) for k, f in zip(votes.counts["q"], own, strict=True)]
    np.testing.assert_allclose(log_floor(votes, "q"), expected, atol=1e-9)
    assert (some.log_pmf("q", votes) <= log_floor(votes, "q")).all()


def test_the_floor_of_a_multiple_question_is_a_binomial_per_answer() -> None:
    tree = one_question(2, "multiple")
    votes = Votes(tree, np.array(["s"], object), {"q": np.array([[3, 0]])}, {"q": np.array([10])})
    assert log_floor(votes, "q")[0] == pytest.approx(stats.binom.logpmf(3, 10, 0.3))


def test_the_constant_predictor_recovers_the_concentrations_votes_were_drawn_from() -> None:
    alpha = np.array([0.4, 2.0, 6.0])
    rng = np.random.default_rng(1)
    counts = np.stack([rng.multinomial(30, rng.dirichlet(alpha)) for _ in range(4000)])
    np.testing.assert_allclose(fit_dirichlet_multinomial(counts), alpha, rtol=0.08)


def test_the_constant_predictor_of_a_question_nobody_answered_is_still_one() -> None:
    votes = Votes.empty(galaxy_tree(), ["a", "b"])
    baseline = constant(votes, ["c"])
    assert all(np.isfinite(values).all() and (values > 0).all() for values in baseline.parameters.values())


def test_a_calibrated_posterior_passes_and_its_ranks_are_uniform() -> None:
    some, votes = _calibrated()
    rng = np.random.default_rng(2)
    ranks = highest_density_ranks(some, "q", votes, rng, 300)
    assert stats.kstest(ranks, "uniform").pvalue > 0.01
    pit = randomised_pit(some, "q", votes, rng)
    assert all(stats.kstest(pit[:, answer], "uniform").pvalue > 0.005 for answer in range(3))


def test_too_sharp_and_too_flat_are_caught() -> None:
    some, votes = _calibrated()
    for factor in (5.0, 0.2):  # too sharp; too flat, where α < 1 expects only divided subjects
        wrong = some.map(lambda slug, values, factor=factor: values * factor)
        score = evaluate(wrong, votes, constant(votes, some.subject_ids), np.random.default_rng(3)).overall
        assert 0.9 - score.coverage["90"] > 4 * score.coverage_error["90"]
        right = evaluate(some, votes, constant(votes, some.subject_ids), np.random.default_rng(3)).overall
        assert abs(right.coverage["90"] - 0.9) < 3 * right.coverage_error["90"]
        assert right.excess.value < score.excess.value


def test_recalibration_undoes_a_known_distortion() -> None:
    some, votes = _calibrated()
    distorted = Recalibration({"q": 1 / 0.7}, {"q": np.log(4.0)}).apply(some)
    found = recalibrate(distorted, votes)
    assert found.sharpness["q"] == pytest.approx(0.7, abs=0.06)
    assert found.shift["q"] == pytest.approx(-np.log(4.0), abs=0.25)
    again = found.apply(distorted)
    assert again.log_pmf("q", votes).sum() > distorted.log_pmf("q", votes).sum() + 50
    assert abs(again.log_pmf("q", votes).sum() - some.log_pmf("q", votes).sum()) < 15


@pytest.mark.parametrize("family", ["multinomial", "binomial", "beta-binomial"])
def test_recalibration_of_other_families_keeps_them_distributions(family: str) -> None:
    rng = np.random.default_rng(4)
    values = {
        "multinomial": rng.dirichlet([1, 1, 1], (2, 50)),
        "binomial": rng.random((2, 50, 3)),
        "beta-binomial": rng.gamma(2, 1, (2, 50, 3, 2)),
    }[family]
    some = posterior(values, family)
    votes = _votes(some, 15, rng)
    after = recalibrate(some, votes).apply(some)
    fractions = after.fractions("q")
    assert ((fractions >= 0) & (fractions <= 1)).all()
    if family == "multinomial":
        np.testing.assert_allclose(fractions.sum(-1), 1)
    assert after.log_pmf("q", votes).sum() >= some.log_pmf("q", votes).sum() - 0.1


def test_the_identity_changes_nothing() -> None:
    some, _ = _calibrated(20)
    np.testing.assert_array_equal(Recalibration.identity(some.tree).apply(some).parameters["q"], some.parameters["q"])


def test_overall_sums_the_questions_and_counts_each_subject_once() -> None:
    tree = galaxy_tree()
    some = random_posterior(tree, 4, 40, np.random.default_rng(5))
    votes = _tree_votes(some, 12)
    result = evaluate(some, votes, constant(votes, some.subject_ids), np.random.default_rng(6), simulations=50)
    parts = result.scores[1:]
    assert result.overall.subjects == 40
    assert result.overall.votes == sum(part.votes for part in parts)
    total = sum(part.excess.value * part.votes for part in parts)
    assert result.overall.excess.value == pytest.approx(total / result.overall.votes)
    assert result["rare"].votes == 2 * votes.reached["rare"].sum()  # one reply per box that could be ticked
    assert result.overall.excess.low < result.overall.excess.value < result.overall.excess.high


def _tree_votes(some: Posterior, n: int) -> Votes:
    from greenpea.information import simulate_tree

    counts, reached = simulate_tree(some, n, np.random.default_rng(7))
    return Votes(
        some.tree,
        some.subject_ids,
        {slug: values[0] for slug, values in counts.items()},
        {slug: values[0] for slug, values in reached.items()},
    )


def test_without_a_vote_there_is_nothing_to_judge() -> None:
    some = posterior(np.ones((2, 2, 3)))
    with pytest.raises(calibration.TooFewVotes, match="nothing to judge"):
        evaluate(some, Votes.empty(some.tree, ["s0", "s1"]), some, np.random.default_rng(0))


def test_bootstrap_interval_has_the_width_of_the_mean() -> None:
    rng = np.random.default_rng(8)
    gains = rng.normal(1.0, 2.0, 400) * 10
    interval = ratio_interval(gains, np.full(400, 10.0), rng)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 2.0 / 20, rel=0.15)
    assert interval.low < 1.0 < interval.high


def test_accuracy_on_confident_subjects() -> None:
    predicted = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    observed = np.array([[1.0, 0.0], [0.9, 0.1], [0.4, 0.6]])
    assert accuracy(predicted, observed) == (pytest.approx(1 / 3), 2, pytest.approx(0.5))


def test_reliability_keeps_certainty_in_the_last_bin() -> None:
    result = reliability(np.array([1.0, 1.0, 0.05]), np.array([1.0, 0.5, 0.0]))
    assert result.predicted.tolist() == [0.05, 1.0]
    assert result.observed.tolist() == [0.0, 0.75]
    assert result.cells.tolist() == [1, 2]


def test_deciles_are_of_the_prediction() -> None:
    parts = by_decile(np.linspace(1, 0, 100), np.arange(100))
    assert [len(part) for part in parts] == [10] * 10
    assert set(parts[0]) == set(range(90, 100))

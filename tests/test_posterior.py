"""The posterior against scipy, closed forms and brute force; every quantity of the mixture."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from greenpea.calibration import highest_density_ranks, randomised_pit
from greenpea.errors import GreenpeaError
from greenpea.information import simulate_tree
from greenpea.posterior import Posterior, log_pmf
from greenpea.votes import Votes
from hands import galaxy_tree, one_question, opposite_draws, posterior, random_posterior


def _log_pmf(family: str, parameters: object, counts: object) -> float:
    k = np.asarray(counts, float)
    return float(log_pmf(family, np.asarray(parameters, float), k, np.asarray(k.sum())))


def test_reference_values() -> None:
    assert np.exp(_log_pmf("dirichlet-multinomial", [3, 4, 5], [1, 2, 3])) == pytest.approx(
        0.08484162895927638, rel=1e-12
    )
    assert _log_pmf("multinomial", [0.6, 0.4], [7, 3]) == pytest.approx(-1.5371598, abs=1e-7)
    assert _log_pmf("dirichlet-multinomial", [2, 3], [7, 3]) == pytest.approx(-2.5267281, abs=1e-7)
    n, k = np.array(10.0), np.array([7.0])
    assert log_pmf("binomial", np.array([0.6]), k, n) == pytest.approx(-1.5371598, abs=1e-7)
    assert log_pmf("beta-binomial", np.array([[2.0, 3.0]]), k, n) == pytest.approx(-2.5267281, abs=1e-7)


@pytest.mark.parametrize("alpha", [[0.02, 0.3, 5.0], [3, 4, 5], [1e6, 2e6, 3e6]])
def test_dirichlet_multinomial_is_scipys_and_sums_to_one(alpha: list[float]) -> None:
    vectors = [k for k in itertools.product(range(7), repeat=3) if sum(k) == 6]
    ours = [_log_pmf("dirichlet-multinomial", alpha, k) for k in vectors]
    theirs = [stats.dirichlet_multinomial.logpmf(k, alpha, 6) for k in vectors]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-8)
    assert np.exp(ours).sum() == pytest.approx(1, abs=1e-7)


def test_nobody_asked_is_exactly_zero() -> None:
    for family, shape in [
        ("dirichlet-multinomial", (2, 1, 3)),
        ("multinomial", (2, 1, 3)),
        ("beta-binomial", (2, 1, 3, 2)),
    ]:
        some = posterior(np.full(shape, 0.3), family)
        assert (some.log_likelihood("q", np.zeros((1, 3), int), np.zeros(1, int)) == 0).all()


def test_intervals_are_of_the_mixture() -> None:
    low, high = opposite_draws().interval("q", 0.9)[:, 0, 0]
    assert (low, high) == (pytest.approx(0.027, abs=5e-4), pytest.approx(0.973, abs=5e-4))


@pytest.mark.parametrize("tolerance", [1e-4, 1e-5])
@pytest.mark.parametrize("scale", [0.05, 1.0, 30.0, 1e4, 1e6])
def test_quantiles_invert_the_mixture_distribution(scale: float, tolerance: float) -> None:
    rng = np.random.default_rng(1)
    some = posterior(scale * np.exp(rng.normal(0, 1, (7, 20, 4))))
    a, b = some.beta("q")
    for level in (0.05, 0.5, 0.95):
        x = some.quantile("q", level, tolerance)[0]
        # The distribution function brackets the level within the tolerance of x on both sides.
        below = stats.beta.cdf(np.clip(x - 1.5 * tolerance, 0, 1), a, b).mean(axis=0)
        above = stats.beta.cdf(np.clip(x + 1.5 * tolerance, 0, 1), a, b).mean(axis=0)
        assert (below <= level).all()
        assert (above >= level).all()


def test_a_fraction_beside_a_certain_one_is_not_lost_to_rounding() -> None:
    some = posterior(np.array([[[1e3, 1e-20]]]))
    pmf = some.pmf("q", 5)
    assert np.isfinite(pmf).all()
    np.testing.assert_allclose(pmf.sum(-1), 1)
    assert pmf[0, 0, 0, 5] == pytest.approx(1)


def test_quantiles_of_point_draws_are_those_of_the_draws() -> None:
    fractions = np.linspace(0, 1, 21)
    some = posterior(np.stack([fractions, 1 - fractions], -1)[:, None, :], "multinomial")
    assert some.quantile("q", [0.05, 0.5, 0.95])[:, 0, 0] == pytest.approx([0.05, 0.5, 0.95])


def test_variance_is_that_of_simulated_fractions() -> None:
    some = posterior(np.exp(np.random.default_rng(2).normal(0, 1, (5, 1, 3))))
    rng = np.random.default_rng(3)
    sampled = np.concatenate([rng.dirichlet(alpha, 40_000) for alpha in some.parameters["q"][:, 0]])
    variance = some.variance("q")
    np.testing.assert_allclose(variance.total[0], sampled.var(axis=0), rtol=0.03)
    np.testing.assert_allclose(variance.total, variance.within + variance.between)
    np.testing.assert_allclose(some.mean("q")[0], sampled.mean(axis=0), atol=0.004)


def test_pmf_per_draw_is_beta_binomial_and_the_mixture_its_mean() -> None:
    some = posterior(np.array([[[2.0, 3.0]], [[0.4, 0.1]]]))
    pmf = some.pmf("q", 10)
    k = np.arange(11)
    np.testing.assert_allclose(pmf[0, 0, 0], stats.betabinom.pmf(k, 10, 2, 3), atol=1e-12)
    np.testing.assert_allclose(pmf[1, 0, 1], stats.betabinom.pmf(k, 10, 0.1, 0.4), atol=1e-12)
    tree = one_question(2)
    votes = Votes(tree, some.subject_ids, {"q": np.array([[7, 3]])}, {"q": np.array([10])})
    assert np.exp(some.log_pmf("q", votes))[0] == pytest.approx(pmf.mean(axis=0)[0, 0, 7])


@pytest.mark.parametrize("family", ["dirichlet-multinomial", "multinomial", "beta-binomial", "binomial"])
def test_simulated_counts_follow_the_pmf(family: str) -> None:
    rng = np.random.default_rng(4)
    parameters = {
        "dirichlet-multinomial": np.array([[[0.3, 2.0]], [[5.0, 1.0]]]),
        "multinomial": np.array([[[0.3, 0.7]], [[0.9, 0.1]]]),
        "beta-binomial": np.array([[[[0.3, 2.0], [4.0, 1.0]]], [[[5.0, 1.0], [1.0, 1.0]]]]),
        "binomial": np.array([[[0.3, 0.8]], [[0.9, 0.5]]]),
    }[family]
    some = posterior(parameters, family)
    counts = some.sample("q", np.array([6]), 60_000, rng)
    for answer in range(2):
        observed = np.bincount(counts[:, 0, answer], minlength=7) / 60_000
        np.testing.assert_allclose(observed, some.pmf("q", 6).mean(axis=0)[0, answer], atol=0.008)


def test_tiny_concentrations_are_sampled_without_failing() -> None:
    counts = posterior(np.full((2, 1, 3), 1e-5)).sample("q", np.array([40]), 500, np.random.default_rng(0))
    assert (counts.max(axis=-1) == 40).all()  # divided between subjects, never within one


def test_reach_is_per_draw_and_agrees_with_simulated_volunteers() -> None:
    tree = galaxy_tree()
    some = random_posterior(tree, draws=4, subjects=3, rng=np.random.default_rng(5))
    total = {slug: np.zeros((4, 3)) for slug in tree.slugs}
    for seed in range(4000):
        _, reached = simulate_tree(some, 1, np.random.default_rng(seed))
        for slug in tree.slugs:
            total[slug] += reached[slug]
    for slug, share in some.reach().items():
        np.testing.assert_allclose(total[slug] / 4000, share, atol=0.035)
    assert some.expected_votes(40)["merging"] == pytest.approx(40 * some.reach()["merging"].mean(axis=0))


# ---- weights of the draws ------------------------------------------------------------------------------

FAMILY_SHAPES = {"dirichlet-multinomial": (), "multinomial": (), "beta-binomial": (2,), "binomial": ()}


def _weighted_and_repeated(family: str) -> tuple[Posterior, Posterior]:
    """Draws with weights 1/6, 2/6, 3/6 (other ones for the second subject), and the same as repeated draws."""
    rng = np.random.default_rng(11)
    values = rng.gamma(2.0, 3.0, (3, 2, 2, *FAMILY_SHAPES[family]))
    if family in ("multinomial", "binomial"):
        values = values / (values.sum(axis=-1, keepdims=True) * (1.0 if family == "multinomial" else 1.2))
    times = np.array([[1, 2, 3], [4, 0, 2]])
    repeated = np.stack([np.repeat(values[:, s], times[s], axis=0) for s in range(2)], axis=1)
    return replace(posterior(values, family), weights=times.T / 6), posterior(repeated, family)


@pytest.mark.parametrize("family", list(FAMILY_SHAPES))
def test_a_weighted_draw_is_that_draw_repeated(family: str) -> None:
    weighted, repeated = _weighted_and_repeated(family)
    k, n = np.array([[3, 4], [1, 0]]), np.array([7, 1])
    votes = Votes(weighted.tree, weighted.subject_ids, {"q": k}, {"q": n})
    np.testing.assert_allclose(weighted.mean("q"), repeated.mean("q"))
    for mine, theirs in zip(weighted.variance("q"), repeated.variance("q"), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-15)
    levels = [0.04, 0.3, 0.6, 0.95]  # not where point draws jump
    np.testing.assert_allclose(weighted.quantile("q", levels), repeated.quantile("q", levels), atol=2e-5)
    np.testing.assert_allclose(weighted.log_pmf("q", votes), repeated.log_pmf("q", votes))
    np.testing.assert_allclose(weighted.average(weighted.pmf("q", 5)), repeated.pmf("q", 5).mean(axis=0))
    np.testing.assert_allclose(weighted.expected_votes(40)["q"], repeated.expected_votes(40)["q"])
    np.testing.assert_allclose(weighted.effective_draws, [36 / 14, 36 / 20])
    np.testing.assert_allclose(repeated.effective_draws, [6, 6])


def test_samples_come_from_the_draws_by_their_weights() -> None:
    weighted, _ = _weighted_and_repeated("dirichlet-multinomial")
    assert weighted.weights is not None
    rng = np.random.default_rng(12)
    picks = weighted.pick(30_000, rng)
    for subject in range(2):
        share = np.bincount(picks[:, subject], minlength=3) / 30_000
        np.testing.assert_allclose(share, weighted.weights[:, subject], atol=0.01)
    assert not (picks[:, 1] == 1).any()  # a weight of 0 is never picked
    counts = weighted.sample("q", np.array([6, 6]), 40_000, rng)
    pmf = weighted.average(weighted.pmf("q", 6))
    for subject in range(2):
        observed = np.bincount(counts[:, subject, 0], minlength=7) / 40_000
        np.testing.assert_allclose(observed, pmf[subject, 0], atol=0.01)
    fractions = weighted.sample_fractions("q", 40_000, rng)
    np.testing.assert_allclose(fractions.mean(axis=0), weighted.mean("q"), atol=0.01)
    np.testing.assert_allclose(fractions.var(axis=0), weighted.variance("q").total, rtol=0.05)


def test_selecting_and_joining_keep_the_weights() -> None:
    weighted, _ = _weighted_and_repeated("multinomial")
    again = Posterior.concatenate([weighted.select([0]), weighted.select([1])])
    np.testing.assert_array_equal(again.weights, weighted.weights)
    plain = replace(weighted.select([1]), weights=None)
    joined = Posterior.concatenate([weighted.select([0]), plain])
    assert joined.weights is not None
    np.testing.assert_allclose(joined.weights[:, 1], 1 / 3)
    np.testing.assert_array_equal(weighted.map(lambda _, values: values).weights, weighted.weights)


def test_weights_that_are_no_shares_are_refused() -> None:
    some = posterior(np.ones((2, 1, 2)))
    for weights, words in (
        (np.ones((1, 2)) / 2, r"shape \(1, 2\), expected \(2, 1\)"),
        (np.array([[0.6], [0.6]]), "sum to 1"),
        (np.array([[-0.5], [1.5]]), "at least 0"),
        (np.array([[np.nan], [1.0]]), "at least 0"),
    ):
        with pytest.raises(GreenpeaError, match=words):
            replace(some, weights=weights)


def test_calibration_judges_the_weighted_mixture() -> None:
    """Counts drawn from the weighted mixture are uniform under it, and not under the draws weighted alike."""
    rng = np.random.default_rng(13)
    alpha = np.broadcast_to(np.array([[[40.0, 10.0]], [[2.0, 8.0]]]), (2, 800, 2))
    some = replace(posterior(alpha), weights=np.repeat([[0.9], [0.1]], 800, axis=1))
    n = np.full(800, 20)
    votes = Votes(some.tree, some.subject_ids, {"q": some.sample("q", n, 1, rng)[0]}, {"q": n})
    for judge in (highest_density_ranks, lambda *given: randomised_pit(*given)[:, 0]):
        assert stats.kstest(judge(some, "q", votes, rng), "uniform").pvalue > 0.001
        assert stats.kstest(judge(replace(some, weights=None), "q", votes, rng), "uniform").pvalue < 1e-6


def test_select_and_concatenate_are_inverse() -> None:
    some = random_posterior(galaxy_tree(), 3, 10, np.random.default_rng(7))
    again = Posterior.concatenate([some.select(np.arange(4)), some.select(np.arange(4, 10))])
    assert (again.subject_ids == some.subject_ids).all()
    for slug in some.tree.slugs:
        np.testing.assert_array_equal(again.parameters[slug], some.parameters[slug])


def test_wrong_shapes_and_families_are_refused() -> None:
    with pytest.raises(GreenpeaError, match="'q' is 'single' and takes the families dirichlet-multinomial"):
        Posterior(one_question(2), np.array(["s"]), {"q": "binomial"}, {"q": np.ones((1, 1, 2))})
    with pytest.raises(GreenpeaError, match=r"parameters of 'q' have shape \(1, 1, 3\), expected \(1, 1, 2\)"):
        Posterior(one_question(2), np.array(["s"]), {"q": "multinomial"}, {"q": np.ones((1, 1, 3))})
    with pytest.raises(GreenpeaError, match="strictly between 0 and 1"):
        opposite_draws().quantile("q", [0.0])


def test_a_posterior_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        opposite_draws().parameters["q"] = np.ones(1)  # type: ignore[index]

"""Posteriors of measurements against closed forms, integration and simulation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from scipy import integrate, stats

from greenpea import catalogue
from greenpea.errors import GreenpeaError
from greenpea.measurements import MeasurementLayout, MeasurementPosterior, widen


def _posterior(centres: np.ndarray, deviations: np.ndarray, weights: np.ndarray | None = None) -> MeasurementPosterior:
    ids = np.array([f"s{i}" for i in range(centres.shape[1])], dtype=object)
    targets = tuple(f"t{i}" for i in range(centres.shape[2]))
    return MeasurementPosterior(ids, targets, ("1",) * len(targets), centres, deviations, weights=weights)


def _random(rng: np.random.Generator, draws: int = 4, subjects: int = 5, targets: int = 2) -> MeasurementPosterior:
    shape = (draws, subjects, targets)
    return _posterior(rng.normal(0, 1, shape), np.exp(rng.normal(-0.5, 0.4, shape)))


def test_variance_is_what_is_within_draws_and_what_is_between_them() -> None:
    some = _posterior(np.array([[[1.0]], [[3.0]]]), np.array([[[1.0]], [[2.0]]]))
    spread = some.variance()
    assert some.mean().item() == pytest.approx(2.0)
    assert spread.within.item() == pytest.approx((1 + 4) / 2)
    assert spread.between.item() == pytest.approx(1.0)
    assert spread.total.item() == pytest.approx(3.5)


def test_intervals_are_of_the_mixture_and_not_of_its_draws() -> None:
    apart = _posterior(np.array([[[-5.0]], [[5.0]]]), np.full((2, 1, 1), 0.1))
    low, high = apart.interval(0.9)
    assert low.item() < -4.8
    assert high.item() > 4.8
    some = _random(np.random.default_rng(0))
    for level in (0.05, 0.5, 0.95):
        np.testing.assert_allclose(some.cdf(some.quantile(level)[0]), level, atol=1e-9)


def test_one_draw_is_a_gaussian() -> None:
    one = _posterior(np.array([[[2.0]]]), np.array([[[3.0]]]))
    np.testing.assert_allclose(one.interval(0.9).ravel(), stats.norm.interval(0.9, 2, 3), atol=1e-9)
    assert one.log_density(np.array([[1.0]])).item() == pytest.approx(stats.norm.logpdf(1, 2, 3))


def test_weights_of_draws_weigh() -> None:
    rng = np.random.default_rng(1)
    some = _random(rng, draws=2, subjects=3, targets=1)
    doubled = _posterior(some.centres[[0, 0, 1]], some.deviations[[0, 0, 1]])
    weighted = _posterior(some.centres, some.deviations, np.full((2, 3), [[2 / 3], [1 / 3]]))
    values = rng.normal(size=(3, 1))
    np.testing.assert_allclose(weighted.log_density(values), doubled.log_density(values))
    np.testing.assert_allclose(weighted.crps(values), doubled.crps(values))
    np.testing.assert_allclose(weighted.quantile(0.3), doubled.quantile(0.3), atol=1e-9)
    np.testing.assert_allclose(weighted.variance().total, doubled.variance().total)


def test_crps_is_the_integral_that_defines_it() -> None:
    some = _random(np.random.default_rng(2), subjects=1, targets=1)
    value = 0.7

    def squared(x: float) -> float:
        return float((some.cdf(np.array([[x]])).item() - (x >= value)) ** 2)

    expected = integrate.quad(squared, -12, value)[0] + integrate.quad(squared, value, 12)[0]
    assert some.crps(np.array([[value]])).item() == pytest.approx(expected, abs=1e-6)


def test_crps_agrees_with_scoringrules() -> None:
    scoringrules = pytest.importorskip("scoringrules")
    rng = np.random.default_rng(3)
    some, values = _random(rng, subjects=20, targets=1), rng.normal(size=20)
    m, s = (np.moveaxis(v[..., 0], 0, -1) for v in (some.centres, some.deviations))
    theirs = scoringrules.crps_mixnorm(values, m, s)
    np.testing.assert_allclose(some.crps(values[:, None])[:, 0], theirs, rtol=1e-6)


def test_samples_have_the_mixtures_moments_and_uniform_pit() -> None:
    rng = np.random.default_rng(4)
    some = _random(rng, subjects=3)
    samples = some.sample(40_000, rng)
    np.testing.assert_allclose(samples.mean(axis=0), some.mean(), atol=0.04)
    np.testing.assert_allclose(samples.var(axis=0), some.variance().total, rtol=0.05)
    pit = np.stack([some.cdf(one) for one in samples[:2000]])
    assert stats.kstest(pit[:, 0, 0], "uniform").pvalue > 0.001


def test_the_targets_of_one_sample_share_a_draw() -> None:
    apart = _posterior(np.array([[[-9.0, -9.0]], [[9.0, 9.0]]]), np.full((2, 1, 2), 0.1))
    samples = apart.sample(200, np.random.default_rng(5))[:, 0]
    assert (np.sign(samples[:, 0]) == np.sign(samples[:, 1])).all()


def test_what_is_unknown_costs_nothing() -> None:
    some = _random(np.random.default_rng(6))
    values = np.full((5, 2), np.nan)
    assert (some.log_density(values) == 0).all()
    assert (some.crps(values) == 0).all()


def test_selecting_and_joining_go_back_and_forth() -> None:
    some = _random(np.random.default_rng(7))
    again = MeasurementPosterior.concatenate([some.select([0, 1]), some.select(np.arange(5) >= 2)])
    np.testing.assert_array_equal(again.centres, some.centres)
    assert list(again.subject_ids) == list(some.subject_ids)
    weighted = _posterior(some.centres, some.deviations, np.full((4, 5), 0.25))
    joined = MeasurementPosterior.concatenate([weighted.select([0]), some.select([1])])
    assert joined.weights is not None
    np.testing.assert_allclose(joined.weights, 0.25)


def test_nonsense_is_refused() -> None:
    with pytest.raises(GreenpeaError, match="above 0"):
        _posterior(np.zeros((1, 1, 1)), np.zeros((1, 1, 1)))
    with pytest.raises(GreenpeaError, match="expected"):
        MeasurementPosterior(np.array(["a", "b"]), ("mass",), ("kg",), np.zeros((1, 1, 1)), np.ones((1, 1, 1)))
    with pytest.raises(GreenpeaError, match="unit"):
        MeasurementPosterior(np.array(["a"]), ("mass",), (), np.zeros((1, 1, 1)), np.ones((1, 1, 1)))
    some = _random(np.random.default_rng(8))
    with pytest.raises(GreenpeaError, match="strictly between"):
        some.quantile(1.0)
    with pytest.raises(GreenpeaError, match="t0, t1"):
        some.index("mass")


def test_outputs_come_back_in_the_targets_units() -> None:
    values = np.array([[10.0, 1.0], [30.0, np.nan], [20.0, 3.0]])
    layout = MeasurementLayout.of(values, ["mass", "size"], ["kg", "m"])
    assert layout.outputs == 4
    np.testing.assert_allclose(layout.centre, [20, 2])
    np.testing.assert_allclose(np.nanstd(layout.standardised(values), axis=0), 1)
    found = layout.posterior(np.array([[[1.0, 0.0, 0.0, np.log(4.0)]]]), np.array(["a"], dtype=object))
    np.testing.assert_allclose(found.mean()[0], [20 + layout.scale[0], 2])
    np.testing.assert_allclose(found.deviations[0, 0], [layout.scale[0], 2 * layout.scale[1]])
    with pytest.raises(GreenpeaError, match="'size' has 1 known"):
        MeasurementLayout.of(values[:2], ["mass", "size"], ["kg", "m"])


def test_a_catalogue_of_measurements_has_units_and_meanings() -> None:
    some = _random(np.random.default_rng(10))
    own = pa.table({"ra": np.arange(5.0)})
    found = catalogue.measurements(replace(some, units=("kg", "m")), own)
    assert found.column_names[:3] == ["subject_id", "ra", "t0_mean"]
    assert found.schema.field("t0_noise").metadata[b"unit"] == b"kg"
    np.testing.assert_allclose(found["t1_p50"].to_numpy(), some.quantile(0.5)[0][:, 1], rtol=1e-6)
    total = found["t0_noise"].to_numpy() ** 2 + found["t0_doubt"].to_numpy() ** 2
    np.testing.assert_allclose(total, some.variance().total[:, 0], rtol=1e-5)


def test_widening_recovers_by_how_much_noise_was_underestimated() -> None:
    rng = np.random.default_rng(9)
    centres = rng.normal(size=(3, 2000, 2))
    truth = _posterior(centres, np.full((3, 2000, 2), 0.8))
    values = truth.sample(1, rng)[0]
    narrow = _posterior(centres, truth.deviations / np.array([2.0, 1.0]))
    found = widen(narrow, values)
    assert found.factors[0] == pytest.approx(2.0, rel=0.08)
    assert found.factors[1] == pytest.approx(1.0, rel=0.08)
    after = found.apply(narrow)
    assert after.log_density(values).sum() > narrow.log_density(values).sum() + 100

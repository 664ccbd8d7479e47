"""Scores, calibration errors and maps of class probabilities, where the truth is planted; peers as oracles."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

from greenpea import plots
from greenpea.calibration import (
    MAPS,
    brier,
    calibration_error,
    fit,
    label_reliability,
    log_score,
    ranked_probability,
    ranked_probability_of_votes,
)
from greenpea.calibration.labels import Binning, Of
from greenpea.calibration.maps import Linear, Temperature, fit_dirichlet
from greenpea.errors import GreenpeaError


def _draw(p: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.asarray((rng.random((len(p), 1)) > np.cumsum(p, axis=1)[:, :-1]).sum(axis=1))


def _planted(subjects: int = 4000, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels drawn from their softmax."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (subjects, classes))
    return logits, _draw(softmax(logits, axis=1), rng)


# ---- scores ------------------------------------------------------------------------------------------


def test_scores_by_hand() -> None:
    p, codes = np.array([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0]]), np.array([0, 1])
    np.testing.assert_allclose(log_score(p, codes), [-np.log(0.7), 0])
    np.testing.assert_allclose(brier(p, codes), [0.09 + 0.04 + 0.01, 0])
    np.testing.assert_allclose(ranked_probability(p, codes), [0.3**2 + 0.1**2, 0])


def test_missing_by_two_answers_costs_more_than_by_one() -> None:
    p = np.array([[1.0, 0.0, 0.0]])
    costs = [ranked_probability(p, np.array([answer])).item() for answer in range(3)]
    assert costs == [0, 1, 2]
    votes = ranked_probability_of_votes(p, np.array([[2, 1, 1]]))
    assert votes.item() == pytest.approx((0 + 0 + 1 + 2) / 4)
    assert np.isnan(ranked_probability_of_votes(p, np.zeros((1, 3), np.int64))).all()


def test_scores_agree_with_peers() -> None:
    scoringrules = pytest.importorskip("scoringrules")
    sklearn = pytest.importorskip("sklearn.metrics")
    logits, codes = _planted(300)
    p = softmax(logits, axis=1)
    assert log_score(p, codes).mean() == pytest.approx(sklearn.log_loss(codes, p))
    theirs = scoringrules.rps_score(codes + 1, p)
    np.testing.assert_allclose(ranked_probability(p, codes), theirs, rtol=1e-6)


def test_scores_are_best_for_the_truth() -> None:
    logits, codes = _planted(20_000)
    for score in (log_score, brier, ranked_probability):
        truth = score(softmax(logits, axis=1), codes).mean()
        for factor in (0.6, 1.5):
            assert score(softmax(factor * logits, axis=1), codes).mean() > truth


# ---- calibration errors ------------------------------------------------------------------------------


def test_certainty_belongs_to_the_last_bin() -> None:
    """Where torchmetrics 1.9.0 gives 0.525: confidences of exactly 1 in a bin of their own, or in none."""
    p = np.array([[1.0, 0.0]] * 40)
    codes = np.array([0] * 21 + [1] * 19)
    for binning in ("width", "mass"):
        error = calibration_error(p, codes, np.random.default_rng(0), binning=binning)  # type: ignore[arg-type]
        assert error.expected == pytest.approx(0.475)
        assert error.maximum == pytest.approx(0.475)


def test_expected_calibration_error_by_hand() -> None:
    p = np.array([[0.55, 0.45], [0.55, 0.45], [0.95, 0.05], [0.95, 0.05]])
    codes = np.array([0, 1, 0, 0])
    error = calibration_error(p, codes, np.random.default_rng(0), bins=10)
    assert error.expected == pytest.approx((0.05 + 0.05) / 2)
    assert error.maximum == pytest.approx(0.05)
    classwise = calibration_error(p, codes, np.random.default_rng(0), bins=10, of="class")
    assert classwise.expected == pytest.approx(0.05)  # two classes mirror one another


def test_expected_calibration_error_agrees_with_mapie() -> None:
    metrics = pytest.importorskip("mapie.metrics.calibration")
    logits, codes = _planted(2000, 2)
    p = softmax(3 * logits, axis=1)
    error = calibration_error(p, codes, np.random.default_rng(0), bins=20)
    theirs = metrics.top_label_ece(codes, p.max(axis=1), p.argmax(axis=1), num_bins=20)
    # MAPIE bins each predicted class by itself; with two of them the sums differ by chance only.
    assert error.expected == pytest.approx(theirs, abs=0.01)


@pytest.mark.parametrize("of", ["top", "class"])
@pytest.mark.parametrize("binning", ["width", "mass"])
def test_draws_from_a_calibrated_model_keep_the_error_inside_its_null(of: Of, binning: Binning) -> None:
    inside = 0
    for seed in range(20):
        logits, codes = _planted(600, 3, seed)
        error = calibration_error(
            softmax(logits, axis=1), codes, np.random.default_rng(seed), of=of, binning=binning, simulations=60
        )
        inside += error.expected <= error.null[1]
    assert inside >= 17  # of 20 at 95 %: fewer by chance once in 63 times, with these seeds never


@pytest.mark.parametrize("of", ["top", "class"])
def test_a_model_too_sure_is_outside_its_null(of: Of) -> None:
    logits, codes = _planted(2000)
    error = calibration_error(softmax(3 * logits, axis=1), codes, np.random.default_rng(0), of=of, simulations=100)
    assert error.expected > 2 * error.null[1]
    assert error.p < 0.02
    assert error.maximum >= error.expected


# ---- reliability -------------------------------------------------------------------------------------


def test_the_band_of_a_reliability_diagram_holds_calibrated_frequencies() -> None:
    rng = np.random.default_rng(1)
    confidence = rng.random(20_000)
    right = label_reliability(confidence, rng.random(20_000) < confidence, rng)
    inside = (right.frequency >= right.low) & (right.frequency <= right.high)
    assert inside.sum() >= 8
    wrong = label_reliability(confidence, rng.random(20_000) < confidence**2, rng)
    assert ((wrong.frequency >= wrong.low) & (wrong.frequency <= wrong.high)).sum() <= 3
    assert right.cells.sum() == 20_000
    axes = plots.label_reliability(right, "top class").axes
    assert len(axes) == 2


# ---- maps --------------------------------------------------------------------------------------------


def test_logits_times_three_have_a_temperature_of_three() -> None:
    logits, codes = _planted(20_000)
    found = fit("temperature", softmax(3 * logits, axis=1), codes)
    assert isinstance(found, Temperature)
    assert found.temperature == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("name", list(MAPS))
def test_every_map_mends_probabilities_that_are_too_sure(name: str) -> None:
    logits, codes = _planted(6000)
    p = softmax(3 * logits, axis=1)
    found = fit(name, p[:3000], codes[:3000])
    after = found.apply(p[3000:])
    np.testing.assert_allclose(after.sum(axis=1), 1)
    before_error = calibration_error(p[3000:], codes[3000:], np.random.default_rng(0), simulations=50)
    after_error = calibration_error(after, codes[3000:], np.random.default_rng(0), simulations=50)
    assert after_error.expected < before_error.expected / 4
    truth = log_score(softmax(logits[3000:], axis=1), codes[3000:]).mean()
    assert log_score(after, codes[3000:]).mean() < truth + 0.03
    assert log_score(p[3000:], codes[3000:]).mean() > truth + 0.2


@pytest.mark.parametrize("name", list(MAPS))
def test_every_map_leaves_calibrated_probabilities_nearly_alone(name: str) -> None:
    logits, codes = _planted(8000, 3)
    p = softmax(logits, axis=1)
    after = fit(name, p[:6000], codes[:6000]).apply(p[6000:])
    assert np.abs(after - p[6000:]).mean() < 0.02


def test_vector_and_dirichlet_recover_what_was_done_to_each_class() -> None:
    logits, codes = _planted(20_000, 3)
    truth = np.log(softmax(logits, axis=1))
    bent = truth / [0.5, 1.0, 2.0] + [0.4, 0.0, -0.4]
    found = fit("vector", softmax(bent, axis=1), codes)
    assert isinstance(found, Linear)
    best = log_score(softmax(logits, axis=1), codes).mean()
    assert log_score(found.apply(softmax(bent, axis=1)), codes).mean() < best + 0.02
    mixed = softmax(truth @ np.array([[1, 0.5, 0], [0, 1, 0.5], [0.5, 0, 1]]), axis=1)
    after = fit_dirichlet(mixed, codes, penalty=1e-6).apply(mixed)
    assert log_score(after, codes).mean() < best + 0.002
    np.testing.assert_allclose(after[:100], softmax(logits, axis=1)[:100], atol=0.05)


def test_beta_calibration_of_two_classes_recovers_its_own_family() -> None:
    rng = np.random.default_rng(2)
    p = np.clip(rng.random(30_000), 1e-6, 1 - 1e-6)
    q = 1 / (1 + np.exp(-(0.5 * np.log(p) - 2.0 * np.log1p(-p) + 0.3)))
    codes = (rng.random(30_000) < q).astype(np.int64)
    found = fit("beta", np.stack([1 - p, p], axis=1), codes)
    # a, b and c make up for one another: what is compared is the function.
    np.testing.assert_allclose(found.apply(np.stack([1 - p, p], axis=1))[:, 1], q, atol=0.02)


def test_isotonic_steps_are_scikit_learns() -> None:
    isotonic = pytest.importorskip("sklearn.isotonic")
    logits, codes = _planted(800, 2)
    p = softmax(2 * logits, axis=1)
    found = fit("isotonic", p, codes)
    theirs = isotonic.IsotonicRegression(out_of_bounds="clip").fit(p[:, 1], codes == 1).predict(p[:, 1])
    mine = np.interp(p[:, 1], found.inputs[1], found.outputs[1])  # type: ignore[attr-defined]
    half = 0.5 / 801
    np.testing.assert_allclose(mine, np.clip(theirs, half, 1 - half), atol=1e-9)


def test_vector_scaling_is_scikit_learns_logistic_regression_for_two_classes() -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    logits, codes = _planted(2000, 2)
    p = softmax(2 * logits, axis=1)
    after = fit("dirichlet", p, codes).apply(p)
    theirs = linear.LogisticRegression(C=1e6, max_iter=1000).fit(np.log(p), codes).predict_proba(np.log(p))
    np.testing.assert_allclose(after, theirs, atol=0.01)


def test_certain_and_impossible_classes_stay_finite() -> None:
    p = np.array([[1.0, 0.0, 0.0]] * 30 + [[0.0, 1.0, 0.0]] * 30)
    codes = np.array([0] * 29 + [2] + [1] * 30)
    for name in MAPS:
        after = fit(name, p, codes).apply(p)
        assert np.isfinite(log_score(after, codes)).all(), name
        np.testing.assert_allclose(after.sum(axis=1), 1)


def test_what_does_not_fit_is_refused() -> None:
    p = np.array([[0.5, 0.5]])
    with pytest.raises(GreenpeaError, match="did you mean 'temperature'"):
        fit("temprature", p, np.array([0]))
    with pytest.raises(GreenpeaError, match="in row 0"):
        brier(p, np.array([2]))
    with pytest.raises(GreenpeaError, match="bring the same"):
        log_score(p, np.array([0, 1]))


def test_the_examples_of_the_documentation_run() -> None:
    page = (Path(__file__).parent.parent / "docs" / "calibration.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    exec(compile(example, "docs/calibration.md", "exec"), {})

"""Class labels as a posterior: noisy logits, kinds of doubt, and what knows votes knows labels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from greenpea import information
from greenpea.errors import GreenpeaError
from greenpea.labels import LabelLayout, doubt, noise_points

CLASSES = ("a spiral", "an elliptical", "can't tell")


def _ids(count: int) -> np.ndarray:
    return np.array([f"s{i}" for i in range(count)], dtype=object)


def test_classes_become_a_question_and_labels_votes() -> None:
    layout = LabelLayout.of(["b", "a", "", "b"], question="kind")
    assert layout.classes == ("a", "b")
    codes = layout.codes(["b", "a", "", "b"])
    assert codes.tolist() == [1, 0, -1, 1]
    votes = layout.votes(codes, _ids(4))
    assert votes.counts["kind"].tolist() == [[0, 1], [1, 0], [0, 0], [0, 1]]
    assert votes.reached["kind"].tolist() == [1, 1, 0, 1]
    assert LabelLayout(CLASSES).tree["label"].answer_slugs == ("a-spiral", "an-elliptical", "cant-tell")


def test_labels_that_make_no_question_are_refused() -> None:
    layout = LabelLayout(("a", "b"))
    with pytest.raises(GreenpeaError, match="'c' in row 1"):
        layout.codes(["a", "c"])
    for classes in (("a",), ("A b", "a-b"), ("!", "?")):
        with pytest.raises(GreenpeaError, match="do not make a question"):
            LabelLayout(classes).tree  # noqa: B018


@pytest.mark.parametrize("noise", ["each", "shared"])
def test_probabilities_and_their_spread_are_those_of_noisy_logits(noise: str) -> None:
    layout = LabelLayout(CLASSES, noise)  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    outputs = rng.normal(0, 1.5, (4, 2, layout.outputs))
    some = layout.posterior(outputs, _ids(4))
    variances = layout.variances(outputs)
    samples = rng.standard_normal((40_000, 4, 2, 3)) * np.sqrt(variances)
    p = softmax(outputs[..., :3] + samples, axis=-1)
    np.testing.assert_allclose(some.fractions("label"), p.mean(axis=0).transpose(1, 0, 2), atol=0.01)
    within = some.variance("label").within.sum(axis=1)
    np.testing.assert_allclose(within, p.var(axis=0).sum(axis=-1).mean(axis=1), rtol=0.12)


def test_without_noise_probabilities_are_softmax() -> None:
    layout = LabelLayout(CLASSES, "none")
    outputs = np.random.default_rng(1).normal(size=(5, 3, 3))
    some = layout.posterior(outputs, _ids(5))
    np.testing.assert_allclose(some.fractions("label"), softmax(outputs, axis=-1).transpose(1, 0, 2))
    assert (some.variance("label").within == 0).all()


def test_the_likelihood_of_a_label_is_exactly_its_probability() -> None:
    layout = LabelLayout(CLASSES, "each")
    some = layout.posterior(np.random.default_rng(2).normal(size=(6, 4, 6)), _ids(6))
    codes = np.arange(6) % 3
    expected = np.log(some.mean("label")[np.arange(6), codes])
    np.testing.assert_allclose(some.log_pmf("label", layout.votes(codes, some.subject_ids)), expected)


def test_doubt_adds_up_and_its_epistemic_part_is_what_one_more_label_teaches() -> None:
    layout = LabelLayout(CLASSES, "each")
    some = layout.posterior(np.random.default_rng(3).normal(0, 2, (8, 5, 6)), _ids(8))
    parts = doubt(some)
    np.testing.assert_allclose(parts.total, entropy(some.mean("label"), axis=1))
    np.testing.assert_allclose(parts.total, parts.epistemic + parts.aleatoric)
    np.testing.assert_allclose(parts.epistemic, information.of_question(some, "label", votes=1), atol=1e-9)


def test_draws_that_agree_leave_aleatoric_doubt_only_and_opposite_ones_epistemic() -> None:
    layout = LabelLayout(("a", "b"), "none")
    same = layout.posterior(np.zeros((1, 2, 2)), _ids(1))
    apart = layout.posterior(np.array([[[50.0, -50.0], [-50.0, 50.0]]]), _ids(1))
    assert doubt(same).epistemic.item() == pytest.approx(0)
    assert doubt(same).aleatoric.item() == pytest.approx(np.log(2))
    assert doubt(apart).epistemic.item() == pytest.approx(np.log(2))
    assert doubt(apart).aleatoric.item() == pytest.approx(0, abs=1e-9)


def test_noise_is_always_the_same_and_standard() -> None:
    points = noise_points(10)
    assert points is noise_points(10)
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(points.var(axis=0), 1, atol=0.15)

"""Heads by hand: folds, draws, files. No torch, no fit."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit, softmax

from greenpea import outputs
from greenpea.calibration import Recalibration
from greenpea.errors import GreenpeaError
from greenpea.heads import Heads, fold_of
from greenpea.outputs import Geometry, Layout
from hands import galaxy_tree, one_question

IDS = np.array([f"subject {i} é" for i in range(500)], dtype=object)


def by_hand(folds: int = 3, held: int = 7, embedding: int = 4) -> Heads:
    """Heads that nobody fitted: the head of fold f gives the first of two answers the logit f, in every draw."""
    layout = Layout(one_question(2))
    weights = np.zeros((folds, held, embedding + 1, layout.outputs), np.float32)
    weights[:, :, -1, 0] = np.arange(folds)[:, None]
    geometry = Geometry(np.zeros(embedding), np.eye(embedding), 1.0)
    return Heads(layout, weights, weights[:, 0], 5, "", Recalibration.identity(layout.tree), geometry, "e" * 64)


def test_folds_are_a_matter_of_the_id_and_the_salt_alone() -> None:
    fold = fold_of(IDS, 5)
    assert np.bincount(fold, minlength=5).min() > 70
    np.testing.assert_array_equal(fold_of(IDS[::-1], 5), fold[::-1])
    assert (fold_of(IDS, 5, "again") != fold).any()
    assert fold_of(np.array(["a", "b", "c"], object), 5).tolist() == [1, 0, 3]  # today and for ever


def test_every_subject_is_spoken_of_by_the_head_of_its_fold() -> None:
    heads = by_hand()
    posterior = heads.posterior(np.zeros((500, 4), np.float32), IDS)
    np.testing.assert_allclose(posterior.mean("q")[:, 0], expit(heads.fold_of(IDS)), rtol=1e-5)
    assert posterior.draws == 5
    assert heads.posterior(np.zeros((500, 4), np.float32), IDS, draws=7).draws == 7
    assert len(heads.posterior(np.zeros((0, 4), np.float32), IDS[:0])) == 0


def test_what_heads_cannot_do_is_refused() -> None:
    heads = by_hand()
    with pytest.raises(GreenpeaError, match="8 draws are wanted and these heads hold 7"):
        heads.posterior(np.zeros((1, 4), np.float32), IDS[:1], draws=8)
    with pytest.raises(GreenpeaError, match="3 numbers long, these heads take 4: they belong to another encoder"):
        heads.posterior(np.zeros((1, 3), np.float32), IDS[:1])


@pytest.mark.parametrize("likelihood", ["dirichlet-multinomial", "multinomial"])
def test_outputs_are_logits_and_logarithms_of_concentrations(likelihood: str) -> None:
    layout = Layout(galaxy_tree(), likelihood)  # type: ignore[arg-type]
    found = np.random.default_rng(0).normal(size=(6, 2, layout.outputs)).astype(np.float32)
    posterior = outputs.posterior(layout, found, np.arange(6).astype(str).astype(object))
    for question in layout.tree.questions:
        own = found[..., layout.slices[question.slug]].astype(np.float64).transpose(1, 0, 2)
        answers = len(question.answers)
        logits = own[..., :answers]
        expected = softmax(logits, axis=-1) if question.kind == "single" else expit(logits)
        np.testing.assert_allclose(posterior.fractions(question.slug), expected, rtol=1e-5)
        if likelihood == "dirichlet-multinomial":
            total = posterior.parameters[question.slug].sum(axis=-1)
            s = np.exp(own[..., answers:])
            np.testing.assert_allclose(total, s[..., 0] if question.kind == "single" else s, rtol=1e-4)


def test_extreme_outputs_stay_finite() -> None:
    layout = Layout(galaxy_tree())
    found = np.array([-1e4, 1e4], np.float32)[:, None, None] * np.sign(np.arange(layout.outputs) % 2 - 0.5)
    posterior = outputs.posterior(layout, found.astype(np.float32), np.array(["a", "b"], object))
    for slug in layout.tree.slugs:
        assert np.isfinite(posterior.pmf(slug, 5)).all()
        assert (posterior.parameters[slug] > 0).all()


# ---- files -------------------------------------------------------------------------------------------


def test_heads_are_read_as_they_were_written(tmp_path: Path) -> None:
    heads = replace(by_hand(), facts={"precision": 3.0}, recalibration=Recalibration({"q": 0.9}, {"q": -0.1}))
    heads.save(tmp_path / "heads")
    heads.save(tmp_path / "heads")  # replaces
    again = Heads.load(tmp_path / "heads")
    assert again.fingerprint == heads.fingerprint
    np.testing.assert_array_equal(again.weights, heads.weights)
    assert (again.draws, again.salt, again.encoder, again.facts) == (5, "", "e" * 64, {"precision": 3.0})
    assert again.recalibration == heads.recalibration
    assert list(tmp_path.iterdir()) == [tmp_path / "heads"]


def _damages(folder: Path) -> dict[str, Callable[[], object]]:
    numbers, facts = folder / "heads.npz", folder / "heads.json"
    return {
        "its bytes are not those": lambda: numbers.write_bytes(numbers.read_bytes()[:-30]),
        "a part is missing or does not fit": lambda: facts.write_text(facts.read_text()[:100]),
        "it has no heads.npz": numbers.unlink,
        "reads 'greenpea-heads/1'": lambda: facts.write_text('{"format": "greenpea-heads/9"}'),
    }


@pytest.mark.parametrize("words", list(_damages(Path())))
def test_damaged_heads_are_refused(words: str, tmp_path: Path) -> None:
    by_hand().save(tmp_path / "heads")
    _damages(tmp_path / "heads")[words]()
    with pytest.raises(GreenpeaError, match=words):
        Heads.load(tmp_path / "heads")


def test_heads_are_used_without_torch() -> None:
    code = "import sys, greenpea.heads, greenpea.embeddings; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

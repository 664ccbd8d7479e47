"""Information against reference values, enumeration and its bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenpea import information
from greenpea.errors import GreenpeaError
from greenpea.information import (
    count_vectors,
    mutual_information,
    of_answers,
    of_question,
    of_tree,
    saturated,
    states,
)
from greenpea.posterior import Posterior
from hands import galaxy_tree, posterior, random_posterior

FRACTIONS = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
BINOMIAL = {1: 0.180139, 5: 0.556709, 40: 1.323233}


def _five_fractions() -> Posterior:
    return posterior(np.stack([FRACTIONS, 1 - FRACTIONS], -1)[:, None, :], "multinomial")


@pytest.mark.parametrize(("votes", "expected"), BINOMIAL.items())
def test_binomial_reference(votes: int, expected: float) -> None:
    assert of_question(_five_fractions(), "q", votes)[0] == pytest.approx(expected, abs=1e-6)
    assert of_answers(_five_fractions(), "q", votes)[0, 0] == pytest.approx(expected, abs=1e-6)


def test_reference_tensor() -> None:
    ends = [
        ([0.7, 0.1, 0.1, 0.1], [0.3, 0.3, 0.2, 0.2]),
        ([0.1, 0.7, 0.1, 0.1], [0.2, 0.3, 0.3, 0.2]),
        ([0.1, 0.1, 0.7, 0.1], [0.2, 0.2, 0.3, 0.3]),
        ([0.1, 0.1, 0.1, 0.7], [0.3, 0.2, 0.2, 0.3]),
    ]
    m = np.linspace(0, 1, 20)[:, None]
    p = np.stack([np.array(a) * (1 - m) + np.array(b) * m for a, b in ends], axis=1)
    entropy = -(p * np.log(p)).sum(-1).mean(0)
    mean = p.mean(0)
    np.testing.assert_allclose(entropy, 1.2069, atol=5e-5)
    np.testing.assert_allclose(-(mean * np.log(mean)).sum(-1), 1.2376, atol=5e-5)
    np.testing.assert_allclose(mutual_information(np.log(p)), 0.030715639666, atol=1e-11)
    np.testing.assert_allclose(of_question(posterior(p, "multinomial"), "q", 1), 0.030715639666, atol=1e-11)


def test_opposite_certain_draws_teach_ln_2_and_agreeing_ones_nothing() -> None:
    opposite = posterior(np.array([[[1.0, 0.0]], [[0.0, 1.0]]]), "multinomial")
    agreeing = posterior(np.array([[[1.0, 0.0]], [[1.0, 0.0]]]), "multinomial")
    assert of_question(opposite, "q", 1)[0] == pytest.approx(np.log(2), abs=1e-12)
    assert of_question(agreeing, "q", 1)[0] == 0
    rng = np.random.default_rng(0)
    assert of_tree(opposite, 1, rng).value[0] == pytest.approx(np.log(2), abs=1e-6)
    assert of_tree(agreeing, 5, rng).value[0] == pytest.approx(0, abs=1e-6)


def test_count_vectors_are_all_of_them_once() -> None:
    vectors = count_vectors(5, 3)
    assert len(vectors) == states(5, 3) == 21
    assert (vectors.sum(axis=1) == 5).all()
    assert len({tuple(row) for row in vectors}) == 21
    assert (states(40, 3), states(40, 6)) == (861, 1_221_759)


@given(seed=st.integers(0, 10_000), answers=st.integers(2, 3), draws=st.integers(2, 8))
def test_information_is_bounded_and_grows_with_votes(seed: int, answers: int, draws: int) -> None:
    some = posterior(np.exp(np.random.default_rng(seed).normal(0, 2, (draws, 4, answers))))
    values = np.array([of_question(some, "q", n) for n in (1, 2, 4, 8)])
    assert (values >= 0).all()
    assert (values <= np.log(draws) + 1e-12).all()
    assert (np.diff(values, axis=0) >= -1e-9).all()
    # Each answer's own count is a part of what the whole vector says.
    assert (of_answers(some, "q", 4).max(axis=1) <= values[2] + 1e-9).all()


@pytest.mark.parametrize("family", ["dirichlet-multinomial", "multinomial"])
@pytest.mark.parametrize("votes", [1, 5])
def test_the_tree_estimate_is_unbiased_on_one_question(family: str, votes: int) -> None:
    alpha = np.exp(np.random.default_rng(1).normal(0, 1, (6, 5, 3)))
    values = alpha if family == "dirichlet-multinomial" else alpha / alpha.sum(-1, keepdims=True)
    some = posterior(values, family)
    estimate = of_tree(some, votes, np.random.default_rng(2), simulations=6000)
    assert (np.abs(estimate.value - of_question(some, "q", votes)) < 5 * estimate.error + 1e-6).all()
    assert (estimate.error < 0.01).all()


def _exact_small_tree(some: Posterior) -> np.ndarray:
    """One volunteer's walk, enumerated: every route with every set of rare features."""
    log_routes = []
    f = {slug: some.fractions(slug) for slug in some.tree.slugs}
    rare = [np.log(np.where(np.array(bits), f["rare"], 1 - f["rare"])).sum(-1) for bits in np.ndindex(2, 2)]
    for smooth in range(3):
        start = np.log(f["smooth"][..., smooth])
        if smooth == 2:
            log_routes.append(start)
            continue
        for bar in range(2) if smooth == 1 else [None]:
            middle = start if bar is None else start + np.log(f["bar"][..., bar])
            for merging in range(2):
                log_routes += [middle + np.log(f["merging"][..., merging]) + features for features in rare]
    return mutual_information(np.stack(log_routes, axis=-1))


def test_the_tree_estimate_agrees_with_enumerated_walks() -> None:
    some = random_posterior(galaxy_tree(), draws=5, subjects=4, rng=np.random.default_rng(3), spread=1.0)
    estimate = of_tree(some, 1, np.random.default_rng(4), simulations=8000)
    assert (np.abs(estimate.value - _exact_small_tree(some)) < 5 * estimate.error).all()


def test_chosen_questions_teach_no_more_than_all() -> None:
    some = random_posterior(galaxy_tree(), draws=8, subjects=30, rng=np.random.default_rng(5), spread=1.0)
    everything = of_tree(some, 3, np.random.default_rng(6), simulations=800)
    one = of_tree(some, 3, np.random.default_rng(6), questions=["merging"], simulations=800)
    assert one.value.mean() < everything.value.mean()
    assert (everything.value <= np.log(8)).all()
    assert (one.value >= 0).all()


def test_saturation_is_the_share_near_the_bound() -> None:
    opposite = posterior(np.array([[[1.0, 0.0]], [[0.0, 1.0]]]), "multinomial")
    assert saturated(of_tree(opposite, 1, np.random.default_rng(0)).value, 2) == 1.0
    assert saturated(np.array([0.1, 0.69]), 2) == 0.5


def test_too_many_outcomes_are_refused_with_the_way_out() -> None:
    some = posterior(np.ones((2, 1, 6)))
    with pytest.raises(GreenpeaError, match=r"1,221,759 outcomes.*of_answers.*of_tree"):
        of_question(some, "q", 40)
    with pytest.raises(GreenpeaError, match="'multiple'"):
        of_question(posterior(np.ones((2, 1, 2, 2)), "beta-binomial"), "q", 2)


def test_subjects_are_judged_alike_in_any_company(monkeypatch: pytest.MonkeyPatch) -> None:
    some = posterior(np.exp(np.random.default_rng(8).normal(0, 1, (4, 50, 3))))
    whole = of_question(some, "q", 3)
    monkeypatch.setattr(information, "CHUNK", 1)
    np.testing.assert_allclose(of_question(some, "q", 3), whole, atol=1e-14)

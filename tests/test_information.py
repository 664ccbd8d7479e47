"""Information against reference values, enumeration and its bounds."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import entr
from scipy.stats import spearmanr

from greenpea import information
from greenpea.acquisition import epig
from greenpea.errors import GreenpeaError
from greenpea.information import (
    aims,
    count_vectors,
    mutual_information,
    of_answers,
    of_predictions,
    of_question,
    of_tree,
    saturated,
    states,
)
from greenpea.posterior import Posterior
from hands import galaxy_tree, posterior, random_posterior

FRACTIONS = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
BINOMIAL = {1: 0.180139, 5: 0.556709, 40: 1.323233}


def _weighted(some: Posterior, seed: int, sharpness: float = 0.5) -> Posterior:
    """The same posterior, each subject's draws with weights of their own."""
    weights = np.random.default_rng(seed).dirichlet(np.full(some.draws, sharpness), len(some)).T
    return replace(some, weights=weights)


def _entropy(some: Posterior) -> np.ndarray:
    return entr(some.weights).sum(axis=0)


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


@given(seed=st.integers(0, 10_000), draws=st.integers(1, 8), sharpness=st.sampled_from([0.01, 0.5, 50]))
def test_weighted_information_is_bounded_by_the_entropy_of_the_weights(seed: int, draws: int, sharpness: float) -> None:
    some = posterior(np.exp(np.random.default_rng(seed).normal(0, 2, (draws, 4, 3))))
    some = _weighted(some, seed, sharpness)
    estimate = of_tree(some, 3, np.random.default_rng(seed))
    for values in (of_question(some, "q", 3), estimate.value, of_answers(some, "q", 3).max(axis=1)):
        assert (values >= 0).all()
        assert (values <= _entropy(some) + 1e-9).all()


def test_equal_weights_are_no_weights() -> None:
    some = posterior(np.exp(np.random.default_rng(0).normal(0, 1, (6, 5, 3))))
    equal = replace(some, weights=np.full((6, 5), 1 / 6))
    np.testing.assert_allclose(of_question(equal, "q", 4), of_question(some, "q", 4), atol=1e-12)
    np.testing.assert_allclose(of_answers(equal, "q", 4), of_answers(some, "q", 4), atol=1e-12)
    one, other = (of_tree(each, 4, np.random.default_rng(1)).value for each in (equal, some))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_draw_of_no_weight_might_as_well_not_be_there() -> None:
    alpha = np.exp(np.random.default_rng(0).normal(0, 1, (4, 5, 3)))
    weights = np.array([0.5, 0.2, 0.3, 0.0])[:, None].repeat(5, axis=1)
    with_it = replace(posterior(alpha), weights=weights)
    without = replace(posterior(alpha[:3]), weights=weights[:3])
    np.testing.assert_allclose(of_question(with_it, "q", 3), of_question(without, "q", 3), atol=1e-12)
    one, other = (of_tree(each, 3, np.random.default_rng(1), simulations=40).value for each in (with_it, without))
    np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("family", ["dirichlet-multinomial", "multinomial"])
@pytest.mark.parametrize("votes", [1, 5])
def test_the_tree_estimate_is_unbiased_on_one_question(family: str, votes: int, weighted: bool) -> None:
    alpha = np.exp(np.random.default_rng(1).normal(0, 1, (6, 5, 3)))
    values = alpha if family == "dirichlet-multinomial" else alpha / alpha.sum(-1, keepdims=True)
    some = posterior(values, family)
    if weighted:
        some = _weighted(some, 7)
    estimate = of_tree(some, votes, np.random.default_rng(2), simulations=6000)
    assert (np.abs(estimate.value - of_question(some, "q", votes)) < 5 * estimate.error + 1e-6).all()
    assert (estimate.error < 0.01).all()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("family", ["beta-binomial", "binomial"])
def test_the_tree_estimate_is_unbiased_on_a_multiple_question(family: str, weighted: bool) -> None:
    rng = np.random.default_rng(3)
    some = posterior(rng.random((6, 5, 2)) if family == "binomial" else np.exp(rng.normal(0, 1, (6, 5, 2, 2))), family)
    if weighted:
        some = _weighted(some, 7)
    pmf = some.pmf("q", 4)
    both = np.einsum("tsi,tsj->tsij", pmf[:, :, 0], pmf[:, :, 1]).reshape(6, 5, -1)
    estimate = of_tree(some, 4, np.random.default_rng(2), simulations=6000)
    exact = mutual_information(np.log(both), some.log_weights)
    assert (np.abs(estimate.value - exact) < 5 * estimate.error + 1e-5).all()


@pytest.mark.parametrize("simulations", [1, 4, 7])
def test_any_number_of_simulations_is_unbiased(simulations: int) -> None:
    """Over a thousand copies of one subject, some of whose draws are never simulated under."""
    alpha = np.exp(np.random.default_rng(1).normal(0, 1, (6, 1, 3)))
    weights = np.random.default_rng(2).dirichlet(np.ones(6))[:, None]
    copies = replace(posterior(alpha.repeat(5000, axis=1)), weights=weights.repeat(5000, axis=1))
    exact = of_question(copies.select([0]), "q", 4)[0]
    value = of_tree(copies, 4, np.random.default_rng(3), simulations=simulations).value
    # Clipping at the entropy takes a little off single simulations.
    assert value.mean() == pytest.approx(exact, abs=4 * value.std() / np.sqrt(5000) + (0.01 if simulations < 6 else 0))


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
    return mutual_information(np.stack(log_routes, axis=-1), some.log_weights)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_tree_estimate_agrees_with_enumerated_walks(weighted: bool) -> None:
    some = random_posterior(galaxy_tree(), draws=5, subjects=4, rng=np.random.default_rng(3), spread=1.0)
    if weighted:
        some = _weighted(some, 8)
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


def test_the_tree_estimate_is_alike_in_any_company(monkeypatch: pytest.MonkeyPatch) -> None:
    some = random_posterior(galaxy_tree(), draws=5, subjects=60, rng=np.random.default_rng(3), spread=1.0)
    whole = of_tree(some, 4, np.random.default_rng(1))
    rng = np.random.default_rng(1)
    parts = [of_tree(some.select(rows), 4, rng).value for rows in np.array_split(np.arange(60), 7)]
    np.testing.assert_allclose(np.concatenate(parts), whole.value, atol=1e-5)
    monkeypatch.setattr(information, "CHUNK", 7)
    monkeypatch.setattr(information, "TILE", 1)
    again = of_tree(some, 4, np.random.default_rng(1))
    np.testing.assert_allclose(again.value, whole.value, atol=1e-5)
    np.testing.assert_allclose(again.error, whole.error, atol=1e-5)


def test_walks_follow_the_tree() -> None:
    some = random_posterior(galaxy_tree(), draws=4, subjects=3000, rng=np.random.default_rng(3))
    counts, reached = information.simulate_tree(some, 20, np.random.default_rng(0))
    assert (reached["smooth"] == 20).all()
    assert (reached["bar"] == counts["smooth"][..., 1]).all()
    assert (reached["merging"] == reached["bar"] + counts["smooth"][..., 0]).all()
    assert (reached["rare"] == reached["merging"]).all()
    for slug in ("smooth", "bar", "merging"):
        assert (counts[slug].sum(axis=-1) == reached[slug]).all()
    assert (counts["rare"] <= reached["rare"][..., None]).all()


@pytest.mark.parametrize("family", ["dirichlet-multinomial", "beta-binomial", "multinomial", "binomial"])
def test_walks_have_the_counts_of_their_family(family: str) -> None:
    """Against the closed form of every answer's own counts."""
    shape = {"beta-binomial": (3, 2), "binomial": (3,)}.get(family, (3,))
    values = np.random.default_rng(1).gamma(1.0, size=(2, 1, *shape)) + 0.1
    if family in ("multinomial", "binomial"):
        values = values / values.sum(axis=-1, keepdims=True)
    some = posterior(values.repeat(20_000, axis=1), family)
    counts, _ = information.simulate_tree(some, 6, np.random.default_rng(0))
    seen = (counts["q"][..., None] == np.arange(7)).mean(axis=1)
    np.testing.assert_allclose(seen, some.pmf("q", 6)[:, 0], atol=0.015)


def test_a_question_that_nobody_reaches_and_no_vote_teach_nothing() -> None:
    some = random_posterior(galaxy_tree(), draws=5, subjects=4, rng=np.random.default_rng(3), spread=1.0)
    nobody = some.map(lambda slug, values: np.array([1e9, 1e-9, 1e-9]) + 0 * values if slug == "smooth" else values)
    np.testing.assert_allclose(of_tree(nobody, 5, np.random.default_rng(0), questions=["bar"]).value, 0, atol=1e-6)
    np.testing.assert_array_equal(of_tree(some, 0, np.random.default_rng(0)).value, 0)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_extreme_concentrations_stay_near_the_exact_value(scale: float) -> None:
    """Divided opinion and near-multinomial certainty, in float32."""
    alpha = scale * np.exp(np.random.default_rng(1).normal(0, 0.3, (6, 5, 3)))
    some = posterior(alpha)
    estimate = of_tree(some, 40, np.random.default_rng(2), simulations=3000)
    assert (np.abs(estimate.value - of_question(some, "q", 40)) < 5 * estimate.error + 1e-4).all()


# ---- what answers tell about others ------------------------------------------------------------------------


def _repeated(some: Posterior, times: int) -> Posterior:
    """The same mixture of many draws, of which chance shows next to nothing."""
    weights = None if some.weights is None else np.concatenate([some.weights / times] * times)
    parameters = {slug: np.concatenate([values] * times) for slug, values in some.parameters.items()}
    return replace(some, parameters=parameters, weights=weights)


def _variables(some: Posterior, slug: str) -> list[np.ndarray]:
    """Every random variable of a question: the answer, or of a 'multiple' one whether each answer is given."""
    fractions = some.fractions(slug)
    if some.tree[slug].kind == "single":
        return [fractions]
    return [np.stack([given, 1 - given], axis=-1) for given in np.moveaxis(fractions, -1, 0)]


def _exact_predictions(some: Posterior, targets: Posterior) -> np.ndarray:
    """EPIG by listing both answers, question by question, as often as volunteers get there at either end."""
    weights = np.full((some.draws, len(some)), 1 / some.draws) if some.weights is None else some.weights
    out = np.zeros(len(some))
    for slug in some.tree.slugs:
        here, there = some.average(some.reach()[slug]), targets.average(targets.reach()[slug])
        for mine, theirs in zip(_variables(some, slug), _variables(targets, slug), strict=True):
            joint = np.einsum("ts,tsa,tjb->sjab", weights, mine, theirs)
            apart = joint.sum(axis=3, keepdims=True) * joint.sum(axis=2, keepdims=True)
            out += here * ((joint * np.log(joint / apart)).sum(axis=(2, 3)) * there).mean(axis=1)
    return out


@pytest.mark.parametrize("weighted", [False, True])
def test_predictions_are_epig_to_second_order(weighted: bool) -> None:
    rng = np.random.default_rng(2)
    ratios = []
    for spread in (0.4, 0.1, 0.025):
        some = random_posterior(galaxy_tree(), draws=5, subjects=8, rng=rng, spread=spread)
        targets = random_posterior(galaxy_tree(), draws=5, subjects=6, rng=rng, spread=spread)
        if weighted:
            some = _weighted(some, 1, sharpness=2.0)
        many = aims(_repeated(targets, 80), kept=1.0)
        ratios.append(of_predictions(_repeated(some, 80), many).value / _exact_predictions(some, targets))
    errors = [np.abs(ratio - 1).max() for ratio in ratios]
    assert errors[0] < 0.5
    assert errors[1] < 0.15
    assert errors[2] < 0.05  # chance, of 400 draws, is still a hundredth


def test_predictions_rank_subjects_as_epig_does() -> None:
    p = np.random.default_rng(0).dirichlet(np.full(3, 3.0), (6, 40))
    some, targets = posterior(p[:, :30], "multinomial"), posterior(p[:, 30:], "multinomial")
    found = of_predictions(_repeated(some, 50), aims(_repeated(targets, 50))).value
    assert spearmanr(found, epig(p[:, :30], p[:, 30:])).statistic > 0.95


def test_chance_is_taken_out() -> None:
    """Over all ways to pair the draws of subjects and targets, nothing is left."""
    some = random_posterior(galaxy_tree(), draws=4, subjects=5, rng=np.random.default_rng(0), spread=1.0)
    targets = random_posterior(galaxy_tree(), draws=4, subjects=3, rng=np.random.default_rng(1), spread=1.0)
    found = []
    for order in permutations(range(4)):
        # Who gets to a question is a mean over draws, and the same in any order.
        paired = targets.map(lambda slug, values, order=order: values[list(order)])
        found.append(of_predictions(some, aims(paired, kept=1.0)).value)
    np.testing.assert_allclose(np.mean(found, axis=0), 0, atol=1e-6 * np.abs(found).max() + 1e-7)
    assert (np.abs(found[0]) > 1e-4).any()


@pytest.mark.parametrize("votes", [2, 5, 20])
@pytest.mark.parametrize(("concentration", "least"), [(3.0, 0.6), (20.0, 0.85), (1e6, 0.96)])
def test_many_votes_tell_what_their_mean_does(votes: int, concentration: float, least: float) -> None:
    """Against enumeration: all there is where opinions do not scatter, and no more than there is where they do."""
    rng = np.random.default_rng(3)
    logs = rng.normal(0, 0.7, (1, 6, 3)) + rng.normal(0, 0.02, (4, 1, 3))
    fractions = np.exp(logs) / np.exp(logs).sum(axis=-1, keepdims=True)
    some, target = posterior(concentration * fractions), fractions[:, :1]
    vectors = count_vectors(votes, 3)[:, None]
    pmf = np.exp(some.log_likelihood("q", vectors, np.full(vectors.shape[:2], votes)))  # draw, state, subject
    joint = np.einsum("tks,ta->ska", pmf, target[:, 0]) / 4
    exact = (joint * np.log(joint / (joint.sum(2, keepdims=True) * joint.sum(1, keepdims=True)))).sum(axis=(1, 2))
    many = _repeated(some, 200)
    found = of_predictions(many, aims(many.select([0]), kept=1.0), votes).value
    assert (found < 1.02 * exact).all()
    assert (found > least * exact).all()


def test_more_votes_tell_more_but_not_in_proportion() -> None:
    some = random_posterior(galaxy_tree(), draws=50, subjects=10, rng=np.random.default_rng(3), spread=0.3)
    sought = aims(some)
    one, ten, many = (of_predictions(some, sought, votes).value for votes in (1, 10, 1000))
    told = one > 0
    assert told.any()
    assert ((one < ten) & (ten < many) & (ten < 10 * one))[told].all()


def test_predictions_count_the_answers_of_the_whole_walk() -> None:
    some = _weighted(random_posterior(galaxy_tree(), draws=6, subjects=9, rng=np.random.default_rng(3)), 1)
    found = of_predictions(some, aims(some, ["bar"]), votes=3)
    np.testing.assert_allclose(found.answers, sum(some.expected_votes(3).values()), rtol=1e-5)
    by_question = [of_predictions(some, aims(some, [slug])).value for slug in some.tree.slugs]
    np.testing.assert_allclose(sum(by_question), of_predictions(some, aims(some)).value, rtol=1e-4, atol=1e-8)


def test_where_draws_agree_or_nobody_comes_or_one_draw_is_left_predictions_gain_nothing() -> None:
    some = random_posterior(galaxy_tree(), draws=5, subjects=4, rng=np.random.default_rng(3), spread=1.0)
    agreeing = some.map(lambda slug, values: values[:1].repeat(5, axis=0))
    certain = replace(some, weights=np.eye(5)[:, :4])
    nobody = some.map(lambda slug, values: np.array([1e9, 1e-9, 1e-9]) + 0 * values if slug == "smooth" else values)
    np.testing.assert_allclose(of_predictions(agreeing, aims(some)).value, 0, atol=1e-9)
    np.testing.assert_allclose(of_predictions(some, aims(agreeing)).value, 0, atol=1e-9)
    np.testing.assert_allclose(of_predictions(certain, aims(some)).value, 0, atol=1e-9)
    np.testing.assert_allclose(of_predictions(nobody, aims(some, ["bar"])).value, 0, atol=1e-9)
    np.testing.assert_allclose(of_predictions(some, aims(nobody, ["bar"])).value, 0, atol=1e-9)


def test_predictions_are_alike_in_any_company(monkeypatch: pytest.MonkeyPatch) -> None:
    some = _weighted(random_posterior(galaxy_tree(), draws=20, subjects=60, rng=np.random.default_rng(3)), 1)
    whole = of_predictions(some, aims(some, kept=1.0), 3).value
    monkeypatch.setattr(information, "WIDE", 1)
    again = of_predictions(some, aims(some, kept=1.0), 3).value
    np.testing.assert_allclose(again, whole, rtol=1e-3, atol=1e-7)


def test_targets_of_other_draws_or_questions_are_refused() -> None:
    some = random_posterior(galaxy_tree(), draws=5, subjects=4, rng=np.random.default_rng(3))
    fewer = some.map(lambda slug, values: values[:4])
    with pytest.raises(GreenpeaError, match="has 5 draws, the targets 4: give both the same"):
        of_predictions(some, aims(fewer))
    with pytest.raises(GreenpeaError, match="on the tree 'small', the posterior is on 'one'"):
        of_predictions(posterior(np.ones((5, 2, 3))), aims(some))

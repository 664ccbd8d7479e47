"""Acquisition: reference tensors, brute force, and batches that hold the best single pick."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenpea import acquisition
from greenpea.acquisition import bald, batch_bald, epig, gumbel_order, information, prediction, top
from greenpea.errors import GreenpeaError
from greenpea.information import aims, of_predictions, of_question, of_tree
from hands import galaxy_tree, posterior, random_posterior

SCORES = np.array([0.05, 0.4, 0.1, 0.0, 0.25, 0.6, 0.2])


def _reference() -> np.ndarray:
    """Four subjects, twenty draws, four classes (REFERENCE §2)."""
    ends = [
        ([0.7, 0.1, 0.1, 0.1], [0.3, 0.3, 0.2, 0.2]),
        ([0.1, 0.7, 0.1, 0.1], [0.2, 0.3, 0.3, 0.2]),
        ([0.1, 0.1, 0.7, 0.1], [0.2, 0.2, 0.3, 0.3]),
        ([0.1, 0.1, 0.1, 0.7], [0.3, 0.2, 0.2, 0.3]),
    ]
    m = np.linspace(0, 1, 20)[:, None]
    return np.stack([np.array(a) * (1 - m) + np.array(b) * m for a, b in ends], axis=1)


def _tensor(seed: int, draws: int, subjects: int, classes: int, sharpness: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(classes, sharpness), (draws, subjects))


def _entropy(p: np.ndarray) -> float:
    return float(-(p[p > 0] * np.log(p[p > 0])).sum())


def _joint_information(p: np.ndarray) -> float:
    """I(y_1…y_n; weights) by listing every joint answer under every draw."""
    _, subjects, classes = p.shape
    answers = product(range(classes), repeat=subjects)
    joint = np.stack([np.prod([p[:, i, y] for i, y in enumerate(answer)], axis=0) for answer in answers], axis=1)
    return _entropy(joint.mean(axis=0)) - float(np.mean([_entropy(row) for row in joint]))


# ---- class tensors -----------------------------------------------------------------------------------


def test_reference_tensors() -> None:
    p = _reference()
    np.testing.assert_allclose(bald(p), 0.030715639666, atol=1e-12)
    batch = batch_bald(p, 4, np.random.default_rng(0))
    np.testing.assert_allclose(batch.information, [0.0307156, 0.0596196, 0.0869107, 0.1127530], atol=5e-8)
    assert sorted(batch.rows) == [0, 1, 2, 3]
    assert epig(p, p[:, :2]).mean() == pytest.approx(0.00181169, abs=5e-9)


def test_bald_is_the_information_of_one_vote() -> None:
    p = _tensor(0, 8, 50, 3)
    np.testing.assert_allclose(bald(p), of_question(posterior(p, "multinomial"), "q", 1), atol=1e-12)
    np.testing.assert_allclose(bald(p.astype(np.float32)), bald(p), atol=1e-6)


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 9), st.integers(2, 4), st.sampled_from([0.05, 1, 50]))
def test_bald_lies_between_0_and_ln_draws(seed: int, draws: int, subjects: int, classes: int, sharp: float) -> None:
    values = bald(_tensor(seed, draws, subjects, classes, sharp))
    assert (values >= 0).all()
    assert (values <= np.log(draws) + 1e-12).all()


@given(
    seed=st.integers(0, 10_000),
    draws=st.integers(1, 6),
    batch=st.integers(1, 8),
    states=st.sampled_from([1, 7, 4096]),
    sharp=st.sampled_from([0.05, 1, 50]),
)
def test_a_batch_holds_the_best_single_pick(seed: int, draws: int, batch: int, states: int, sharp: float) -> None:
    p = _tensor(seed, draws, 6, 3, sharp)
    chosen = batch_bald(p, batch, np.random.default_rng(seed), states)
    single = bald(p)
    assert single[chosen.rows[0]] == pytest.approx(single.max(), abs=1e-12)
    assert len(set(chosen.rows)) == len(chosen.rows) == min(batch, 6)
    assert (np.diff(chosen.information, prepend=0) >= 0).all()
    assert (chosen.information <= np.log(draws) + 1e-12).all()


@given(seed=st.integers(0, 10_000), classes=st.integers(2, 3))
def test_batches_are_greedy_on_the_exact_joint_information(seed: int, classes: int) -> None:
    p = _tensor(seed, 5, 5, classes)
    chosen = batch_bald(p, 3, np.random.default_rng(0))
    for size in (1, 2, 3):
        before, now = list(chosen.rows[: size - 1]), chosen.information[size - 1]
        assert now == pytest.approx(_joint_information(p[:, chosen.rows[:size]]), abs=1e-10)
        others = [row for row in range(5) if row not in before]
        assert now == pytest.approx(max(_joint_information(p[:, [*before, row]]) for row in others), abs=1e-10)


def test_simulated_joint_answers_agree_with_the_enumerated() -> None:
    p = _tensor(3, 20, 10, 2)
    exact = batch_bald(p, 10, np.random.default_rng(0), states=2**10).information
    for seed in range(5):
        simulated = batch_bald(p, 10, np.random.default_rng(seed), states=256)
        truth = [_joint_information(p[:, simulated.rows[:size]]) for size in range(1, 11)]
        # The spread of KL(w ‖ 1/T) over joint answers, at most ln T / 2, by √256 simulations
        np.testing.assert_allclose(simulated.information, truth, atol=0.06)
        np.testing.assert_allclose(simulated.information, exact, atol=0.06)


def test_gains_diminish_beyond_what_can_be_enumerated() -> None:
    """Joint information is submodular: along a greedy batch, each gain is at most the one before."""
    gains = np.diff(batch_bald(_tensor(0, 30, 200, 3), 16, np.random.default_rng(0), states=1024).information)
    assert (np.diff(gains) <= 0.02).all()


def test_a_batch_does_not_repeat_itself() -> None:
    """Two copies of the subject in doubt: the second teaches less than another, lesser one."""
    doubt = np.array([[0.95, 0.05], [0.05, 0.95], [0.95, 0.05], [0.05, 0.95]])
    other = np.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.1, 0.9]])
    p = np.stack([doubt, doubt, other], axis=1)
    assert list(np.argsort(-bald(p), kind="stable")[:2]) == [0, 1]
    assert list(batch_bald(p, 2, np.random.default_rng(0)).rows) == [0, 2]


@given(seed=st.integers(0, 10_000), draws=st.integers(1, 6), classes=st.integers(2, 4))
def test_epig_is_the_mean_mutual_information_of_pairs(seed: int, draws: int, classes: int) -> None:
    pool, target = _tensor(seed, draws, 4, classes), _tensor(seed + 1, draws, 3, 2)
    expected = np.zeros((4, 3))
    for i, j in np.ndindex(4, 3):
        joint = np.einsum("tc,tk->ck", pool[:, i], target[:, j]) / draws
        apart = np.outer(joint.sum(axis=1), joint.sum(axis=0))
        expected[i, j] = (joint * np.log(joint / apart)).sum()
    np.testing.assert_allclose(epig(pool, target), expected.mean(axis=1), atol=1e-12)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    p = _tensor(5, 6, 40, 3)
    before = bald(p), epig(p, p[:, :7]), batch_bald(p, 6, np.random.default_rng(1)).information
    monkeypatch.setattr(acquisition, "BLOCK", 1)
    after = bald(p), epig(p, p[:, :7]), batch_bald(p, 6, np.random.default_rng(1)).information
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


# ---- from scores to a batch ------------------------------------------------------------------------------


def _drawn(coldness: float, keep: int, times: int = 20_000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether each was among the first, the probability given for it, and which was first."""
    rng = np.random.default_rng(0)
    inside, probability = np.zeros((times, len(SCORES)), bool), np.zeros((times, len(SCORES)))
    first = np.zeros(times, int)
    for i in range(times):
        order, chance = gumbel_order(SCORES, rng, keep=keep, coldness=coldness)
        inside[i, order[:keep]] = True
        probability[i, order] = chance
        first[i] = order[0]
    return inside, probability, first


@pytest.mark.parametrize("coldness", [0.5, 1.0, 2.0])
def test_the_first_is_drawn_by_its_power(coldness: float) -> None:
    _, _, first = _drawn(coldness, 1)
    expected = SCORES**coldness / (SCORES**coldness).sum()
    np.testing.assert_allclose(np.bincount(first, minlength=len(SCORES)) / len(first), expected, atol=0.015)


@pytest.mark.parametrize("keep", [1, 3, 6])
def test_inclusion_probabilities_are_those_of_brute_force(keep: int) -> None:
    inside, probability, _ = _drawn(1.0, keep)
    # Given the luck of the others, so right on average …
    np.testing.assert_allclose(probability.mean(axis=0), inside.mean(axis=0), atol=0.015)
    # … and their inverse counts the pool without bias, each subject for itself (Kool+2019, theorem 1).
    counted = np.divide(inside, probability, out=np.zeros_like(probability), where=inside)
    some = SCORES > 0
    spread = counted.std(axis=0) / np.sqrt(len(counted))
    assert (np.abs(counted.mean(axis=0) - 1)[some] < 5 * spread[some] + 1e-9).all()


def test_a_score_of_0_comes_last_and_infinite_coldness_is_the_plain_order() -> None:
    rng = np.random.default_rng(0)
    assert all(gumbel_order(SCORES, rng, keep=3).order[-1] == 3 for _ in range(100))
    order, probability = gumbel_order(SCORES, rng, keep=3, coldness=math.inf)
    np.testing.assert_array_equal(order, np.argsort(-SCORES))
    np.testing.assert_array_equal(probability, [1, 1, 1, 0, 0, 0, 0])


def test_keeping_all_is_certain_and_keeping_of_nothing_is_nothing() -> None:
    rng = np.random.default_rng(0)
    assert (gumbel_order(SCORES, rng, keep=7).probability == 1).all()
    assert (gumbel_order(np.zeros(4), rng, keep=9).probability == 1).all()
    assert len(gumbel_order(np.zeros(0), rng, keep=3).order) == 0
    nothing = top([], 3, rng)
    assert (len(nothing.ids), nothing.pool) == (0, 0)


def test_scores_of_zero_alone_are_drawn_evenly() -> None:
    rng = np.random.default_rng(0)
    first = [gumbel_order(np.zeros(4), rng, keep=2).order[0] for _ in range(4000)]
    np.testing.assert_allclose(np.bincount(first) / 4000, 0.25, atol=0.03)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.1])
def test_scores_that_cannot_be_are_refused(bad: float) -> None:
    with pytest.raises(GreenpeaError, match=r"1 of 3 scores .* subject 1"):
        gumbel_order(np.array([0.1, bad, 0.3]), np.random.default_rng(0), keep=1)


@given(
    seed=st.integers(0, 10_000),
    size=st.integers(0, 60),
    keep=st.integers(1, 70),
    block=st.integers(1, 61),
    coldness=st.sampled_from([0.0, 1.0, math.inf]),
)
def test_a_streamed_pool_gives_what_one_in_memory_does(
    seed: int, size: int, keep: int, block: int, coldness: float
) -> None:
    scores = np.round(np.random.default_rng(seed).random(size), 1)  # with ties
    ids = np.array([f"s{i}" for i in range(size)], dtype=object)
    blocks = ((ids[i : i + block], scores[i : i + block]) for i in range(0, size, block))
    streamed = top(blocks, keep, np.random.default_rng(1), coldness)
    order, probability = gumbel_order(scores, np.random.default_rng(1), keep=keep, coldness=coldness)
    assert list(streamed.ids) == list(ids[order[:keep]])
    np.testing.assert_array_equal(streamed.score, scores[order[:keep]])
    np.testing.assert_allclose(streamed.probability, probability[:keep], rtol=1e-12)
    assert streamed.pool == size


# ---- posteriors ----------------------------------------------------------------------------------------


def test_information_is_that_of_the_tree() -> None:
    some = random_posterior(galaxy_tree(), draws=6, subjects=20, rng=np.random.default_rng(1))
    score = information(votes=3, per_answer=False)(some, np.random.default_rng(2))
    np.testing.assert_array_equal(score, of_tree(some, 3, np.random.default_rng(2)).value)


def test_per_answer_divides_by_the_answers_that_are_given() -> None:
    """A volunteer gives one answer at 'smooth' and 'rare' each time they come there, and passes 'bar' at times."""
    some = random_posterior(galaxy_tree(), draws=6, subjects=20, rng=np.random.default_rng(1))
    whole = information(votes=3, per_answer=False)(some, np.random.default_rng(2))
    each = information(votes=3)(some, np.random.default_rng(2))
    f = some.fractions("smooth")
    # yes → merging → rare: 3 answers; no → bar → merging → rare: 4; artifact: 1
    answers = 3 * (3 * f[..., 0] + 4 * f[..., 1] + f[..., 2]).mean(axis=0)
    np.testing.assert_allclose(whole / each, answers)


def test_asking_for_a_rare_question_finds_the_subjects_that_get_there() -> None:
    """Subjects differ only in who reaches 'bar', where the draws disagree."""
    some = random_posterior(galaxy_tree(), draws=10, subjects=3, rng=np.random.default_rng(3), spread=0.0)
    parameters = {slug: np.repeat(values[:, :1], 3, axis=1) for slug, values in some.parameters.items()}
    parameters["smooth"] = np.broadcast_to(
        1000 * np.array([[0.98, 0.01, 0.01], [0.5, 0.49, 0.01], [0.01, 0.98, 0.01]]), (10, 3, 3)
    )
    doubt = np.linspace(0.05, 0.95, 10)
    parameters["bar"] = 20 * np.stack([doubt, 1 - doubt], axis=-1)[:, None].repeat(3, axis=1)
    some = some.map(lambda slug, _: parameters[slug])
    bar = information(votes=5, questions=["bar"], per_answer=False)(some, np.random.default_rng(0))
    assert list(np.argsort(-bar)) == [2, 1, 0]
    smooth = information(votes=5, questions=["smooth"], per_answer=False)(some, np.random.default_rng(0))
    np.testing.assert_allclose(smooth, 0, atol=1e-4)  # there they all agree


def test_prediction_asks_for_what_the_targets_need() -> None:
    """Two kinds of subjects, whose answers hang on weights of their own: those like the targets are asked first."""
    rng = np.random.default_rng(0)
    mine, other = rng.normal(0, 0.5, (2, 60, 1))
    logits = np.concatenate([np.repeat(mine, 10, axis=1), np.repeat(2 * other, 10, axis=1)], axis=1)
    p = 1 / (1 + np.exp(-logits))
    some = posterior(np.stack([p, 1 - p], axis=-1), "multinomial")
    towards = prediction(some.select([0, 1]))(some, rng)
    about_weights = information(votes=1)(some, rng)
    assert towards[:10].min() > 5 * towards[10:].max()
    assert about_weights[10:].min() > about_weights[:10].max()


def test_prediction_is_what_answers_tell_per_answer_and_never_negative() -> None:
    some = random_posterior(galaxy_tree(), draws=12, subjects=40, rng=np.random.default_rng(1))
    rng = np.random.default_rng(2)
    found = of_predictions(some, aims(some.select([0, 1]), ["bar", "rare"]), 3)
    whole = prediction(some.select([0, 1]), votes=3, questions=["bar", "rare"], per_answer=False)(some, rng)
    each = prediction(some.select([0, 1]), votes=3, questions=["bar", "rare"])(some, rng)
    assert (found.value < 0).any()
    assert (whole >= 0).all()
    np.testing.assert_array_equal(whole, np.maximum(found.value, 0))
    np.testing.assert_array_equal(each, whole / found.answers)


@pytest.mark.parametrize("weighted", [False, True])
def test_subjects_of_fewer_draws_have_the_first_of_the_targets(weighted: bool) -> None:
    some = random_posterior(galaxy_tree(), draws=12, subjects=8, rng=np.random.default_rng(1))
    if weighted:
        some = replace(some, weights=np.random.default_rng(0).dirichlet(np.ones(12), 8).T)
    parameters = {slug: values[:5] for slug, values in some.parameters.items()}
    weights = None if some.weights is None else some.weights[:5] / some.weights[:5].sum(axis=0)
    few = replace(some, parameters=parameters, weights=weights)
    rng = np.random.default_rng(2)
    np.testing.assert_allclose(prediction(some)(few, rng), prediction(few)(few, rng), rtol=1e-4)
    with pytest.raises(GreenpeaError, match=r"subjects of 12 draws .* the targets have 5"):
        prediction(few)(some, rng)


def test_prediction_refuses_what_it_cannot_aim_at() -> None:
    some = random_posterior(galaxy_tree(), draws=2, subjects=2, rng=np.random.default_rng(3))
    with pytest.raises(GreenpeaError, match="at least one vote and one target, not 0 and 2"):
        prediction(some, votes=0)
    with pytest.raises(GreenpeaError, match="at least one vote and one target, not 1 and 0"):
        prediction(some.select(np.array([], int)))
    with pytest.raises(GreenpeaError, match=r"has no question 'bars' \(did you mean 'bar'"):
        prediction(some, questions=["bars"])
    with pytest.raises(GreenpeaError, match="name at least one"):
        prediction(some, questions=[])


def test_a_question_that_is_not_there_and_no_vote_are_refused() -> None:
    some = random_posterior(galaxy_tree(), draws=2, subjects=2, rng=np.random.default_rng(3))
    with pytest.raises(GreenpeaError, match=r"has no question 'bars' \(did you mean 'bar'"):
        information(questions=["bars"])(some, np.random.default_rng(0))
    with pytest.raises(GreenpeaError, match="name at least one"):
        information(questions=[])(some, np.random.default_rng(0))
    with pytest.raises(GreenpeaError, match="at least one vote"):
        information(votes=0)


def test_the_control_knows_nothing() -> None:
    some = random_posterior(galaxy_tree(), draws=2, subjects=5000, rng=np.random.default_rng(3))
    scores = acquisition.random()(some, np.random.default_rng(0))
    assert scores.shape == (5000,)
    assert abs(np.corrcoef(scores, some.mean("smooth")[:, 0])[0, 1]) < 0.05


def test_the_documents_examples_run() -> None:
    text = (Path(__file__).parent.parent / "docs" / "acquisition.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(examples) >= 4
    exec(compile("\n".join(examples), "docs/acquisition.md", "exec"), {})

"""Cross-fitted heads: fast, honest, and the same every time. On embeddings whose linear truth is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from greenpea import information
from greenpea.calibration import Recalibration, constant, evaluate, recalibrate
from greenpea.errors import GreenpeaError
from greenpea.heads import Heads, half_of
from greenpea.learning import crossfit, fitting, heads
from greenpea.learning.crossfit import climb, cross_fit
from greenpea.learning.settings import Learning
from greenpea.outputs import Layout
from greenpea.posterior import Posterior
from greenpea.tree import DecisionTree
from greenpea.votes import Votes
from hands import galaxy_tree, one_question

SETTINGS = Learning(draws=12)
EMBEDDING = 6


def subjects(count: int, seed: int = 0) -> np.ndarray:
    """Embeddings that are neither centred nor of one scale."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, EMBEDDING)) * np.geomspace(0.2, 5, EMBEDDING) + 3).astype(np.float32)


def shares(embeddings: np.ndarray) -> np.ndarray:
    """The truth: how many would say the first of two answers, by a logit linear in the embedding."""
    inputs = (embeddings - 3) / np.geomspace(0.2, 5, EMBEDDING)
    return 1 / (1 + np.exp(-(inputs @ np.array([1.0, -1.0, 0.5, 0.0, 0.0, 0.3]) - 0.3)))


def cast(embeddings: np.ndarray, n: int = 10, seed: int = 0) -> Votes:
    yes = np.random.default_rng(seed).binomial(n, shares(embeddings))
    ids = np.array([f"s{seed}-{i}" for i in range(len(yes))], dtype=object)
    return Votes(one_question(2), ids, {"q": np.stack([yes, n - yes], 1)}, {"q": np.full(len(yes), n)})


def on_the_galaxy_tree(count: int, seed: int = 0) -> tuple[np.ndarray, Votes]:
    """Embeddings, and random votes on a tree with single and multiple questions, some of them unasked."""
    rng = np.random.default_rng(seed)
    tree = galaxy_tree()
    votes = Votes.empty(tree, [f"g{i}" for i in range(count)])
    for question in tree.questions:
        asked = rng.integers(0, 8, count)
        votes.reached[question.slug][:] = asked
        if question.kind == "single":
            votes.counts[question.slug][:] = rng.multinomial(
                asked, np.ones(len(question.answers)) / len(question.answers)
            )
        else:
            votes.counts[question.slug][:] = rng.binomial(asked[:, None], 0.3, (count, len(question.answers)))
    return subjects(count, seed), votes


@pytest.fixture(scope="module")
def fitted() -> tuple[np.ndarray, Votes, Heads]:
    embeddings = subjects(400)
    votes = cast(embeddings)
    return embeddings, votes, cross_fit(embeddings, votes, SETTINGS, reserve=20, encoder="e")


# ---- the objective -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dirichlet-multinomial", "multinomial"])
def test_the_written_out_slope_is_that_of_the_likelihood(kind: str) -> None:
    embeddings, votes = on_the_galaxy_tree(30)
    layout = Layout(votes.tree, kind)  # type: ignore[arg-type]
    targets = heads.Targets(layout)
    packed, inputs = targets.pack(votes).double(), fitting.with_bias(torch.from_numpy(embeddings))
    objective = fitting.Objective(layout, torch.from_numpy(embeddings), packed)
    generator = torch.Generator().manual_seed(0)
    values = []
    for _ in range(2):
        head = 0.3 * torch.randn(EMBEDDING + 1, layout.outputs, generator=generator, dtype=torch.float64)
        head.requires_grad_()
        expected = -sum(value.sum() for value in targets.log_likelihood(inputs @ head, packed).values())
        (slope,) = torch.autograd.grad(expected, head)
        value, ours = objective.value_and_slope(head.detach())
        torch.testing.assert_close(ours, slope, atol=1e-8, rtol=1e-8)
        assert objective.value(head.detach()) == value
        values.append(value - float(expected.detach()))
    assert values[0] == pytest.approx(values[1], abs=1e-6)  # they differ by the combinatorial terms alone


def test_rises_are_differences_of_ln_gamma_whatever_their_size() -> None:
    from scipy.special import digamma, gammaln

    k = np.array([1.0, 1, 3, 40, 200, 1])
    x = np.array([0.5, 1e-26, 7.0, 1.2e6, 1e6, 0.01])
    log, slope = fitting.Rises(torch.from_numpy(k))(torch.from_numpy(x))
    assert log == pytest.approx((gammaln(x + k) - gammaln(x)).sum(), rel=1e-9)
    np.testing.assert_allclose(slope, digamma(x + k) - digamma(x), rtol=1e-6)


def test_the_fit_ends_at_the_same_head_wherever_it_begins() -> None:
    embeddings, votes = on_the_galaxy_tree(200)
    layout = Layout(votes.tree)
    objective = fitting.Objective(layout, torch.from_numpy(embeddings - 3), heads.Targets(layout).pack(votes))
    anchor = heads.anchor(layout, votes, EMBEDDING).double()
    there = anchor + 0.3 * torch.randn(anchor.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    stiff = fitting.stiffness(len(anchor), 10.0)
    ends = []
    for start in (None, there):
        head = fitting.most_probable(objective, anchor, 10.0, start)
        ends.append(objective.value(head) + 0.5 * float((stiff * (head - anchor) ** 2).sum()))
    assert ends[0] == pytest.approx(ends[1], abs=0.05)


def test_climb_finds_the_top_of_a_hill_from_either_side() -> None:
    values = (1.0, 10.0, 100.0, 1000.0, 10000.0)
    for top in values:
        for first in values:
            assert climb(values, first, lambda value, top=top: -abs(np.log(value / top))) == top  # type: ignore[misc]


# ---- heads -------------------------------------------------------------------------------------------


def test_heads_recover_a_linear_truth_and_are_calibrated(fitted: tuple[np.ndarray, Votes, Heads]) -> None:
    _, _, found = fitted
    others = subjects(500, 7)
    votes = cast(others, seed=7)
    posterior = found.posterior(others, votes.subject_ids)
    assert np.abs(posterior.mean("q")[:, 0] - shares(others)).mean() < 0.04
    judged = evaluate(posterior, votes, constant(votes, votes.subject_ids), np.random.default_rng(0)).overall
    assert judged.excess.value < 0.5 * judged.constant_excess
    assert judged.coverage["90"] == pytest.approx(0.9, abs=0.05)


def test_no_head_sees_the_votes_of_the_subjects_it_speaks_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """With prior, width and recalibration fixed, a subject's own posterior does not depend on its votes by a bit."""
    monkeypatch.setattr(crossfit, "PRECISIONS", (10.0,))
    monkeypatch.setattr(crossfit, "WIDTHS", (1.0,))
    settings = SETTINGS.model_copy(update={"recalibrate": False})
    embeddings = subjects(120)
    votes = cast(embeddings)
    other = Votes(votes.tree, votes.subject_ids, {"q": votes.counts["q"].copy()}, votes.reached)
    changed = 17
    other.counts["q"][changed] = other.counts["q"][changed, ::-1]
    first = cross_fit(embeddings, votes, settings, reserve=0)
    before, after = (
        cross_fit(embeddings, some, settings, reserve=0, start=first).posterior(embeddings, votes.subject_ids)
        for some in (votes, other)
    )
    same = first.fold_of(votes.subject_ids) == first.fold_of(votes.subject_ids)[changed]
    np.testing.assert_array_equal(before.parameters["q"][:, same], after.parameters["q"][:, same])
    assert (before.parameters["q"][:, ~same] != after.parameters["q"][:, ~same]).any()


@pytest.mark.parametrize(("fewest", "judged"), [(10_000, "all"), (1, "chance")])
def test_those_whom_nobody_chose_judge_alone_where_they_have_votes_enough(
    fewest: int, judged: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    embeddings, seen = subjects(120), []
    votes = cast(embeddings)
    by_chance = np.arange(120) % 3 == 0

    def watched(posterior: Posterior, some: Votes) -> Recalibration:
        seen.append(set(some.subject_ids))
        return recalibrate(posterior, some)

    monkeypatch.setattr(crossfit, "recalibrate", watched)
    monkeypatch.setattr(crossfit, "FEWEST_JUDGING", fewest)
    cross_fit(embeddings, votes, SETTINGS, by_chance=by_chance)
    assert seen == [set(votes.subject_ids[by_chance] if judged == "chance" else votes.subject_ids)]


def test_a_question_that_few_of_them_reach_is_judged_by_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    _, votes = on_the_galaxy_tree(200)
    by_chance = np.arange(200) % 4 == 0
    rare, *others = reversed(votes.tree.slugs)
    votes.reached[rare][by_chance] = 0
    votes.counts[rare][by_chance] = 0
    monkeypatch.setattr(crossfit, "FEWEST_JUDGING", 100)
    rows, judging = crossfit._judging(votes, by_chance)
    assert judging.reached[rare].sum() == votes.reached[rare].sum()
    for slug in others:
        assert judging.reached[slug].sum() == votes.reached[slug][by_chance].sum() >= 100
    assert list(judging.subject_ids) == list(votes.subject_ids[rows])


def test_in_halves_a_head_sees_neither_its_own_fold_nor_the_other_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Votes and embeddings of a fold and of the other half are turned round, and its head does not change by a bit."""
    monkeypatch.setattr(crossfit, "PRECISIONS", (10.0,))
    monkeypatch.setattr(crossfit, "WIDTHS", (1.0,))
    monkeypatch.setattr(crossfit, "CHANCE", -np.inf)  # all heads together would choose the prior anew
    settings = SETTINGS.model_copy(update={"recalibrate": False})
    embeddings = subjects(160)
    votes = cast(embeddings)
    first = cross_fit(embeddings, votes, settings, folds=6, halves=True, reserve=0)
    fold = first.fold_of(votes.subject_ids)
    np.testing.assert_array_equal(fold % 2, half_of(votes.subject_ids))
    for number in (0, 3):
        unseen = (fold == number) | (fold % 2 != number % 2)
        turned = Votes(votes.tree, votes.subject_ids, {"q": votes.counts["q"].copy()}, votes.reached)
        turned.counts["q"][unseen] = turned.counts["q"][unseen, ::-1]
        other = cross_fit(embeddings, turned, settings, folds=6, halves=True, reserve=0)
        np.testing.assert_array_equal(other.weights[number], first.weights[number])
        assert (other.means != first.means).any()


def test_halves_may_lie_anywhere_in_space(tmp_path: Path) -> None:
    """One half's embeddings are scaled and moved: its heads learn as well, and nobody is far from its own half."""
    embeddings = subjects(400)
    votes = cast(embeddings)
    odd = half_of(votes.subject_ids) == 1
    moved = np.where(odd[:, None], 7 * embeddings[:, ::-1] - 40, embeddings).astype(np.float32)
    found = cross_fit(moved, votes, SETTINGS, folds=6, halves=True, reserve=0)
    posterior = found.posterior(moved, votes.subject_ids)
    error = np.abs(posterior.mean("q")[:, 0] - shares(embeddings))
    assert error[odd].mean() < 0.06
    assert error[~odd].mean() < 0.06
    assert posterior.distance is not None
    assert np.median(posterior.distance[odd]) == pytest.approx(1, abs=0.15)
    assert np.median(posterior.distance[~odd]) == pytest.approx(1, abs=0.15)
    again = Heads.load(found.save(tmp_path / "heads"))
    assert again.fingerprint == found.fingerprint
    np.testing.assert_array_equal(again.posterior(moved, votes.subject_ids).distance, posterior.distance)
    with pytest.raises(GreenpeaError, match="5 folds cannot be halved"):
        cross_fit(moved, votes, SETTINGS, folds=5, halves=True)
    few = np.flatnonzero(~odd | (np.cumsum(odd) <= 4))
    with pytest.raises(GreenpeaError, match="4 subjects of one half have votes"):
        cross_fit(moved[few], votes.select(few), SETTINGS, folds=6, halves=True)


def test_doubt_falls_as_votes_grow() -> None:
    asked = subjects(200, 9)
    ids = np.array([f"n{i}" for i in range(200)], dtype=object)
    doubt = []
    for count in (40, 400, 4000):
        embeddings = subjects(count)
        posterior = cross_fit(embeddings, cast(embeddings), SETTINGS, reserve=0).posterior(asked, ids)
        doubt.append(information.of_tree(posterior, 5, np.random.default_rng(0)).value.mean())
    assert doubt[0] > 2 * doubt[1] > 4 * doubt[2]


def test_the_same_arguments_give_the_same_bits_whatever_the_threads() -> None:
    embeddings, votes = on_the_galaxy_tree(150)
    one, two = (cross_fit(embeddings, votes, SETTINGS, reserve=3, threads=threads) for threads in (1, 2))
    assert one.fingerprint == two.fingerprint
    other = cross_fit(embeddings, votes, SETTINGS.model_copy(update={"seed": 1}), reserve=3)
    assert other.fingerprint != one.fingerprint
    np.testing.assert_array_equal(other.means, one.means)


def test_a_draw_is_nearly_the_same_head_in_every_fold(fitted: tuple[np.ndarray, Votes, Heads]) -> None:
    """Else what a draw says of two subjects in different folds would not hang together."""
    _, _, found = fitted
    apart = found.weights - found.means[:, None]
    flat = apart.reshape(found.folds, -1)
    assert np.corrcoef(flat)[0, 1:].min() > 0.9


def test_what_a_batch_says_does_not_depend_on_the_batch(fitted: tuple[np.ndarray, Votes, Heads]) -> None:
    embeddings, votes, found = fitted
    whole = found.posterior(embeddings, votes.subject_ids, draws=32)
    for rows in (slice(0, 1), slice(3, 90), slice(100, 400)):
        part = found.posterior(embeddings[rows], votes.subject_ids[rows], draws=32)
        np.testing.assert_array_equal(part.parameters["q"], whole.parameters["q"][:, rows])
        np.testing.assert_array_equal(part.distance, whole.distance[rows])  # type: ignore[index]
    few = found.posterior(embeddings, votes.subject_ids)
    np.testing.assert_array_equal(few.parameters["q"], whole.parameters["q"][:12])


def test_an_earlier_round_makes_no_difference_to_speak_of(fitted: tuple[np.ndarray, Votes, Heads]) -> None:
    embeddings, votes, found = fitted
    more = cast(embeddings, 11)
    warm, cold = (cross_fit(embeddings, more, SETTINGS, encoder="e", start=start) for start in (found, None))
    ours, theirs = (one.posterior(embeddings, votes.subject_ids).mean("q") for one in (warm, cold))
    np.testing.assert_allclose(ours, theirs, atol=0.01)
    np.testing.assert_array_equal(  # heads on another encoder are not looked at
        cross_fit(embeddings, more, SETTINGS, encoder="other", start=found).means,
        cross_fit(embeddings, more, SETTINGS, encoder="other").means,
    )


@pytest.mark.parametrize("kind", ["dirichlet-multinomial", "multinomial"])
def test_ten_subjects_suffice_and_unanswered_questions_keep_the_constant(kind: str) -> None:
    embeddings, votes = on_the_galaxy_tree(10)
    votes.counts["bar"][:], votes.reached["bar"][:] = 0, 0
    settings = SETTINGS.model_copy(update={"likelihood": kind})
    found = cross_fit(embeddings, votes, settings)
    part = found.layout.slices["bar"]
    assert np.abs(found.means[:, :-1, part]).max() < 1e-6
    posterior = found.posterior(embeddings, votes.subject_ids)
    for slug in votes.tree.slugs:
        assert np.isfinite(posterior.parameters[slug]).all()
    assert np.isfinite(information.of_tree(posterior, 5, np.random.default_rng(0)).value).all()


def test_what_cannot_be_fitted_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings = subjects(30)
    votes = cast(embeddings)
    few = Votes(votes.tree, votes.subject_ids, {"q": votes.counts["q"].copy()}, {"q": votes.reached["q"].copy()})
    few.counts["q"][9:], few.reached["q"][9:] = 0, 0
    with pytest.raises(GreenpeaError, match="9 subjects have votes and at least 10 are needed"):
        cross_fit(embeddings, few, SETTINGS)
    with pytest.raises(GreenpeaError, match="29 embeddings for the votes of 30 subjects"):
        cross_fit(embeddings[1:], votes, SETTINGS)
    broken = embeddings.copy()
    broken[4, 2] = np.nan
    with pytest.raises(GreenpeaError, match="of 1 subjects are not finite, the first of 's0-4'"):
        cross_fit(broken, votes, SETTINGS)
    monkeypatch.setattr(fitting.Objective, "value_and_slope", lambda self, head: (float("nan"), head * float("nan")))
    with pytest.raises(GreenpeaError, match="the fit of the head diverged"):
        cross_fit(embeddings, votes, SETTINGS)


def test_the_whole_galaxy_zoo_tree() -> None:
    tree = DecisionTree.load("gz-decals-5")
    rng = np.random.default_rng(0)
    votes = Votes.empty(tree, [f"g{i}" for i in range(60)])
    for question in tree.questions:
        votes.reached[question.slug][:30] = 6
        votes.counts[question.slug][:30] = (
            rng.multinomial(6, rng.dirichlet(np.ones(len(question.answers))), 30)
            if question.kind == "single"
            else rng.binomial(6, 0.2, (30, len(question.answers)))
        )
    embeddings = subjects(60)
    found = cross_fit(embeddings, votes, SETTINGS, reserve=5)
    assert found.weights.shape == (5, 17, EMBEDDING + 1, found.layout.outputs)
    assert found.facts["subjects"] == 30
    assert len(found.posterior(embeddings, votes.subject_ids)) == 60


def test_heads_come_back_as_they_were(fitted: tuple[np.ndarray, Votes, Heads], tmp_path: Path) -> None:
    embeddings, votes, found = fitted
    found.save(tmp_path / "heads")
    again = Heads.load(tmp_path / "heads")
    assert again.fingerprint == found.fingerprint
    assert again.facts == found.facts
    ours, theirs = (one.posterior(embeddings, votes.subject_ids) for one in (found, again))
    np.testing.assert_array_equal(ours.parameters["q"], theirs.parameters["q"])
    assert replace(found, salt="other").fingerprint != found.fingerprint


@pytest.mark.parametrize("votes_each", [1, 3])
@pytest.mark.parametrize("telling", [True, False])
def test_few_votes_are_never_worse_than_not_looking(votes_each: int, telling: bool) -> None:
    """Judged by subjects with forty votes, which ask more of the concentrations than one or three can tell."""
    gains = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        embeddings, others = subjects(150, 10 + seed), subjects(400, 20 + seed)
        few, many = cast(embeddings, votes_each, 10 + seed), cast(others, 40, 20 + seed)
        seen = embeddings if telling else rng.normal(size=(150, 40)).astype(np.float32)
        new = others if telling else rng.normal(size=(400, 40)).astype(np.float32)
        posterior = cross_fit(seen, few, SETTINGS, reserve=0).posterior(new, many.subject_ids)
        judged = evaluate(posterior, many, constant(few, many.subject_ids), rng, simulations=10)
        gains.append(judged.overall.gain.value)
    assert np.mean(gains) > (0.005 if telling else -0.003)
    assert min(gains) > (0 if telling else -0.01)

"""Image and votes together: against the conjugate answer, numerical integration and importance sampling."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from greenpea.combining import combine
from greenpea.errors import GreenpeaError
from greenpea.posterior import Posterior
from greenpea.tree import DecisionTree
from greenpea.votes import Votes
from hands import galaxy_tree, one_question, posterior, random_posterior
from strategies import fractions, trees, walk


def _votes(tree: DecisionTree, *counts: list[int], reached: list[int] | None = None) -> Votes:
    """Votes on the one question ``q``, a list of counts per subject."""
    k = np.array(counts)
    ids = np.array([f"s{i}" for i in range(len(k))], dtype=object)
    return Votes(tree, ids, {"q": k}, {"q": k.sum(axis=1) if reached is None else np.array(reached)})


def _sum(first: Votes, second: Votes) -> Votes:
    return replace(
        first,
        counts={slug: first.counts[slug] + second.counts[slug] for slug in first.tree.slugs},
        reached={slug: first.reached[slug] + second.reached[slug] for slug in first.tree.slugs},
    )


def _walked(tree: DecisionTree, subjects: int, volunteers: int, seed: int) -> Votes:
    votes = walk(tree, fractions(tree, seed, (subjects,)), volunteers, np.random.default_rng(seed))
    return replace(votes, subject_ids=np.array([f"s{i}" for i in range(subjects)], dtype=object))


def _points(tree: DecisionTree, draws: int, subjects: int, seed: int) -> Posterior:
    ids = np.array([f"s{i}" for i in range(subjects)], dtype=object)
    families = {q.slug: "multinomial" if q.kind == "single" else "binomial" for q in tree.questions}
    return Posterior(tree, ids, families, fractions(tree, seed, (draws, subjects)))


def _same(one: Posterior, other: Posterior) -> None:
    np.testing.assert_allclose(np.exp(one.log_weights), np.exp(other.log_weights), atol=1e-10)
    for slug in one.tree.slugs:
        np.testing.assert_allclose(one.parameters[slug], other.parameters[slug], rtol=1e-12)


def test_one_draw_gives_the_conjugate_answer() -> None:
    both = combine(posterior(np.array([[[2.0, 3.0, 0.5]]])), _votes(one_question(3), [4, 0, 1]))
    np.testing.assert_array_equal(both.parameters["q"][0, 0], [6, 3, 1.5])
    np.testing.assert_allclose(both.effective_draws, 1)
    several = posterior(np.array([[[[2.0, 3.0], [1.0, 9.0]]]]), "beta-binomial")
    both = combine(several, _votes(several.tree, [4, 0], reached=[5]))
    np.testing.assert_array_equal(both.parameters["q"][0, 0], [[6, 4], [1, 14]])


def test_mixture_is_that_of_numerical_integration() -> None:
    """Prior density times likelihood on a grid, normalised, knows nothing of conjugacy or of draws."""
    pairs, prior = np.array([[2.0, 5.0], [9.0, 3.0], [0.8, 1.1]]), np.array([0.5, 0.2, 0.3])
    both = combine(replace(posterior(pairs[:, None]), weights=prior[:, None]), _votes(one_question(2), [7, 2]))
    f = (np.arange(200_000) + 0.5) / 200_000
    density = sum(share * stats.beta.pdf(f, a, b) for share, (a, b) in zip(prior, pairs, strict=True))
    density = density * stats.binom.pmf(7, 9, f)
    density /= density.sum()
    mean = f @ density
    assert both.mean("q")[0, 0] == pytest.approx(mean, abs=1e-6)
    assert both.variance("q").total[0, 0] == pytest.approx((f - mean) ** 2 @ density, abs=1e-6)
    for level in (0.05, 0.5, 0.95):
        exact = f[np.searchsorted(np.cumsum(density), level)]
        assert both.quantile("q", level)[0, 0, 0] == pytest.approx(exact, abs=3e-5)
    assert both.weights is not None
    evidence = prior * stats.betabinom.pmf(7, 9, pairs[:, 0], pairs[:, 1])
    np.testing.assert_allclose(both.weights[:, 0], evidence / evidence.sum())


def test_whole_tree_is_that_of_importance_sampling() -> None:
    """Fractions drawn from the network's mixture and weighted by the likelihood of the votes, all questions at once."""
    tree, rng, size = galaxy_tree(), np.random.default_rng(1), 400_000
    known, votes = random_posterior(tree, 3, 1, rng, spread=0.7), _walked(tree, 1, 4, seed=5)
    both = combine(known, votes)
    draw = rng.integers(3, size=size)
    log_w, sampled = np.zeros(size), {}
    for question in tree.questions:
        alpha, k = known.parameters[question.slug][draw, 0], votes.counts[question.slug][0]
        if question.kind == "single":
            gammas = rng.standard_gamma(alpha)
            f = gammas / gammas.sum(axis=-1, keepdims=True)
            log_w += (k * np.log(f)).sum(axis=-1)
        else:
            f = rng.beta(alpha[..., 0], alpha[..., 1])
            log_w += (k * np.log(f) + (votes.reached[question.slug][0] - k) * np.log1p(-f)).sum(axis=-1)
        sampled[question.slug] = f
    w = np.exp(log_w - log_w.max())
    w /= w.sum()
    assert both.weights is not None
    np.testing.assert_allclose(both.weights[:, 0], np.bincount(draw, w, 3), atol=0.01)
    for slug, f in sampled.items():
        np.testing.assert_allclose(both.mean(slug)[0], w @ f, atol=0.01)
        np.testing.assert_allclose(both.variance(slug).total[0], w @ (f - w @ f) ** 2, rtol=0.1)


@given(tree=trees(most=4), seed=st.integers(0, 99), points=st.booleans())
@settings(max_examples=40)
def test_the_order_of_the_votes_makes_no_difference(tree: DecisionTree, seed: int, points: bool) -> None:
    known = (
        _points(tree, 4, 3, seed) if points else random_posterior(tree, 4, 3, np.random.default_rng(seed), spread=0.5)
    )
    first, second = _walked(tree, 3, 3, seed), _walked(tree, 3, 5, seed + 100)
    at_once = combine(known, _sum(first, second))
    _same(combine(combine(known, first), second), at_once)
    _same(combine(combine(known, second), first), at_once)


@given(
    alpha=st.lists(st.tuples(st.floats(0.1, 50), st.floats(0.1, 50)), min_size=1, max_size=5),
    k=st.tuples(st.integers(0, 30), st.integers(0, 30)),
)
@settings(max_examples=80)
def test_twice_the_votes_never_tighten_beyond_the_conjugate_answer(
    alpha: list[tuple[float, float]], k: tuple[int, int]
) -> None:
    """The mixture is nowhere surer than what its draws know once they have seen exactly these votes."""
    known = posterior(np.array(alpha)[:, None])
    twice = combine(known, _votes(known.tree, [2 * k[0], 2 * k[1]]))
    weights = np.exp(twice.log_weights[:, 0])
    a, b = (np.array(alpha) + 2 * np.array(k)).T
    exact = a * b / (a + b) ** 2 / (a + b + 1)  # Var Beta(α + 2k)
    assert twice.variance("q").total[0, 0] >= weights @ exact * (1 - 1e-12)
    assert twice.variance("q").total[0, 0] >= exact.min() * (1 - 1e-12)


def test_votes_leave_fewer_draws_to_speak() -> None:
    known = random_posterior(galaxy_tree(), 30, 50, np.random.default_rng(3), spread=1.0)
    few = combine(known, _walked(known.tree, 50, 2, seed=1))
    many = combine(known, _walked(known.tree, 50, 40, seed=1))
    assert (known.effective_draws == 30).all()
    assert (few.effective_draws <= 30 + 1e-9).all()
    assert (many.effective_draws >= 1 - 1e-9).all()
    assert many.effective_draws.mean() < few.effective_draws.mean() < 30


def test_votes_on_one_question_tell_about_another() -> None:
    """Two draws: smooth and without a bar, or not smooth and barred."""
    tree = galaxy_tree()
    values = {
        "smooth": np.array([[[90.0, 9.0, 1.0]], [[9.0, 90.0, 1.0]]]),
        "bar": np.array([[[90.0, 10.0]], [[10.0, 90.0]]]),
        "merging": np.ones((2, 1, 2)),
        "rare": np.ones((2, 1, 2, 2)),
    }
    families = dict.fromkeys(values, "dirichlet-multinomial") | {"rare": "beta-binomial"}
    known = Posterior(tree, np.array(["s0"], object), families, values)
    votes = Votes.empty(tree, ["s0"])
    votes.counts["smooth"][0, 0] = votes.reached["smooth"][0] = 10
    assert known.mean("bar")[0, 1] == pytest.approx(0.5)
    assert combine(known, votes).mean("bar")[0, 1] == pytest.approx(0.1, abs=0.001)


def test_a_subject_without_votes_comes_back_as_it_was() -> None:
    known = random_posterior(galaxy_tree(), 5, 4, np.random.default_rng(4))
    votes = _walked(known.tree, 4, 6, seed=2)
    votes = votes.select([0, 1]).align(known.subject_ids)
    both = combine(known, votes)
    for slug in known.tree.slugs:
        np.testing.assert_array_equal(both.parameters[slug][:, 2:], known.parameters[slug][:, 2:])
    np.testing.assert_allclose(np.exp(both.log_weights[:, 2:]), 1 / 5, rtol=1e-15)
    assert not np.allclose(np.exp(both.log_weights[:, :2]), 1 / 5)
    assert combine(known, Votes.empty(known.tree, list(known.subject_ids))).weights is None


def test_votes_that_no_draw_holds_possible_keep_the_weights() -> None:
    known = posterior(np.array([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.5, 0.5]]]), "multinomial")
    both = combine(known, _votes(known.tree, [0, 3], [2, 3]))
    assert both.weights is not None
    np.testing.assert_allclose(both.weights, [[0.5, 0.0], [0.5, 1.0]])
    np.testing.assert_array_equal(both.parameters["q"], known.parameters["q"])


def test_a_thousand_votes_stay_finite() -> None:
    known = random_posterior(galaxy_tree(), 30, 1, np.random.default_rng(6), spread=2.0)
    both = combine(known, _walked(known.tree, 1, 1000, seed=3))
    assert both.weights is not None
    assert both.weights.sum() == pytest.approx(1)
    assert (np.isfinite(both.mean("smooth"))).all()


def test_other_trees_and_other_subjects_are_refused() -> None:
    known = posterior(np.ones((1, 2, 2)))
    with pytest.raises(GreenpeaError, match="use votes"):
        combine(known, _votes(known.tree, [1, 0]))
    with pytest.raises(GreenpeaError, match="same questions and answers"):
        combine(known, _votes(one_question(3), [1, 0, 0], [1, 0, 0]))


def test_the_documents_example_says_what_comes_out() -> None:
    page = Path(__file__).parent.parent / "docs" / "combining.md"
    (code,) = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    names: dict[str, Posterior] = {}
    exec(code, names)
    said = [float(number) for number in re.findall(r"[ab]: ([\d.]+)", code)]
    both = names["both"]
    assert said == pytest.approx([*both.mean("ring")[:, 0], *both.effective_draws], abs=0.005)

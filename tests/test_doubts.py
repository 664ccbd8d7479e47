"""Kinds of doubt against enumeration and quadrature, and against each other."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pyarrow as pa
import pytest
from scipy.integrate import quad
from scipy.stats import beta, binom, dirichlet_multinomial, multinomial

from greenpea import catalogue, doubts, information, report
from greenpea.doubts import of_question
from greenpea.posterior import Posterior
from hands import galaxy_tree, opposite_draws, posterior, random_posterior


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


def test_two_opposite_certain_draws_are_all_doubt_about_the_weights() -> None:
    found = of_question(posterior(np.array([[[1e7, 1e-7]], [[1e-7, 1e7]]])), "q", 5, rng())
    assert found.weights[0] == pytest.approx(np.log(2), abs=1e-5)
    assert found.opinion[0] + found.voting[0] == pytest.approx(0, abs=1e-4)


def test_one_draw_of_flat_opinion_has_none_about_the_weights() -> None:
    """Of Beta(1, 1) and n votes, every count is as likely: H = ln(n+1)."""
    found = of_question(posterior(np.array([[[1.0, 1.0]]])), "q", 7, rng())
    assert found.weights[0] == pytest.approx(0, abs=1e-12)
    assert found.total[0] == pytest.approx(np.log(8))
    noise = quad(lambda f: entropy(binom.pmf(np.arange(8), 7, f)), 0, 1)[0]
    assert found.voting[0] == pytest.approx(noise, abs=1e-8)


@pytest.mark.parametrize("votes", [1, 4, 10])
def test_parts_of_a_beta_mixture_by_quadrature(votes: int) -> None:
    some = opposite_draws()
    found = of_question(some, "q", votes, rng())
    k = np.arange(votes + 1)
    pmf = some.pmf("q", votes)[:, 0, 0]
    pairs = np.asarray(some.parameters["q"])[:, 0]
    noise = np.mean(
        [quad(lambda f, a=a, b=b: beta.pdf(f, a, b) * entropy(binom.pmf(k, votes, f)), 0, 1)[0] for a, b in pairs]
    )
    given = np.mean([entropy(row) for row in pmf])
    assert found.total[0] == pytest.approx(entropy(pmf.mean(0)), abs=1e-9)
    assert found.weights[0] == pytest.approx(entropy(pmf.mean(0)) - given, abs=1e-9)
    assert found.voting[0] == pytest.approx(noise, abs=1e-6)
    assert found.opinion[0] == pytest.approx(given - noise, abs=1e-6)
    assert found.error[0] == 0


def test_several_answers_by_enumeration() -> None:
    alpha = np.exp(rng().normal(0, 1, (3, 2, 4)))
    for family, votes in product(("dirichlet-multinomial", "multinomial"), (1, 3)):
        values = alpha if family == "dirichlet-multinomial" else alpha / alpha.sum(-1, keepdims=True)
        some = posterior(values, family)
        found = of_question(some, "q", votes, rng())
        vectors = information.count_vectors(votes, 4)
        for subject in range(2):
            peer = dirichlet_multinomial if family == "dirichlet-multinomial" else multinomial
            rows = [
                [peer.pmf(k, *((a, votes) if family == "dirichlet-multinomial" else (votes, a))) for k in vectors]
                for a in values[:, subject]
            ]
            pmf = np.array(rows)
            assert found.total[subject] == pytest.approx(entropy(pmf.mean(0)), abs=1e-9)
            given = np.mean([entropy(row) for row in pmf])
            assert found.opinion[subject] + found.voting[subject] == pytest.approx(given, abs=1e-9)
            exact = np.mean([entropy(a / a.sum()) for a in values[:, subject]]) if votes == 1 else given
            assert given == pytest.approx(exact, abs=1e-9)
            if family == "multinomial":
                assert found.opinion[subject] == pytest.approx(0, abs=1e-12)


def test_answers_of_a_multiple_question_are_independent_given_the_weights() -> None:
    pairs = np.exp(rng().normal(0.5, 1, (4, 2, 2, 2)))
    for family in ("beta-binomial", "binomial"):
        values = pairs if family == "beta-binomial" else pairs[..., 0] / pairs.sum(-1)
        some = posterior(values, family)
        found = of_question(some, "q", 3, rng())
        pmf = some.pmf("q", 3)  # draw, subject, answer, k
        joint = np.array([[np.outer(*pmf[t, s]).ravel() for s in range(2)] for t in range(4)])
        for subject in range(2):
            assert found.total[subject] == pytest.approx(entropy(joint[:, subject].mean(0)), abs=1e-9)
        assert (found.opinion > 1e-3).all() == (family == "beta-binomial")


def test_simulated_doubt_agrees_with_the_enumerated_within_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = galaxy_tree()
    some = random_posterior(tree, 20, 400, rng(), spread=1.0)
    exact = {slug: of_question(some, slug, 4, rng()) for slug in tree.slugs}
    monkeypatch.setattr(doubts, "MOST_STATES", 1)
    for slug in tree.slugs:
        found = of_question(some, slug, 4, rng())
        assert (found.error > 0).all()
        apart = found.weights - exact[slug].weights
        assert abs(apart.mean()) < 4 * np.sqrt((found.error**2).mean() / len(apart))
        assert (np.abs(apart) < 4 * found.error).mean() > 0.95
        np.testing.assert_allclose(found.voting, exact[slug].voting)
        np.testing.assert_allclose(found.total, found.weights + found.opinion + found.voting)


def test_weights_of_the_draws_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A draw given twice is a draw of twice the weight."""
    plain = posterior(np.array([[[9.0, 1.0]], [[9.0, 1.0]], [[2.0, 6.0]]]))
    shares = np.array([[2 / 3], [1 / 3]])
    weighted = Posterior(
        plain.tree, plain.subject_ids, plain.families, {"q": plain.parameters["q"][1:]}, weights=shares
    )
    for left, right in zip(of_question(plain, "q", 4, rng()), of_question(weighted, "q", 4, rng()), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-12)


def test_nobody_asked_leaves_nothing_open() -> None:
    assert all((part == 0).all() for part in of_question(opposite_draws(), "q", 0, rng()))


def test_doubt_about_weights_is_information_of_that_question() -> None:
    alpha = np.exp(rng().normal(0, 1, (6, 5, 3)))
    some = posterior(alpha)
    np.testing.assert_allclose(of_question(some, "q", 5, rng()).weights, information.of_question(some, "q", 5))


@pytest.mark.parametrize("family", ["binomial", "beta-binomial"])
def test_doubt_about_a_multiple_question_is_information_of_all_its_counts(family: str) -> None:
    """By the likelihoods of every count there can be, one by one."""
    parameters = rng().uniform(0.02, 0.98, (6, 5, 3)) if family == "binomial" else rng().gamma(1, 2, (6, 5, 3, 2))
    shares = rng().dirichlet(np.ones(6), 5).T
    some = replace(posterior(parameters, family), weights=shares)
    for votes in (1, 2, 4):
        states = [np.array(state) for state in product(range(votes + 1), repeat=3)]
        told = [np.broadcast_to(state, (5, 3)) for state in states]
        log_p = np.stack([some.log_likelihood("q", state, np.full(5, votes)) for state in told], axis=-1)
        expected = information.mutual_information(log_p, some.log_weights)
        np.testing.assert_allclose(of_question(some, "q", votes, rng()).weights, expected, atol=1e-12)


def test_the_catalogue_tells_each_kind_with_its_unit_and_the_error_where_it_has_one() -> None:
    tree = galaxy_tree()
    some = random_posterior(tree, 8, 30, rng(), spread=1.0)
    metadata = pa.table({"name": [str(i) for i in range(30)]})
    for votes in (1, 20):
        table = catalogue.table(some, metadata, 40, 5, rng(), doubt_votes=votes)
        for question in tree.questions:
            found = of_question(some, question.slug, votes, rng())
            column = table.schema.field(f"{question.slug}_doubt_voting")
            assert column.metadata[b"unit"] == b"nat"
            assert f"of {votes} answers".encode() in column.metadata[b"description"]
            np.testing.assert_allclose(table[column.name].to_numpy(), found.voting, rtol=1e-5)
            simulated = f"{question.slug}_doubt_error" in table.column_names
            assert simulated == (not doubts.is_exact(question, votes)) == bool(found.error.any())
    assert "smooth_doubt_voting" not in catalogue.table(some, metadata, 40, 5, rng()).column_names


def test_the_report_shows_the_kinds_in_a_picture_and_a_table() -> None:
    some = random_posterior(galaxy_tree(), 8, 30, rng(), spread=1.0)
    shown = report._doubt(some, 5)
    assert shown is not None
    slug, total, *shares = shown["rows"][0]
    found = of_question(some, slug, 5, np.random.default_rng(0))
    assert total == pytest.approx(found.total.mean())
    assert sum(shares) == pytest.approx(1)
    assert shares[0] * total == pytest.approx(found.weights.mean())
    assert "Mean doubt about 5 votes, smooth: weights" in shown["picture"]

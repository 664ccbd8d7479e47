"""Training likelihoods: the same numbers as the posterior's, stable in float32, silent where nobody was asked."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from greenpea import outputs as outputs_
from greenpea.information import count_vectors
from greenpea.learning import heads, likelihood
from greenpea.learning.settings import Learning
from greenpea.learning.uncertainty import laplace
from greenpea.learning.uncertainty.skeleton import Learned
from greenpea.outputs import Layout
from greenpea.posterior import log_pmf
from greenpea.votes import Votes
from hands import galaxy_tree, one_question

FAMILIES = ["dirichlet-multinomial", "multinomial", "beta-binomial", "binomial"]


@pytest.mark.parametrize("family", FAMILIES)
def test_torch_and_numpy_agree(family: str) -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 9, (30, 3))
    reached = counts.sum(1) if "multinomial" in family else counts.max(1) + rng.integers(0, 5, 30)
    values = rng.dirichlet([1, 1, 1], 30) if family == "multinomial" else rng.random((30, 3))
    if family == "dirichlet-multinomial":
        values = np.exp(rng.normal(0, 3, (30, 3)))
    if family == "beta-binomial":
        values = np.exp(rng.normal(0, 3, (30, 3, 2)))
    log_values = np.log(np.stack([values, 1 - values], -1) if family == "binomial" else values)
    ours = likelihood.log_likelihood(
        family, torch.from_numpy(log_values), torch.from_numpy(counts).float(), torch.from_numpy(reached).float()
    )
    np.testing.assert_allclose(ours.numpy(), log_pmf(family, values, counts, reached), atol=1e-9)


@pytest.mark.parametrize("total", [1e-3, 1.0, 1e4, 1e6])
def test_float32_inputs_are_stable_from_divided_to_certain(total: float) -> None:
    """In float32 alone α₀ = 1e6 would be off by 0.29 nats (REFERENCE §1)."""
    fractions = torch.tensor([0.2, 0.3, 0.5])
    log_alpha = (fractions.log() + np.log(total)).float().requires_grad_()
    counts = torch.tensor([8.0, 12.0, 20.0])
    value = likelihood.dirichlet_multinomial(log_alpha, counts)
    exact = log_pmf(
        "dirichlet-multinomial", total * np.array([0.2, 0.3, 0.5]), np.array([8.0, 12.0, 20.0]), np.array(40.0)
    )
    assert value.item() == pytest.approx(float(exact), abs=2e-5)
    (slope,) = torch.autograd.grad(value, log_alpha)
    assert torch.isfinite(slope).all()


def test_the_published_failure_of_float32_is_not_ours() -> None:
    """REFERENCE §1: the right value is −3.793 where float32 says −3.50 (10 of 40 at α₀ = 1e6 is such a case)."""
    log_alpha = torch.tensor([0.25, 0.75]).log() + np.log(1e6)
    counts = torch.tensor([10.0, 30.0])
    alpha = log_alpha.exp()
    naive = (
        torch.lgamma(counts.sum() + 1) - torch.lgamma(counts + 1).sum() + torch.lgamma(alpha.sum())
        - torch.lgamma(alpha.sum() + 40) + (torch.lgamma(alpha + counts) - torch.lgamma(alpha)).sum()
    )  # fmt: skip
    exact = float(log_pmf("dirichlet-multinomial", np.array([0.25e6, 0.75e6]), counts.numpy(), np.array(40.0)))
    assert abs(naive.item() - exact) > 0.05
    assert likelihood.dirichlet_multinomial(log_alpha, counts).item() == pytest.approx(exact, abs=1e-5)


@pytest.mark.parametrize("kind", ["dirichlet-multinomial", "multinomial"])
def test_questions_nobody_reached_cost_nothing_and_teach_nothing(kind: str) -> None:
    tree = galaxy_tree()
    layout = Layout(tree, kind)  # type: ignore[arg-type]
    targets = heads.Targets(layout)
    votes = Votes.empty(tree, ["a", "b"])
    votes.counts["smooth"][0] = [3, 0, 2]
    votes.reached["smooth"][0] = 5
    outputs = torch.randn(2, layout.outputs, requires_grad=True)
    values = targets.log_likelihood(outputs, targets.pack(votes))
    assert values["smooth"][1] == 0
    assert all((values[slug] == 0).all() for slug in ("bar", "merging", "rare"))
    (slope,) = torch.autograd.grad(targets.loss(outputs, targets.pack(votes)), outputs)
    used = layout.slices["smooth"]
    assert (slope[0, used] != 0).any()
    assert (slope[1] == 0).all()
    assert (slope[0, used.stop :] == 0).all()


def test_loss_is_minus_the_log_pmf_of_all_votes_per_subject() -> None:
    tree = galaxy_tree()
    layout = Layout(tree)
    outputs = torch.randn(3, layout.outputs, generator=torch.Generator().manual_seed(0))
    posterior = outputs_.posterior(layout, outputs[:, None].numpy(), np.array(["a", "b", "c"], object))
    rng = np.random.default_rng(0)
    counts = {q.slug: rng.integers(0, 5, (3, len(q.answers))) for q in tree.questions}
    reached = {slug: k.sum(1) if slug != "rare" else k.max(1) + 2 for slug, k in counts.items()}
    votes = Votes(tree, posterior.subject_ids, counts, reached)
    expected = -sum(posterior.log_pmf(slug, votes) for slug in tree.slugs).mean()  # type: ignore[union-attr]
    targets = heads.Targets(layout)
    assert targets.loss(outputs, targets.pack(votes)).item() == pytest.approx(expected, rel=1e-5)


def test_heads_begin_as_the_constant_predictor() -> None:
    from greenpea.calibration import constant

    tree = galaxy_tree()
    rng = np.random.default_rng(1)
    counts = {q.slug: rng.integers(0, 6, (40, len(q.answers))) for q in tree.questions}
    reached = {slug: k.sum(1) if slug != "rare" else k.max(1) + 3 for slug, k in counts.items()}
    votes = Votes(tree, np.array([f"s{i}" for i in range(40)], object), counts, reached)
    for kind in ("dirichlet-multinomial", "multinomial"):
        layout = Layout(tree, kind)  # type: ignore[arg-type]
        ours = outputs_.posterior(
            layout, heads.constant_bias(layout, votes).numpy()[None, None], np.array(["x"], object)
        )
        for slug in tree.slugs:
            theirs = constant(votes, ["x"])
            np.testing.assert_allclose(ours.mean(slug), theirs.mean(slug), rtol=1e-4)
            if kind == "dirichlet-multinomial":
                np.testing.assert_allclose(ours.parameters[slug], theirs.parameters[slug], rtol=1e-4)


# ---- the curvature that Laplace's method rests on ----------------------------------------------------


@pytest.mark.parametrize("outputs", [[0.3, -1.0, 0.5, 1.2], [0.3, -1.0, 3.5, 9.0], [0.0, 2.0, -2.0, -2.0]])
def test_dirichlet_multinomial_information_is_the_enumerated_one(outputs: list[float]) -> None:
    layout = Layout(one_question(3))
    eta = torch.tensor(outputs, dtype=torch.float64)
    vectors = torch.from_numpy(count_vectors(5, 3)).double()

    def log_p(x: torch.Tensor) -> torch.Tensor:
        return likelihood.dirichlet_multinomial(heads.log_parameters(layout, "q", x)[None], vectors)

    _same_information(layout, eta, log_p)


@pytest.mark.parametrize("kind", ["dirichlet-multinomial", "multinomial"])
def test_multiple_choice_information_is_the_enumerated_one(kind: str) -> None:
    layout = Layout(one_question(2, "multiple"), kind)  # type: ignore[arg-type]
    eta = torch.tensor([0.3, -1.0, 0.5, 1.2][: layout.outputs], dtype=torch.float64)
    vectors = torch.cartesian_prod(torch.arange(6), torch.arange(6)).double()

    def log_p(x: torch.Tensor) -> torch.Tensor:
        parameters = heads.log_parameters(layout, "q", x)[None]
        return likelihood.log_likelihood(layout.family("q"), parameters, vectors, torch.full((36,), 5.0).double())

    _same_information(layout, eta, log_p)


def _same_information(layout: Layout, eta: torch.Tensor, log_p: object) -> None:
    """E[∇ ln p ∇ ln pᵀ] over every outcome of 5 votes."""
    jacobian = torch.autograd.functional.jacobian(log_p, eta)  # type: ignore[arg-type]
    p = log_p(eta).exp()  # type: ignore[operator]
    assert p.sum().item() == pytest.approx(1)
    expected = (jacobian * p[:, None]).T @ jacobian
    ours = laplace.output_fisher(layout, "q", eta[None], torch.tensor([5.0], dtype=torch.float64))[0]
    torch.testing.assert_close(ours, expected, atol=1e-9, rtol=1e-7)


def test_laplace_narrows_as_votes_accumulate_and_is_the_gaussian_it_says() -> None:
    layout = Layout(one_question(2), "multinomial")
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(400, 3, generator=generator)
    packed = torch.cat([torch.full((400, 2), 10.0), torch.full((400, 1), 20.0)], dim=1)
    mean = torch.zeros(4, 2)
    spread = []
    for subjects in (40, 400):
        learned = Learned(layout, None, mean, embeddings[:subjects], packed[:subjects], Learning())
        state = next(laplace.candidates(learned))
        draws = torch.stack([laplace.draw(state, t, generator) for t in range(3000)]).double()
        factor = state.factors["q"].double()
        covariance = torch.linalg.inv(factor @ factor.T)
        seen = torch.cov(draws.permute(0, 2, 1).reshape(3000, -1).T)
        torch.testing.assert_close(seen, covariance, atol=0.12 * float(covariance.diagonal().max()), rtol=0.2)
        logit = (draws[:, :, 0] - draws[:, :, 1])[:, 0]
        spread.append(float(logit.std()))
    assert spread[1] < 0.45 * spread[0]  # ten times the votes: about √10 narrower

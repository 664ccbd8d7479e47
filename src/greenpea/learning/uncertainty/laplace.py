"""Last-layer Laplace in closed form: a Gaussian around the head whose width falls as votes accumulate.

The curvature is the Fisher information of the votes, exact for every likelihood here, full within a question
and zero between questions, which share no weights (MacKay 1992; Daxberger+2021, Laplace redux).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softmax

from greenpea.learning.heads import LOG_CONCENTRATION, Layout, apply

CHUNK = 1024  # subjects whose Fisher information is held at once


PRECISIONS = (1.0, 10.0, 100.0, 1000.0)  # of the Gaussian prior on every weight


@dataclass(frozen=True)
class State:
    """The most probable head [embedding + 1, output], and per question the Cholesky factor of its precision.

    ``factors[question]`` is lower triangular, of size (embedding + 1) × the question's outputs, the
    embedding running fastest.
    """

    mean: Tensor
    factors: dict[str, Tensor]
    columns: dict[str, tuple[int, int]]


def candidates(layout: Layout, mean: Tensor, embeddings: Tensor, packed: Tensor, rate: float) -> Iterator[State]:
    """Yield the Gaussian around ``mean`` for each prior precision; the curvature is computed once for all.

    ``embeddings`` [subject, embedding] and ``packed`` votes are those the head learned from. Costs N·(E·O)²
    multiply-adds a question of O outputs, and a Cholesky factorisation of size E·O for each precision.
    """
    outputs = apply(mean[None], embeddings)[:, 0].double()
    inputs = torch.cat([embeddings, torch.ones(len(embeddings), 1)], dim=1).double()
    questions = layout.tree.questions
    curvatures = {}
    for index, question in enumerate(questions):
        reached = packed[:, index - len(questions)].double()
        part = outputs[:, layout.slices[question.slug]]
        curvatures[question.slug] = _curvature(layout, question.slug, inputs, part, reached)
    columns = {slug: (part.start, part.stop) for slug, part in layout.slices.items()}
    for precision in PRECISIONS:
        yield State(mean, {slug: _factor(curvature, precision) for slug, curvature in curvatures.items()}, columns)


def _factor(curvature: Tensor, precision: float) -> Tensor:
    """Return the Cholesky factor in float32, as a checkpoint keeps it: half the size and far more than needed."""
    stiff = curvature + precision * torch.eye(len(curvature), dtype=curvature.dtype)
    return torch.linalg.cholesky(stiff).float()


def draw(state: State, generator: torch.Generator) -> Tensor:
    """Return one set of weights [embedding + 1, output] from the Gaussian."""
    weights = state.mean.double().clone()
    rows = len(weights)
    # By column, never by the dictionary's order: a checkpoint comes back in another, with the same noise to spend.
    for slug, (start, stop) in sorted(state.columns.items(), key=lambda item: item[1]):
        factor = state.factors[slug]
        noise = torch.randn(len(factor), 1, generator=generator, dtype=torch.float64)
        # θ = mean + L⁻ᵀ ε has the covariance (L Lᵀ)⁻¹
        step = torch.linalg.solve_triangular(factor.T.double(), noise, upper=True)
        weights[:, start:stop] += step.reshape(stop - start, rows).T
    return weights.to(state.mean.dtype)


def tensors(state: State) -> dict[str, Tensor]:
    """Return what a checkpoint keeps."""
    kept = {f"factor.{slug}": factor.contiguous() for slug, factor in state.factors.items()}
    kept |= {f"columns.{slug}": torch.tensor(place) for slug, place in state.columns.items()}
    return kept | {"mean": state.mean}


def restore(kept: dict[str, Tensor]) -> State:
    """Return the State of a checkpoint."""
    factors = {name[7:]: value for name, value in kept.items() if name.startswith("factor.")}
    columns = {slug: tuple(kept[f"columns.{slug}"].tolist()) for slug in factors}
    return State(kept["mean"], factors, columns)  # type: ignore[arg-type]


def _curvature(layout: Layout, slug: str, inputs: Tensor, outputs: Tensor, reached: Tensor) -> Tensor:
    """Return Σ_i F_i ⊗ z_i z_iᵀ over the subjects who were asked, [output·row, output·row]."""
    size, count = inputs.shape[1], outputs.shape[1]
    total = torch.zeros(count, size, count, size, dtype=torch.float64)
    asked = torch.nonzero(reached > 0)[:, 0]
    for rows in asked.split(CHUNK) if len(asked) else ():
        fisher = output_fisher(layout, slug, outputs[rows], reached[rows])
        z = inputs[rows]
        for first in range(count):
            for second in range(first + 1):
                block = z.T @ (fisher[:, first, second, None] * z)
                total[first, :, second] += block
                if first != second:
                    total[second, :, first] += block.T
    return total.reshape(count * size, count * size)


def output_fisher(layout: Layout, slug: str, outputs: Tensor, reached: Tensor) -> Tensor:
    """Return the Fisher information [subject, output, output] of ``reached`` votes about a question's outputs."""
    answers = len(layout.tree[slug].answers)
    family = layout.family(slug)
    n = reached
    if family == "multinomial":
        f = softmax(outputs, dim=-1)
        # F = n (diag f − f fᵀ)
        return n[:, None, None] * (torch.diag_embed(f) - f[:, :, None] * f[:, None, :])
    if family == "binomial":
        f = outputs.sigmoid()
        return torch.diag_embed(n[:, None] * f * (1 - f))
    alpha = layout.log_parameters(slug, outputs).exp()
    if family == "dirichlet-multinomial":
        f = softmax(outputs[:, :answers], dim=-1)
        s = outputs[:, answers:].clamp(*LOG_CONCENTRATION).exp()
        # ∂α_a/∂logit_b = s f_a (δ_ab − f_b),  ∂α_a/∂ln s = α_a
        slope = s[:, :, None] * (torch.diag_embed(f) - f[:, :, None] * f[:, None, :])
        jacobian = torch.cat([slope, alpha[:, :, None]], dim=2)
        return jacobian.mT @ dirichlet_multinomial_fisher(alpha, n) @ jacobian
    return _beta_binomial_fisher(outputs[:, :answers], alpha, n)


def _beta_binomial_fisher(logits: Tensor, alpha_beta: Tensor, n: Tensor) -> Tensor:
    """One 2 × 2 block (logit, ln s) an answer, laid out as all logits, then all ln s."""
    subjects, answers = logits.shape
    alpha, beta = alpha_beta.unbind(-1)
    # ∂(α, β)/∂logit = (α σ(−l), −β σ(l)),  ∂(α, β)/∂ln s = (α, β)
    by_logit = torch.stack([alpha * (-logits).sigmoid(), -beta * logits.sigmoid()], dim=-1)
    jacobian = torch.stack([by_logit, alpha_beta], dim=-1).reshape(-1, 2, 2)
    inner = dirichlet_multinomial_fisher(alpha_beta.reshape(-1, 2), n.repeat_interleave(answers))
    blocks = (jacobian.mT @ inner @ jacobian).reshape(subjects, answers, 2, 2)
    grid = torch.zeros(subjects, 2, answers, 2, answers, dtype=torch.float64)
    index = torch.arange(answers)
    grid[:, :, index, :, index] = blocks.permute(1, 0, 2, 3)
    return grid.reshape(subjects, 2 * answers, 2 * answers)


def dirichlet_multinomial_fisher(alpha: Tensor, n: Tensor) -> Tensor:
    """Return the expected information [subject, answer, answer] of n votes about the concentrations.

    F_ab = δ_ab Σ_{j<n} P(K_a > j)/(α_a + j)² − Σ_{j<n} 1/(α₀ + j)², where K_a is beta-binomial (Paul+2005).
    """
    most = int(n.max().item())
    total = alpha.sum(-1, keepdim=True)
    j = torch.arange(most, dtype=torch.float64)
    asked = j < n[:, None]  # subject, j
    beyond = survival(alpha, total - alpha, n, most)
    diagonal = (beyond / (alpha[..., None] + j) ** 2 * asked[:, None]).sum(-1)
    common = (asked / (total + j) ** 2).sum(-1)
    return torch.diag_embed(diagonal) - common[:, None, None]


def survival(alpha: Tensor, beta: Tensor, n: Tensor, most: int) -> Tensor:
    """Return P(K > j), j = 0…most−1, for K beta-binomial(n, α, β): [subject, answer, j]."""
    k = torch.arange(most + 1, dtype=torch.float64)
    n_ = n[:, None, None]
    a, b = alpha[..., None], beta.clamp_min(1e-12)[..., None]
    rest = (n_ - k).clamp_min(0)
    log_p = (
        torch.lgamma(n_ + 1) - torch.lgamma(k + 1) - torch.lgamma(rest + 1)
        + torch.lgamma(a + k) + torch.lgamma(b + rest) - torch.lgamma(a + b + n_)
        - torch.lgamma(a) - torch.lgamma(b) + torch.lgamma(a + b)
    )  # fmt: skip
    pmf = torch.where(k <= n_, log_p.exp(), torch.zeros_like(log_p))
    # Summed from the far end, so that small tails keep their relative precision.
    tail = pmf.flip(-1).cumsum(-1).flip(-1)
    return tail[..., 1:]

"""Last-layer Laplace in closed form: a Gaussian around the head whose width falls as votes accumulate.

The curvature is the Fisher information of the votes, exact for every likelihood here, full within a question
and zero between questions, which share no weights (MacKay 1992; Daxberger+2021, Laplace redux).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softmax

from greenpea.learning.heads import log_parameters
from greenpea.learning.settings import Learning
from greenpea.learning.uncertainty.skeleton import Learned, loss_alone, one_pass, unchanged
from greenpea.outputs import LOG_CONCENTRATION, Layout

COST = "one pass of the encoder; memory of a square matrix of (embedding + 1) × outputs a question"
MISSING = "the Gaussian around the head has no width, which no finite curvature gives: look at the embeddings"

prepare = prepare_head = unchanged
objective = loss_alone
passes = one_pass

CHUNK = 512  # subjects whose Fisher information is held at once


PRECISIONS = (1.0, 10.0, 100.0, 1000.0)  # of the Gaussian prior on every weight


@dataclass(frozen=True)
class State:
    """The most probable head [embedding + 1, output], and per group of outputs the Cholesky factor of its precision.

    ``columns[group]`` are a group's outputs (`groups`). ``factors[group]`` is lower triangular, of size
    (embedding + 1) × the group's outputs, the embedding running fastest.
    """

    mean: Tensor
    factors: dict[str, Tensor]
    columns: dict[str, tuple[int, ...]]


def groups(layout: Layout) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return group → (question, its columns of the output): the sets of outputs whose doubt hangs together.

    A ``single`` question is one group; every answer of a ``multiple`` one is a group of its own.
    """
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for question in layout.tree.questions:
        part, answers = layout.slices[question.slug], len(question.answers)
        if question.kind == "single":
            found[question.slug] = question.slug, tuple(range(part.start, part.stop))
            continue
        for index, answer in enumerate(question.answer_slugs):
            columns = tuple(range(part.start + index, part.stop, answers))  # the logit and, with a spread, its ln s
            found[f"{question.slug}/{answer}"] = question.slug, columns
    return found


def encoder_passes(settings: Learning, draws: int) -> int:
    """Return 1: all draws are of the head."""
    return 1


def candidates(learned: Learned) -> Iterator[State]:
    """Yield the Gaussian around the head for each prior precision; the curvature is computed once for all.

    Costs N·E²/2 multiply-adds a pair of outputs in a group, and Cholesky factorisations for each precision.
    """
    mean = learned.mean
    inputs = torch.cat([learned.embeddings, torch.ones(len(learned.embeddings), 1)], dim=1).double()
    found = curvatures(learned.layout, mean.double(), inputs, learned.packed)
    for precision in PRECISIONS:
        yield around(learned.layout, mean, found, torch.full((len(mean),), precision, dtype=torch.float64))


def around(layout: Layout, mean: Tensor, found: dict[str, Tensor], stiffness: Tensor) -> State:
    """Return the Gaussian around ``mean`` of given curvatures, the prior's precision [row] added to them."""
    factors = {name: _factor(curvature, stiffness) for name, curvature in found.items()}
    return State(mean, factors, {name: columns for name, (_, columns) in groups(layout).items()})


def _factor(curvature: Tensor, stiffness: Tensor) -> Tensor:
    """Return the Cholesky factor in float32, as a checkpoint keeps it: half the size and far more than needed."""
    stiff = curvature + torch.diag(stiffness.repeat(len(curvature) // len(stiffness)))
    factor, failed = torch.linalg.cholesky_ex(stiff)
    if failed:  # a prior so loose beside the curvature that rounding shows
        stiff.diagonal().add_(1e-6 * stiff.diagonal().max())
        factor = torch.linalg.cholesky(stiff)
    return factor.float()


def draw(state: State, t: int, generator: torch.Generator) -> Tensor:
    """Return one set of weights [embedding + 1, output] from the Gaussian."""
    return draws(state, [generator])[0]


def draws(state: State, generators: Sequence[torch.Generator]) -> Tensor:
    """Return one set of weights a generator, [draw, embedding + 1, output], for the cost of one solution."""
    weights = state.mean.double().repeat(len(generators), 1, 1)
    rows = len(state.mean)
    # By column, never by the dictionary's order: a checkpoint comes back in another, with the same noise to spend.
    for name, columns in sorted(state.columns.items(), key=lambda item: item[1]):
        factor = state.factors[name]
        noise = [torch.randn(len(factor), generator=one, dtype=torch.float64) for one in generators]
        # θ = mean + L⁻ᵀ ε has the covariance (L Lᵀ)⁻¹
        step = torch.linalg.solve_triangular(factor.T.double(), torch.stack(noise, dim=1), upper=True)
        weights[:, :, list(columns)] += step.T.reshape(len(noise), len(columns), rows).mT
    return weights.to(state.mean.dtype)


def tensors(state: State) -> dict[str, Tensor]:
    """Return what a checkpoint keeps."""
    kept = {f"factor.{name}": factor.contiguous() for name, factor in state.factors.items()}
    kept |= {f"columns.{name}": torch.tensor(place) for name, place in state.columns.items()}
    return kept | {"mean": state.mean}


def restore(kept: dict[str, Tensor]) -> State:
    """Return the State of a checkpoint."""
    factors = {name[7:]: value for name, value in kept.items() if name.startswith("factor.")}
    columns = {name: tuple(kept[f"columns.{name}"].tolist()) for name in factors}
    return State(kept["mean"], factors, columns)


def curvatures(layout: Layout, mean: Tensor, inputs: Tensor, packed: Tensor) -> dict[str, Tensor]:
    """Return, per group, Σ_i F_i ⊗ z_i z_iᵀ over the subjects who were asked, [output·row, output·row].

    ``inputs`` z are embeddings with a last column of ones. The products z_a z_b are formed once for all groups:
    the rest is one matrix product with the Fisher informations F.
    """
    size = inputs.shape[1]
    pairs = [(name, *pair) for name, (_, columns) in groups(layout).items() for pair in _pairs(len(columns))]
    upper = torch.triu_indices(size, size)
    total = torch.zeros(len(pairs), upper.shape[1], dtype=torch.float64)
    for at in range(0, len(inputs), CHUNK):
        z, votes = inputs[at : at + CHUNK], packed[at : at + CHUNK].double()
        fisher = _fishers(layout, z @ mean, votes)
        weights = torch.stack([fisher[name][:, first, second] for name, first, second in pairs]).float()
        columns = z.float().T.contiguous()
        # Within a chunk float32 will do, at half the cost; chunks are added up in float64.
        total += weights @ (columns[upper[0]] * columns[upper[1]]).T
    return _assembled(layout, pairs, total, upper, size)


def _pairs(count: int) -> list[tuple[int, int]]:
    return [(first, second) for first in range(count) for second in range(first + 1)]


def _assembled(
    layout: Layout, pairs: list[tuple[str, int, int]], total: Tensor, upper: Tensor, size: int
) -> dict[str, Tensor]:
    found = {
        name: torch.zeros(len(columns), size, len(columns), size, dtype=torch.float64)
        for name, (_, columns) in groups(layout).items()
    }
    for (name, first, second), values in zip(pairs, total, strict=True):
        block = torch.zeros(size, size, dtype=torch.float64)
        block[upper[0], upper[1]] = values
        block[upper[1], upper[0]] = values
        found[name][first, :, second] = found[name][second, :, first] = block
    return {name: value.reshape(len(value) * size, -1) for name, value in found.items()}


def _fishers(layout: Layout, outputs: Tensor, packed: Tensor) -> dict[str, Tensor]:
    """Return, per group, the Fisher information [subject, output, output] of each subject's votes; 0 where unasked."""
    by_question = {}
    questions = layout.tree.questions
    for index, question in enumerate(questions):
        part, reached = layout.slices[question.slug], packed[:, index - len(questions)]
        asked = torch.nonzero(reached > 0)[:, 0]
        count = part.stop - part.start
        by_question[question.slug] = torch.zeros(len(outputs), count, count, dtype=torch.float64)
        if len(asked):
            by_question[question.slug][asked] = output_fisher(
                layout, question.slug, outputs[asked][:, part], reached[asked]
            )
    found = {}
    for name, (slug, columns) in groups(layout).items():
        local = [column - layout.slices[slug].start for column in columns]
        found[name] = by_question[slug][:, local][:, :, local]
    return found


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
    alpha = log_parameters(layout, slug, outputs).exp()
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
    n_, b = n[:, None], beta.clamp_min(1e-12)
    # ln P(0) = ln (β)_n − ln (α+β)_n,  P(k+1)/P(k) = (n−k)(α+k) / ((k+1)(β+n−k−1))
    first = torch.lgamma(b + n_) - torch.lgamma(b) - torch.lgamma(alpha + b + n_) + torch.lgamma(alpha + b)
    k = torch.arange(most, dtype=torch.float64)
    left = (n_ - k).clamp_min(0)[:, None]  # [subject, 1, k]
    ratio = left * (alpha[..., None] + k) / ((k + 1) * (b[..., None] + (left - 1).clamp_min(0)))
    log_p = first[..., None] + ratio.log().cumsum(-1)  # −∞ from k = n + 1 on
    # Summed from the far end, so that small tails keep their relative precision.
    return log_p.exp().flip(-1).cumsum(-1).flip(-1)

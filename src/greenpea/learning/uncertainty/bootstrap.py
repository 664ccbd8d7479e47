"""Bootstrapped heads on one encoder: each has learned from the same subjects, weighted anew.

Weights are exponential, as if the subjects were a sample of some population (Rubin 1981; Newton & Raftery 1994). Each
head is one Newton step away from the trained one, which all of them take in one batched product. Doubt shrinks as
subjects accumulate, and is right as well where the likelihood is not: its covariance is H⁻¹ J H⁻¹ (White 1982).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from greenpea.errors import GreenpeaError
from greenpea.learning import heads
from greenpea.learning.settings import Learning
from greenpea.learning.uncertainty import laplace
from greenpea.learning.uncertainty.skeleton import Learned, loss_alone, one_pass, unchanged
from greenpea.outputs import Layout

COST = "one pass of the encoder; memory of a head a draw"
MISSING = "its heads have all learned the same: there is one subject, or no votes to weigh"
FEWEST = 30  # heads

prepare = prepare_head = unchanged
objective = loss_alone
passes = one_pass


@dataclass(frozen=True)
class State:
    """The trained head [embedding + 1, output], first of all, and one for every weighting of the subjects."""

    mean: Tensor
    heads: Tensor  # [head, embedding + 1, output]


def encoder_passes(settings: Learning, draws: int) -> int:
    """Return 1: all draws are of the head."""
    return 1


def candidates(learned: Learned) -> Iterator[State]:
    """Yield the heads for each precision of the prior that holds them together.

    Costs N·E multiply-adds a head and output, beside what `laplace.candidates` does.
    """
    mean = learned.mean
    inputs = torch.cat([learned.embeddings, torch.ones(len(learned.embeddings), 1)], dim=1).double()
    generator = torch.Generator().manual_seed(learned.settings.seed)
    shape = max(FEWEST, learned.settings.draws), len(inputs)
    weights = torch.empty(shape, dtype=torch.float64).exponential_(generator=generator)
    slopes = _slopes(learned.layout, mean.double(), inputs, learned.packed, weights - 1)
    for gaussian in laplace.candidates(learned):
        yield State(mean, (mean.double() + _steps(gaussian, slopes)).to(mean.dtype))


def _slopes(layout: Layout, mean: Tensor, inputs: Tensor, packed: Tensor, weights: Tensor) -> Tensor:
    """Return Σ_i v_i ∂ ln p(votes_i)/∂head for every row v of ``weights``: [head, embedding + 1, output]."""
    outputs = (inputs @ mean).requires_grad_()
    by_question = heads.Targets(layout).log_likelihood(outputs, packed)
    (scores,) = torch.autograd.grad(torch.stack([value.sum() for value in by_question.values()]).sum(), outputs)
    return torch.stack([(weights * column) @ inputs for column in scores.T], dim=2)


def _steps(gaussian: laplace.State, slopes: Tensor) -> Tensor:
    """Return H⁻¹ g for every head's slope g, with H = L Lᵀ of the Gaussian."""
    steps = torch.zeros_like(slopes)
    count, rows, _ = slopes.shape
    for name, factor in gaussian.factors.items():
        columns = list(gaussian.columns[name])
        flat = slopes[:, :, columns].permute(2, 1, 0).reshape(-1, count)  # the embedding runs fastest
        found = torch.cholesky_solve(flat, factor.double())
        steps[:, :, columns] = found.reshape(len(columns), rows, count).permute(2, 1, 0)
    return steps


def draw(state: State, t: int, generator: torch.Generator) -> Tensor:
    """Return head ``t``. Raises GreenpeaError where there are not so many: each is fitted, none is random any more."""
    if t >= len(state.heads):
        raise GreenpeaError(
            f"this model has {len(state.heads)} bootstrapped heads, and draw {t + 1} is asked for: ask for fewer, or "
            f"train with more learning.draws"
        )
    return state.heads[t]


def tensors(state: State) -> dict[str, Tensor]:
    """Return what a checkpoint keeps."""
    return {"mean": state.mean, "heads": state.heads}


def restore(kept: dict[str, Tensor]) -> State:
    """Return the State of a checkpoint."""
    return State(kept["mean"], kept["heads"])

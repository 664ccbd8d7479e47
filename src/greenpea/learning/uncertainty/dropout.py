"""Head dropout: each draw silences a random share of the embedding (Gal & Ghahramani 2016; Walmsley+2020).

The 2019 anchor. Its doubt does not shrink with data: the mutual information stays at what the rate dictates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from greenpea.learning.settings import Learning
from greenpea.learning.uncertainty.skeleton import Learned, loss_alone, one_pass, unchanged

COST = "one pass of the encoder; memory of one head"
MISSING = "the Dropout before the head silences nothing: set learning.dropout above 0"

prepare = prepare_head = unchanged
objective = loss_alone
passes = one_pass


@dataclass(frozen=True)
class State:
    """The trained head [embedding + 1, output] and the share of the embedding that a draw silences."""

    mean: Tensor
    rate: float


def encoder_passes(settings: Learning, draws: int) -> int:
    """Return 1: all draws are of the head."""
    return 1


def candidates(learned: Learned) -> Iterator[State]:
    """Yield the head as trained: its training under dropout is all there is to fit."""
    yield State(learned.mean, learned.settings.dropout)


def draw(state: State, t: int, generator: torch.Generator) -> Tensor:
    """Return one set of weights [embedding + 1, output]: rows of the embedding silenced, the others raised."""
    rows = len(state.mean) - 1
    keep = (torch.rand(rows, generator=generator, dtype=torch.float64) >= state.rate).to(state.mean.dtype)
    factors = torch.cat([keep / (1 - state.rate), torch.ones(1, dtype=state.mean.dtype)])  # never the bias
    return state.mean * factors[:, None]


def tensors(state: State) -> dict[str, Tensor]:
    """Return what a checkpoint keeps."""
    return {"mean": state.mean, "rate": torch.tensor(state.rate, dtype=torch.float64)}


def restore(kept: dict[str, Tensor]) -> State:
    """Return the State of a checkpoint."""
    return State(kept["mean"], float(kept["rate"]))

"""What every uncertainty method is made of, and what most of them have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from greenpea.learning.settings import Learning
from greenpea.learning.uncertainty.layers import Drawn
from greenpea.outputs import Layout

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Learned:
    """What a network has learned, and from what: of this a method makes its States."""

    layout: Layout
    head: nn.Module | None  # as trained; None where it was fitted on a frozen encoder
    mean: Tensor  # the head's weights [embedding + 1, output]
    embeddings: Tensor  # [subject, embedding], of the subjects learned from
    packed: Tensor  # their votes, as `heads.Targets` packs them
    settings: Learning


@dataclass(frozen=True, eq=False)
class Pass:
    """One pass of the encoder: which of its tensors are replaced, made when needed, and the draws that it serves."""

    tensors: Callable[[], Drawn]
    draws: Sequence[int]
    as_trained: bool = False  # nothing is replaced


def unchanged(module: nn.Module, settings: Learning) -> nn.Module:
    """Return the module as it is: the method needs no other layers (`prepare`, `prepare_head`)."""
    return module


def loss_alone(network: nn.Module, loss: Loss, subjects: int, settings: Learning) -> Loss:
    """Return ``loss``: the method is trained by it alone (`objective`)."""
    return loss


def one_pass(encoder: nn.Module, state: Any, generators: Sequence[torch.Generator]) -> list[Pass]:
    """Return the one pass of the encoder that serves all draws (`passes`)."""
    return [Pass(dict, range(len(generators)), as_trained=True)]


def head_of(layer: nn.Linear) -> Tensor:
    """Return a linear layer's weights as a head [embedding + 1, output]."""
    return torch.cat([layer.weight.T, layer.bias[None]]).detach().float()

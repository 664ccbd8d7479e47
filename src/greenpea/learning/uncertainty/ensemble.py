"""A deep ensemble: networks that began at different random weights (Lakshminarayanan+2017).

Each member's head is drawn from its own last-layer Laplace Gaussian, so that there are as many draws as one likes and
doubt shrinks inside each (a mixture of Laplaces, Eschenhagen+2021): draw t is of member t modulo their number. Members
pass over a block of images one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from greenpea.learning.settings import Learning
from greenpea.learning.uncertainty import laplace
from greenpea.learning.uncertainty.skeleton import Pass, loss_alone, unchanged

COST = "a training and a pass of the encoder for each member; memory of all of them"
MISSING = "its members are one and the same network: train them from different seeds"

prepare = prepare_head = unchanged
objective = loss_alone


@dataclass(frozen=True)
class State:
    """The members' heads with their doubt, and the tensors of the members' encoders: the first is the model's own."""

    heads: tuple[laplace.State, ...]
    encoders: tuple[dict[str, Tensor], ...]


def encoder_passes(settings: Learning, draws: int) -> int:
    """Return one pass a member."""
    return min(settings.members, draws)


def draw(state: State, t: int, generator: torch.Generator) -> Tensor:
    """Return one set of weights [embedding + 1, output] of the head of member t modulo their number."""
    return laplace.draw(state.heads[t % len(state.heads)], t, generator)


def passes(encoder: nn.Module, state: State, generators: Sequence[torch.Generator]) -> list[Pass]:
    """Return a pass a member."""
    members, draws = len(state.heads), range(len(generators))

    def one(number: int) -> Pass:
        return Pass(lambda: state.encoders[number - 1], draws[number::members])

    return [
        Pass(dict, draws[::members], as_trained=True),
        *(one(number) for number in range(1, min(members, len(draws)))),
    ]


def tensors(state: State) -> dict[str, Tensor]:
    """Return what a checkpoint keeps."""
    kept: dict[str, Tensor] = {}
    for number, head in enumerate(state.heads):
        kept |= {f"{number}.{name}": value for name, value in laplace.tensors(head).items()}
    for number, encoder in enumerate(state.encoders, 1):
        kept |= {f"{number}.encoder.{name}": value for name, value in encoder.items()}
    return kept


def restore(kept: dict[str, Tensor]) -> State:
    """Return the State of a checkpoint."""
    count = 1 + max(int(name.partition(".")[0]) for name in kept)
    parts = [{name.partition(".")[2]: v for name, v in kept.items() if name.startswith(f"{i}.")} for i in range(count)]
    heads = [
        laplace.restore({name: v for name, v in part.items() if not name.startswith("encoder.")}) for part in parts
    ]
    encoders = [
        {name.removeprefix("encoder."): v for name, v in part.items() if name.startswith("encoder.")}
        for part in parts[1:]
    ]
    return State(tuple(heads), tuple(encoders))

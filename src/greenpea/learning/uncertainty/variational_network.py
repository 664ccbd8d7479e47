"""A variational network: every weight of encoder and head is a Gaussian, learned (Blundell+2015; see `variational`)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from greenpea.learning.settings import Learning
from greenpea.learning.uncertainty import variational, variational_head
from greenpea.learning.uncertainty.layers import Drawn
from greenpea.learning.uncertainty.skeleton import Pass

COST = "as many passes of the encoder as draws; memory of two networks"
MISSING = variational.MISSING

prepare_head, objective = variational_head.prepare_head, variational_head.objective
State = variational_head.State
candidates, draw = variational_head.candidates, variational_head.draw
tensors, restore = variational_head.tensors, variational_head.restore


def encoder_passes(settings: Learning, draws: int) -> int:
    """Return one pass a draw."""
    return draws


def prepare(encoder: nn.Module, settings: Learning) -> nn.Module:
    """Return the encoder with Gaussian weights."""
    return variational.of(encoder, variational_head.prior(settings), scaled=True)


def passes(encoder: nn.Module, state: State, generators: Sequence[torch.Generator]) -> list[Pass]:
    """Return a pass a draw, each with weights of its own."""
    variational.layers(encoder)
    return [Pass(partial(_weights, encoder, one.get_state()), [t]) for t, one in enumerate(generators)]


def _weights(encoder: nn.Module, random: Tensor) -> Drawn:
    """Return the weights of one draw, the same whenever it is made."""
    generator = torch.Generator()
    generator.set_state(random)
    return variational.draw(encoder, generator)

"""Dropout in the encoder and before the head: each draw silences a share of all channels (Gal & Ghahramani 2016).

Whole channels, for neighbouring pixels tell each other's values (Tompson+2015); the image's own are never silenced.
As with `dropout`, the width of the doubt is the rate, however many votes there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout1d, dropout2d, dropout3d

from greenpea.errors import GreenpeaError
from greenpea.learning.settings import Learning
from greenpea.learning.uncertainty import dropout
from greenpea.learning.uncertainty.layers import Doubting, Drawn, doubting, prefixed, replaced
from greenpea.learning.uncertainty.skeleton import Pass, loss_alone, unchanged

COST = "as many passes of the encoder as draws; memory of one network"
MISSING = (
    "the encoder has no Dropped layer that silences anything: it takes a second convolution, and "
    "learning.encoder_dropout above 0"
)
SILENCED = {nn.Conv1d: dropout1d, nn.Conv2d: dropout2d, nn.Conv3d: dropout3d}

prepare_head = unchanged
objective = loss_alone
State = dropout.State
candidates, draw = dropout.candidates, dropout.draw
tensors, restore = dropout.tensors, dropout.restore


class Dropped(Doubting):
    """A convolution whose input channels are silenced: at random for every image in training, else by ``mask``."""

    mask: Tensor

    def __init__(self, layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, rate: float) -> None:
        super().__init__()
        self.layer, self.rate = layer, rate
        self.register_buffer("mask", torch.ones(layer.in_channels), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            return self.layer(SILENCED[type(self.layer)](inputs, self.rate))
        return self.layer(inputs * self.mask.view(-1, *(1,) * (inputs.ndim - 2)).to(inputs.dtype))

    def draw(self, generator: torch.Generator) -> Tensor:
        """Return which channels are kept, raised so that the mean stays."""
        keep = torch.rand(len(self.mask), generator=generator, dtype=torch.float64) >= self.rate
        return (keep / (1 - self.rate)).float()

    def plain(self) -> nn.Module:
        return self.layer


def of(network: nn.Module, rate: float) -> nn.Module:
    """Return a copy of ``network`` with dropout before every convolution but the first, which sees the image."""
    first = True

    def change(layer: nn.Module) -> nn.Module:
        nonlocal first
        made, first = layer if first else Dropped(layer, rate), False
        return made

    return replaced(network, tuple(SILENCED), change)


def prepare(encoder: nn.Module, settings: Learning) -> nn.Module:
    """Return the encoder with dropout inside."""
    return of(encoder, settings.encoder_dropout)


def encoder_passes(settings: Learning, draws: int) -> int:
    """Return one pass a draw."""
    return draws


def passes(encoder: nn.Module, state: dropout.State, generators: Sequence[torch.Generator]) -> list[Pass]:
    """Return a pass a draw, each with channels of its own."""
    found = doubting(encoder, Dropped, MISSING)
    if all(layer.rate == 0 for _, layer in found):
        raise GreenpeaError(f"all draws of this network would be the same: {MISSING}")
    return [Pass(partial(_masks, found, one.get_state()), [t]) for t, one in enumerate(generators)]


def _masks(found: list[tuple[str, Dropped]], random: Tensor) -> Drawn:
    """Return the masks of one draw, the same whenever it is made."""
    generator = torch.Generator()
    generator.set_state(random)
    masks: dict[str, Tensor] = {}
    for name, layer in found:
        masks |= prefixed([("mask", layer.draw(generator).to(layer.mask.device))], name)
    return masks

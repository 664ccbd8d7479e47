"""A variational head: trained together with the encoder, every weight of it a Gaussian (Blundell+2015).

What `variational` does to the whole network, in the last layer only: one pass of the encoder serves all draws.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from greenpea.errors import GreenpeaError
from greenpea.learning.settings import Learning
from greenpea.learning.uncertainty import variational
from greenpea.learning.uncertainty.skeleton import Learned, Loss, one_pass, unchanged

COST = "one pass of the encoder; memory of two heads"
MISSING = "the head is not variational: train with learning.uncertainty set to 'variational-head'"

prepare = unchanged
passes = one_pass


@dataclass(frozen=True)
class State:
    """Means and standard deviations of the head's weights, each [embedding + 1, output]."""

    mean: Tensor
    sd: Tensor


def encoder_passes(settings: Learning, draws: int) -> int:
    """Return 1: all draws are of the head."""
    return 1


def prior(settings: Learning) -> variational.Prior:
    """Return the prior that the settings ask for."""
    width = settings.prior_width
    kinds: dict[str, variational.Prior] = {
        "gaussian": variational.Gaussian(width),
        "laplace": variational.Laplace(width / 2**0.5),  # the same standard deviation
        "mixture": variational.ScaleMixture(wide=width, narrow=width / 20),
    }
    return kinds[settings.prior]


def prepare_head(head: nn.Module, settings: Learning) -> nn.Module:
    """Return the head with Gaussian weights."""
    return variational.of(head, prior(settings), scaled=True)


def objective(network: nn.Module, loss: Loss, subjects: int, settings: Learning) -> Loss:
    """Return the loss with the KL of all variational layers (`variational.objective`)."""
    return variational.objective(network, loss, subjects, settings.temperature)


def candidates(learned: Learned) -> Iterator[State]:
    """Yield the Gaussians that training found."""
    if not isinstance(learned.head, variational.Layer):
        raise GreenpeaError(f"all draws of this network would be the same: {MISSING}")
    yield State(_head(learned.head, learned.head.mean), _head(learned.head, learned.head.log_sd.exp()))


def _head(layer: variational.Layer, numbers: Tensor) -> Tensor:
    """Return the numbers of a layer laid out as a head [embedding + 1, output]."""
    weight = numbers[: layer.weights].view(layer.shape)
    return torch.cat([weight.T, numbers[layer.weights :][None]]).detach().float()


def draw(state: State, t: int, generator: torch.Generator) -> Tensor:
    """Return one set of weights [embedding + 1, output]."""
    return state.mean + state.sd * torch.randn(state.mean.shape, generator=generator)


def tensors(state: State) -> dict[str, Tensor]:
    """Return what a checkpoint keeps."""
    return {"mean": state.mean, "sd": state.sd}


def restore(kept: dict[str, Tensor]) -> State:
    """Return the State of a checkpoint."""
    return State(kept["mean"], kept["sd"])

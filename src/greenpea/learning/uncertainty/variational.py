"""Mean-field variational inference: every weight is a Gaussian that is learned (Blundell+2015, Bayes by backprop).

Training minimises −ln p(data) + temperature · KL(q ‖ prior): per subject, the loss plus the KL of all layers over the
number of subjects. In training a layer draws its outputs and not its weights, which makes gradients far less noisy
(local reparameterisation, Kingma+2015); a convolution's noise is then independent between places, as if it did not
share its weights. Knows nothing of votes: any module, any loss.

Costs twice the multiplications of an ordinary network in training, one pass a draw afterwards, two numbers a weight.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from greenpea.errors import GreenpeaError
from greenpea.learning.uncertainty.layers import WEIGHTED, Doubting, Weighted, doubting, prefixed, replaced

Loss = Callable[[Tensor, Tensor], Tensor]

START = 0.1  # standard deviation of a weight before training, in units of 1/√(inputs of its unit)
NONE = -40.0  # ln σ of a weight that is no more
MISSING = "it has no variational layer; make one with variational.of, which replaces every Linear and convolution"


# ---- priors ------------------------------------------------------------------------------------------


class Prior(Protocol):
    """What is believed of every weight before the data."""

    closed: bool  # whether `kl` is exact, and needs no draw

    def scaled(self, factor: float) -> Prior:
        """Return the prior that is ``factor`` times as wide."""

    def kl(self, mean: Tensor, log_sd: Tensor, drawn: Tensor | None = None) -> Tensor:
        """Return KL(N(mean, sd²) ‖ prior), summed, in nats; an estimate at ``drawn`` where it is not closed."""


@dataclass(frozen=True)
class Gaussian:
    """N(0, sd²)."""

    sd: float = 1.0
    closed = True

    def scaled(self, factor: float) -> Gaussian:
        return Gaussian(self.sd * factor)

    def kl(self, mean: Tensor, log_sd: Tensor, drawn: Tensor | None = None) -> Tensor:
        # KL = ln(s/σ) + (σ² + μ²) / 2s² − ½
        return (math.log(self.sd) - log_sd + ((2 * log_sd).exp() + mean**2) / (2 * self.sd**2) - 0.5).sum()


@dataclass(frozen=True)
class Laplace:
    """exp(−|w|/b) / 2b: many weights near 0, a few far."""

    scale: float = 1.0
    closed = True

    def scaled(self, factor: float) -> Laplace:
        return Laplace(self.scale * factor)

    def kl(self, mean: Tensor, log_sd: Tensor, drawn: Tensor | None = None) -> Tensor:
        # KL = ln 2b − ½ ln 2πeσ² + E|w|/b,  E|w| = μ erf(μ/σ√2) + σ √(2/π) exp(−μ²/2σ²)
        ratio = mean / log_sd.exp() / math.sqrt(2)
        size = mean * torch.erf(ratio) + log_sd.exp() * math.sqrt(2 / math.pi) * torch.exp(-(ratio**2))
        return (math.log(2 * self.scale) - _entropy(log_sd) + size / self.scale).sum()


@dataclass(frozen=True)
class ScaleMixture:
    """A wide and a narrow Gaussian around 0, the wide one with weight ``share`` (Blundell+2015, eq. 7)."""

    share: float = 0.5
    wide: float = 1.0
    narrow: float = 0.05
    closed = False

    def scaled(self, factor: float) -> ScaleMixture:
        return ScaleMixture(self.share, self.wide * factor, self.narrow * factor)

    def log_p(self, weights: Tensor) -> Tensor:
        """Return ln p of every weight."""
        parts = [(self.share, self.wide), (1 - self.share, self.narrow)]
        logs = [
            math.log(part) - math.log(sd) - 0.5 * math.log(2 * math.pi) - 0.5 * (weights / sd) ** 2
            for part, sd in parts
        ]
        return torch.logaddexp(*logs)

    def kl(self, mean: Tensor, log_sd: Tensor, drawn: Tensor | None = None) -> Tensor:
        if drawn is None:
            drawn = mean + log_sd.exp() * torch.randn_like(mean)
        # KL = −H[q] − E_q ln p(w); the entropy exact, the expectation at the weights drawn
        return (-_entropy(log_sd) - self.log_p(drawn)).sum()


def _entropy(log_sd: Tensor) -> Tensor:
    return 0.5 * math.log(2 * math.pi * math.e) + log_sd


# ---- layers ------------------------------------------------------------------------------------------


class Layer(Doubting):
    """A Linear or a convolution of one to three dimensions whose weights and bias are independent Gaussians.

    Means and ln σ are one vector each, weights first: weight decay, which is for matrices, leaves them to the prior.
    In training mode outputs are random; in evaluation mode the means are the weights, and a draw replaces them.
    """

    like: Any

    def __init__(self, layer: Weighted, prior: Prior, start: float = START) -> None:
        super().__init__()
        self.prior, self.shape = prior, layer.weight.shape
        parts = [layer.weight.detach().reshape(-1)] + ([] if layer.bias is None else [layer.bias.detach()])
        self.mean = nn.Parameter(torch.cat(parts).clone())
        self.log_sd = nn.Parameter(torch.full_like(self.mean, math.log(start) - 0.5 * math.log(self.fan_in)))
        # How to be plain again: past nn.Module, which would take it for a part, and on no device, where it is free.
        object.__setattr__(self, "like", copy.deepcopy(layer).to("meta"))
        self.drawn: Tensor | None = None

    @property
    def fan_in(self) -> int:
        """How many inputs a unit has."""
        return math.prod(self.shape[1:])

    @property
    def weights(self) -> int:
        """How many of the numbers are weights; the others are biases."""
        return math.prod(self.shape)

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.training:
            return self._product(inputs, self.mean)
        if not self.prior.closed:  # the KL is estimated at the weights that the likelihood saw
            self.drawn = self.mean + self.log_sd.exp() * torch.randn_like(self.mean)
            return self._product(inputs, self.drawn)
        middle = self._product(inputs, self.mean)
        variance = self._product(inputs.square(), (2 * self.log_sd).exp()).float()
        return middle + (variance.clamp_min(1e-16).sqrt() * torch.randn_like(variance)).to(middle.dtype)

    def _product(self, inputs: Tensor, numbers: Tensor) -> Tensor:
        weight = numbers[: self.weights].view(self.shape)
        bias = numbers[self.weights :] if len(numbers) > self.weights else None
        if isinstance(self.like, nn.Linear):
            return linear(inputs, weight, bias)
        return self.like._conv_forward(inputs, weight, bias)

    def kl(self) -> Tensor:
        """Return KL(q ‖ prior) of the layer, in nats."""
        drawn, self.drawn = self.drawn, None
        return self.prior.kl(self.mean, self.log_sd, drawn)

    def plain(self) -> nn.Module:
        layer, mean = copy.deepcopy(self.like), self.mean.detach()
        layer.weight = nn.Parameter(mean[: self.weights].view(self.shape).clone())
        if layer.bias is not None:
            layer.bias = nn.Parameter(mean[self.weights :].clone())
        return layer


def of(network: nn.Module, prior: Prior, start: float = START, scaled: bool = False) -> nn.Module:
    """Return a copy of ``network`` in which every Linear and convolution is variational, its weights the means.

    ``start`` is the standard deviation to begin with, in units of 1/√(inputs of a unit). ``scaled``: the prior's width
    is in these units too, as that of weights at the start is; else every layer has ``prior`` as it is.
    """

    def change(layer: Weighted) -> Layer:
        inputs = math.prod(layer.weight.shape[1:])
        return Layer(layer, prior.scaled(inputs**-0.5) if scaled else prior, start)

    return replaced(network, WEIGHTED, change)


def layers(network: nn.Module) -> list[tuple[str, Layer]]:
    """Return the variational layers with their names. Raises GreenpeaError where there are none."""
    return doubting(network, Layer, MISSING)


def kl(network: nn.Module) -> Tensor:
    """Return KL(q ‖ prior) summed over every variational layer, in nats; a Monte Carlo estimate where not closed."""
    return torch.stack([layer.kl() for _, layer in layers(network)]).sum()


def objective(network: nn.Module, loss: Loss, subjects: int, temperature: float = 1.0) -> Loss:
    """Return the loss to train ``network`` with: ``loss``, a mean over subjects, + temperature · KL / ``subjects``.

    Where no gradient is recorded it is ``loss`` alone: what is held out judges the prediction. A ``temperature``
    below 1 is a cold posterior (Wenzel+2020): surer than Bayes' rule has it.
    """
    layers(network)

    def value(outputs: Tensor, targets: Tensor) -> Tensor:
        found = loss(outputs, targets)
        return found + temperature * kl(network) / subjects if torch.is_grad_enabled() else found

    return value


def draw(network: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """Return one set of weights for all inputs, to be used with `layers.apply`: a function of the generator alone."""
    found: dict[str, Tensor] = {}
    for name, layer in layers(network):
        noise = torch.randn(len(layer.mean), generator=generator).to(layer.mean)
        found |= prefixed([("mean", (layer.mean + layer.log_sd.exp() * noise).detach())], name)
    return found


# ---- pruning -----------------------------------------------------------------------------------------


def signal_to_noise(network: nn.Module) -> Tensor:
    """Return |μ|/σ of every weight, biases left out, layer after layer (Blundell+2015, section 5)."""
    found = [(layer.mean.abs() / layer.log_sd.exp())[: layer.weights] for _, layer in layers(network)]
    return torch.cat(found).detach()


def prune(network: nn.Module, share: float, generator: torch.Generator | None = None) -> nn.Module:
    """Return a copy in which a ``share`` of all weights is exactly 0 in every draw: those of least |μ|/σ.

    With a ``generator``, as many weights taken at random: what pruning by signal-to-noise is to be compared with.
    """
    if not 0 <= share < 1:
        raise GreenpeaError(f"a share of {share} of the weights cannot be pruned: choose from 0 to below 1")
    ratio = signal_to_noise(network)
    worth = ratio if generator is None else torch.rand(len(ratio), generator=generator).to(ratio)
    gone = torch.zeros(len(ratio), dtype=torch.bool, device=ratio.device)
    gone[worth.argsort()[: round(share * len(ratio))]] = True
    return masked(network, gone)


@torch.no_grad()
def masked(network: nn.Module, gone: Tensor) -> nn.Module:
    """Return a copy without the weights that are ``gone``, a boolean for each in the order of `signal_to_noise`."""
    pruned = copy.deepcopy(network)
    at = 0
    for _, layer in layers(pruned):
        mine = torch.nonzero(gone[at : at + layer.weights])[:, 0]
        layer.mean[mine], layer.log_sd[mine] = 0.0, NONE
        at += layer.weights
    if at != len(gone):
        raise GreenpeaError(f"a mask of {len(gone)} weights for a network of {at}: make it by signal_to_noise")
    return pruned

"""Losses and curvatures of labels and measurements: what `training.fit` and the last-layer Laplace need of a family.

What a head's outputs mean, and the posterior they stand for, is told in `greenpea.labels` and `greenpea.measurements`,
without torch. Each loss is the mean over subjects of −ln p(what is known of a subject), in nats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import elu, softplus

from greenpea.labels import LabelLayout, noise_points
from greenpea.measurements import LOG_VARIANCE, MeasurementLayout

NOISE = 50  # samples of the logits' noise a subject and step
START = -2.0  # of the output that noise is learned with: a variance of softplus(−2) = 0.13


@dataclass(frozen=True)
class LabelLoss:
    """−ln p(label), the logits being noisy; targets are places among the classes, −1 where unknown.

    ``each``: −ln (1/T) Σ_t softmax(f + σ∘ε_t)_y, a σ for every logit (Kendall & Gal 2017, eq. 12). ``shared``: one σ²
    for all, learned by CE · mean_t[−elu(CE − CE_t)] + CE + e^{σ²} − 1, where CE_t is the cross-entropy CE with noise
    (Dorman, “Building a Bayesian deep learning classifier”, 2017). ``none``: the cross-entropy.
    """

    layout: LabelLayout

    def __call__(self, outputs: Tensor, codes: Tensor) -> Tensor:
        known = codes >= 0
        outputs, codes = outputs[known].float(), codes[known]
        if not len(codes):
            return outputs.sum() * 0.0
        logits, raw = outputs[:, : len(self.layout.classes)], outputs[:, len(self.layout.classes) :]
        plain = self._cross_entropy(logits, codes)
        if self.layout.noise == "none":
            return plain.mean()
        variance = softplus(raw)
        noisy = self._cross_entropy(logits + (variance + 1e-8).sqrt() * self._noise(logits), codes)
        if self.layout.noise == "each":
            return (math.log(len(noisy)) - (-noisy).logsumexp(0)).mean()
        return (plain * -elu(plain - noisy).mean(0) + plain + variance[:, 0].exp() - 1).mean()

    def _cross_entropy(self, logits: Tensor, codes: Tensor) -> Tensor:
        index = codes.expand(logits.shape[:-1])[..., None]
        return -logits.log_softmax(-1).gather(-1, index)[..., 0]

    def _noise(self, logits: Tensor) -> Tensor:
        """Return samples [sample, subject, class]: new ones in training, always the same in judging."""
        if torch.is_grad_enabled():
            return torch.randn(NOISE, *logits.shape, device=logits.device)
        return _points(self.layout).to(logits)[:, None]

    def start(self, codes: Tensor) -> Tensor:
        """Return the outputs of someone who never looks: the frequencies of the labels."""
        counts = torch.bincount(codes[codes >= 0], minlength=len(self.layout.classes)) + 1.0
        noise = self.layout.outputs - len(self.layout.classes)
        return torch.cat([(counts / counts.sum()).log(), torch.full((noise,), START)])

    def groups(self) -> list[list[int]]:
        """Return the sets of outputs whose doubt hangs together: all."""
        return [list(range(self.layout.outputs))]

    def fisher(self, outputs: Tensor, codes: Tensor) -> Tensor:
        """Return the information of a subject's label about its outputs, [subject, output, output]; 0 if unknown."""
        with torch.enable_grad():
            outputs = outputs.detach().double().requires_grad_(True)
            log_p = self._log_p(outputs)
            slopes = [torch.autograd.grad(one.sum(), outputs, retain_graph=True)[0] for one in log_p.unbind(-1)]
        jacobian = torch.stack(slopes, dim=1)  # subject, class, output
        # F = Σ_c p_c ∇ln p_c ∇ln p_cᵀ
        weight = log_p.detach().exp() * (codes >= 0)[:, None]
        return jacobian.mT @ (weight[..., None] * jacobian)

    def _log_p(self, outputs: Tensor) -> Tensor:
        logits, raw = outputs[:, : len(self.layout.classes)], outputs[:, len(self.layout.classes) :]
        if self.layout.noise == "none":
            return logits.log_softmax(-1)
        noise = _points(self.layout).to(logits)
        noisy = logits + (softplus(raw) + 1e-8).sqrt() * noise[:, None]
        return noisy.log_softmax(-1).logsumexp(0) - math.log(len(noise))


def _points(layout: LabelLayout) -> Tensor:
    return torch.from_numpy(noise_points(len(layout.classes)))


@dataclass(frozen=True)
class MeasurementLoss:
    """−ln p(values) of standardised targets, Gaussian of learned variance (Kendall & Gal 2017); NaN where unknown."""

    layout: MeasurementLayout

    def __call__(self, outputs: Tensor, values: Tensor) -> Tensor:
        mean, log_variance = self._parts(outputs.float())
        known = values.isfinite()
        error = torch.where(known, values, mean) - mean
        # ½ (y − ŷ)²/σ² + ½ ln σ² + ½ ln 2π
        each = 0.5 * error**2 * (-log_variance).exp() + 0.5 * log_variance + 0.5 * math.log(2 * math.pi)
        return torch.where(known, each, 0.0).sum(-1).mean()

    def _parts(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = outputs.chunk(2, dim=-1)
        return mean, log_variance.clamp(*LOG_VARIANCE)

    def start(self, values: Tensor) -> Tensor:
        """Return the outputs of someone who never looks: mean 0 and variance 1."""
        return torch.zeros(self.layout.outputs)

    def groups(self) -> list[list[int]]:
        """Return the sets of outputs whose doubt hangs together: each target's two."""
        count = len(self.layout.targets)
        return [[target, count + target] for target in range(count)]

    def fisher(self, outputs: Tensor, values: Tensor) -> Tensor:
        """Return the information of a subject's values about its outputs, [subject, output, output]; 0 if unknown."""
        _, log_variance = self._parts(outputs.double())
        known = values.isfinite().double()
        # F = diag(1/σ², ½) of (ŷ, ln σ²)
        return torch.diag_embed(torch.cat([known * (-log_variance).exp(), 0.5 * known], dim=-1))


FamilyLoss = LabelLoss | MeasurementLoss


def curvatures(loss: FamilyLoss, mean: Tensor, features: Tensor, targets: Tensor, step: int = 512) -> list[Tensor]:
    """Return, per group, Σ_i F_i ⊗ z_i z_iᵀ, [output·row, output·row], z the features with a last column of ones."""
    z = torch.cat([features, torch.ones(len(features), 1)], dim=1).double()
    size = z.shape[1]
    totals = [torch.zeros(len(group), size, len(group), size, dtype=torch.float64) for group in loss.groups()]
    for at in range(0, len(z), step):
        some = z[at : at + step]
        fisher = loss.fisher(some @ mean.double(), targets[at : at + step])
        for total, group in zip(totals, loss.groups(), strict=True):
            for a, first in enumerate(group):
                for b, second in enumerate(group[: a + 1]):
                    block = some.T @ (fisher[:, first, second, None] * some)
                    total[a, :, b] += block
                    if b < a:
                        total[b, :, a] += block
    return [total.reshape(total.shape[0] * size, -1) for total in totals]


def as_targets(layout: LabelLayout | MeasurementLayout, known: np.ndarray) -> Tensor:
    """Return codes or measured values as the losses take them."""
    if isinstance(layout, LabelLayout):
        return torch.from_numpy(np.asarray(known, np.int64))
    return torch.from_numpy(layout.standardised(known).astype(np.float32))

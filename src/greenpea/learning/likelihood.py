"""Likelihoods of votes for training: ln p(counts | what the network says), differentiable, float64 inside.

In float32 the differences of ln Γ cancel: at α₀ = 1e6 the result is off by 0.3 nats. Predictions come in as
logarithms in any precision; the sums are done in float64, which costs nothing beside the encoder. Formulae and
sources: `greenpea.posterior`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def log_pochhammer(log_alpha: Tensor, k: Tensor) -> Tensor:
    """Return ln (α)_k = ln Γ(α+k) − ln Γ(α); exactly 0 where k = 0."""
    alpha = log_alpha.exp()
    return torch.lgamma(alpha + k) - torch.lgamma(alpha)


def dirichlet_multinomial(log_alpha: Tensor, counts: Tensor) -> Tensor:
    """ln p(counts | concentrations), over the last axis (Walmsley+2022)."""
    log_alpha, counts = log_alpha.double(), counts.double()
    n = counts.sum(-1)
    log_total = log_alpha.logsumexp(-1)
    # ln Γ(n+1) − Σ ln Γ(k+1) + ln Γ(α₀) − ln Γ(n+α₀) + Σ [ln Γ(k+α) − ln Γ(α)]
    return _combinations(n, counts) - log_pochhammer(log_total, n) + log_pochhammer(log_alpha, counts).sum(-1)


def multinomial(log_fractions: Tensor, counts: Tensor) -> Tensor:
    """ln p(counts | fractions), over the last axis."""
    log_fractions, counts = log_fractions.double(), counts.double()
    # ln n! − Σ ln k! + Σ k ln f; a fraction of exactly 0 costs nothing where nobody gave the answer
    spent = torch.where(counts > 0, counts * log_fractions, torch.zeros_like(counts))
    return _combinations(counts.sum(-1), counts) + spent.sum(-1)


def binomial(log_yes_no: Tensor, counts: Tensor, reached: Tensor) -> Tensor:
    """ln p of independent binomials: ``log_yes_no`` [..., answer, 2] = ln f, ln(1 − f) (Walmsley+2020)."""
    return multinomial(log_yes_no, _yes_no(counts, reached)).sum(-1)


def beta_binomial(log_alpha_beta: Tensor, counts: Tensor, reached: Tensor) -> Tensor:
    """ln p of independent beta-binomials: ``log_alpha_beta`` [..., answer, 2] = ln α, ln β."""
    return dirichlet_multinomial(log_alpha_beta, _yes_no(counts, reached)).sum(-1)


def log_likelihood(family: str, log_parameters: Tensor, counts: Tensor, reached: Tensor) -> Tensor:
    """Return ln p(counts) of one question, in nats; exactly 0, and without a gradient, where nobody was asked."""
    if family == "dirichlet-multinomial":
        value = dirichlet_multinomial(log_parameters, counts)
    elif family == "multinomial":
        value = multinomial(log_parameters, counts)
    elif family == "beta-binomial":
        value = beta_binomial(log_parameters, counts, reached)
    else:
        value = binomial(log_parameters, counts, reached)
    return torch.where(reached > 0, value, torch.zeros_like(value))


def _yes_no(counts: Tensor, reached: Tensor) -> Tensor:
    return torch.stack([counts, reached.unsqueeze(-1) - counts], dim=-1)


def _combinations(n: Tensor, counts: Tensor) -> Tensor:
    return torch.lgamma(n + 1) - torch.lgamma(counts + 1).sum(-1)

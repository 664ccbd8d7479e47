"""Outputs: the numbers a head gives for a subject, and the posterior they stand for. Numpy only.

A head is one matrix of weights [embedding + 1, output], its last row the bias. Draws of it are one array
[draw, embedding + 1, output]: applying all draws to a batch is one product, and the encoder runs once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.linalg import solve_triangular
from scipy.special import expit

from greenpea.posterior import Posterior
from greenpea.tree import DecisionTree

Likelihood = Literal["dirichlet-multinomial", "multinomial"]

# ln s is kept in bounds where s is a concentration: from far below one vote's worth to a sharp multinomial.
LOG_CONCENTRATION = (-6.0, 14.0)
SMALLEST_LOG = -60.0  # of a fraction or concentration: float32 would round less to 0, whose ln Γ is infinite
EXACT_BITS = 53  # of a float64: sums of whole numbers of so many are exact


@dataclass(frozen=True)
class Layout:
    """Which outputs belong to which question, and what they mean.

    Per ``single`` question: one logit an answer, then, for Dirichlet–multinomial, the log of the
    concentration s (α = s·softmax). Per ``multiple`` question: one logit an answer, then one log s an answer.
    """

    tree: DecisionTree
    likelihood: Likelihood = "dirichlet-multinomial"

    @property
    def spread(self) -> bool:
        """Whether the likelihood has concentrations."""
        return self.likelihood == "dirichlet-multinomial"

    def family(self, slug: str) -> str:
        """Return the posterior's family for a question."""
        if self.tree[slug].kind == "single":
            return self.likelihood
        return "beta-binomial" if self.spread else "binomial"

    @property
    def slices(self) -> dict[str, slice]:
        """Question → its columns of the output."""
        out, start = {}, 0
        for question in self.tree.questions:
            answers = len(question.answers)
            extra = 0 if not self.spread else (1 if question.kind == "single" else answers)
            out[question.slug] = slice(start, start + answers + extra)
            start += answers + extra
        return out

    @property
    def outputs(self) -> int:
        """How many outputs there are."""
        return max(part.stop for part in self.slices.values())


def apply(
    weights: Float[np.ndarray, "draw row output"], embeddings: Float[np.ndarray, "subject embedding"]
) -> Float[np.ndarray, "subject draw output"]:
    """Return the outputs of every draw's weights on every embedding: one product."""
    draws, rows, outputs = weights.shape
    flat = np.ascontiguousarray(weights[:, :-1].transpose(1, 0, 2)).reshape(rows - 1, draws * outputs)
    bias = weights[:, -1].reshape(-1)
    out = _product(embeddings, flat).astype(np.float32)
    out += bias
    return out.reshape(len(embeddings), draws, outputs)


def _product(
    values: Float[np.ndarray, "row column"], matrix: Float[np.ndarray, "column result"]
) -> Float[np.ndarray, "row result"]:
    """Return ``values @ matrix`` to float32's precision, the same bits whatever else is in the product.

    What a sum rounds to hangs on its order, and that, in one product, on where a row stands, how many columns there
    are and on the processor. So both are rounded first, to whole numbers of a row's or a column's own unit, few enough
    bits long that every sum of products is exact.
    """
    bits = (EXACT_BITS - max(1, len(matrix) - 1).bit_length()) // 2
    rows, row_unit = _whole(values, bits, axis=1)
    columns, column_unit = _whole(matrix, bits, axis=0)
    return (rows @ columns) * row_unit * column_unit


def _whole(values: np.ndarray, bits: int, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Return whole numbers of at most 2^bits, and their units, powers of two: one along ``axis``."""
    largest = np.abs(values).max(axis=axis, keepdims=True, initial=0.0).astype(np.float64)
    unit = np.ldexp(1.0, np.frexp(largest)[1] - bits)
    return np.rint(values / unit), unit


def posterior(
    layout: Layout,
    outputs: Float[np.ndarray, "subject draw output"],
    subject_ids: np.ndarray,
    distance: Float[np.ndarray, " subject"] | None = None,
) -> Posterior:
    """Return the posterior that outputs stand for."""
    by_draw = outputs.transpose(1, 0, 2)
    families = {slug: layout.family(slug) for slug in layout.tree.slugs}
    parts = {slug: parameters(layout, slug, by_draw[..., part]) for slug, part in layout.slices.items()}
    return Posterior(layout.tree, subject_ids, families, parts, distance)


def parameters(layout: Layout, slug: str, outputs: Float[np.ndarray, "*batch output"]) -> np.ndarray:
    """Return one question's parameters from its own outputs, in float32: what its family takes (`Posterior`)."""
    answers = len(layout.tree[slug].answers)
    logits, log_s = outputs[..., :answers], np.clip(outputs[..., answers:], *LOG_CONCENTRATION)
    if layout.tree[slug].kind == "single":
        # ln α = ln s + logit − ln Σ e^logit
        top = logits - logits.max(axis=-1, keepdims=True)
        log_f = top - np.log(_sum(np.exp(top)))
        return _exp(log_f + log_s if layout.spread else log_f)
    if not layout.spread:
        return np.asarray(expit(logits), np.float32)
    return _exp(np.stack([_log_sigmoid(logits) + log_s, _log_sigmoid(-logits) + log_s], axis=-1))


def _exp(logs: np.ndarray) -> np.ndarray:
    return np.exp(np.maximum(logs, np.float32(SMALLEST_LOG)), dtype=np.float32)


def _log_sigmoid(logits: np.ndarray) -> np.ndarray:
    # ln σ(x) = min(x, 0) − ln(1 + e^−|x|)
    return np.asarray(np.minimum(logits, 0) - np.log1p(np.exp(-np.abs(logits))))


def _sum(values: np.ndarray) -> np.ndarray:
    """Return the sum over the last axis, always in the same order: numpy's own depends on the batch's shape."""
    total = values[..., :1].copy()
    for index in range(1, values.shape[-1]):
        total += values[..., index : index + 1]
    return total


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where the subjects learned from lie in embedding space: a Gaussian, to tell who is far from all of them."""

    mean: Float[np.ndarray, " embedding"]
    factor: Float[np.ndarray, "embedding embedding"]  # lower Cholesky factor of the covariance
    unit: float  # the median distance of subjects kept aside

    @classmethod
    def of(
        cls, embeddings: Float[np.ndarray, "subject embedding"], others: Float[np.ndarray, "other embedding"]
    ) -> Geometry:
        """Fit on embeddings; scale by those of ``others``, best ones that the encoder has not seen either."""
        values = embeddings.astype(np.float64)
        mean = values.mean(axis=0)
        covariance = (values - mean).T @ (values - mean) / max(1, len(values) - 1)
        # Shrunk towards its mean diagonal, so that few subjects in many dimensions stay invertible.
        ridge = max(float(np.diag(covariance).mean()), 1e-6) * np.eye(len(mean))
        raw = cls(mean, np.linalg.cholesky(0.9 * covariance + 0.1 * ridge), 1.0)
        return replace(raw, unit=max(float(np.median(raw.distance(others))), 1e-6))

    def distance(self, embeddings: Float[np.ndarray, "subject embedding"]) -> Float[np.ndarray, " subject"]:
        """Return the Mahalanobis distance, in units of the median of subjects kept aside."""
        white = _product(embeddings.astype(np.float64) - self.mean, self._whitening)
        return np.asarray(np.sqrt((white**2).mean(axis=1)) / self.unit, np.float32)

    @cached_property
    def _whitening(self) -> Float[np.ndarray, "embedding embedding"]:
        # L⁻ᵀ, where x − mean = L ε
        return solve_triangular(self.factor, np.eye(len(self.mean)), lower=True).T.copy()

"""Heads: embedding → a distribution of votes for every question, linear in the embedding.

A head is one matrix of weights [embedding + 1, output], its last row the bias. Draws of it are one array
[draw, embedding + 1, output]: applying all draws to a batch is one product, and the encoder runs once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn.functional import logsigmoid

from greenpea.calibration import constant
from greenpea.learning.likelihood import log_likelihood
from greenpea.learning.settings import Likelihood
from greenpea.posterior import Posterior
from greenpea.tree import DecisionTree
from greenpea.votes import Votes

# ln s is kept in bounds where s is a concentration: from far below one vote's worth to a sharp multinomial.
LOG_CONCENTRATION = (-6.0, 14.0)
SMALLEST_LOG = -60.0  # of a fraction or concentration: float32 would round less to 0, whose ln Γ is infinite


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
        return max(part.stop for part in self.slices.values())

    def log_parameters(self, slug: str, outputs: Tensor) -> Tensor:
        """Return one question's log-parameters from its own outputs [..., output].

        ln α or ln f of shape [..., answer]; for ``multiple``, the pairs [..., answer, 2].
        """
        answers = len(self.tree[slug].answers)
        logits, rest = outputs[..., :answers], outputs[..., answers:].clamp(*LOG_CONCENTRATION)
        if self.tree[slug].kind == "single":
            log_f = logits.log_softmax(-1)
            return log_f + rest if self.spread else log_f
        pairs = torch.stack([logsigmoid(logits), logsigmoid(-logits)], dim=-1)
        return pairs + rest.unsqueeze(-1) if self.spread else pairs

    def constant_bias(self, votes: Votes) -> Tensor:
        """Return the outputs of the constant predictor fitted on ``votes``: where every head begins."""
        posterior = constant(votes, ["any"])
        parts = []
        for question in self.tree.questions:
            alpha = np.asarray(posterior.parameters[question.slug][0, 0])
            if question.kind == "single":
                logits, log_s = np.log(alpha / alpha.sum()), np.log(alpha.sum(keepdims=True))
            else:
                logits, log_s = np.log(alpha[:, 0] / alpha[:, 1]), np.log(alpha.sum(axis=1))
            parts += [logits, log_s.clip(*LOG_CONCENTRATION)] if self.spread else [logits]
        return torch.from_numpy(np.concatenate(parts)).float()


@dataclass(frozen=True)
class Targets:
    """Votes as one tensor [subject, counts of all answers, then reached of all questions] for batching."""

    layout: Layout

    def pack(self, votes: Votes) -> Tensor:
        """Return the votes as float32, exact for counts below 2^24."""
        counts = [votes.counts[slug] for slug in votes.tree.slugs]
        reached = [votes.reached[slug][:, None] for slug in votes.tree.slugs]
        return torch.from_numpy(np.concatenate([*counts, *reached], axis=1).astype(np.float32))

    def log_likelihood(self, outputs: Tensor, packed: Tensor) -> dict[str, Tensor]:
        """Return ln p(votes | outputs) per question, each of shape [subject]."""
        values, start = {}, 0
        questions = self.layout.tree.questions
        for index, question in enumerate(questions):
            answers = len(question.answers)
            counts = packed[..., start : start + answers]
            reached = packed[..., index - len(questions)]
            parameters = self.layout.log_parameters(question.slug, outputs[..., self.layout.slices[question.slug]])
            values[question.slug] = log_likelihood(self.layout.family(question.slug), parameters, counts, reached)
            start += answers
        return values

    def loss(self, outputs: Tensor, packed: Tensor) -> Tensor:
        """Return the mean over subjects of −ln p(all of a subject's votes), in nats."""
        total = sum(self.log_likelihood(outputs, packed).values(), torch.zeros((), dtype=torch.float64))
        return -total.mean().float()


def apply(weights: Tensor, embeddings: Tensor) -> Tensor:
    """Return outputs [subject, draw, output] of every draw's weights on every embedding, in one product."""
    draws, rows, outputs = weights.shape
    flat = weights[:, :-1].permute(1, 0, 2).reshape(rows - 1, draws * outputs)
    return (embeddings @ flat).reshape(len(embeddings), draws, outputs) + weights[:, -1]


def posterior(
    layout: Layout, outputs: Tensor, subject_ids: np.ndarray, distance: np.ndarray | None = None
) -> Posterior:
    """Return the posterior that outputs [subject, draw, output] stand for."""
    parameters = {}
    for question in layout.tree.questions:
        values = layout.log_parameters(question.slug, outputs[..., layout.slices[question.slug]])
        values = values.float().clamp_min(SMALLEST_LOG).exp()
        if layout.family(question.slug) == "binomial":
            values = values[..., 0]
        parameters[question.slug] = values.transpose(0, 1).contiguous().numpy()
    families = {slug: layout.family(slug) for slug in layout.tree.slugs}
    return Posterior(layout.tree, subject_ids, families, parameters, distance)


@contextmanager
def one_thread() -> Iterator[None]:
    """Work on one thread: on small matrices, threads that wait for each other cost more than they bring."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def refit(
    layout: Layout,
    embeddings: Tensor,
    packed: Tensor,
    prior: Tensor,
    precision: float,
    iterations: int = 200,
) -> Tensor:
    """Return the most probable head [embedding + 1, output] for these votes.

    Minimises −ln p(votes) + ½ ``precision`` ‖W − ``prior``‖² by L-BFGS in float64; the bias is held a hundred
    times more loosely. Each iteration is one product of the embeddings with the weights, and its transpose.
    """
    targets = Targets(layout)
    inputs = torch.cat([embeddings, torch.ones(len(embeddings), 1)], dim=1).double()
    counts, anchor = packed.double(), prior.double()
    stiffness = torch.full((len(prior), 1), precision, dtype=torch.float64)
    stiffness[-1] = precision / 100

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = torch.from_numpy(flat).reshape(anchor.shape).requires_grad_()
        likelihood = sum(targets.log_likelihood(inputs @ weights, counts).values(), torch.zeros(()))
        value = -likelihood.sum() + 0.5 * (stiffness * (weights - anchor) ** 2).sum()
        (slope,) = torch.autograd.grad(value, weights)
        return float(value.detach()), slope.numpy().ravel()

    first = anchor.numpy().ravel()
    options = {"maxiter": iterations, "maxcor": 20, "ftol": 1e-9}
    with one_thread():
        best = minimize(objective, first, jac=True, method="L-BFGS-B", options=options).x
    return torch.from_numpy(best).reshape(anchor.shape).to(prior.dtype)

"""Heads in training: outputs → log-parameters and their likelihood, differentiable.

What a head's outputs mean, and the posterior they stand for, is told in `greenpea.outputs`, without torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from greenpea.calibration import constant
from greenpea.learning.likelihood import log_likelihood
from greenpea.outputs import LOG_CONCENTRATION, Layout
from greenpea.votes import Votes


def log_parameters(layout: Layout, slug: str, outputs: Tensor) -> Tensor:
    """Return one question's log-parameters from its own outputs [..., output], for training.

    ln α or ln f of shape [..., answer]; for ``multiple``, the pairs [..., answer, 2].
    """
    answers = len(layout.tree[slug].answers)
    logits, rest = outputs[..., :answers], outputs[..., answers:].clamp(*LOG_CONCENTRATION)
    if layout.tree[slug].kind == "single":
        log_f = logits.log_softmax(-1)
        return log_f + rest if layout.spread else log_f
    pairs = torch.stack([logsigmoid(logits), logsigmoid(-logits)], dim=-1)
    return pairs + rest.unsqueeze(-1) if layout.spread else pairs


def constant_bias(layout: Layout, votes: Votes) -> Tensor:
    """Return the outputs of the constant predictor fitted on ``votes``: where every head begins."""
    posterior = constant(votes, ["any"])
    parts = []
    for question in layout.tree.questions:
        alpha = np.asarray(posterior.parameters[question.slug][0, 0])
        if question.kind == "single":
            logits, log_s = np.log(alpha / alpha.sum()), np.log(alpha.sum(keepdims=True))
        else:
            logits, log_s = np.log(alpha[:, 0] / alpha[:, 1]), np.log(alpha.sum(axis=1))
        parts += [logits, log_s.clip(*LOG_CONCENTRATION)] if layout.spread else [logits]
    return torch.from_numpy(np.concatenate(parts)).float()


def anchor(layout: Layout, votes: Votes, embedding: int) -> Tensor:
    """Return the head [embedding + 1, output] of someone who never looks: the constant predictor of ``votes``."""
    head = torch.zeros(embedding + 1, layout.outputs)
    head[-1] = constant_bias(layout, votes)
    return head


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
            parameters = log_parameters(self.layout, question.slug, outputs[..., self.layout.slices[question.slug]])
            values[question.slug] = log_likelihood(self.layout.family(question.slug), parameters, counts, reached)
            start += answers
        return values

    def loss(self, outputs: Tensor, packed: Tensor) -> Tensor:
        """Return the mean over subjects of −ln p(all of a subject's votes), in nats."""
        total = sum(self.log_likelihood(outputs, packed).values(), torch.zeros((), dtype=torch.float64))
        return -total.mean().float()

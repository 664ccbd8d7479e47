"""Kinds of doubt: why the votes of a subject cannot be foretold, in nats of the entropy of their counts.

    H(k) = I(k; weights) + I(k; fractions | weights) + E H(k | fractions, weights)

for ``votes`` volunteers who are asked one question: what the network does not know and more training votes would teach
(epistemic); what the image leaves open, so that opinion is spread more widely than a draw's mean says; and what a small
number of volunteers scatters around whatever their opinion is. A draw that holds fractions has no spread of opinion.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import digamma, entr, gammaln, logsumexp

from greenpea import information
from greenpea.posterior import Posterior, log_pochhammer, sample_counts
from greenpea.tree import Question

MOST_STATES = 300  # count vectors that are enumerated; beyond, they are simulated
CHUNK = 1 << 22  # numbers worked on at once


class Doubt(NamedTuple):
    """The entropy of the counts of so many votes and its three parts, per subject, in nats."""

    total: Float[np.ndarray, " subject"]
    weights: Float[np.ndarray, " subject"]  # I(k; weights): epistemic, falls as training votes grow
    opinion: Float[np.ndarray, " subject"]  # I(k; fractions | weights): spread of opinion beyond the image
    voting: Float[np.ndarray, " subject"]  # E H(k | fractions, weights): the noise of a few volunteers
    error: Float[np.ndarray, " subject"]  # standard error of `weights`, and so of `total`; 0 where exact


def of_question(posterior: Posterior, question: str, votes: int, rng: np.random.Generator) -> Doubt:
    """Return the kinds of doubt about the counts of ``votes`` volunteers who are asked one question.

    ``opinion`` and ``voting`` are exact always, from each answer's own distribution of counts. ``weights`` is exact up
    to `MOST_STATES` possible counts, else the mean of KL(w(k) ‖ π) over one simulated k a draw, which is unbiased and
    never negative (`information.of_tree`). Costs T × answers × votes evaluations a subject and, for ``weights``, T
    times as many as there are counts, at most `MOST_STATES`, or draws; a single vote costs little beside a mean.
    """
    if votes == 0:
        nothing = np.zeros(len(posterior))
        return Doubt(nothing, nothing, nothing, nothing, nothing)
    given_weights = posterior.average(_entropy(posterior, question, votes))
    voting = posterior.average(_voting(posterior, question, votes))
    opinion = np.maximum(given_weights - voting, 0.0)
    if is_exact(posterior.tree[question], votes):
        learned, error = _enumerated(posterior, question, votes), np.zeros(len(posterior))
    else:
        learned, error = _simulated(posterior, question, votes, rng)
    return Doubt(learned + opinion + voting, learned, opinion, voting, error)


def is_exact(question: Question, votes: int) -> bool:
    """Whether the doubt about the weights is enumerated, and its error 0."""
    answers = len(question.answers)
    if question.kind == "multiple":
        return (votes + 1) ** answers <= MOST_STATES
    return information.states(votes, answers) <= MOST_STATES


# ---- given the weights -------------------------------------------------------------------------------


def _entropy(posterior: Posterior, question: str, votes: int) -> Float[np.ndarray, "draw subject"]:
    """Return H(k) under each draw: ln p(k) is a sum over answers, so that their own counts are enough."""
    if votes == 1 and posterior.tree[question].kind == "single":
        return entr(posterior.fractions(question)).sum(axis=-1)
    pmf = posterior.pmf(question, votes)
    if posterior.tree[question].kind == "multiple":
        return entr(pmf).sum(axis=(-1, -2))
    if posterior.families[question] == "multinomial":
        return _voting(posterior, question, votes)
    k = np.arange(votes + 1.0)
    alpha = np.asarray(posterior.parameters[question], np.float64)
    total = alpha.sum(axis=-1)
    # H = −ln n! + ln (α₀)_n + Σ_a E[ln k_a! − ln (α_a)_k_a],  k_a beta-binomial
    each = gammaln(k + 1) - log_pochhammer(alpha[..., None], k)
    return log_pochhammer(total, np.array(votes)) - gammaln(votes + 1) + (pmf * each).sum(axis=(-1, -2))


def _voting(posterior: Posterior, question: str, votes: int) -> Float[np.ndarray, "draw subject"]:
    """Return E_f H(k | f) under each draw, f its vote fractions."""
    surprise = votes * _one_vote(posterior, question)
    if votes == 1:
        return surprise.sum(axis=-1)
    k = np.arange(votes + 1.0)
    pmf = posterior.pmf(question, votes)
    # H(multinomial) = −ln n! − n Σ f ln f + Σ_a E ln k_a!
    if posterior.tree[question].kind == "multiple":
        each = gammaln(k + 1) + gammaln(votes - k + 1) - gammaln(votes + 1)
        return (surprise + pmf @ each).sum(axis=-1)
    return surprise.sum(axis=-1) - gammaln(votes + 1) + (pmf @ gammaln(k + 1)).sum(axis=-1)


def _one_vote(posterior: Posterior, question: str) -> Float[np.ndarray, "draw subject answer"]:
    """Return −E[f ln f] of every answer; of a ``multiple`` question, of its yes and its no together."""
    family, parameters = posterior.families[question], np.asarray(posterior.parameters[question], np.float64)
    if family == "multinomial":
        return entr(parameters)
    if family == "binomial":
        return entr(parameters) + entr(1 - parameters)
    total = parameters.sum(axis=-1, keepdims=True)
    # E[f ln f] = (α/α₀) (ψ(α+1) − ψ(α₀+1)),  f Beta(α, α₀ − α)
    surprise = parameters / total * (digamma(total + 1) - digamma(parameters + 1))
    return surprise if family == "dirichlet-multinomial" else surprise.sum(axis=-1)


# ---- about the weights -------------------------------------------------------------------------------


def _enumerated(posterior: Posterior, question: str, votes: int) -> Float[np.ndarray, " subject"]:
    if posterior.tree[question].kind == "multiple":
        return _independent(posterior, question, votes)
    if votes == 1:
        with np.errstate(divide="ignore"):
            return information.mutual_information(np.log(posterior.fractions(question)), posterior.log_weights)
    answers, out = len(posterior.tree[question].answers), np.empty(len(posterior))
    vectors = information.count_vectors(votes, answers)
    for rows in _blocks(posterior, len(vectors) * answers):
        part = posterior.select(rows)
        log_p = part.log_likelihood(question, vectors[:, None], np.full((len(vectors), 1), votes))
        out[rows] = information.mutual_information(np.moveaxis(log_p, 1, -1), part.log_weights)
    return out


def _independent(posterior: Posterior, question: str, votes: int) -> Float[np.ndarray, " subject"]:
    """Return H[Σ_t π_t p_t] − Σ_t π_t H[p_t] where, under each draw, p_t is the product of its answers' own p.

    Products, and no logarithm of any, for all counts of all draws: a thirtieth of the cost of their likelihoods.
    """
    out, answers = np.empty(len(posterior)), len(posterior.tree[question].answers)
    for rows in _blocks(posterior, (votes + 1) ** answers):
        part = posterior.select(rows)
        each = part.pmf(question, votes)
        joint = each[..., 0, :]
        for answer in range(1, answers):
            joint = (joint[..., None] * each[..., answer, None, :]).reshape(*joint.shape[:2], -1)
        given_weights = part.average(entr(each).sum(axis=(-1, -2)))
        out[rows] = np.maximum(entr(part.average(joint)).sum(axis=-1) - given_weights, 0.0)
    return out


def _simulated(
    posterior: Posterior, question: str, votes: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, " subject"], Float[np.ndarray, " subject"]]:
    value, error = np.empty(len(posterior)), np.empty(len(posterior))
    answers = len(posterior.tree[question].answers)
    for rows in _blocks(posterior, posterior.draws * answers):
        part = posterior.select(rows)
        shape = (part.draws, len(part))
        parameters = np.asarray(part.parameters[question], np.float64)
        counts = sample_counts(part.families[question], parameters, np.full(shape, votes), rng)
        log_p = part.log_likelihood(question, counts, np.full(shape, votes)) + part.log_weights[:, None]
        log_w = log_p - logsumexp(log_p, axis=0)  # [draw, simulation, subject]
        with np.errstate(invalid="ignore"):
            terms = np.where(np.isneginf(log_w), 0.0, np.exp(log_w) * (log_w - part.log_weights[:, None]))
        divergence = np.maximum(terms.sum(axis=0), 0.0)
        value[rows] = part.average(divergence)
        spread = part.average((divergence - value[rows]) ** 2)
        error[rows] = np.sqrt(spread / np.maximum(part.effective_draws - 1, 1))
    return value, error


def _blocks(posterior: Posterior, numbers: int) -> list[np.ndarray]:
    """Return the rows of the subjects in blocks, each draw of each subject needing so many numbers."""
    step = max(1, CHUNK // (numbers * posterior.draws))
    return [np.arange(at, min(at + step, len(posterior))) for at in range(0, len(posterior), step)]

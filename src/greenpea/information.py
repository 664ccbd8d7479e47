"""What more votes would teach: the mutual information between future votes and the network's weights.

All informations are in nats, and lie between 0 and ln T for T draws (Houlsby+2011; Walmsley+2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import logsumexp, xlogy

from greenpea.errors import GreenpeaError
from greenpea.posterior import Posterior, sample_counts

MOST_STATES = 20_000  # count vectors one question may have before enumeration is refused
CHUNK = 512  # subjects worked on at once


class Information(NamedTuple):
    """Expected information about the weights, per subject, in nats."""

    value: Float[np.ndarray, " subject"]
    error: Float[np.ndarray, " subject"]  # standard error of the Monte Carlo estimate; 0 where exact


def mutual_information(log_p: Float[np.ndarray, "draw *batch state"]) -> Float[np.ndarray, "*batch"]:
    """Return H[mean_t p_t] − mean_t H[p_t] over the last axis, in nats; ``log_p`` are normalised log-pmfs."""
    mixture = logsumexp(log_p, axis=0) - np.log(len(log_p))
    # I = (1/T) Σ_t KL(p_t ‖ mixture): every term is at least 0, so rounding cannot make I negative.
    with np.errstate(invalid="ignore"):
        terms = np.where(np.isneginf(log_p), 0.0, np.exp(log_p) * (log_p - mixture))
    return np.maximum(terms.sum(axis=-1), 0.0).mean(axis=0)


def count_vectors(votes: int, answers: int) -> Int[np.ndarray, "state answer"]:
    """Return every way that ``votes`` votes can fall on ``answers`` answers; C(n+A−1, A−1) rows."""
    if answers == 1:
        return np.array([[votes]])
    parts = []
    for first in range(votes + 1):
        rest = count_vectors(votes - first, answers - 1)
        parts.append(np.column_stack([np.full(len(rest), first), rest]))
    return np.concatenate(parts)


def states(votes: int, answers: int) -> int:
    """Return how many count vectors `count_vectors` would list."""
    return comb(votes + answers - 1, answers - 1)


def of_question(posterior: Posterior, question: str, votes: int) -> Float[np.ndarray, " subject"]:
    """Return the exact information that ``votes`` votes on one question carry, by enumeration.

    Raises GreenpeaError for a ``multiple`` question, and above `MOST_STATES` count vectors: there,
    `of_answers` gives a lower bound and `of_tree` an estimate.
    """
    node = posterior.tree[question]
    answers = len(node.answers)
    if node.kind == "multiple":
        raise GreenpeaError(
            f"question {question!r} is 'multiple': use of_answers (a lower bound) or of_tree (an estimate)"
        )
    if states(votes, answers) > MOST_STATES:
        raise GreenpeaError(
            f"{votes} votes on {answers} answers have {states(votes, answers):,} outcomes, more than "
            f"{MOST_STATES:,}: ask about fewer votes, or use of_answers (a lower bound) or of_tree (an estimate)"
        )
    vectors = count_vectors(votes, answers)[:, None, :]
    out = np.empty(len(posterior))
    step = max(1, CHUNK * 200 // len(vectors))
    for start in range(0, len(posterior), step):
        part = posterior.select(np.arange(start, min(start + step, len(posterior))))
        log_p = part.log_likelihood(question, vectors, np.full(vectors.shape[:2], votes))
        out[start : start + step] = mutual_information(np.moveaxis(log_p, 1, -1))
    return out


def of_answers(posterior: Posterior, question: str, votes: int) -> Float[np.ndarray, "subject answer"]:
    """Return the exact information in each answer's own count, of ``votes`` votes.

    Each is a lower bound of the question's: take the largest, never their sum.
    """
    return mutual_information(np.log(np.maximum(posterior.pmf(question, votes), 1e-300)))


def of_tree(
    posterior: Posterior,
    votes: int,
    rng: np.random.Generator,
    questions: Sequence[str] | None = None,
    simulations: int | None = None,
) -> Information:
    """Estimate the information that ``votes`` volunteers walking the tree would bring.

    For each draw t, counts k of the volunteers are simulated down the tree, and the draws re-weighted by
    w_t′ ∝ p(k | t′); I = E_k KL(w(k) ‖ 1/T). Unbiased, each term in [0, ln T]. ``questions`` restricts what
    is learned from (the walk stays whole); ``simulations`` per subject, rounded up to a multiple of the draws,
    default one per draw. Near ln T the draws are exhausted: see `saturated`.

    Cost per subject: T simulations × cells × (votes + 1) × T multiply-adds, as one batched product.
    """
    rounds = max(1, -(-(simulations or posterior.draws) // posterior.draws))
    chosen = tuple(questions) if questions is not None else posterior.tree.slugs
    value, error = np.empty(len(posterior)), np.empty(len(posterior))
    for start in range(0, len(posterior), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(posterior)))
        terms = np.concatenate([_terms(posterior.select(rows), votes, rng, chosen) for _ in range(rounds)])
        value[rows] = terms.mean(axis=0)
        error[rows] = terms.std(axis=0, ddof=1) / np.sqrt(len(terms)) if len(terms) > 1 else np.inf
    return Information(value, error)


def saturated(value: np.ndarray, draws: int, share: float = 0.9) -> float:
    """Return the share of subjects whose information exceeds ``share`` × ln T: there, more draws are needed."""
    return float(np.mean(value > share * np.log(draws))) if len(value) else 0.0


def _terms(
    posterior: Posterior, votes: int, rng: np.random.Generator, questions: tuple[str, ...]
) -> Float[np.ndarray, "simulation subject"]:
    """Return KL(w(k) ‖ 1/T) for one simulated k under each draw."""
    counts, reached = simulate_tree(posterior, votes, rng)
    log_w = np.zeros((len(posterior), posterior.draws, posterior.draws))  # subject, simulated under, judged by
    for question in questions:
        log_w += _log_likelihood_of_simulations(posterior, question, counts[question], reached[question], votes)
    log_w -= logsumexp(log_w, axis=-1, keepdims=True)
    w = np.exp(log_w)
    # KL(w ‖ 1/T) = ln T + Σ_t w_t ln w_t
    terms = np.log(posterior.draws) + xlogy(w, w).sum(axis=-1)
    return np.clip(terms, 0.0, np.log(posterior.draws)).T


def simulate_tree(
    posterior: Posterior, votes: int, rng: np.random.Generator
) -> tuple[dict[str, Int[np.ndarray, "draw subject answer"]], dict[str, Int[np.ndarray, "draw subject"]]]:
    """Return counts and reached of ``votes`` volunteers walking the tree, once under every draw."""
    tree = posterior.tree
    shape = (posterior.draws, len(posterior))
    reached = {slug: np.zeros(shape, np.int64) for slug in tree.slugs}
    reached[tree.first] += votes
    counts: dict[str, np.ndarray] = {}
    for slug in tree.topological_order:
        for way in tree.parents[slug]:
            if way.answer is None:
                reached[slug] += reached[way.question]
            else:
                reached[slug] += counts[way.question][..., tree[way.question].answer_slugs.index(way.answer)]
        parameters = np.asarray(posterior.parameters[slug], np.float64)
        counts[slug] = sample_counts(posterior.families[slug], parameters, reached[slug], rng)
    return counts, reached


def _log_likelihood_of_simulations(
    posterior: Posterior,
    question: str,
    counts: Int[np.ndarray, "draw subject answer"],
    reached: Int[np.ndarray, "draw subject"],
    votes: int,
) -> Float[np.ndarray, "subject simulated judged"]:
    """Return ln p(k simulated under t | t′) up to terms free of t′, for all pairs (t, t′).

    ln p is a sum over cells of a table looked up at a count: a one-hot of the counts times the tables.
    """
    tables, at, sign = _cells(posterior, question, counts, reached, votes)
    one_hot = (at[..., None] == np.arange(votes + 1)) * sign[:, None]  # draw subject cell k
    subjects = len(posterior)
    left = one_hot.astype(np.float32).transpose(1, 0, 2, 3).reshape(subjects, posterior.draws, -1)
    right = tables.astype(np.float32).transpose(1, 2, 3, 0).reshape(subjects, -1, posterior.draws)
    return np.asarray(left @ right)


def _cells(
    posterior: Posterior, question: str, counts: np.ndarray, reached: np.ndarray, votes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the tables [draw subject cell k], the counts they are looked up at, and each cell's sign."""
    family = posterior.families[question]
    answers = counts.shape[-1]
    k = np.arange(votes + 1)
    misses = reached[..., None] - counts
    if family == "multinomial":
        return _powers(posterior.fractions(question), k), counts, np.ones(answers)
    if family == "binomial":
        f = posterior.fractions(question)
        tables = _powers(np.concatenate([f, 1 - f], axis=2), k)
        return tables, np.concatenate([counts, misses], axis=-1), np.ones(2 * answers)
    a, b = posterior.beta(question)
    if family == "beta-binomial":
        alpha = np.concatenate([a, b, a + b], axis=-1)
        at = np.concatenate([counts, misses, np.broadcast_to(reached[..., None], counts.shape)], axis=-1)
        return _pochhammer_table(alpha, votes), at, np.repeat([1.0, 1.0, -1.0], answers)
    alpha = np.concatenate([a, a.sum(axis=-1, keepdims=True)], axis=-1)
    at = np.concatenate([counts, reached[..., None]], axis=-1)
    return _pochhammer_table(alpha, votes), at, np.array([1.0] * answers + [-1.0])


def _powers(fractions: np.ndarray, k: np.ndarray) -> Float[np.ndarray, "*fractions k"]:
    """Return k ln f; a fraction of 0 stays finite, since a one-hot multiplies what it does not look up by 0."""
    return np.asarray(k * np.log(np.maximum(fractions, 1e-300))[..., None])


def _pochhammer_table(alpha: np.ndarray, votes: int) -> Float[np.ndarray, "*alpha k"]:
    """Return ln (α)_k for k = 0…votes."""
    # ln (α)_k = Σ_{j<k} ln(α + j)
    steps = np.log(alpha[..., None] + np.arange(votes))
    return np.concatenate([np.zeros((*alpha.shape, 1)), np.cumsum(steps, axis=-1)], axis=-1)

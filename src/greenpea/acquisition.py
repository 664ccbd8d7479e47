"""Acquisition: what asking about a subject is worth, and which subjects to ask about next.

An acquisition is a function of a posterior and a random generator; it never sees a network. `gumbel_order` and
`top` turn scores into a batch that does not repeat itself, with the probability of every choice. `bald`,
`batch_bald` and `epig` are the published functions on plain class tensors p[draw, subject, class]; for one vote on
one question of a posterior, those are `Posterior.fractions`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float, Int
from scipy.special import entr

from greenpea.errors import GreenpeaError
from greenpea.information import Aims, aims, of_predictions, of_tree
from greenpea.posterior import Posterior

BLOCK = 1 << 16  # numbers worked on at once: what fits the processor's cache is fastest
STATES = 4096  # joint outcomes of a batch that are enumerated; above, as many are simulated
SMALLEST = np.finfo(np.float64).tiny  # stands for a score of 0, whose logarithm would be −∞


class Acquisition(Protocol):
    """Scores every subject: finite, at least 0; the bigger, the sooner it is asked about."""

    def __call__(self, posterior: Posterior, rng: np.random.Generator) -> Float[np.ndarray, " subject"]: ...


def information(votes: int = 5, questions: Sequence[str] | None = None, per_answer: bool = True) -> Acquisition:
    """Return the acquisition of what ``votes`` more volunteers would teach (`information.of_tree`), in nats.

    ``questions`` restricts what is learned from. ``per_answer`` divides by the answers those volunteers are
    expected to give, to all questions they pass: a volunteer who walks further down the tree gives more of
    their time. Raises GreenpeaError when asked for fewer than one vote or for a question the tree lacks.
    """
    if votes < 1:
        raise GreenpeaError(f"information is that of at least one vote, not of {votes}")

    def score(posterior: Posterior, rng: np.random.Generator) -> Float[np.ndarray, " subject"]:
        learned = of_tree(posterior, votes, rng, questions).value
        return learned / sum(posterior.expected_votes(votes).values()) if per_answer else learned

    return score


def prediction(
    targets: Posterior, *, votes: int = 1, questions: Sequence[str] | None = None, per_answer: bool = True
) -> Acquisition:
    """Return the acquisition of what ``votes`` more volunteers would teach about how ``targets`` will be voted.

    Expected predictive information gain over the tree (`information.of_predictions`), in nats per target.
    ``targets`` are some subjects like those one wants to know about: 400 of the pool, drawn at random, with the
    draws that the subjects scored have; where those have fewer, they are taken for the targets' first ones. Draws
    want to be many: 100 to 200 give nearly the order that thousands do, 30 do not. ``questions`` names those that
    one wants to know the answers to. ``per_answer`` divides by the answers those volunteers are
    expected to give, to all questions they pass. Nothing is drawn at random.

    Raises GreenpeaError when asked for fewer than one vote, for no target or for a question the tree lacks; and the
    acquisition, when it is to score a posterior of more draws than the targets have.
    """
    if votes < 1 or not len(targets):
        raise GreenpeaError(f"prediction needs at least one vote and one target, not {votes} and {len(targets)}")

    @cache
    def sought(draws: int) -> Aims:
        return aims(targets if draws == targets.draws else _first(targets, draws), questions)

    sought(targets.draws)

    def score(posterior: Posterior, rng: np.random.Generator) -> Float[np.ndarray, " subject"]:
        found = of_predictions(posterior, sought(posterior.draws), votes)
        value = np.maximum(found.value, 0.0)  # less than what chance shows is nothing
        return value / found.answers if per_answer else value

    return score


def _first(posterior: Posterior, draws: int) -> Posterior:
    """Return the posterior of its first draws only."""
    if draws > posterior.draws:
        raise GreenpeaError(
            f"subjects of {draws} draws are to be scored and the targets have {posterior.draws}: give them the same"
        )
    weights = None if posterior.weights is None else posterior.weights[:draws]
    if weights is not None:
        # A target whose first draws have no weight left says nothing better than all of them alike.
        shares = weights.sum(axis=0)
        weights = np.where(shares > 0, weights / np.where(shares > 0, shares, 1.0), 1 / draws)
    first = {slug: values[:draws] for slug, values in posterior.parameters.items()}
    return replace(posterior, parameters=first, weights=weights)


def random() -> Acquisition:
    """Return the control: a number between 0 and 1 that knows nothing of the subject."""
    return lambda posterior, rng: rng.random(len(posterior))


# ---- from scores to a batch ------------------------------------------------------------------------------


class Order(NamedTuple):
    """All subjects in the order to ask, best first."""

    order: Int[np.ndarray, " subject"]
    probability: Float[np.ndarray, " subject"]  # in the same order: of being among the first ``keep``


class Ranked(NamedTuple):
    """The best of a pool, best first."""

    ids: np.ndarray
    score: Float[np.ndarray, " subject"]
    probability: Float[np.ndarray, " subject"]  # of being among them
    pool: int  # how many were looked at


def gumbel_order(
    scores: Float[np.ndarray, " subject"], rng: np.random.Generator, *, keep: int, coldness: float = 1.0
) -> Order:
    """Order subjects by φ + Gumbel noise, φ = ``coldness`` × ln score: power sampling (Kirsch+2023).

    The first is drawn with probability ∝ score^coldness, the next so from the rest, and so on: a batch of
    near-equals is spread over them, where the plain best would all be alike. Coldness 0 is uniform sampling,
    ∞ the plain order (ties as they came, probability 1 or 0). Subjects with score 0 come last.

    The probability is of being among the first ``keep``, given the luck of the others:
    1 − exp(−exp(φ − κ)), κ the keep-th largest perturbed φ of the others (Kool, van Hoof & Welling 2019,
    eq. 10). Its inverse weighs a chosen subject in an unbiased sum over the pool.

    Raises GreenpeaError where a score is negative or not finite.
    """
    log_score, perturbed = _perturb(scores, rng, coldness)
    order = np.argsort(-perturbed, kind="stable")
    return Order(order, _inclusion(log_score[order], perturbed[order], keep, coldness))


def top(
    blocks: Iterable[tuple[np.ndarray, Float[np.ndarray, " subject"]]],
    keep: int,
    rng: np.random.Generator,
    coldness: float = 1.0,
) -> Ranked:
    """Return the first ``keep`` of `gumbel_order` over a pool that comes in blocks of (ids, scores).

    Memory is that of one block and the best so far. The same ``rng`` gives the same answer in blocks of any size.
    """
    ids, kept, pool = np.empty(0, dtype=object), np.empty((3, 0)), 0
    for some, scores in blocks:
        pool += len(scores)
        rows = np.stack([scores, *_perturb(scores, rng, coldness)])
        better = rows[2] > kept[2, keep] if kept.shape[1] > keep else np.ones(len(scores), bool)
        ids, kept = np.concatenate([ids, np.asarray(some, object)[better]]), np.hstack([kept, rows[:, better]])
        # One more than asked for: it is the threshold of the others' probability.
        best = np.argsort(-kept[2], kind="stable")[: keep + 1]
        ids, kept = ids[best], kept[:, best]
    score, log_score, perturbed = kept
    probability = _inclusion(log_score, perturbed, keep, coldness)
    return Ranked(ids[:keep], score[:keep], probability[:keep], pool)


def _perturb(
    scores: Float[np.ndarray, " subject"], rng: np.random.Generator, coldness: float
) -> tuple[Float[np.ndarray, " subject"], Float[np.ndarray, " subject"]]:
    """Return φ = coldness × ln score, and φ + Gumbel noise."""
    scores = np.asarray(scores, np.float64)
    wrong = np.flatnonzero(~(np.isfinite(scores) & (scores >= 0)))
    if len(wrong):
        raise GreenpeaError(
            f"{len(wrong)} of {len(scores)} scores are not finite numbers of at least 0, "
            f"the first {scores[wrong[0]]} of subject {wrong[0]}: mend the acquisition"
        )
    log_score = np.log(np.maximum(scores, SMALLEST))
    if math.isinf(coldness):
        return log_score, log_score
    return coldness * log_score, coldness * log_score + rng.gumbel(size=len(scores))


def _inclusion(
    log_score: Float[np.ndarray, " subject"], perturbed: Float[np.ndarray, " subject"], keep: int, coldness: float
) -> Float[np.ndarray, " subject"]:
    """Return each one's probability of being among the first ``keep``, of subjects sorted best first."""
    size = len(perturbed)
    if math.isinf(coldness) or keep >= size or keep == 0:
        return (np.arange(size) < keep).astype(np.float64)
    # The keep-th of the others: of those inside, the first outside; of those outside, the last inside.
    threshold = np.where(np.arange(size) < keep, perturbed[keep], perturbed[keep - 1])
    return -np.expm1(-np.exp(np.minimum(log_score - threshold, 700.0)))


# ---- class tensors -----------------------------------------------------------------------------------


class Batch(NamedTuple):
    """Subjects chosen one after another, and the information in the answers of all up to each, in nats."""

    rows: Int[np.ndarray, " batch"]
    information: Float[np.ndarray, " batch"]


def bald(p: Float[np.ndarray, "draw subject class"]) -> Float[np.ndarray, " subject"]:
    """Return I(y; weights) = H[E_t p_t] − E_t H[p_t] of one answer y per subject, in nats (Houlsby+2011)."""
    out = np.empty(p.shape[1])
    for rows in _blocks(p.shape[1], p.shape[0] * p.shape[2]):
        some = np.asarray(p[:, rows], np.float64)
        out[rows] = _entropy(some.mean(axis=0)) - _entropy(some).mean(axis=0)
    return np.maximum(out, 0.0)


def batch_bald(
    p: Float[np.ndarray, "draw subject class"], batch: int, rng: np.random.Generator, states: int = STATES
) -> Batch:
    """Choose a batch greedily for I(y_1…y_n; weights), the information in its answers together (Kirsch+2019).

    A gain is what one more answer teaches once the others are known, E_y I(y_new; weights | y): a mean of terms
    that are never negative. Up to ``states`` joint answers y are enumerated; beyond, so many are simulated, with
    a standard error of at most ln T/√states. The first is the best single subject (of equals, the foremost).
    Costs ``states`` × T × classes multiply-adds and ``states`` × classes logarithms per subject and step.
    """
    p = np.asarray(p, np.float64)
    draws, subjects, _ = p.shape
    entropies = _entropy(p)
    known = np.full((1, draws), 1 / draws)  # weights of the draws after each joint answer
    share = np.ones(1)  # probability of each joint answer
    left = np.ones(subjects, bool)
    rows, together = [], []
    for _ in range(min(batch, subjects)):
        gain = np.where(left, _gain(p, entropies, known, share), -1.0)
        best = int(gain.argmax())
        left[best] = False
        rows.append(best)
        # I(y_1…y_n) = E KL(w(y_1…y_{n−1}) ‖ 1/T) + gain: what sampling loses in one step is not lost for good.
        together.append(np.log(draws) - share @ _entropy(known) + gain[best])
        known, share = _learn(known, share, p[:, best], states, rng)
    bounded = np.clip(np.array(together), 0.0, np.log(draws))
    return Batch(np.array(rows, np.int64), np.maximum.accumulate(bounded))


def _gain(
    p: Float[np.ndarray, "draw subject class"],
    entropies: Float[np.ndarray, "draw subject"],
    known: Float[np.ndarray, "state draw"],
    share: Float[np.ndarray, " state"],
) -> Float[np.ndarray, " subject"]:
    """Return E_y I(y_new; weights | y) for every subject."""
    # I(y_new; weights | y) = H[Σ_t w_t(y) p_t] − Σ_t w_t(y) H[p_t]
    draws, subjects, classes = p.shape
    expected = np.empty(subjects)
    for rows in _blocks(subjects, len(known) * classes):
        mixture = (known @ p[:, rows].reshape(draws, -1)).reshape(len(known), -1, classes)
        expected[rows] = share @ _entropy(mixture)
    return np.maximum(expected - (share @ known) @ entropies, 0.0)


def _learn(
    known: Float[np.ndarray, "state draw"],
    share: Float[np.ndarray, " state"],
    p: Float[np.ndarray, "draw class"],
    states: int,
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, "after draw"], Float[np.ndarray, " after"]]:
    """Return the draws' weights, and the probability, of every joint answer once one more subject is answered."""
    joint = share[:, None] * (known @ p)  # state, class
    flat = np.flatnonzero(joint > 0)
    chance = joint.ravel()[flat]
    if len(flat) > states:
        # Stratified, so that every joint answer so far is gone on from. One offset for all strata would give all
        # of them the same answer.
        ladder = np.cumsum(chance)
        at = (np.arange(states) + rng.random(states)) / states * ladder[-1]
        flat = flat[np.minimum(np.searchsorted(ladder, at, side="right"), len(flat) - 1)]
        chance = np.full(states, 1 / states)
    state, answer = np.divmod(flat, p.shape[1])
    after = known[state] * p[:, answer].T
    return after / after.sum(axis=1, keepdims=True), chance / chance.sum()


def epig(
    pool: Float[np.ndarray, "draw subject class"], target: Float[np.ndarray, "draw aim class"]
) -> Float[np.ndarray, " subject"]:
    """Return the expected information, in nats, that a subject's answer gives about a target's answer.

    EPIG (Bickford Smith+2023): the mean over targets of KL(p(y, y′) ‖ p(y) p(y′)), with p(y, y′) = E_t p_t(y) p_t(y′).
    Asks for what matters to the subjects one wants to know about, where `bald` asks for any doubt.
    """
    draws, subjects, classes = pool.shape
    aims = np.asarray(target, np.float64).reshape(draws, -1)
    of_target = _entropy(target.mean(axis=0, dtype=np.float64)).mean()
    out = np.empty(subjects)
    for rows in _blocks(subjects, classes * aims.shape[1]):
        some = np.asarray(pool[:, rows], np.float64)
        joint = some.reshape(draws, -1).T @ aims / draws
        # Σ over y, y* and targets of p ln p, with the mean over targets
        together = entr(joint).reshape(some.shape[1], -1).sum(axis=1) / target.shape[1]
        out[rows] = _entropy(some.mean(axis=0)) + of_target - together
    return np.maximum(out, 0.0)


def _entropy(p: Float[np.ndarray, "*batch class"]) -> Float[np.ndarray, "*batch"]:
    """Return −Σ p ln p over the last axis; 0 ln 0 = 0."""
    # numpy's vectorised logarithm is several times as fast as scipy's entr.
    return -np.einsum("...c,...c->...", p, np.log(np.maximum(p, SMALLEST)))


def _blocks(subjects: int, numbers: int) -> Iterator[slice]:
    """Yield slices of the subjects, each needing ``numbers`` numbers, of about `BLOCK` numbers together."""
    step = max(1, BLOCK // max(numbers, 1))
    for start in range(0, subjects, step):
        yield slice(start, min(start + step, subjects))

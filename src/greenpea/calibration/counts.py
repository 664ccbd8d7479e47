"""Posteriors of votes: proper scores, joint coverage, PIT, reliability; a concentration and sharpness per question.

Everything is judged on counts the network never saw. Every score stands beside the constant predictor (which
sees no image) and the floor of 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from jaxtyping import Float, Int, Num
from scipy.optimize import minimize
from scipy.special import digamma, gammaln, logsumexp, xlogy

from greenpea.posterior import Posterior, log_pochhammer
from greenpea.tree import DecisionTree
from greenpea.votes import Votes

LEVELS = (0.5, 0.8, 0.9, 0.95)


class TooFewVotes(ValueError):
    """There is nothing to judge: nobody answered any question of these subjects."""


# ---- the constant predictor --------------------------------------------------------------------------


def constant(votes: Votes, subject_ids: Sequence[str] | np.ndarray) -> Posterior:
    """Return the posterior of someone who never looks: per question one distribution, fitted on ``votes``.

    A Dirichlet–multinomial per question (a beta-binomial per answer where ``multiple``) by maximum
    likelihood, with a weak prior on ln α (Gaussian, mean 0, s.d. 3) that settles questions nobody answered.
    """
    families, parameters = {}, {}
    for question in votes.tree.questions:
        counts, reached = votes.counts[question.slug], votes.reached[question.slug]
        asked = reached > 0
        if question.kind == "single":
            families[question.slug] = "dirichlet-multinomial"
            alpha = fit_dirichlet_multinomial(counts[asked])
        else:
            families[question.slug] = "beta-binomial"
            pairs = np.stack([counts[asked], reached[asked, None] - counts[asked]], axis=-1)
            alpha = np.stack([fit_dirichlet_multinomial(pairs[:, i]) for i in range(counts.shape[1])])
        parameters[question.slug] = np.broadcast_to(alpha, (1, len(subject_ids), *alpha.shape))
    return Posterior(votes.tree, np.asarray(subject_ids, dtype=object), families, parameters)


def fit_dirichlet_multinomial(counts: Int[np.ndarray, "subject answer"]) -> Float[np.ndarray, " answer"]:
    """Return the concentrations that best explain the counts (maximum a posteriori; see `constant`)."""
    rows, repeats = np.unique(np.asarray(counts, np.float64), axis=0, return_counts=True)
    n = rows.sum(axis=1)

    def loss(log_alpha: np.ndarray) -> tuple[float, np.ndarray]:
        alpha = np.exp(log_alpha)
        total = alpha.sum()
        value = repeats @ (log_pochhammer(alpha, rows).sum(axis=1) - log_pochhammer(total, n))
        slope = repeats @ (digamma(alpha + rows) - digamma(alpha) - (digamma(total + n) - digamma(total))[:, None])
        return -value + 0.5 * (log_alpha**2).sum() / 9.0, -slope * alpha + log_alpha / 9.0

    start = np.log(0.5 + rows.T @ repeats / max(1.0, float(repeats @ n)))
    return np.exp(minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(-12, 14)] * counts.shape[1]).x)


def log_floor(votes: Votes, question: str) -> Float[np.ndarray, " subject"]:
    """Return ln p(k | fractions = k/n), the best any predictor of fractions could do, in nats."""
    k = np.asarray(votes.counts[question], np.float64)
    n = np.asarray(votes.reached[question], np.float64)
    if votes.tree[question].kind == "single":
        # ln n! − Σ ln k! + Σ k ln (k/n)
        return gammaln(n + 1) - gammaln(k + 1).sum(axis=1) + xlogy(k, k).sum(axis=1) - xlogy(n, n)
    m, n_ = n[:, None] - k, n[:, None]
    each = gammaln(n_ + 1) - gammaln(k + 1) - gammaln(m + 1) + xlogy(k, k) + xlogy(m, m) - xlogy(n_, n_)
    return np.asarray(each.sum(axis=1))


# ---- scores ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval by bootstrap over subjects."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


@dataclass(frozen=True)
class Score:
    """How well one question (or all, ``question`` "overall") was predicted on held-out votes.

    Scores are nats per vote: ``excess`` above the floor of each subject's own fractions, ``gain`` what the
    network saves over the constant predictor (above 0: better). Errors are of vote fractions (unit: 1).
    ``coverage[level]`` is the share of subjects whose counts fall in the joint highest-density set that
    should hold ``level`` of them, with ``coverage_error[level]`` its standard error.
    """

    question: str
    subjects: int
    votes: int
    nats: float
    excess: Interval
    constant_excess: float
    gain: Interval
    rmse: float
    mae: float
    constant_rmse: float
    accuracy: float
    confident_accuracy: float
    confident_subjects: int
    coverage: Mapping[str, float]
    coverage_error: Mapping[str, float]


@dataclass(frozen=True)
class Evaluation:
    """Scores per question and overall, with what the plots need."""

    scores: tuple[Score, ...]  # "overall" first
    ranks: Mapping[str, Float[np.ndarray, " subject"]]  # per question: rank of ln p(k), uniform if calibrated
    pit: Mapping[str, Float[np.ndarray, "subject answer"]]
    predicted: Mapping[str, Float[np.ndarray, "subject answer"]]
    observed: Mapping[str, Float[np.ndarray, "subject answer"]]
    reached: Mapping[str, Int[np.ndarray, " subject"]]

    @property
    def overall(self) -> Score:
        return self.scores[0]

    def __getitem__(self, question: str) -> Score:
        return next(score for score in self.scores if score.question == question)


def evaluate(
    posterior: Posterior, votes: Votes, baseline: Posterior, rng: np.random.Generator, simulations: int = 200
) -> Evaluation:
    """Judge a posterior on the votes of the same subjects, in the same order.

    ``baseline`` is the `constant` posterior, fitted on training votes. Raises TooFewVotes when nobody
    answered anything. Costs ``simulations`` × draws evaluations of every question's log-pmf, for coverage.
    """
    asked = [slug for slug in votes.tree.slugs if votes.reached[slug].any()]
    if not asked:
        raise TooFewVotes("none of these subjects has a vote on any question: there is nothing to judge")
    scores, ranks, pit, predicted, observed = [], {}, {}, {}, {}
    ledgers = []
    for slug in asked:
        rows = np.flatnonzero(votes.reached[slug] > 0)
        part, its_votes = posterior.select(rows), votes.select(rows)
        ranks[slug] = highest_density_ranks(part, slug, its_votes, rng, simulations)
        pit[slug] = randomised_pit(part, slug, its_votes, rng)
        predicted[slug], observed[slug] = part.mean(slug), its_votes.fractions(slug)
        ledger = _ledger(part, its_votes, baseline.select(rows), slug, rows)
        ledgers.append(ledger)
        scores.append(_score(slug, [ledger], predicted[slug], observed[slug], ranks[slug], rng))
    overall = _score(
        "overall",
        ledgers,
        np.concatenate([values.ravel() for values in predicted.values()]),
        np.concatenate([values.ravel() for values in observed.values()]),
        np.concatenate(list(ranks.values())),
        rng,
        scores,
    )
    reached = {slug: votes.reached[slug][votes.reached[slug] > 0] for slug in asked}
    return Evaluation((overall, *scores), ranks, pit, predicted, observed, reached)


@dataclass(frozen=True)
class _Ledger:
    """Per subject of one question: log-scores in nats, and votes."""

    rows: Int[np.ndarray, " subject"]
    model: Float[np.ndarray, " subject"]
    constant: Float[np.ndarray, " subject"]
    floor: Float[np.ndarray, " subject"]
    votes: Int[np.ndarray, " subject"]
    constant_error: Float[np.ndarray, "subject answer"]
    yes_or_no: bool  # a multiple question: every answer is one of its own


def _ledger(posterior: Posterior, votes: Votes, baseline: Posterior, slug: str, rows: np.ndarray) -> _Ledger:
    replies = votes.reached[slug] * (len(votes.tree[slug].answers) if votes.tree[slug].kind == "multiple" else 1)
    return _Ledger(
        rows,
        posterior.log_pmf(slug, votes),
        baseline.log_pmf(slug, votes),
        log_floor(votes, slug),
        replies,
        baseline.mean(slug) - votes.fractions(slug),
        votes.tree[slug].kind == "multiple",
    )


def _score(
    name: str,
    ledgers: Sequence[_Ledger],
    predicted: np.ndarray,
    observed: np.ndarray,
    ranks: np.ndarray,
    rng: np.random.Generator,
    questions: Sequence[Score] = (),
) -> Score:
    subjects, owner = np.unique(np.concatenate([ledger.rows for ledger in ledgers]), return_inverse=True)

    def per_subject(values: Sequence[np.ndarray]) -> np.ndarray:
        return np.bincount(owner, np.concatenate(values), len(subjects))

    model = per_subject([ledger.model for ledger in ledgers])
    flat = per_subject([ledger.constant for ledger in ledgers])
    floor = per_subject([ledger.floor for ledger in ledgers])
    n = per_subject([ledger.votes for ledger in ledgers])
    if questions:
        right, sure, both = _pooled_accuracy(questions)
    elif ledgers[0].yes_or_no:
        right, sure, both = accuracy(_yes_no(predicted), _yes_no(observed))
    else:
        right, sure, both = accuracy(predicted, observed)
    error = predicted - observed
    covered = {f"{level * 100:g}": float((ranks <= level).mean()) for level in LEVELS}
    return Score(
        question=name,
        subjects=len(subjects),
        votes=int(n.sum()),
        nats=float(-model.sum() / n.sum()),
        excess=ratio_interval(floor - model, n, rng),
        constant_excess=float((floor - flat).sum() / n.sum()),
        gain=ratio_interval(model - flat, n, rng),
        rmse=float(np.sqrt((error**2).mean())),
        mae=float(np.abs(error).mean()),
        constant_rmse=float(np.sqrt(np.concatenate([one.constant_error.ravel() ** 2 for one in ledgers]).mean())),
        accuracy=right,
        confident_accuracy=both,
        confident_subjects=sure,
        coverage=covered,
        coverage_error={key: float(np.sqrt(float(key) / 100 * (1 - float(key) / 100) / len(ranks))) for key in covered},
    )


def _yes_no(fractions: Float[np.ndarray, "subject answer"]) -> Float[np.ndarray, "cell 2"]:
    return np.stack([fractions.ravel(), 1 - fractions.ravel()], axis=1)


def ratio_interval(
    gains: Float[np.ndarray, " subject"],
    votes: Float[np.ndarray, " subject"],
    rng: np.random.Generator,
    size: int = 2000,
) -> Interval:
    """Return Σ gains / Σ votes with its 95 % interval, by bootstrap over subjects."""
    picks = rng.multinomial(len(gains), np.full(len(gains), 1 / len(gains)), size=size)
    samples = (picks @ gains) / np.maximum(picks @ votes, 1)
    low, high = np.percentile(samples, [2.5, 97.5])
    return Interval(float(gains.sum() / votes.sum()), float(low), float(high))


def accuracy(
    predicted: Float[np.ndarray, "subject answer"],
    observed: Float[np.ndarray, "subject answer"],
    sure: float = 0.8,
) -> tuple[float, int, float]:
    """Return the accuracy of the leading answer, how many subjects are confident, and the accuracy on those.

    Confident subjects are those where more than ``sure`` of the *volunteers* agree (Walmsley+2022).
    """
    hit = predicted.argmax(axis=1) == observed.argmax(axis=1)
    confident = observed.max(axis=1) > sure
    return (
        float(hit.mean()),
        int(confident.sum()),
        float(hit[confident].mean()) if confident.any() else float("nan"),
    )


def _pooled_accuracy(questions: Sequence[Score]) -> tuple[float, int, float]:
    weights = np.array([score.subjects for score in questions])
    sure = np.array([score.confident_subjects for score in questions])
    right = float(weights @ np.array([score.accuracy for score in questions]) / weights.sum())
    some = sure > 0
    both = np.array([score.confident_accuracy for score in questions])
    return right, int(sure.sum()), float(sure[some] @ both[some] / sure.sum()) if some.any() else float("nan")


# ---- calibration of counts ---------------------------------------------------------------------------


def highest_density_ranks(
    posterior: Posterior, question: str, votes: Votes, rng: np.random.Generator, simulations: int = 200
) -> Float[np.ndarray, " subject"]:
    """Return u = P(p(k′) > p(k)) for k′ simulated from the posterior, ties broken at random.

    The observed counts lie in the joint highest-density set of level L exactly when u ≤ L; for a
    calibrated posterior u is uniform.
    """
    observed = posterior.log_pmf(question, votes)
    above = np.zeros(len(posterior))
    level = np.zeros(len(posterior))
    step = max(1, 4_000_000 // max(1, posterior.draws * posterior.parameters[question][0].size))
    for start in range(0, simulations, step):
        size = min(step, simulations - start)
        counts = posterior.sample(question, votes.reached[question], size, rng)
        reached = np.broadcast_to(votes.reached[question], counts.shape[:2])
        log_p = _log_mixture(posterior, question, counts, reached)
        same = np.isclose(log_p, observed, rtol=1e-9, atol=1e-9)
        above += ((log_p > observed) & ~same).sum(axis=0)
        level += same.sum(axis=0)
    return (above + rng.random(len(posterior)) * (level + 1)) / (simulations + 1)


def _log_mixture(
    posterior: Posterior,
    question: str,
    counts: Int[np.ndarray, "size subject answer"],
    reached: Int[np.ndarray, "size subject"],
) -> Float[np.ndarray, "size subject"]:
    per_draw = posterior.log_likelihood(question, counts, reached)
    return logsumexp(per_draw + posterior.log_weights[:, None], axis=0)


def randomised_pit(
    posterior: Posterior, question: str, votes: Votes, rng: np.random.Generator
) -> Float[np.ndarray, "subject answer"]:
    """Return F(k−1) + U·p(k) per answer, F the mixture's count distribution: uniform if calibrated."""
    reached, counts = votes.reached[question], votes.counts[question]
    out = np.full(counts.shape, np.nan)
    step = max(1, 4_000_000 // (posterior.draws * counts.shape[1] * (int(reached.max(initial=0)) + 1)))
    same = (np.flatnonzero(reached == n) for n in np.unique(reached[reached > 0]))
    for rows in (block for found in same for block in np.split(found, range(step, len(found), step))):
        n = reached[rows[0]]
        part = posterior.select(rows)
        pmf = part.average(part.pmf(question, int(n)))
        below = np.concatenate([np.zeros((*pmf.shape[:2], 1)), np.cumsum(pmf, axis=-1)], axis=-1)
        k = counts[rows][..., None]
        at = np.take_along_axis(pmf, k, axis=-1)[..., 0]
        out[rows] = np.take_along_axis(below, k, axis=-1)[..., 0] + rng.random(at.shape) * at
    return np.clip(out, 0.0, 1.0)


def by_decile(
    predicted: Float[np.ndarray, " cell"], values: Num[np.ndarray, " cell"], bins: int = 10
) -> list[np.ndarray]:
    """Return ``values`` grouped by decile of the predicted fraction, lowest first."""
    order = np.argsort(predicted, kind="stable")
    return [values[part] for part in np.array_split(order, bins)]


@dataclass(frozen=True)
class Reliability:
    """Observed against predicted vote fractions, in bins of predicted fraction."""

    predicted: Float[np.ndarray, " bin"]
    observed: Float[np.ndarray, " bin"]
    error: Float[np.ndarray, " bin"]  # standard error of the observed mean
    cells: Int[np.ndarray, " bin"]


def reliability(
    predicted: Float[np.ndarray, " cell"], observed: Float[np.ndarray, " cell"], bins: int = 10
) -> Reliability:
    """Return the reliability diagram on equal-width bins; the last bin includes 1. Empty bins are left out."""
    place = np.minimum((predicted * bins).astype(int), bins - 1)
    used = [np.flatnonzero(place == index) for index in range(bins)]
    used = [cells for cells in used if len(cells)]
    return Reliability(
        np.array([predicted[cells].mean() for cells in used]),
        np.array([observed[cells].mean() for cells in used]),
        np.array([observed[cells].std() / np.sqrt(len(cells)) for cells in used]),
        np.array([len(cells) for cells in used]),
    )


# ---- recalibration -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recalibration:
    """Per question, how much to sharpen the fractions (γ) and to shift the log-concentration (δ).

    f′ ∝ f^γ and s′ = s·e^δ, where a draw's concentrations are α = s·f. γ = 1, δ = 0 changes nothing.
    """

    sharpness: Mapping[str, float]
    shift: Mapping[str, float]

    @classmethod
    def identity(cls, tree: DecisionTree) -> Recalibration:
        return cls(dict.fromkeys(tree.slugs, 1.0), dict.fromkeys(tree.slugs, 0.0))

    def apply(self, posterior: Posterior) -> Posterior:
        """Return the recalibrated posterior."""
        return posterior.map(
            lambda slug, values: _recalibrate(posterior.families[slug], values, self.sharpness[slug], self.shift[slug])
        )


def _recalibrate(family: str, parameters: np.ndarray, sharpness: float, shift: float) -> np.ndarray:
    if sharpness == 1.0 and shift == 0.0:
        return parameters
    values = np.asarray(parameters, np.float64)
    if family == "binomial":
        values = np.stack([values, 1 - values], axis=-1)
    total = values.sum(axis=-1, keepdims=True)
    log_f = sharpness * np.log(np.maximum(values / total, 1e-300))
    # Answer by answer: numpy's sums over a short last axis cost ten times as much.
    power = np.exp(log_f - reduce(np.maximum, np.moveaxis(log_f, -1, 0))[..., None])
    f = power / reduce(np.add, np.moveaxis(power, -1, 0))[..., None]
    if family == "binomial":
        return f[..., 0]
    return f if family == "multinomial" else f * total * np.exp(shift)


def recalibrate(posterior: Posterior, votes: Votes) -> Recalibration:
    """Fit a `Recalibration` on votes the network did not learn from, by the mixture's likelihood.

    A prior (ln γ with s.d. 0.3, δ with s.d. 1) keeps questions with few votes near the identity.
    """
    sharpness, shift = {}, {}
    for slug in votes.tree.slugs:
        rows = np.flatnonzero(votes.reached[slug] > 0)
        sharpness[slug], shift[slug] = _fit_map(posterior.select(rows), slug, votes.select(rows))
    return Recalibration(sharpness, shift)


def _fit_map(posterior: Posterior, slug: str, votes: Votes) -> tuple[float, float]:
    if not len(votes):
        return 1.0, 0.0
    family, parameters = posterior.families[slug], posterior.parameters[slug]
    points = family in ("multinomial", "binomial")

    def loss(x: np.ndarray) -> float:
        delta = 0.0 if points else float(x[1])
        changed = posterior.map(
            lambda name, values: (
                _recalibrate(family, parameters, float(np.exp(x[0])), delta) if name == slug else values
            )
        )
        return float(-changed.log_pmf(slug, votes).sum() + 0.5 * (x[0] / 0.3) ** 2 + 0.5 * x[1] ** 2)

    simplex = np.array([[0.0, 0.0], [0.2, 0.0], [0.0, 0.5]])
    options = {"initial_simplex": simplex, "xatol": 1e-3, "fatol": 1e-2, "maxiter": 80}
    best = minimize(loss, np.zeros(2), method="Nelder-Mead", options=options).x
    return float(np.exp(best[0])), 0.0 if points else float(best[1])

"""The posterior: what the network believes about the vote fractions of every subject, draw by draw.

A posterior is a *mixture* over draws of the network's weights. Every quantile, interval, variance and
probability here is of the mixture: averaging per-draw quantiles would throw away the disagreement between
draws, which is what the draws are for.

Families, per question (f: vote fractions, k: counts, n: volunteers who reached the question):

=====================  ========  ===================================  =====================================
family                 kind      parameters                           p(k | draw)
=====================  ========  ===================================  =====================================
dirichlet-multinomial  single    concentrations [draw subject answer]  Dirichlet–multinomial (Walmsley+2022)
multinomial            single    fractions [draw subject answer]       multinomial
beta-binomial          multiple  α, β [draw subject answer 2]          independent beta-binomials
binomial               multiple  fractions [draw subject answer]       independent binomials (Walmsley+2020)
=====================  ========  ===================================  =====================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num
from scipy.special import betaln, gammaln, logsumexp, xlog1py, xlogy

from greenpea.errors import GreenpeaError
from greenpea.mixture import Mixture, check_weights, join_weights
from greenpea.quantiles import quantiles
from greenpea.tree import DecisionTree
from greenpea.votes import Votes

FAMILIES = {
    "single": ("dirichlet-multinomial", "multinomial"),
    "multiple": ("beta-binomial", "binomial"),
}


class Beta(NamedTuple):
    """The marginal distribution of every answer's fraction under each draw: Beta(a, b)."""

    a: Float[np.ndarray, "draw subject answer"]
    b: Float[np.ndarray, "draw subject answer"]


class Variance(NamedTuple):
    """Variance of a vote fraction (unit: 1), by the law of total variance."""

    total: Float[np.ndarray, "subject answer"]
    within: Float[np.ndarray, "subject answer"]  # E_t[var_t]: opinion the image leaves open
    between: Float[np.ndarray, "subject answer"]  # Var_t[mean_t]: doubt about the weights


@dataclass(frozen=True, eq=False)
class Posterior(Mixture):
    """Predicted distributions for subjects on a tree; immutable, numpy only, ignorant of networks.

    ``parameters[question]`` are as in the table above; ``families[question]`` names the likelihood.
    ``distance``, if given, is each subject's distance from the training subjects in embedding space
    (unit: 1; about 1 for a subject like those trained on). ``weights``, if given, are each draw's share of each
    subject's mixture, and sum to 1 over the draws; without them all draws count alike.
    """

    tree: DecisionTree
    subject_ids: np.ndarray
    families: Mapping[str, str]
    parameters: Mapping[str, Float[np.ndarray, "draw subject ..."]]
    distance: Float[np.ndarray, " subject"] | None = None
    weights: Float[np.ndarray, "draw subject"] | None = None

    def __post_init__(self) -> None:
        draws = next(iter(self.parameters.values())).shape[0] if self.parameters else 0
        for question in self.tree.questions:
            slug = question.slug
            if slug not in self.parameters:
                raise GreenpeaError(f"the posterior lacks the question {slug!r} of tree {self.tree.name!r}")
            if self.families.get(slug) not in FAMILIES[question.kind]:
                raise GreenpeaError(
                    f"question {slug!r} is {question.kind!r} and takes the families "
                    f"{' or '.join(FAMILIES[question.kind])}, not {self.families.get(slug)!r}"
                )
            pair = (2,) if self.families[slug] == "beta-binomial" else ()
            shape = (draws, len(self.subject_ids), len(question.answers), *pair)
            if self.parameters[slug].shape != shape:
                raise GreenpeaError(
                    f"parameters of {slug!r} have shape {self.parameters[slug].shape}, expected {shape}"
                )
        if self.weights is not None:
            check_weights(self.weights, (draws, len(self.subject_ids)))
        for name in ("families", "parameters"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def __reduce__(self) -> tuple[type[Posterior], tuple[object, ...]]:
        # Read-only views of dictionaries do not travel to another process.
        named = dict(self.families), dict(self.parameters)
        return Posterior, (self.tree, self.subject_ids, *named, self.distance, self.weights)

    def __len__(self) -> int:
        return len(self.subject_ids)

    @property
    def draws(self) -> int:
        """How many draws of the weights the mixture has."""
        return int(next(iter(self.parameters.values())).shape[0])

    def select(self, rows: np.ndarray | Sequence[int]) -> Posterior:
        """Return the posterior of some subjects, by index or boolean mask, in that order."""
        rows = np.asarray(rows)
        return replace(
            self,
            subject_ids=self.subject_ids[rows],
            parameters={slug: values[:, rows] for slug, values in self.parameters.items()},
            distance=None if self.distance is None else self.distance[rows],
            weights=None if self.weights is None else self.weights[:, rows],
        )

    def map(self, change: Callable[[str, np.ndarray], np.ndarray]) -> Posterior:
        """Return a posterior whose parameters are ``change(question, parameters)``."""
        return replace(self, parameters={slug: change(slug, values) for slug, values in self.parameters.items()})

    @staticmethod
    def concatenate(parts: Sequence[Posterior]) -> Posterior:
        """Join posteriors of different subjects, on the same tree and with the same draws."""
        first = parts[0]
        distances = [part.distance for part in parts if part.distance is not None]
        return Posterior(
            tree=first.tree,
            subject_ids=np.concatenate([part.subject_ids for part in parts]),
            families=first.families,
            parameters={
                slug: np.concatenate([part.parameters[slug] for part in parts], axis=1) for slug in first.parameters
            },
            distance=np.concatenate(distances) if len(distances) == len(parts) else None,
            weights=join_weights(list(parts)),
        )

    # ---- the fractions -----------------------------------------------------------------------------

    def beta(self, question: str) -> Beta:
        """Return the marginal Beta(a, b) of every answer; only for the families with concentrations."""
        parameters = np.asarray(self.parameters[question], np.float64)
        if self.families[question] == "beta-binomial":
            return Beta(parameters[..., 0], parameters[..., 1])
        # The others' sum, never the total less one's own, which would cancel to 0 beside a large α.
        return Beta(parameters, parameters @ (1 - np.eye(parameters.shape[-1])))

    def _is_point(self, question: str) -> bool:
        """Whether each draw holds the fractions themselves, without a spread around them."""
        return self.families[question] in ("multinomial", "binomial")

    def fractions(self, question: str) -> Float[np.ndarray, "draw subject answer"]:
        """Return each draw's expected vote fractions."""
        if self._is_point(question):
            return np.asarray(self.parameters[question], np.float64)
        a, b = self.beta(question)
        return a / (a + b)

    def mean(self, question: str) -> Float[np.ndarray, "subject answer"]:
        """Return the mixture's expected vote fractions."""
        return self.average(self.fractions(question))

    def variance(self, question: str) -> Variance:
        """Return the variance of the vote fractions of infinitely many volunteers, and its two parts."""
        fractions = self.fractions(question)
        between = self.average((fractions - self.average(fractions)) ** 2)
        if self._is_point(question):
            return Variance(between, np.zeros_like(between), between)
        a, b = self.beta(question)
        # Var Beta(a, b) = f (1 − f) / (a + b + 1)
        within = self.average(fractions * (1 - fractions) / (a + b + 1))
        return Variance(within + between, within, between)

    def quantile(
        self, question: str, levels: float | Sequence[float], tolerance: float = 1e-5
    ) -> Float[np.ndarray, "level subject answer"]:
        """Return quantiles of the mixture's marginal fractions, to an absolute ``tolerance``.

        At a tolerance of 1e-4 or more the mixture's density is summed (`quantiles.integrate`); in a gap between narrow
        draws, where the fraction hardly matters, it is then F that is right, to 1e-6. Below, every level costs about
        eight evaluations of every draw's incomplete beta function.
        """
        levels_ = np.atleast_1d(np.asarray(levels, np.float64))
        if ((levels_ <= 0) | (levels_ >= 1)).any():
            raise GreenpeaError(f"quantile levels lie strictly between 0 and 1, not {levels}")
        if self._is_point(question):
            fractions = self.fractions(question)
            weights = None if self.weights is None else np.broadcast_to(self.weights[..., None], fractions.shape)
            return np.quantile(fractions, levels_, axis=0, method="inverted_cdf", weights=weights)
        a, b = self.beta(question)
        draws, subjects, answers = a.shape
        weights = None if self.weights is None else np.repeat(self.weights, answers, axis=1)
        found = quantiles(a.reshape(draws, -1), b.reshape(draws, -1), weights, levels_, tolerance)
        return found.reshape(len(levels_), subjects, answers)

    def interval(self, question: str, level: float = 0.9) -> Float[np.ndarray, "bound subject answer"]:
        """Return the central credible interval of the mixture: its lower and upper quantile."""
        return self.quantile(question, [(1 - level) / 2, (1 + level) / 2])

    # ---- the counts --------------------------------------------------------------------------------

    def pmf(self, question: str, votes: int) -> Float[np.ndarray, "draw subject answer k"]:
        """Return p(k of ``votes`` volunteers give the answer), k = 0…votes, for every draw.

        Their `average` is the mixture's.
        """
        if votes == 1:
            f = self.fractions(question)
            return np.stack([1 - f, f], axis=-1)
        k = np.arange(votes + 1.0)
        combinations = gammaln(votes + 1) - gammaln(k + 1) - gammaln(votes - k + 1)
        if self._is_point(question):
            f = self.fractions(question)[..., None]
            return np.exp(combinations + xlogy(k, f) + xlog1py(votes - k, -f))
        a, b = (parameter[..., None] for parameter in self.beta(question))
        return np.exp(combinations + betaln(k + a, votes - k + b) - betaln(a, b))

    def log_likelihood(
        self, question: str, counts: Int[np.ndarray, "*size each answer"], reached: Int[np.ndarray, "*size each"]
    ) -> Float[np.ndarray, "draw ..."]:
        """Return ln p(counts | draw), in nats, combinatorial term included; exactly 0 where nobody was asked.

        For a ``multiple`` question, the sum over its answers. ``each`` is the subjects, or 1 for counts that are
        asked of all of them; leading axes are kept: [draw, *size, subject].
        """
        counts = np.asarray(counts, np.float64)
        n = np.asarray(reached, np.float64)
        extra = counts.ndim - 2  # axes to insert between draw and subject
        parameters = np.asarray(self.parameters[question], np.float64)
        parameters = parameters.reshape(parameters.shape[0], *(1,) * extra, *parameters.shape[1:])
        return log_pmf(self.families[question], parameters, counts, n)

    def log_pmf(self, question: str, votes: Votes) -> Float[np.ndarray, " subject"]:
        """Return ln p(votes) of the mixture on one question, in nats: p(k) = Σ_t w_t p(k | draw t)."""
        per_draw = self.log_likelihood(question, votes.counts[question], votes.reached[question])
        return logsumexp(per_draw + self.log_weights, axis=0)

    def sample(
        self, question: str, reached: Int[np.ndarray, " subject"], size: int, rng: np.random.Generator
    ) -> Int[np.ndarray, "size subject answer"]:
        """Return ``size`` simulated count vectors per subject from the mixture, given how many are asked."""
        subjects = np.arange(len(self))
        draw = self.pick(size, rng)
        parameters = np.asarray(self.parameters[question], np.float64)[draw, subjects]
        n = np.broadcast_to(reached, draw.shape)
        return sample_counts(self.families[question], parameters, n, rng)

    def sample_fractions(
        self, question: str, size: int, rng: np.random.Generator
    ) -> Float[np.ndarray, "size subject answer"]:
        """Return ``size`` vectors of vote fractions per subject, from the mixture."""
        picked = np.asarray(self.parameters[question], np.float64)[self.pick(size, rng), np.arange(len(self))]
        return sample_fractions(self.families[question], picked, rng)

    # ---- the tree ----------------------------------------------------------------------------------

    def reach(self) -> dict[str, Float[np.ndarray, "draw subject"]]:
        """Return the share of volunteers who get to each question, draw by draw (`DecisionTree.reach`).

        At a ``multiple`` question everybody goes on together, so only ``single`` fractions enter.
        """
        return self.tree.reach({slug: self.fractions(slug) for slug in self.tree.slugs})

    def expected_votes(self, votes: int) -> dict[str, Float[np.ndarray, " subject"]]:
        """Return how many of ``votes`` volunteers are expected at each question."""
        return {slug: votes * self.average(share) for slug, share in self.reach().items()}


# ---- likelihoods, in float64 -------------------------------------------------------------------------


def log_pmf(
    family: str,
    parameters: Float[np.ndarray, "*batch answer ..."],
    counts: Num[np.ndarray, "*size answer"],
    n: Num[np.ndarray, "*size"],
) -> Float[np.ndarray, "*batch"]:
    """Return ln p(counts) under one of the families, in nats (Walmsley+2020, Walmsley+2022).

    ``parameters`` broadcast against ``counts``. Exactly 0 where ``n`` is 0.
    """
    if family == "dirichlet-multinomial":
        total = parameters.sum(axis=-1)
        # ln Γ(n+1) − Σ ln Γ(k+1) + ln Γ(α₀) − ln Γ(n+α₀) + Σ [ln Γ(k+α) − ln Γ(α)]
        value = (
            gammaln(n + 1)
            - gammaln(counts + 1).sum(axis=-1)
            - log_pochhammer(total, n)
            + log_pochhammer(parameters, counts).sum(axis=-1)
        )
    elif family == "multinomial":
        value = gammaln(n + 1) + (xlogy(counts, parameters) - gammaln(counts + 1)).sum(axis=-1)
    else:
        misses = n[..., None] - counts
        value = gammaln(n[..., None] + 1) - gammaln(counts + 1) - gammaln(misses + 1)
        if family == "beta-binomial":
            a, b = parameters[..., 0], parameters[..., 1]
            value = value + betaln(a + counts, b + misses) - betaln(a, b)
        else:
            value = value + xlogy(counts, parameters) + xlog1py(misses, -parameters)
        value = value.sum(axis=-1)
    return np.where(n > 0, value, 0.0)


def log_pochhammer(alpha: np.ndarray | float, k: np.ndarray) -> np.ndarray:
    """Return ln (α)_k = ln Γ(α+k) − ln Γ(α), in float64 (accurate to 1e-8 up to α = 1e6)."""
    return np.asarray(gammaln(alpha + k) - gammaln(alpha))


def sample_counts(
    family: str,
    parameters: Float[np.ndarray, "*batch answer ..."],
    n: Int[np.ndarray, "*batch"],
    rng: np.random.Generator,
) -> Int[np.ndarray, "*batch answer"]:
    """Return one simulated count vector of ``n`` votes for every entry of ``parameters``."""
    fractions = sample_fractions(family, parameters, rng)
    if family in FAMILIES["single"]:
        return _multinomial(n, fractions, rng)
    return rng.binomial(n[..., None], fractions)


def sample_fractions(
    family: str, parameters: Float[np.ndarray, "*batch answer ..."], rng: np.random.Generator
) -> Float[np.ndarray, "*batch answer"]:
    """Return one vector of vote fractions for every entry of ``parameters``; themselves, where they are fractions."""
    if family == "dirichlet-multinomial":
        return _dirichlet(parameters, rng)
    if family == "beta-binomial":
        tiny = np.finfo(np.float64).tiny
        return rng.beta(np.maximum(parameters[..., 0], tiny), np.maximum(parameters[..., 1], tiny))
    return parameters


def _dirichlet(alpha: Float[np.ndarray, "*batch answer"], rng: np.random.Generator) -> np.ndarray:
    """Sample fractions in log space, so that α far below 1 does not underflow to 0/0."""
    # If G ~ Gamma(α+1) and U uniform, then G·U^(1/α) ~ Gamma(α).
    log_gamma = np.log(rng.standard_gamma(alpha + 1)) + np.log1p(-rng.random(alpha.shape)) / alpha
    log_gamma -= log_gamma.max(axis=-1, keepdims=True)
    weights = np.exp(log_gamma)
    return weights / weights.sum(axis=-1, keepdims=True)


def _multinomial(n: np.ndarray, fractions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    # numpy refuses probabilities whose float sum exceeds 1 by a rounding error.
    fractions = fractions / np.maximum(fractions.sum(axis=-1, keepdims=True), 1e-300)
    return rng.multinomial(n, fractions * (1 - 1e-12))

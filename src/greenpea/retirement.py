"""Retirement: when a subject has been asked about enough, and why.

Rules are declared in the workflow's file. Most look at a subject's tally, and hold as soon as a vote is counted;
a `PosteriorRule` looks at what network and votes say together, and is applied by a round.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, ConfigDict, Field

from greenpea.classifications import Tally
from greenpea.errors import GreenpeaError
from greenpea.posterior import Posterior
from greenpea.tree import DecisionTree, Slug
from greenpea.votes import Votes

MATTERS = 0.5  # expected reach from which on a rule for all questions looks at one
SAMPLES = 256  # of the vote fractions, by which `Settled` weighs what further votes could say
CHUNK = 512  # subjects judged at a time, which bounds the memory
BLOCK = 32  # subjects and answers weighed at once: their samples' weights stay in the cache


class _Rule(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def decide(self, classifications: int, tally: Tally) -> str | None:
        """Return why to retire a subject with so many classifications and this tally, or None to keep it."""
        return None

    def check(self, tree: DecisionTree) -> None:
        """Raise GreenpeaError where the rule does not fit the tree."""


class Count(_Rule):
    """Retire after so many classifications: the full limit."""

    rule: Literal["count"] = "count"
    classifications: int = Field(40, ge=1)

    def decide(self, classifications: int, tally: Tally) -> str | None:
        return "count" if classifications >= self.classifications else None


class Consensus(_Rule):
    """Retire when one answer to a question holds at least ``share`` of at least ``votes`` who reached it."""

    rule: Literal["consensus"]
    question: Slug
    share: float = Field(0.9, gt=0.5, le=1)
    votes: int = Field(10, ge=2)

    def decide(self, classifications: int, tally: Tally) -> str | None:
        reached = tally.get(self.question, 0)
        if reached < self.votes:
            return None
        prefix = f"{self.question}/"
        most = max((count for key, count in tally.items() if key.startswith(prefix)), default=0)
        return f"consensus on {self.question}" if most / reached >= self.share else None

    def check(self, tree: DecisionTree) -> None:
        if tree[self.question].kind == "multiple":
            raise GreenpeaError(f"consensus needs a question with one answer; {self.question!r} is 'multiple'")


class Early(_Rule):
    """Retire early on one answer, such as "artifact": ``share`` of at least ``votes`` who reached the question."""

    rule: Literal["answer"]
    question: Slug
    answer: Slug
    share: float = Field(0.7, gt=0, le=1)
    votes: int = Field(5, ge=1)

    def decide(self, classifications: int, tally: Tally) -> str | None:
        reached = tally.get(self.question, 0)
        given = tally.get(f"{self.question}/{self.answer}", 0)
        # Divided, not multiplied: 11 of 20 is 0.55 to the last bit, and 0.55 · 20 is above 11.
        return f"answer {self.answer}" if reached >= self.votes and given / reached >= self.share else None

    def check(self, tree: DecisionTree) -> None:
        tree[self.question].answer(self.answer)


class Never(_Rule):
    """Keep every subject for ever; it stands alone."""

    rule: Literal["never"]


class _Combined(_Rule):
    """A rule on the posterior given image and votes: a round applies it, the store's own `decide` passes it by.

    It looks at ``question``, or without one at every question that at least half of the volunteers are expected
    to reach, once the subject has so many ``classifications``.
    """

    rule: str
    question: Slug | None = None
    classifications: int = Field(3, ge=1)

    def check(self, tree: DecisionTree) -> None:
        if self.question is not None:
            tree[self.question]

    def judge(
        self, combined: Posterior, votes: Votes, left: Int[np.ndarray, " subject"], rng: np.random.Generator
    ) -> list[str | None]:
        """Return the reason per subject, or None to keep it (see `PosteriorRule`)."""
        share = {slug: combined.average(reach) for slug, reach in combined.reach().items()}
        met = np.ones(len(combined), bool)
        for slug in combined.tree.slugs if self.question is None else (self.question,):
            rows = np.flatnonzero(met & ((share[slug] >= MATTERS) | (self.question is not None)))
            coming = np.rint(left[rows] * share[slug][rows]).astype(np.int64)
            met[rows] = self._met(combined.select(rows), slug, coming, rng)
        reason = f"{self.rule}{f' on {self.question}' if self.question else ''}"
        return [reason if one else None for one in met]

    def _met(
        self, combined: Posterior, question: str, coming: Int[np.ndarray, " subject"], rng: np.random.Generator
    ) -> Bool[np.ndarray, " subject"]:
        """Return where the rule holds at a question that so many of the volunteers still to come would answer."""
        raise NotImplementedError


class Confident(_Combined):
    """Retire where every answer's fraction is known to a standard deviation ``below`` this (unit: 1).

    The standard deviation is of the mixture, what the draws disagree on included.
    """

    rule: Literal["confident"]
    below: float = Field(0.05, gt=0, le=0.5)

    def _met(
        self, combined: Posterior, question: str, coming: Int[np.ndarray, " subject"], rng: np.random.Generator
    ) -> Bool[np.ndarray, " subject"]:
        doubt = np.sqrt(combined.variance(question).total).max(axis=-1)
        return np.asarray(doubt < self.below)


class Settled(_Combined):
    """Retire where asking on to the full limit would raise the expected accuracy by less than ``gain``.

    The accuracy is of naming the answer that most volunteers would give (see `gain_of`): evenly divided opinion
    that is well known is settled as well.
    """

    rule: Literal["settled"]
    gain: float = Field(0.01, gt=0, lt=1)

    def _met(
        self, combined: Posterior, question: str, coming: Int[np.ndarray, " subject"], rng: np.random.Generator
    ) -> Bool[np.ndarray, " subject"]:
        return np.asarray(gain_of(combined, question, coming, rng) < self.gain)


Rule = Annotated[Count | Consensus | Early | Confident | Settled | Never, Field(discriminator="rule")]
Rules = tuple[Rule, ...]


def check(rules: Rules, tree: DecisionTree) -> None:
    """Raise GreenpeaError where a rule names a question or answer that the tree has not, or contradicts another."""
    if len(rules) > 1 and any(isinstance(rule, Never) for rule in rules):
        raise GreenpeaError("the retirement rule 'never' stands alone: remove it, or the others")
    if sum(isinstance(rule, Count) for rule in rules) > 1:
        raise GreenpeaError("there are two retirement rules 'count': keep one")
    if limit(rules) is None and any(isinstance(rule, Settled) for rule in rules):
        raise GreenpeaError(
            "the retirement rule 'settled' weighs going on to the full limit, and there is none: add the rule "
            '{"rule": "count", "classifications": 40}'
        )
    for rule in rules:
        rule.check(tree)


def decide(rules: Rules, classifications: int, tally: Tally, audit: bool = False) -> str | None:
    """Return why to retire a subject, or None. Audit subjects go to the full limit: only the count retires them."""
    for rule in rules:
        if audit and not isinstance(rule, Count):
            continue
        if reason := rule.decide(classifications, tally):
            return reason
    return None


def limit(rules: Sequence[object]) -> int | None:
    """Return the classifications after which a subject retires in any case, or None."""
    return next((rule.classifications for rule in rules if isinstance(rule, Count)), None)


# ---- by the posterior --------------------------------------------------------------------------------


@runtime_checkable
class PosteriorRule(Protocol):
    """A rule that looks at what is known from votes and network together.

    `judge` takes the combined posterior and the votes of the same subjects, in the same order, with how many
    classifications are ``left`` until the full limit (0 where there is none), and returns the reason per subject,
    or None to keep it. It is asked about subjects with at least ``classifications`` of them.
    """

    @property
    def classifications(self) -> int: ...

    def judge(
        self, combined: Posterior, votes: Votes, left: Int[np.ndarray, " subject"], rng: np.random.Generator
    ) -> Sequence[str | None]: ...


def by_posterior(
    rules: Sequence[Rule | PosteriorRule],
    combined: Posterior,
    votes: Votes,
    classifications: Int[np.ndarray, " subject"],
    rng: np.random.Generator,
) -> list[str | None]:
    """Return why to retire each subject by the rules on the posterior, or None; the first that holds says why.

    ``combined`` is given image and votes (`combining.combine`), by heads that never saw these votes. Audit
    subjects are not to be passed: the full limit alone retires them.
    """
    reasons = np.full(len(combined), None, object)
    left = np.maximum((limit(rules) or 0) - classifications, 0)
    for rule in rules:
        if not isinstance(rule, PosteriorRule):
            continue
        open_ = np.array([reason is None for reason in reasons], bool)
        asked = np.flatnonzero(open_ & (classifications >= rule.classifications))
        for rows in np.split(asked, range(CHUNK, len(asked), CHUNK)):
            reasons[rows] = rule.judge(combined.select(rows), votes.select(rows), left[rows], rng)
    return list(reasons)


def gain_of(
    combined: Posterior,
    question: str,
    votes: Int[np.ndarray, " subject"],
    rng: np.random.Generator,
    samples: int = SAMPLES,
) -> Float[np.ndarray, " subject"]:
    """Return by how much ``votes`` more votes would raise the chance to name the answer that most would give.

    The expected value of sample information (Raiffa & Schlaifer 1961): E_k[max_a P(a leads | k)] −
    max_a P(a leads), where a leads among infinitely many volunteers, and k are the votes to come. Where several
    answers may be given, each is led by yes or by no, and the largest gain counts. Never negative.

    By simulation: each of ``samples`` vectors of fractions from the posterior casts votes k, and those votes
    re-weight all of them. Its standard error is about √(gain/samples); it comes out rather too large where the
    answers are many and the votes tell the samples apart. Costs samples² multiply-adds and exponentials per
    subject, and per answer of a ``multiple`` question: some 3,000 a second on one core. Next to nothing where all
    samples agree on which answer leads.
    """
    fractions = combined.sample_fractions(question, samples, rng)
    answers = 1
    if combined.tree[question].kind == "multiple":
        answers = fractions.shape[-1]
        votes = np.repeat(votes, answers)
        fractions = np.stack([fractions, 1 - fractions], axis=-1).reshape(samples, -1, 2)
    leads = fractions.argmax(axis=-1)
    gains = np.zeros(len(votes))
    unsure = np.flatnonzero((leads != leads[0]).any(axis=0) & (votes > 0))
    for cells in np.split(unsure, range(BLOCK, len(unsure), BLOCK)):
        gains[cells] = _gain(fractions[:, cells].swapaxes(0, 1), votes[cells], rng)
    return np.asarray(gains.reshape(-1, answers).max(axis=1))


def _gain(
    fractions: Float[np.ndarray, "cell sample answer"], votes: Int[np.ndarray, " cell"], rng: np.random.Generator
) -> Float[np.ndarray, " cell"]:
    shares = fractions / fractions.sum(axis=-1, keepdims=True) * (1 - 1e-12)  # numpy refuses a sum above 1
    k = rng.multinomial(votes[:, None], shares).astype(np.float32)
    # ln p(k simulated from sample r | sample s), up to what is the same for all s
    log_w = k @ np.log(np.maximum(fractions, 1e-30)).astype(np.float32).swapaxes(1, 2)
    log_w -= log_w.max(axis=-1, keepdims=True)
    leads = fractions.argmax(axis=-1)[..., None] == np.arange(fractions.shape[-1])
    # P(a leads | k) ∝ Σ_s p(k | s) [a leads in s]
    after = (np.exp(log_w, out=log_w) @ leads.astype(np.float32)).astype(np.float64)
    after /= after.sum(axis=-1, keepdims=True)
    # P(a leads) is taken as the mean of the same futures: what they share cancels in the difference.
    return np.asarray(after.max(axis=-1).mean(axis=1) - after.mean(axis=1).max(axis=-1))

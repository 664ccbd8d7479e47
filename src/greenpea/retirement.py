"""Retirement: when a subject has been asked about enough, and why.

Rules are declared in the workflow's file and look at a subject's tally; a `PosteriorRule` is code and looks at
what the network says together with the votes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from greenpea.classifications import Tally
from greenpea.errors import GreenpeaError
from greenpea.posterior import Posterior
from greenpea.tree import DecisionTree, Slug
from greenpea.votes import Votes


class _Rule(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def decide(self, classifications: int, tally: Tally) -> str | None:
        """Return why to retire a subject with so many classifications and this tally, or None to keep it."""
        raise NotImplementedError

    def questions(self) -> Iterator[tuple[str, str | None]]:
        """Yield the questions, with the answer if one is meant, that the tree must have."""
        return iter(())


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

    def questions(self) -> Iterator[tuple[str, str | None]]:
        yield self.question, None


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

    def questions(self) -> Iterator[tuple[str, str | None]]:
        yield self.question, self.answer


class Never(_Rule):
    """Keep every subject for ever; it stands alone."""

    rule: Literal["never"]

    def decide(self, classifications: int, tally: Tally) -> str | None:
        return None


Rule = Annotated[Count | Consensus | Early | Never, Field(discriminator="rule")]
Rules = tuple[Rule, ...]


def check(rules: Rules, tree: DecisionTree) -> None:
    """Raise GreenpeaError where a rule names a question or answer that the tree has not, or contradicts another."""
    if len(rules) > 1 and any(isinstance(rule, Never) for rule in rules):
        raise GreenpeaError("the retirement rule 'never' stands alone: remove it, or the others")
    if sum(isinstance(rule, Count) for rule in rules) > 1:
        raise GreenpeaError("there are two retirement rules 'count': keep one")
    for rule in rules:
        for question, answer in rule.questions():
            if answer is not None:
                tree[question].answer(answer)
            elif tree[question].kind == "multiple":
                raise GreenpeaError(f"consensus needs a question with one answer; {question!r} is 'multiple'")


def decide(rules: Rules, classifications: int, tally: Tally, audit: bool = False) -> str | None:
    """Return why to retire a subject, or None. Audit subjects go to the full limit: only the count retires them."""
    for rule in rules:
        if audit and not isinstance(rule, Count):
            continue
        if reason := rule.decide(classifications, tally):
            return reason
    return None


def limit(rules: Rules) -> int | None:
    """Return the classifications after which a subject retires in any case, or None."""
    return next((rule.classifications for rule in rules if isinstance(rule, Count)), None)


class PosteriorRule(Protocol):
    """A rule that looks at what is known from votes and network together.

    Given the combined posterior and the votes of the same subjects, in the same order, it returns the reason
    per subject, or None to keep it. The round that applies it never passes an audit subject.
    """

    def __call__(self, posterior: Posterior, votes: Votes) -> Sequence[str | None]: ...


def confident(question: str, below: float) -> PosteriorRule:
    """Return a rule: retire where every answer's fraction at ``question`` is known to a standard deviation < ``below``.

    The standard deviation is of the mixture over draws, what they disagree on included (unit: 1, a fraction of the
    volunteers).
    """

    def rule(posterior: Posterior, votes: Votes) -> list[str | None]:
        doubt = np.sqrt(posterior.variance(question).total).max(axis=-1)
        return [f"confident on {question}" if one < below else None for one in doubt]

    return rule

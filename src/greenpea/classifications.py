"""Classifications: one volunteer's pass over one subject, checked against the tree, and counted into votes.

A `Tally` is the counts of one subject as a flat dictionary: ``"bar"`` → how many reached the question,
``"bar/strong"`` → how many gave the answer. It adds up and takes away one classification at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from greenpea.errors import GreenpeaError, did_you_mean
from greenpea.tree import DecisionTree
from greenpea.votes import Votes

Annotations = Mapping[str, Sequence[str]]  # question → the answers given: one where it is single
Tally = dict[str, int]


@dataclass(frozen=True)
class Classification:
    """One volunteer's whole pass over one subject.

    ``annotations`` maps each question that was reached to the slugs of the answers given, exactly one where the
    question is ``single``; ``version`` is the workflow's at which they were given. ``stream`` says how the
    subject was chosen, in ``round``, with which ``probability`` (None: not known). ``metadata`` is kept as it is.
    """

    uuid: str
    subject_id: str
    volunteer: str
    annotations: Annotations
    version: str = "1.0"
    started_at: datetime | None = None
    finished_at: datetime | None = None
    stream: str = "random"
    round: int | None = None
    probability: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


def walk(tree: DecisionTree, annotations: Annotations) -> tuple[list[str], str | None]:
    """Follow the answers from the first question: return the questions passed, and the one left unanswered.

    The second is None where the walk comes to its end. Annotations off the walk are not looked at. Raises
    GreenpeaError where an answer does not exist, or a single question has not exactly one.
    """
    passed: list[str] = []
    slug: str | None = tree.first
    while slug is not None and slug in annotations:
        question, given = tree[slug], annotations[slug]
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise GreenpeaError(f"the answers to {slug!r} must be a list, such as [{question.answer_slugs[0]!r}]")
        for answer in given:
            if answer not in question.answer_slugs:
                raise GreenpeaError(
                    f"question {slug!r} has no answer {answer!r}{did_you_mean(str(answer), question.answer_slugs)}"
                )
        if len(set(given)) < len(given):
            raise GreenpeaError(f"question {slug!r} has the same answer twice: give each once")
        if question.kind == "single" and len(given) != 1:
            raise GreenpeaError(f"question {slug!r} takes exactly one answer, not {len(given)}")
        passed.append(slug)
        slug = question.next if question.kind == "multiple" else question.answer(given[0]).next
    return passed, slug


def check(tree: DecisionTree, annotations: Annotations, complete: bool = True) -> None:
    """Raise GreenpeaError unless the annotations are one walk through the tree, to its end if ``complete``."""
    if not isinstance(annotations, Mapping):
        raise GreenpeaError("annotations are an object: question → list of answers")
    for slug in annotations:
        tree[slug]
    passed, unanswered = walk(tree, annotations)
    for slug in annotations:
        if slug not in passed:
            raise GreenpeaError(f"the answers given do not lead to question {slug!r}: leave it out")
    if not passed or (complete and unanswered is not None):
        raise GreenpeaError(f"question {unanswered!r} has no answer: the classification is not finished")


def add(tally: Tally, annotations: Annotations, sign: int = 1) -> None:
    """Count a classification into a subject's tally, or take it out again with ``sign=-1``; in place."""
    for question, answers in annotations.items():
        for key in (question, *(f"{question}/{answer}" for answer in answers)):
            tally[key] = tally.get(key, 0) + sign
            if not tally[key]:
                del tally[key]


def tally(classifications: Iterable[Annotations]) -> Tally:
    """Return the counts of many classifications of one subject."""
    counts: Tally = {}
    for one in classifications:
        add(counts, one)
    return counts


def votes_of(tallies: Mapping[str, Tally], tree: DecisionTree) -> Votes:
    """Return subject → tally as votes on ``tree``, in the mapping's order; one pass."""
    votes = Votes.empty(tree, list(tallies))
    for row, counts in enumerate(tallies.values()):
        for question in tree.questions:
            if reached := counts.get(question.slug):
                votes.reached[question.slug][row] = reached
                votes.counts[question.slug][row] = [
                    counts.get(f"{question.slug}/{answer}", 0) for answer in question.answer_slugs
                ]
    return votes


def count(classifications: Iterable[Classification], tree: DecisionTree) -> Votes:
    """Return the votes of some classifications, subjects in the order in which they first appear."""
    tallies: dict[str, Tally] = {}
    for one in classifications:
        add(tallies.setdefault(one.subject_id, {}), one.annotations)
    return votes_of(tallies, tree)

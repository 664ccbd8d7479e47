"""A decision tree as a page draws it: every question once, indented below the one all must pass to reach it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from greenpea.classifications import Annotations, Tally
from greenpea.tree import Answer, DecisionTree, Question
from greenpea.workflow import Workflow

DEEPEST = 6  # a page indents no further


@dataclass(frozen=True)
class Way:
    """From ``question`` by one of these answers; from all of them where there are none."""

    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """A question, how deep it stands (at most `DEEPEST`), and the ways into it."""

    question: Question
    depth: int
    ways: tuple[Way, ...]

    def goal(self, answer: Answer) -> str | None:
        """The question that follows an answer; None where the walk ends."""
        return self.question.next or answer.next


def outline(tree: DecisionTree) -> list[Entry]:
    """Return the questions in reading order.

    A question stands below its immediate dominator: the last question that everyone passes who reaches it. So one
    that several branches lead to stands beside these branches, once, and not within the first of them.
    """
    above: dict[str, str] = {}
    depth = {tree.first: 0}
    for slug in tree.topological_order[1:]:
        ways = [way.question for way in tree.parents[slug]]
        common = ways[0]
        for other in ways[1:]:
            common = _common(common, other, above, depth)
        above[slug], depth[slug] = common, depth[common] + 1
    below: dict[str, list[str]] = {slug: [] for slug in tree.slugs}
    for slug in tree.topological_order[1:]:
        below[above[slug]].append(slug)
    return [
        Entry(tree[slug], min(depth[slug], DEEPEST), tuple(_ways(tree, slug)))
        for slug in _down_the_page(tree.first, below)
    ]


def _ways(tree: DecisionTree, slug: str) -> Iterator[Way]:
    for question, parents in groupby(tree.parents[slug], key=lambda way: way.question):
        answers = tuple(way.answer for way in parents if way.answer is not None)
        yield Way(question, () if len(answers) == len(tree[question].answers) else answers)


def _common(one: str, other: str, above: Mapping[str, str], depth: Mapping[str, int]) -> str:
    while one != other:
        if depth[one] >= depth[other]:
            one = above[one]
        else:
            other = above[other]
    return one


def _down_the_page(first: str, below: Mapping[str, Sequence[str]]) -> Iterator[str]:
    waiting = [first]
    while waiting:
        slug = waiting.pop()
        yield slug
        waiting.extend(reversed(below[slug]))


# ---- votes on the tree -------------------------------------------------------------------------------


@dataclass(frozen=True)
class AnswerVotes:
    """``count`` of ``reached`` gave the answer; ``known`` where it is the answer that is known."""

    answer: Answer
    count: int
    reached: int
    known: bool

    @property
    def share(self) -> float:
        return self.count / self.reached if self.reached else 0.0


@dataclass(frozen=True)
class QuestionVotes:
    """The votes at one question of the outline."""

    entry: Entry
    reached: int
    answers: tuple[AnswerVotes, ...]


def votes(tree: DecisionTree, tally: Tally, gold: Annotations | None = None) -> list[QuestionVotes]:
    """Return a subject's votes question by question, in the order of the outline."""
    known = gold or {}

    def at(entry: Entry) -> QuestionVotes:
        slug = entry.question.slug
        reached = tally.get(slug, 0)
        answers = (
            AnswerVotes(one, tally.get(f"{slug}/{one.slug}", 0), reached, one.slug in known.get(slug, ()))
            for one in entry.question.answers
        )
        return QuestionVotes(entry, reached, tuple(answers))

    return [at(entry) for entry in outline(tree)]


# ---- what a new workflow changes ---------------------------------------------------------------------


def changes(old: Workflow, new: Workflow) -> list[str]:
    """Return what differs between two workflows, a line each; empty where they are equal."""
    lines: list[str] = []
    was, now = old.tree, new.tree
    lines += [f"The question {slug!r} is new." for slug in now.slugs if slug not in was]
    lines += [f"The question {slug!r} is gone." for slug in was.slugs if slug not in now]
    if was.first != now.first:
        lines.append(f"The first question is {now.first!r}, not {was.first!r}.")
    for slug in now.slugs:
        if slug in was:
            lines += _changes_within(was[slug], now[slug])
    if sorted(was.slugs) == sorted(now.slugs) and was.slugs != now.slugs:
        lines.append("The questions stand in another order.")
    if old.retirement != new.retirement:
        lines.append("The rules of retirement have changed.")
    for what in ("tutorial", "guide", "feedback"):
        if getattr(old, what) != getattr(new, what):
            lines.append(f"The texts of the {what} have changed.")
    if (was.name, was.title, was.version) != (now.name, now.title, now.version):
        lines.append("The name, the title or the file's own version has changed.")
    return lines


def _changes_within(was: Question, now: Question) -> Iterator[str]:
    if was.kind != now.kind:
        yield f"The question {now.slug!r} is {now.kind!r}, not {was.kind!r}."
    if gone := [slug for slug in was.answer_slugs if slug not in now.answer_slugs]:
        yield f"The question {now.slug!r} loses {', '.join(map(repr, gone))}."
    if added := [slug for slug in now.answer_slugs if slug not in was.answer_slugs]:
        yield f"The question {now.slug!r} gains {', '.join(map(repr, added))}."
    if not gone and not added and was.answer_slugs != now.answer_slugs:
        yield f"The answers to {now.slug!r} stand in another order."
    before = {answer.slug: was.next or answer.next for answer in was.answers}
    for answer in now.answers:
        goal, earlier = now.next or answer.next, before.get(answer.slug)
        if answer.slug in before and earlier != goal:
            yield f"{answer.slug!r} at {now.slug!r} leads to {goal or 'the end'}, not to {earlier or 'the end'}."
    if _texts(was) != _texts(now):
        yield f"The texts of {now.slug!r} have changed."


def _texts(question: Question) -> object:
    return question.text, question.help, {one.slug: (one.text, one.help, one.examples) for one in question.answers}

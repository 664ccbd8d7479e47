"""Decision trees: the questions volunteers walk, the routes through them, and who reaches what.

A tree is a directed acyclic graph: a question may have several parents (in Galaxy Zoo, "merging" hangs
below everything). Questions and answers are known by slug; what people read is a dictionary by language.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Float
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from greenpea.errors import GreenpeaError, did_you_mean

SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
# "<question>_reached" stands beside the "<question>_<answer>" counts in vote tables.
RESERVED = frozenset({"reached", "total-votes"})


def slugify(text: str) -> str:
    """Return ``text`` as a slug: lower-case ASCII words joined by hyphens (``"Can't tell"`` → ``cant-tell``)."""
    letters = "".join(c for c in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(c))
    words = re.sub(r"[^a-z0-9]+", "-", letters.replace("'", "").replace("’", ""))
    return words.strip("-")


def _check_slug(slug: str) -> str:
    if not SLUG.fullmatch(slug):
        example = slugify(slug) or "how-rounded"
        raise ValueError(f"{slug!r} is not a slug: use lower-case words joined by hyphens, such as {example!r}")
    return slug


def _plain_text_is_english(text: Any) -> Any:
    return {"en": text} if isinstance(text, str) else text


Slug = Annotated[str, AfterValidator(_check_slug)]
Text = Annotated[dict[str, str], BeforeValidator(_plain_text_is_english)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Answer(_Part):
    """One choice at a question; ``next`` is the slug of the question that follows, or None to end."""

    slug: Slug
    text: Text = {}
    next: Slug | None = None
    help: Text = {}
    examples: tuple[str, ...] = ()  # pictures: files in the campaign's folder, or web addresses

    def label(self, language: str = "en") -> str:
        """Return the answer's text in ``language``, else in English, else its slug."""
        return self.text.get(language) or self.text.get("en") or self.slug


class Question(_Part):
    """One node of the tree.

    ``single``: exactly one answer, each with its own ``next``. ``multiple``: any number of answers, none
    included; the ``next`` stands on the question, since all who reach it go on together.
    """

    slug: Slug
    kind: Literal["single", "multiple"] = "single"
    text: Text = {}
    help: Text = {}
    answers: tuple[Answer, ...] = Field(min_length=1)
    next: Slug | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Question:
        slugs = self.answer_slugs
        if len(set(slugs)) < len(slugs):
            twice = sorted({slug for slug in slugs if slugs.count(slug) > 1})
            raise ValueError(f"question {self.slug!r} offers the answer {twice[0]!r} more than once: rename one")
        for slug in RESERVED & set(slugs):
            raise ValueError(
                f"question {self.slug!r} has an answer {slug!r}, the name of a column of vote tables: rename it"
            )
        if self.kind == "single" and len(slugs) < 2:
            raise ValueError(f"question {self.slug!r} offers one answer only: add another, or make its kind 'multiple'")
        if self.kind == "single" and self.next is not None:
            raise ValueError(f"question {self.slug!r} is 'single': move its 'next' to each of its answers")
        if self.kind == "multiple" and any(answer.next for answer in self.answers):
            raise ValueError(f"question {self.slug!r} is 'multiple': put one 'next' on the question, not on answers")
        return self

    @property
    def answer_slugs(self) -> tuple[str, ...]:
        return tuple(answer.slug for answer in self.answers)

    def answer(self, slug: str) -> Answer:
        """Return the answer with this slug. Raises GreenpeaError naming the nearest where there is none."""
        for answer in self.answers:
            if answer.slug == slug:
                return answer
        raise GreenpeaError(f"question {self.slug!r} has no answer {slug!r}{did_you_mean(slug, self.answer_slugs)}")

    def label(self, language: str = "en") -> str:
        """Return the question's text in ``language``, else in English, else its slug."""
        return self.text.get(language) or self.text.get("en") or self.slug

    @property
    def followers(self) -> frozenset[str]:
        """The questions that can come next."""
        return frozenset(slug for slug in (self.next, *(answer.next for answer in self.answers)) if slug)


class Parent(_Part):
    """A way into a question: ``answer`` of ``question``, or all who reach it (``answer`` None)."""

    question: Slug
    answer: Slug | None


class DecisionTree(_Part):
    """A validated decision tree: every ``next`` exists, every question is reachable, none leads to itself.

    ``first`` is the slug of the root; by default the first question listed.
    """

    name: Slug
    version: str = "1"
    title: Text = {}
    first: Slug = ""
    questions: tuple[Question, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _first_by_default(cls, values: Any) -> Any:
        if isinstance(values, DecisionTree):
            return values
        if not isinstance(values, dict):
            raise ValueError("a tree is a JSON object with the keys 'name' and 'questions'")
        questions = values.get("questions")
        if isinstance(questions, list | tuple) and questions and not values.get("first"):
            head = questions[0]
            slug = head.get("slug") if isinstance(head, dict) else getattr(head, "slug", None)
            values = values | ({"first": slug} if slug else {})
        return values

    @model_validator(mode="after")
    def _whole(self) -> DecisionTree:
        slugs = [question.slug for question in self.questions]
        if len(set(slugs)) < len(slugs):
            twice = sorted({slug for slug in slugs if slugs.count(slug) > 1})
            raise ValueError(f"the question {twice[0]!r} stands more than once: rename one")
        if self.first not in slugs:
            raise ValueError(f"the first question {self.first!r} does not exist{did_you_mean(self.first, slugs)}")
        for question in self.questions:
            for follower in sorted(question.followers - set(slugs)):
                raise ValueError(
                    f"question {question.slug!r} leads to {follower!r}, which does not exist"
                    f"{did_you_mean(follower, slugs) or ': add it, or remove this next'}"
                )
        try:
            order = self._sort()
        except CycleError as error:
            circle = " → ".join(error.args[1])
            raise ValueError(f"the tree goes round in a circle: {circle}; remove one of these 'next'") from error
        reached: set[str] = {self.first}
        for slug in order:
            if slug in reached:
                reached |= self[slug].followers
        lost = [slug for slug in slugs if slug not in reached]
        if lost:
            raise ValueError(
                f"no answer leads to {', '.join(map(repr, lost))}: give an answer this 'next', or remove the question"
            )
        return self

    # ---- looking things up -------------------------------------------------------------------------

    @cached_property
    def _by_slug(self) -> dict[str, Question]:
        return {question.slug: question for question in self.questions}

    def __getitem__(self, slug: str) -> Question:
        try:
            return self._by_slug[slug]
        except KeyError:
            raise GreenpeaError(
                f"tree {self.name!r} has no question {slug!r}{did_you_mean(slug, self._by_slug)}"
            ) from None

    def __contains__(self, slug: object) -> bool:
        return slug in self._by_slug

    @property
    def slugs(self) -> tuple[str, ...]:
        """The questions' slugs, in the order they are written."""
        return tuple(question.slug for question in self.questions)

    @property
    def answers(self) -> dict[str, tuple[str, ...]]:
        """Question slug → answer slugs, in the order they are written."""
        return {question.slug: question.answer_slugs for question in self.questions}

    def _sort(self) -> tuple[str, ...]:
        graph: dict[str, set[str]] = {question.slug: set() for question in self.questions}
        for question in self.questions:
            for follower in question.followers:
                graph[follower].add(question.slug)
        return tuple(TopologicalSorter(graph).static_order())

    @property
    def structure(self) -> tuple[object, ...]:
        """What votes depend on: questions, kinds, answers and where they lead. Texts may change, this may not."""
        return self.first, tuple(
            (q.slug, q.kind, q.next, tuple((answer.slug, answer.next) for answer in q.answers)) for q in self.questions
        )

    @cached_property
    def topological_order(self) -> tuple[str, ...]:
        """Every question after all of its parents."""
        return self._sort()

    @cached_property
    def parents(self) -> dict[str, tuple[Parent, ...]]:
        """Question slug → every way into it; empty for the first question."""
        ways: dict[str, list[Parent]] = {slug: [] for slug in self.slugs}
        for question in self.questions:
            if question.next:
                ways[question.next].append(Parent(question=question.slug, answer=None))
            for answer in question.answers:
                if answer.next:
                    ways[answer.next].append(Parent(question=question.slug, answer=answer.slug))
        return {slug: tuple(way) for slug, way in ways.items()}

    def routes(self, slug: str) -> list[tuple[Parent, ...]]:
        """Return every path from the root to ``slug``, each as its steps (question, answer).

        The number of paths can grow exponentially with depth: this is for people and tests, `reach` for numbers.
        """
        if slug == self.first:
            return [()]
        return [(*route, way) for way in self.parents[self[slug].slug] for route in self.routes(way.question)]

    def reach(self, fractions: Mapping[str, Float[np.ndarray, "*batch answer"]]) -> dict[str, np.ndarray]:
        """Return, per question, the share of volunteers who get there, of shape ``batch`` (unit: 1).

        The sum over every path from the root of the product of the answer fractions on it, computed in one
        topological pass. ``fractions`` holds, per question, an array whose last axis is the answers.
        """
        some = np.asarray(fractions[self.first])
        share: dict[str, np.ndarray] = {self.first: np.ones(some.shape[:-1], dtype=some.dtype)}

        def came(way: Parent) -> np.ndarray:
            if way.answer is None:
                return share[way.question]
            answer = self[way.question].answer_slugs.index(way.answer)
            given: np.ndarray = share[way.question] * np.asarray(fractions[way.question])[..., answer]
            return given

        for slug in self.topological_order[1:]:
            share[slug] = sum(map(came, self.parents[slug]), start=np.zeros_like(share[self.first]))
        return {slug: share[slug] for slug in self.slugs}

    # ---- files -------------------------------------------------------------------------------------

    def to_json(self) -> str:
        """Return the tree as JSON that `from_json` reads back to an equal tree; defaults are left out."""
        return json.dumps(self.model_dump(exclude_defaults=True), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = "the tree") -> DecisionTree:
        """Parse and validate; ``where`` names the source in errors.

        Raises GreenpeaError naming the question at fault and the remedy.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise GreenpeaError(
                f"{where} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
            ) from error
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise GreenpeaError(_explain(error, values, where)) from error

    @classmethod
    def load(cls, name_or_path: str | Path) -> DecisionTree:
        """Return a tree shipped with Greenpea by name (`shipped`), or from a JSON file."""
        if str(name_or_path) in shipped():
            file = resources.files("greenpea") / "trees" / f"{name_or_path}.json"
            return cls.from_json(file.read_text(encoding="utf-8"), f"tree {name_or_path!r}")
        path = Path(name_or_path)
        if not path.is_file():
            raise GreenpeaError(
                f"no tree {str(name_or_path)!r}{did_you_mean(str(name_or_path), shipped())}: "
                f"give the path of a JSON file, or one of the shipped trees: {', '.join(shipped())}"
            )
        try:
            return cls.from_json(path.read_text(encoding="utf-8-sig"), str(path))
        except UnicodeDecodeError as error:
            raise GreenpeaError(f"{path} is not UTF-8 text: save it as UTF-8") from error


def shipped() -> tuple[str, ...]:
    """Return the names of the trees that come with Greenpea."""
    folder = resources.files("greenpea") / "trees"
    return tuple(sorted(file.name[:-5] for file in folder.iterdir() if file.name.endswith(".json")))


def _explain(error: ValidationError, values: Any, where: str) -> str:
    """Turn pydantic's report into one line per fault that names the question it is in."""
    # It counts the valid parts only, so a list with a fault in it is "too short" as well.
    faults = [fault for fault in error.errors() if fault["type"] != "too_short" or not fault["input"]]
    return "\n".join(f"{where}: {_place(fault['loc'], values)}{_message(fault)}" for fault in faults[:5])


def _message(fault: ErrorDetails) -> str:
    key = str(fault["loc"][-1]) if fault["loc"] else ""
    match fault["type"]:
        case "extra_forbidden":
            known = {**DecisionTree.model_fields, **Question.model_fields, **Answer.model_fields}
            return f"unknown key {key!r}{did_you_mean(key, known) or ': remove it'}"
        case "missing":
            return f"the key {key!r} is missing: add it"
        case "too_short":
            return f"{key!r} is empty: list at least one"
        case "tuple_type":
            return f"{key!r} must be a list"
        case "model_type":
            return f"{fault['input']!r} must be a JSON object with the key 'slug'"
    return fault["msg"].removeprefix("Value error, ")


def _place(location: tuple[int | str, ...], values: Any) -> str:
    """Return ``"question 'bar', answer 'weak': "`` for a pydantic location, as far as slugs are known."""
    words: list[str] = []
    for key in location:
        values = _item(values, key)
        if isinstance(key, int) and isinstance(values, dict):
            kind = "question" if not words else "answer"
            words.append(f"{kind} {values.get('slug', f'number {key + 1}')!r}")
    return ", ".join(words) + ": " if words else ""


def _item(values: Any, key: int | str) -> Any:
    if isinstance(values, dict):
        return values.get(key)
    return values[key] if isinstance(values, list) and isinstance(key, int) and key < len(values) else None

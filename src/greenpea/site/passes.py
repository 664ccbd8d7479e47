"""A classification under way, as a form carries it from page to page: the same rules as the script's walk.js."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from greenpea.classifications import walk
from greenpea.errors import GreenpeaError
from greenpea.tree import DecisionTree

Answers = Mapping[str, tuple[str, ...]]
LONGEST = 20_000  # characters of all answers together


@dataclass(frozen=True)
class Pass:
    """The answers so far to the subject of a ticket.

    ``answers`` keeps later answers when one goes back; ``at`` is the question shown, or "" when all are answered.
    """

    ticket: str
    uuid: str
    started_at: str
    at: str
    answers: Answers = field(default_factory=dict)

    def path(self, tree: DecisionTree) -> list[str]:
        """Return the questions passed before ``at``, first to last."""
        passed, _ = walk(tree, self.answers)
        return passed[: passed.index(self.at)] if self.at in passed else passed

    @property
    def annotations(self) -> dict[str, list[str]]:
        """The answers as a classification has them, once ``at`` is empty."""
        return {question: list(given) for question, given in self.answers.items()}

    def answer(self, tree: DecisionTree, given: Sequence[str]) -> Pass:
        """Answer the question shown and go on. Later answers stay, unless another question follows than before.

        Raises GreenpeaError where an answer does not exist, or a single question has not exactly one.
        """
        so_far = {slug: self.answers[slug] for slug in self.path(tree)}
        here = so_far | {self.at: tuple(given)}
        _, follower = walk(tree, here)
        before = walk(tree, so_far | {self.at: self.answers[self.at]})[1] if self.at in self.answers else ""
        kept = {**self.answers, **here} if before == follower else here
        return replace(self, answers=kept, at=follower or "")

    def back(self, tree: DecisionTree) -> Pass:
        """Go back to the question before, if there is one."""
        path = self.path(tree)
        return replace(self, at=path[-1]) if path else self

    def fields(self) -> list[tuple[str, str]]:
        """Return the hidden fields that `read` makes this pass of again."""
        given = [("given", f"{question}:{','.join(answers)}") for question, answers in self.answers.items()]
        return [("ticket", self.ticket), ("uuid", self.uuid), ("started_at", self.started_at), ("at", self.at), *given]


def read(tree: DecisionTree, fields: Mapping[str, Sequence[str]]) -> Pass:
    """Return the pass that a form's fields hold, checked against the tree: each is text that anybody may have typed.

    Raises GreenpeaError where they are no walk through the tree up to a question of it.
    """

    def one(name: str) -> str:
        return fields.get(name, [""])[0]

    given = fields.get("given", [])
    if sum(map(len, given)) > LONGEST:
        raise GreenpeaError("the form carries more answers than a workflow can ask for: begin again")
    pairs = (text.partition(":")[::2] for text in given)
    answers = {question: tuple(filter(None, slugs.split(","))) for question, slugs in pairs if question in tree}
    passed, unanswered = walk(tree, answers)
    if one("at") not in (*passed, unanswered):
        raise GreenpeaError("the form's answers do not lead to the question it asks: begin again")
    try:
        uuid = str(UUID(one("uuid")))
    except ValueError as error:
        raise GreenpeaError("the form's number is not a UUID: begin again") from error
    reached = {slug: answers[slug] for slug in passed}
    return Pass(one("ticket"), uuid, one("started_at"), one("at"), reached)

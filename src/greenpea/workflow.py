"""A workflow: a decision tree with what a campaign needs around it — when to retire, what to tell volunteers.

One JSON file: the keys of a decision tree, and beside them ``retirement``, ``tutorial``, ``guide``, ``feedback``.
A file with a tree alone is a workflow with the defaults.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from greenpea.errors import GreenpeaError, did_you_mean
from greenpea.retirement import Count, Rules, check, limit
from greenpea.tree import DecisionTree, Text, shipped


class Feedback(BaseModel):
    """What a volunteer reads after a subject whose answer is known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    right: Text = {"en": "Right! That is what the experts see as well."}
    wrong: Text = {"en": "The experts see this one differently."}


class Workflow(BaseModel):
    """A decision tree, its retirement rules, and the texts for volunteers: Markdown, by language."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tree: DecisionTree
    retirement: Rules = Field((Count(),), min_length=1)
    tutorial: Text = {}  # steps are parted by a line of three hyphens
    guide: Text = {}  # the field guide: each heading starts an entry
    feedback: Feedback = Feedback()

    @model_validator(mode="after")
    def _consistent(self) -> Workflow:
        check(self.retirement, self.tree)
        return self

    @property
    def limit(self) -> int | None:
        """Classifications after which a subject retires in any case, or None."""
        return limit(self.retirement)

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages in which the first question can be read, English first."""
        found = {"en", *self.tree.title, *self.tree[self.tree.first].text, *self.tutorial}
        return tuple(sorted(found, key=lambda language: (language != "en", language)))

    def follows(self, other: Workflow) -> bool:
        """Whether votes cast on ``other`` hold here as well: the same questions, answers and ways."""
        return self.tree.structure == other.tree.structure

    def to_json(self) -> str:
        """Return the workflow as JSON that `from_json` reads back to an equal one; defaults are left out."""
        values = json.loads(self.tree.to_json())
        values |= self.model_dump(mode="json", exclude={"tree", "retirement"}, exclude_defaults=True)
        if self.retirement != type(self).model_fields["retirement"].default:
            values["retirement"] = [rule.model_dump(mode="json") for rule in self.retirement]
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = "the workflow") -> Workflow:
        """Parse and validate; ``where`` names the source in errors.

        Raises GreenpeaError naming the key or question at fault and the remedy.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise GreenpeaError(
                f"{where} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
            ) from error
        own = {
            key: values[key] for key in cls.model_fields if key != "tree" and isinstance(values, dict) and key in values
        }
        rest = {key: value for key, value in values.items() if key not in own} if isinstance(values, dict) else values
        tree = DecisionTree.from_json(json.dumps(rest), where)
        try:
            return cls.model_validate({"tree": tree, **own})
        except ValidationError as error:
            faults = [fault for fault in error.errors() if fault["type"] != "too_short" or not fault["input"]]
            raise GreenpeaError("\n".join(f"{where}: {_message(fault)}" for fault in faults[:5])) from error
        except GreenpeaError as error:
            raise GreenpeaError(f"{where}: {error}") from error

    @classmethod
    def load(cls, name_or_path: str | Path) -> Workflow:
        """Return a workflow from a JSON file, or the tree of that name that comes with Greenpea, with defaults."""
        path = Path(name_or_path)
        if str(name_or_path) in shipped() or not path.is_file():
            return cls(tree=DecisionTree.load(name_or_path))
        try:
            return cls.from_json(path.read_text(encoding="utf-8-sig"), str(path))
        except UnicodeDecodeError as error:
            raise GreenpeaError(f"{path} is not UTF-8 text: save it as UTF-8") from error


def _message(fault: Any) -> str:
    place = ".".join(str(part) for part in fault["loc"]) or "retirement"
    key = str(fault["loc"][-1]) if fault["loc"] else ""
    match fault["type"]:
        case "union_tag_invalid" | "union_tag_not_found":
            return f"{place}: a retirement rule has the key 'rule': count, consensus, answer or never"
        case "extra_forbidden":
            known = {"classifications", "question", "answer", "share", "votes", "right", "wrong"}
            return f"{place}: unknown key {key!r}{did_you_mean(key, known) or ': remove it'}"
        case "missing":
            return f"{place}: the key {key!r} is missing: add it"
    return f"{place}: {fault['msg'].removeprefix('Value error, ')}"

"""A workflow: a decision tree with what a campaign needs around it — when to retire, what to tell volunteers.

One JSON file: the keys of a decision tree, and beside them ``retirement``, ``tutorial``, ``guide``, ``feedback``.
A file with a tree alone is a workflow with the defaults.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from greenpea.errors import GreenpeaError, did_you_mean
from greenpea.retirement import Confident, Consensus, Count, Early, Never, Rules, Settled, check, limit
from greenpea.tree import DecisionTree, Text, shipped

RULES: dict[str, type[BaseModel]] = {
    "count": Count,
    "consensus": Consensus,
    "answer": Early,
    "confident": Confident,
    "settled": Settled,
    "never": Never,
}


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
        """Return the workflow as JSON that `from_json` reads back to an equal one.

        Empty texts are left out; the rules of retirement are always said, for whoever wants to change them.
        """
        values = json.loads(self.tree.to_json())
        values |= self.model_dump(mode="json", exclude={"tree", "retirement"}, exclude_defaults=True)
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
        if not isinstance(values, dict):
            raise GreenpeaError(f"{where}: a workflow is a JSON object with the keys 'name' and 'questions'")
        own = {key: values.pop(key) for key in cls.model_fields if key != "tree" and key in values}
        for key in values:
            if key not in DecisionTree.model_fields:
                known = [*DecisionTree.model_fields, *cls.model_fields]
                raise GreenpeaError(f"{where}: unknown key {key!r}{did_you_mean(key, known) or ': remove it'}")
        tree = DecisionTree.from_json(json.dumps(values), where)
        try:
            return cls.model_validate({"tree": tree, **own})
        except ValidationError as error:
            # It counts the valid parts only, so a list with a fault in it is "too short" as well.
            faults = [fault for fault in error.errors() if fault["type"] != "too_short" or not fault["input"]]
            raise GreenpeaError(
                "\n".join(f"{where}: {_place(fault)}{_message(fault)}" for fault in faults[:5])
            ) from error

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


def _place(fault: ErrorDetails) -> str:
    """Return ``"retirement rule 2 (consensus), 'share': "`` for where a fault is."""
    match fault["loc"]:
        case ():
            return ""  # what the rules contradict says itself where it is
        case ("retirement", int(number)):
            return f"retirement rule {number + 1}: "
        case ("retirement", int(number), rule):
            return f"retirement rule {number + 1} ({rule}): "
        case ("retirement", int(number), rule, key):
            return f"retirement rule {number + 1} ({rule}), {key!r}: "
    return ", ".join(repr(part) for part in fault["loc"]) + ": "


def _message(fault: ErrorDetails) -> str:
    match fault["type"]:
        case "union_tag_invalid":
            given = str(fault["ctx"]["tag"])
            return f"there is no rule {given!r}: choose {', '.join(RULES)}{did_you_mean(given, RULES)}"
        case "union_tag_not_found":
            return f"it needs the key 'rule': {', '.join(RULES)}"
        case "extra_forbidden":
            known = _keys(fault["loc"])
            return f"unknown key{did_you_mean(str(fault['loc'][-1]), known) or ': remove it'}"
        case "missing":
            return "the key is missing: add it"
        case "too_short":
            return 'it is empty: leave it out for the default, or write [{"rule": "never"}]'
        case "tuple_type":
            return 'must be a list of rules, such as [{"rule": "count", "classifications": 40}]'
        case "model_type" | "model_attributes_type" | "dict_type":
            return "must be a JSON object"
    return fault["msg"].removeprefix("Value error, ")


def _keys(location: tuple[int | str, ...]) -> list[str]:
    """Return the keys known where an unknown one stands."""
    if location[0] == "retirement":
        return list(RULES[str(location[2])].model_fields)
    return list(Feedback.model_fields)

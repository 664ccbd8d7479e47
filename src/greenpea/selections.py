"""Selections: which rows of a catalogue to trust for which question, worked out from the tree.

A question that few volunteers are expected to reach says little about a subject: fractions of the few who were asked
are easily taken for more. So every question but the first comes with the rows in which it is worth reading, and every
answer with those in which it is nearly certain.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import reduce
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool

from greenpea.tree import DecisionTree, Question

REACH = 0.5  # most volunteers are expected to be asked
FEWEST = 10  # expected votes below which a fraction has an error of 0.16 or more from counting alone
SURE = 0.5  # what the 5 % quantile must exceed: more than half would say so, with 95 % probability


class Condition(NamedTuple):
    """``column operator value``: what pyarrow takes as one of its ``filters``."""

    column: str
    operator: Literal[">", ">="]
    value: float


@dataclass(frozen=True)
class Selection:
    """Rows of a catalogue that meet all conditions; ``question`` is what they are for, ``answer`` what they hold."""

    name: str
    question: str
    answer: str | None
    words: str
    conditions: tuple[Condition, ...]

    @property
    def sql(self) -> str:
        """The conditions as SQL or ADQL has them, names quoted since they hold hyphens."""
        return " AND ".join(f'"{one.column}" {one.operator} {one.value:g}' for one in self.conditions)

    @property
    def filters(self) -> list[tuple[str, str, float]]:
        """The conditions as ``pyarrow.parquet.read_table(…, filters=…)`` takes them."""
        return [(one.column, one.operator, one.value) for one in self.conditions]

    def of(self, table: pa.Table) -> Bool[np.ndarray, " subject"]:
        """Return which rows of a catalogue are meant; a missing value meets no condition."""
        comparison = {">": pc.greater, ">=": pc.greater_equal}
        each = [comparison[one.operator](table[one.column], one.value) for one in self.conditions]
        met = pc.fill_null(reduce(pc.and_, each), False)
        return np.asarray(met.combine_chunks().to_numpy(zero_copy_only=False), dtype=bool)


def recommended(tree: DecisionTree, votes: int) -> tuple[Selection, ...]:
    """Return the selections for a catalogue whose expected votes are of ``votes`` volunteers.

    Per question but the first, where it is asked: reach above 0.5 and at least 10 expected votes (half of them,
    where fewer than 20 volunteers classify). Per answer of a ``single`` question, where it is nearly certain: that,
    and a 5 % quantile above one half.
    """
    fewest = float(min(FEWEST, max(1, votes // 2)))
    found = []
    for question in tree.questions:
        asked = _asked(question, tree, fewest)
        if asked.conditions:
            found.append(asked)
        if question.kind == "single":
            found += [_sure(question, answer.slug, asked) for answer in question.answers]
    return tuple(found)


def _asked(question: Question, tree: DecisionTree, fewest: float) -> Selection:
    slug, conditions = question.slug, tuple[Condition, ...]()
    if slug != tree.first:
        conditions = (
            Condition(f"{slug}_reach", ">", REACH),
            Condition(f"{slug}_expected_votes", ">=", fewest),
        )
    words = f"{slug}: where reach > {REACH:g} and at least {fewest:g} expected votes"
    return Selection(slug, slug, None, words, conditions)


def _sure(question: Question, answer: str, asked: Selection) -> Selection:
    slug = question.slug
    sure = Condition(f"{slug}_{answer}_p05", ">", SURE)
    where = f"{asked.words.removeprefix(f'{slug}: ')}, and " if asked.conditions else "where "
    words = f"{slug}, {answer}: {where}the 5 % quantile of the fraction is above {SURE:g}"
    return Selection(f"{slug}_{answer}", slug, answer, words, (*asked.conditions, sure))


def to_json(selections: Iterable[Selection]) -> str:
    """Return selections as JSON, with their SQL beside the conditions."""
    return json.dumps([asdict(one) | {"conditions": one.filters, "sql": one.sql} for one in selections])


def from_json(text: str) -> tuple[Selection, ...]:
    """Read what `to_json` wrote, such as a catalogue's metadata ``greenpea.selections``."""
    return tuple(
        Selection(
            one["name"], one["question"], one["answer"], one["words"], tuple(Condition(*c) for c in one["conditions"])
        )
        for one in json.loads(text)
    )

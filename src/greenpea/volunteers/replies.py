"""Replies: who said what about which subject, as integer arrays, one row per reply."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int

from greenpea.classifications import Classification
from greenpea.errors import GreenpeaError, did_you_mean
from greenpea.tables import column_as_strings
from greenpea.tree import DecisionTree, Question

UNTICKED_TICKED = ("no", "yes")


@dataclass(frozen=True, eq=False)
class Replies:
    """What volunteers replied to one question, in order of time.

    Row r says that volunteer ``volunteer_ids[volunteer[r]]`` gave ``answers[answer[r]]`` about subject
    ``subject_ids[subject[r]]``. There may be subjects and volunteers without a row. ``per_annotation`` is how many
    replies make one annotation: 1, or the number of answers where the question is ``multiple`` and each answer
    is a yes-or-no question of its own.
    """

    subject: Int[np.ndarray, " reply"]
    volunteer: Int[np.ndarray, " reply"]
    answer: Int[np.ndarray, " reply"]
    subject_ids: np.ndarray
    volunteer_ids: np.ndarray
    answers: tuple[str, ...]
    per_annotation: int = 1

    def __post_init__(self) -> None:
        if len(self.answers) < 2:
            raise GreenpeaError(f"replies among {len(self.answers)} answer: a question offers at least two")
        if not len(self.subject) == len(self.volunteer) == len(self.answer):
            raise GreenpeaError(
                f"replies name {len(self.subject)} subjects, {len(self.volunteer)} volunteers and "
                f"{len(self.answer)} answers: give one of each per reply"
            )
        for name, index, known in (
            ("subject", self.subject, self.subject_ids),
            ("volunteer", self.volunteer, self.volunteer_ids),
            ("answer", self.answer, self.answers),
        ):
            _check_index(name, index, len(known))

    def __len__(self) -> int:
        return len(self.subject)

    @classmethod
    def of(
        cls,
        subjects: Sequence[Any] | np.ndarray,
        volunteers: Sequence[Any] | np.ndarray,
        answers_given: Sequence[str] | np.ndarray,
        answers: Sequence[str],
        times: np.ndarray | None = None,
        where: str = "the replies",
    ) -> Replies:
        """Return replies from one name per row; subjects and volunteers stand in order of first appearance.

        Rows are put in order of ``times`` where given (numbers or datetime64, equal times as they stand), and are
        taken to be in order otherwise. Raises GreenpeaError naming the row (the first is row 1) of an answer that
        is not among ``answers``, of a blank name, and of a time that is missing.
        """
        place = {answer: index for index, answer in enumerate(answers)}
        answer = np.array([place.get(given, -1) for given in answers_given], np.int64)
        for row in np.flatnonzero(answer < 0)[:1]:
            raise GreenpeaError(
                f"{where}, row {row + 1}: {str(answers_given[row])!r} is not an answer; the answers are "
                f"{', '.join(map(repr, answers))}{did_you_mean(str(answers_given[row]), answers)}"
            )
        subject, subject_ids = _number(subjects, "subject", where)
        volunteer, volunteer_ids = _number(volunteers, "volunteer", where)
        found = cls(subject, volunteer, answer, subject_ids, volunteer_ids, tuple(answers))
        return found if times is None else found.select(_order(times, len(found), where))

    @classmethod
    def from_table(
        cls,
        table: pa.Table,
        answers: Sequence[str],
        columns: tuple[str, str, str] = ("subject_id", "volunteer", "answer"),
        time: str | None = None,
        where: str = "the table",
    ) -> Replies:
        """Read one reply per row from the ``columns`` of subject, volunteer and answer, in order of ``time``.

        Rows with a blank answer, a question passed over, are left out, unless ``""`` is among ``answers``. A time
        is a number, a timestamp, or text such as ``2017-02-23 14:32:30 UTC``. Raises GreenpeaError naming the row
        (the header is row 1) and the column.
        """
        for column in (*columns, *([time] if time else [])):
            if column not in table.column_names:
                raise GreenpeaError(f"{where} has no column {column!r}{did_you_mean(column, table.column_names)}")
        subjects, volunteers, given = (column_as_strings(table[column]) for column in columns)
        rows = np.flatnonzero((given != "") | ("" in answers))
        for column, texts in zip(columns, (subjects, volunteers), strict=False):
            for row in np.flatnonzero(texts == "")[:1]:
                raise GreenpeaError(f"{where}, row {row + 2}, column {column!r} is blank: fill it")
        known = np.isin(given.astype(str), np.array([*answers, ""], dtype=str))
        _refuse(
            ~known,
            lambda row: (
                f"{where}, row {row + 2}, column {columns[2]!r}: {given[row]!r} is not among the answers "
                f"{', '.join(map(repr, answers))}{did_you_mean(str(given[row]), answers)}"
            ),
        )
        times = None if time is None else _times(table[time], time, where)[rows]
        return cls.of(subjects[rows], volunteers[rows], given[rows], answers, times, where)

    def select(self, rows: np.ndarray) -> Replies:
        """Return some rows, by index or mask, in that order; every subject and volunteer stays known."""
        return replace(self, subject=self.subject[rows], volunteer=self.volunteer[rows], answer=self.answer[rows])

    def first(self) -> Replies:
        """Return the first reply of each volunteer about each subject: nobody counts twice."""
        pair = self.subject * max(len(self.volunteer_ids), 1) + self.volunteer
        return self.select(np.sort(np.unique(pair, return_index=True)[1]))

    def counts(self, weights: Float[np.ndarray, " volunteer"] | None = None) -> Float[np.ndarray, "subject answer"]:
        """Return the sum of the repliers' weights for each subject and answer: plain counts by default. One pass."""
        shape = len(self.subject_ids), len(self.answers)
        flat = self.subject * shape[1] + self.answer
        each = None if weights is None else np.asarray(weights, float)[self.volunteer]
        return np.bincount(flat, each, minlength=shape[0] * shape[1]).reshape(shape).astype(float)

    def per_volunteer(self) -> Int[np.ndarray, " volunteer"]:
        """Return how many replies each volunteer gave."""
        return np.bincount(self.volunteer, minlength=len(self.volunteer_ids))


def replies(classifications: Iterable[Classification], tree: DecisionTree) -> dict[str, Replies]:
    """Return classifications as replies, per question, all with the same subjects and volunteers.

    Keys are those of a tally: ``"bar"`` for a ``single`` question; for a ``multiple`` one ``"rare/ring"``, …, each
    with the answers "no" and "yes" from everybody who reached it. Rows are in order of ``finished_at``, those
    without it first, as they stand. Raises GreenpeaError naming the classification and the question. One pass.
    """
    subjects: dict[str, int] = {}
    volunteers: dict[str, int] = {}
    times: list[datetime | None] = []
    rows: dict[str, list[int]] = {key: [] for key in _keys(tree)}
    given: dict[str, list[int]] = {key: [] for key in _keys(tree)}
    who: list[tuple[int, int]] = []
    for row, one in enumerate(classifications):
        subject = subjects.setdefault(one.subject_id, len(subjects))
        who.append((subject, volunteers.setdefault(one.volunteer, len(volunteers))))
        times.append(one.finished_at)
        for slug, answers in one.annotations.items():
            for key, answer in _binary_or_not(tree, slug, answers, one, row):
                rows[key].append(row)
                given[key].append(answer)
    pairs = np.array(who, np.int64).reshape(-1, 2)
    rank = np.argsort(np.argsort([_seconds(time) for time in times], kind="stable"))
    ids = np.array(list(subjects), dtype=object), np.array(list(volunteers), dtype=object)
    found = {}
    for key, question in _keys(tree).items():
        row_of = np.array(rows[key], np.int64)
        row_order = np.argsort(rank[row_of])
        row_of = row_of[row_order]
        single = question.kind == "single"
        found[key] = Replies(
            pairs[row_of, 0],
            pairs[row_of, 1],
            np.array(given[key], np.int64)[row_order],
            *ids,
            answers=question.answer_slugs if single else UNTICKED_TICKED,
            per_annotation=1 if single else len(question.answers),
        )
    return found


def _keys(tree: DecisionTree) -> dict[str, Question]:
    return {
        key: question
        for question in tree.questions
        for key in (
            [question.slug]
            if question.kind == "single"
            else [f"{question.slug}/{answer}" for answer in question.answer_slugs]
        )
    }


def _binary_or_not(
    tree: DecisionTree, slug: str, given: Sequence[str], one: Classification, row: int
) -> list[tuple[str, int]]:
    """Return the (key, index of the answer) that one annotation contributes."""
    where = f"classification {one.uuid!r} (row {row + 1})"
    if slug not in tree:
        raise GreenpeaError(f"{where}: tree {tree.name!r} has no question {slug!r}{did_you_mean(slug, tree.slugs)}")
    question = tree[slug]
    slugs = question.answer_slugs
    for answer in given:
        if answer not in slugs:
            raise GreenpeaError(f"{where}: question {slug!r} has no answer {answer!r}{did_you_mean(answer, slugs)}")
    if question.kind == "multiple":
        return [(f"{slug}/{answer}", int(answer in given)) for answer in slugs]
    if len(given) != 1:
        raise GreenpeaError(f"{where}: question {slug!r} takes exactly one answer, not {len(given)}")
    return [(slug, slugs.index(given[0]))]


def _seconds(time: datetime | None) -> float:
    if time is None:
        return -np.inf
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _check_index(name: str, index: np.ndarray, known: int) -> None:
    if not np.issubdtype(index.dtype, np.integer):
        raise GreenpeaError(f"replies hold the {name} as {index.dtype}: give whole numbers, places in the list of them")
    _refuse(
        (index < 0) | (index >= known),
        lambda row: f"replies, row {row + 1}: {name} {index[row]} does not exist, there are {known}",
    )


def _refuse(wrong: np.ndarray, message: Callable[[int], str]) -> None:
    """Raise GreenpeaError with ``message(row)`` for the first row that is wrong."""
    for row in np.flatnonzero(wrong)[:1]:
        raise GreenpeaError(message(int(row)))


def _number(names: Sequence[Any] | np.ndarray, what: str, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return each name's index, and the names in order of first appearance."""
    seen: dict[str, int] = {}
    index = np.array([seen.setdefault(str(name), len(seen)) for name in names], np.int64)
    if "" in seen:
        row = int(np.flatnonzero(index == seen[""])[0])
        raise GreenpeaError(f"{where}, row {row + 1}: the {what} is blank; every reply needs one")
    return index, np.array(list(seen), dtype=object)


def _order(times: np.ndarray, replies: int, where: str) -> np.ndarray:
    times = np.asarray(times)
    if times.shape != (replies,):
        raise GreenpeaError(f"{where}: times have shape {times.shape}; expected one per reply, {(replies,)}")
    missing = np.isnat(times) if times.dtype.kind == "M" else np.isnan(times.astype(float))
    _refuse(missing, lambda row: f"{where}, row {row + 1}: the time is missing; give it, or pass no times")
    return np.argsort(times, kind="stable")


def _times(column: pa.ChunkedArray, name: str, where: str) -> np.ndarray:
    """Return a column of times as numbers, or as datetime64 in UTC."""
    if pa.types.is_timestamp(column.type):
        column = pc.cast(column, pa.timestamp("us", column.type.tz))
    elif not pa.types.is_integer(column.type) and not pa.types.is_floating(column.type):
        texts = [text.removesuffix(" UTC").removesuffix("Z") for text in column_as_strings(column)]
        column = pa.chunked_array([pa.array([_time(text, row, name, where) for row, text in enumerate(texts)])])
    _refuse(
        pc.is_null(column).to_numpy(),
        lambda row: f"{where}, row {row + 2}, column {name!r}: the time is blank: fill it",
    )
    return np.asarray(column.to_numpy())


def _time(text: str, row: int, name: str, where: str) -> np.datetime64:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise GreenpeaError(
            f"{where}, row {row + 2}, column {name!r}: {text!r} is not a time such as 2017-02-23 14:32:30 UTC"
        ) from None
    return np.datetime64(time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time, "us")

"""Votes: how many volunteers gave each answer about each subject. Raw integers, kept apart from weights.

Nothing here turns counts into labels or fractions for good: the number of votes is half of what they say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int

from greenpea.errors import GreenpeaError, did_you_mean
from greenpea.tables import column_as_strings, find_id_column, read_table, refuse_duplicates, row_number
from greenpea.tree import DecisionTree, Question, slugify

Mapped = Mapping[str, Mapping[str, str]]  # question → answer (or "reached") → column

# A child question may be reached a little more often than its parent answers: in 26 of 300 real GZ2 rows
# it is, by 1–2 votes. Beyond both of these bounds a table is broken rather than untidy.
EXCESS_VOTES = 3
EXCESS_SHARE = 0.10
MOST_VOTES = 2**53  # beyond it a float no longer holds every whole number


@dataclass(frozen=True)
class Excess:
    """A question reached by more volunteers than gave the answers that lead to it."""

    subject_id: str
    row: int  # index into the votes
    question: str
    reached: int
    possible: int  # volunteers who gave an answer that leads here

    @property
    def impossible(self) -> bool:
        """More than 10 % and more than 3 votes too many: no count was lost, something else is wrong."""
        over = self.reached - self.possible
        return over > EXCESS_VOTES and over > EXCESS_SHARE * self.possible


@dataclass(frozen=True, eq=False)
class Votes:
    """Counts of annotations per subject, question and answer, on one tree.

    ``counts[question]`` are raw integers of shape (subject, answer); ``reached[question]``, of shape
    (subject,), is how many volunteers were asked: the sum of the counts where the question is ``single``,
    and not where it is ``multiple``. ``effective[question]``, where given, holds weighted counts. ``note`` says
    what was assumed or left out at import, or "".
    """

    tree: DecisionTree
    subject_ids: np.ndarray
    counts: Mapping[str, Int[np.ndarray, "subject answer"]]
    reached: Mapping[str, Int[np.ndarray, " subject"]]
    effective: Mapping[str, Float[np.ndarray, "subject answer"]] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        subjects = len(self.subject_ids)
        for question in self.tree.questions:
            shape = (subjects, len(question.answers))
            if question.slug not in self.counts or question.slug not in self.reached:
                raise GreenpeaError(f"votes lack the question {question.slug!r} of tree {self.tree.name!r}")
            if self.counts[question.slug].shape != shape or self.reached[question.slug].shape != shape[:1]:
                raise GreenpeaError(
                    f"votes on {question.slug!r} have shape {self.counts[question.slug].shape} and "
                    f"{self.reached[question.slug].shape}; expected {shape} and {shape[:1]}"
                )

    def __len__(self) -> int:
        return len(self.subject_ids)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Votes) or self.tree != other.tree or self.effective.keys() != other.effective.keys():
            return NotImplemented if not isinstance(other, Votes) else False
        return np.array_equal(self.subject_ids, other.subject_ids) and all(
            np.array_equal(mine[slug], theirs[slug])
            for mine, theirs in (
                (self.counts, other.counts),
                (self.reached, other.reached),
                (self.effective, other.effective),
            )
            for slug in mine
        )

    @classmethod
    def empty(cls, tree: DecisionTree, subject_ids: Sequence[str]) -> Votes:
        """Return votes where nobody was asked anything yet."""
        subjects = len(subject_ids)
        return cls(
            tree=tree,
            subject_ids=np.asarray(subject_ids, dtype=object),
            counts={q.slug: np.zeros((subjects, len(q.answers)), np.int64) for q in tree.questions},
            reached={q.slug: np.zeros(subjects, np.int64) for q in tree.questions},
        )

    def fractions(self, question: str) -> Float[np.ndarray, "subject answer"]:
        """Return the share of those who reached the question who gave each answer; NaN where nobody did."""
        reached = self.reached[question][:, None]
        with np.errstate(invalid="ignore"):
            return np.where(reached > 0, self.counts[question] / np.where(reached > 0, reached, 1), np.nan)

    def select(self, rows: np.ndarray | Sequence[int]) -> Votes:
        """Return the votes of some subjects, by index or boolean mask, in that order."""
        rows = np.asarray(rows)
        rows = rows if rows.size else rows.astype(np.int64)
        return Votes(
            tree=self.tree,
            subject_ids=self.subject_ids[rows],
            counts={slug: array[rows] for slug, array in self.counts.items()},
            reached={slug: array[rows] for slug, array in self.reached.items()},
            effective={slug: array[rows] for slug, array in self.effective.items()},
            note=self.note,
        )

    def align(self, subject_ids: Sequence[str] | np.ndarray) -> Votes:
        """Return votes for exactly these subjects, in this order; subjects without votes count as unasked."""
        place = {subject: row for row, subject in enumerate(self.subject_ids)}
        rows = np.array([place.get(subject, -1) for subject in subject_ids], dtype=np.int64)

        def gather(array: np.ndarray) -> np.ndarray:
            out = np.zeros((len(rows), *array.shape[1:]), array.dtype)
            out[rows >= 0] = array[rows[rows >= 0]]
            return out

        return Votes(
            tree=self.tree,
            subject_ids=np.asarray(subject_ids, dtype=object),
            counts={slug: gather(array) for slug, array in self.counts.items()},
            reached={slug: gather(array) for slug, array in self.reached.items()},
            effective={slug: gather(array) for slug, array in self.effective.items()},
            note=self.note,
        )

    @property
    def total(self) -> Int[np.ndarray, " subject"]:
        """Replies per subject: how many volunteers answered each question, summed over the questions."""
        replies: np.ndarray = np.sum(list(self.reached.values()), axis=0)
        return replies

    # ---- consistency -------------------------------------------------------------------------------

    def excesses(self) -> list[Excess]:
        """Return every place where a question was reached more often than its parent answers were given.

        Parents on which the whole table holds no vote were not recorded, and are not held against a child.
        """
        recorded = {slug for slug in self.tree.slugs if self.reached[slug].any()}
        found = []
        for slug, ways in self.tree.parents.items():
            if not ways or not {way.question for way in ways} <= recorded:
                continue
            reached, possible = self.reached[slug], self.arriving(slug)
            found += [
                Excess(str(self.subject_ids[row]), int(row), slug, int(reached[row]), int(possible[row]))
                for row in np.flatnonzero(reached > possible)
            ]
        return found

    def arriving(self, question: str) -> Int[np.ndarray, " subject"]:
        """Return how many volunteers gave an answer that leads to ``question``; 0 for the first question."""
        possible = np.zeros(len(self), np.int64)
        for way in self.tree.parents[question]:
            if way.answer is None:
                possible += self.reached[way.question]
            else:
                column = self.tree[way.question].answer_slugs.index(way.answer)
                possible += self.counts[way.question][:, column]
        return possible

    # ---- tables ------------------------------------------------------------------------------------

    def to_table(self) -> pa.Table:
        """Return one row per subject: ``<question>_<answer>`` counts and ``<question>_reached``."""
        columns: dict[str, pa.Array] = {"subject_id": pa.array(self.subject_ids, pa.string())}
        for question in self.tree.questions:
            for index, answer in enumerate(question.answer_slugs):
                name = f"{question.slug}_{answer}"
                columns[name] = pa.array(self.counts[question.slug][:, index], pa.int64())
                if question.slug in self.effective:
                    columns[f"{name}_weight"] = pa.array(self.effective[question.slug][:, index], pa.float64())
            columns[f"{question.slug}_reached"] = pa.array(self.reached[question.slug], pa.int64())
        return pa.table(columns)

    @classmethod
    def from_table(
        cls,
        table: pa.Table,
        tree: DecisionTree,
        subject_ids: Sequence[str] | np.ndarray,
        columns: Mapped | None = None,
        where: str = "the table",
    ) -> Votes:
        """Read counts from columns, found by pattern (`find_columns`) or given as ``columns``.

        Blank cells mean that nobody was asked. Raises GreenpeaError, naming the row (the header is row 1)
        and the column, on counts that are negative or not whole, and on `Excess.impossible` rows.
        """
        mapped = find_columns(table.column_names, tree) if columns is None else _check_mapping(columns, table, tree)
        if not any(mapped.values()):
            raise GreenpeaError(_no_columns(table.column_names, tree, where))
        votes = cls.empty(tree, [str(subject) for subject in subject_ids])
        effective: dict[str, np.ndarray] = {}
        notes = []
        for slug in tree.topological_order:  # `reached` of a child may be filled from the counts of its parents
            question, found = tree[slug], mapped.get(slug, {})
            if not found:
                continue
            for index, answer in enumerate(question.answer_slugs):
                if answer in found:  # a mapping may leave an answer out on purpose
                    votes.counts[question.slug][:, index] = whole_numbers(table, found[answer], where)
            if blank := partly_blank(table, [found[answer] for answer in question.answer_slugs if answer in found]):
                notes.append(
                    f"{blank:,} subjects have some cells of {slug} blank and others not: the blank are taken as 0"
                )
            weights = _weights(table, question, found, where)
            if weights is not None:
                effective[question.slug] = weights
            _fill_reached(votes, question, table, found, where)
        votes = cls(tree, votes.subject_ids, votes.counts, votes.reached, effective, "; ".join(notes))
        votes.refuse_impossible(where)
        return votes

    def refuse_impossible(self, where: str, by_row: bool = True) -> None:
        """Raise GreenpeaError where counts cannot be: more answers than volunteers, `Excess.impossible` places.

        ``by_row`` says that a row of the table is a subject, which is then named by its row as well.
        """

        def place(row: int, subject: object) -> str:
            return (
                f"{where}, row {row_number(where, row)} (subject {subject!r})"
                if by_row
                else f"{where}, subject {subject!r}"
            )

        for question in self.tree.questions:
            if question.kind == "multiple":
                over = np.flatnonzero((self.counts[question.slug] > self.reached[question.slug][:, None]).any(axis=1))
                if len(over):
                    raise GreenpeaError(
                        f"{place(over[0], self.subject_ids[over[0]])}: an answer to "
                        f"{question.slug!r} was given by more volunteers than were asked "
                        f"({self.reached[question.slug][over[0]]}); check the column of those who reached it"
                    )
        broken = [excess for excess in self.excesses() if excess.impossible]
        if broken:
            first = broken[0]
            raise GreenpeaError(
                f"{place(first.row, first.subject_id)}: {first.reached} volunteers "
                f"answered {first.question!r}, but only {first.possible} gave an answer that leads to it"
                f"{f' ({len(broken) - 1} more such places)' if len(broken) > 1 else ''}; is the tree "
                f"{self.tree.name!r} the one these votes were cast on? Otherwise correct or remove the row"
            )


def read_votes(
    path: str | Path, tree: DecisionTree, id_column: str | None = None, columns: Mapped | None = None
) -> Votes:
    """Read a table of counts (CSV, Parquet, FITS or VOTable); see `Votes.from_table` for what is refused."""
    table = read_table(path, text_columns=(id_column,) if id_column else ())
    where = Path(path).name
    id_column = find_id_column(table.column_names, id_column, where)
    subject_ids = column_as_strings(table[id_column])
    refuse_duplicates(subject_ids, id_column, where)
    return Votes.from_table(table, tree, subject_ids, columns, where)


# ---- finding columns ---------------------------------------------------------------------------------

GZ2_COLUMN = re.compile(r"t\d\d_(?P<question>.+)_a\d\d_(?P<answer>.+)_(?P<measure>count|fraction)")
GZ2_TOTAL = re.compile(r"t\d\d_(?P<question>.+)_total_(count|votes)")
GZ2_ANY = re.compile(r"t\d\d_.+_(a\d\d|total)_.+")
REACHED = ("reached", "total-votes", "total_votes")


def find_columns(names: Iterable[str], tree: DecisionTree, measure: str = "count") -> dict[str, dict[str, str]]:
    """Return question → answer → column for the counts found among column names; or for another ``measure``, such as
    ``fraction``, whose columns end in its name.

    Understands Galaxy Zoo 2 (``t01_smooth_or_features_a01_smooth_count``) and Galaxy Zoo DECaLS
    (``smooth-or-featured_smooth``, hyphens or underscores, with ``_total-votes`` or ``_reached``), the
    latter also behind a prefix (``decals_smooth-or-featured_smooth``). By slug, never by answer index.
    A question of which some answers have no column is left out whole: counts without one of the choices
    would be another question's. See `incomplete`.
    """
    found = _found(list(names), tree, measure)
    return {slug: {} if _missing(tree[slug], columns) else columns for slug, columns in found.items()}


def incomplete(names: Iterable[str], tree: DecisionTree) -> dict[str, tuple[str, ...]]:
    """Return question → the answers that have no column, for questions of which some answers have one."""
    found = _found(list(names), tree)
    return {slug: _missing(tree[slug], columns) for slug, columns in found.items() if _missing(tree[slug], columns)}


def about_votes(names: Iterable[str], tree: DecisionTree) -> list[str]:
    """Return the columns that tell of votes on this tree: counts, fractions, weights, debiased ones, totals."""
    told = [f"-{slugify(f'{q.slug}_{word}')}-" for q in tree.questions for word in (*q.answer_slugs, *REACHED)]
    return [
        name for name in names if GZ2_ANY.fullmatch(name.lower()) or any(word in f"-{slugify(name)}-" for word in told)
    ]


def _missing(question: Question, columns: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(answer for answer in question.answer_slugs if columns and answer not in columns)


def _found(names: Sequence[str], tree: DecisionTree, measure: str = "count") -> dict[str, dict[str, str]]:
    gz2: dict[tuple[str, str], str] = {}
    for name in names:
        if (match := GZ2_COLUMN.fullmatch(name.lower())) and match["measure"] == measure:
            gz2.setdefault((slugify(match["question"]), slugify(match["answer"])), name)
        if match := GZ2_TOTAL.fullmatch(name.lower()):
            gz2.setdefault((slugify(match["question"]), REACHED[0]), name)
    ending = "" if measure == "count" else f"_{measure}"
    plain = _PlainColumns(names, tree, ending)
    found: dict[str, dict[str, str]] = {}
    for question in tree.questions:
        columns: dict[str, str] = {}
        for answer in question.answer_slugs:
            if column := gz2.get((question.slug, answer)) or plain.find(question.slug, f"{answer}{ending}"):
                columns[answer] = column
        if columns:
            for word in REACHED:
                if reached := gz2.get((question.slug, word)) or plain.find(question.slug, word):
                    columns["reached"] = reached
                    break
        found[question.slug] = columns
    return found


class _PlainColumns:
    """Columns named ``<question>_<answer>``: so written, with other hyphens, or behind one prefix word."""

    def __init__(self, names: Sequence[str], tree: DecisionTree, ending: str = "") -> None:
        self.exact = {name.lower(): name for name in reversed(names)}
        # Read without the underscore, "a-b_c" is also "a_b-c": what is written exactly belongs to one question.
        answers = [(q, [f"{answer}{ending}" for answer in q.answer_slugs]) for q in tree.questions]
        words = [(question.slug, word) for question, some in answers for word in (*some, *REACHED)]
        taken = {f"{question}_{word}" for question, word in words}
        self.slugged = {slugify(name): name for name in reversed(names) if name.lower() not in taken}
        self.wanted = {f"{question}-{slugify(word)}" for question, word in words}

    def find(self, question: str, word: str) -> str | None:
        wanted = f"{question}-{slugify(word)}"
        if name := self.exact.get(f"{question}_{word}") or self.slugged.get(wanted):
            return name
        # A prefix such as a survey's name; never the first word of another question's slug.
        prefixed = [s for s in self.slugged if s.partition("-")[2] == wanted and s not in self.wanted]
        return self.slugged[prefixed[0]] if len(prefixed) == 1 else None


def _check_mapping(columns: Mapped, table: pa.Table, tree: DecisionTree) -> dict[str, dict[str, str]]:
    for slug, answers in columns.items():
        question = tree[slug]
        for answer, column in answers.items():
            if answer != "reached" and answer not in question.answer_slugs:
                raise GreenpeaError(
                    f"question {slug!r} has no answer {answer!r}{did_you_mean(answer, question.answer_slugs)}"
                )
            if column not in table.column_names:
                raise GreenpeaError(f"there is no column {column!r}{did_you_mean(column, table.column_names)}")
    return {slug: dict(answers) for slug, answers in columns.items()}


def _no_columns(names: Sequence[str], tree: DecisionTree, where: str) -> str:
    first = tree[tree.first]
    wanted = [f"{first.slug}_{answer}" for answer in first.answer_slugs]
    example = next((column for column in wanted if column not in names), wanted[0])
    return (
        f"{where} has no vote counts for tree {tree.name!r}: expected columns such as {example!r}"
        f"{did_you_mean(example, names)}. Rename the columns (of a table with one reply a row: "
        f"subject_id, volunteer, question, answer), choose another tree, or give a mapping question → answer → column"
    )


def whole_numbers(table: pa.Table, column: str, where: str) -> Int[np.ndarray, " subject"]:
    """Return a column as counts, blank cells as 0. Raises GreenpeaError naming the row that holds none."""
    values = numbers(table, column, where)
    wrong = np.flatnonzero((values < 0) | (values != np.floor(values)) | (values > MOST_VOTES))
    if len(wrong):
        row, value = int(wrong[0]), values[wrong[0]]
        remedy = (
            "counts cannot be negative; leave the cell blank where nobody was asked"
            if value < 0
            else "counts are whole numbers; weighted counts belong in a column ending in '_weight', fractions in "
            "one ending in '_fraction', beside a total"
        )
        raise GreenpeaError(f"{where}, row {row_number(where, row)}, column {column!r}: {value:g}: {remedy}")
    return values.astype(np.int64)


def numbers(table: pa.Table, column: str, where: str) -> Float[np.ndarray, " subject"]:
    """Return a column as numbers, blank cells as 0."""
    try:
        values = pc.cast(table[column], pa.float64()).to_numpy()
    except pa.ArrowException:  # it does not say which row
        cells = table[column].to_pylist()
        places = (f"{where}, row {row_number(where, row)}, column {column!r}" for row, _ in enumerate(cells))
        values = np.array([_number(cell, place) for cell, place in zip(cells, places, strict=True)])
    return np.where(np.isnan(values), 0.0, values)


def partly_blank(table: pa.Table, columns: Sequence[str]) -> int:
    """Return in how many rows some of these columns are blank and some are not."""
    blank = np.stack([pc.is_null(table[column], nan_is_null=True).to_numpy() for column in columns])
    return int((blank.any(axis=0) & ~blank.all(axis=0)).sum())


def _number(cell: Any, where: str) -> float:
    try:
        return float("nan") if cell is None else float(cell)
    except (TypeError, ValueError):
        raise GreenpeaError(
            f"{where}: {str(cell)!r} is not a number; correct it, or leave the cell blank where nobody was asked"
        ) from None


def _weights(
    table: pa.Table, question: Question, found: Mapping[str, str], where: str
) -> Float[np.ndarray, "subject answer"] | None:
    names = [f"{found.get(answer, '').removesuffix('_count')}_weight" for answer in question.answer_slugs]
    if not all(name in table.column_names for name in names):
        return None
    return np.stack([numbers(table, name, where) for name in names], axis=1)


def _fill_reached(votes: Votes, question: Question, table: pa.Table, found: Mapping[str, str], where: str) -> None:
    """Single: the sum of the counts. Multiple: its own column, else everybody who came to the question."""
    slug = question.slug
    if question.kind == "single":
        votes.reached[slug][:] = votes.counts[slug].sum(axis=1)
    elif "reached" in found:
        votes.reached[slug][:] = whole_numbers(table, found["reached"], where)
    elif not any(votes.reached[way.question].any() for way in votes.tree.parents[slug]):
        raise GreenpeaError(
            f"{where}: {slug!r} is 'multiple', so its counts do not say how many volunteers were asked: "
            f"add a column '{slug}_reached'"
        )
    else:
        votes.reached[slug][:] = votes.arriving(slug)
        np.maximum(votes.reached[slug], votes.counts[slug].max(axis=1), out=votes.reached[slug])

"""Tables of votes in the shapes people have: a column of counts per answer, fractions beside totals, a row per reply.

What is assumed on the way, and what is left out, stands in the votes' ``note``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int

from greenpea.errors import GreenpeaError, did_you_mean
from greenpea.subjects import SubjectSet
from greenpea.tables import ID_COLUMNS, column_as_strings, find_id_column, read_table, refuse_duplicates, row_number
from greenpea.tree import DecisionTree, Question, slugify
from greenpea.votes import Mapped, Votes, find_columns, numbers, partly_blank, whole_numbers

VOLUNTEERS = ("volunteer", "volunteer_id", "user_id", "user_name", "user", "annotator", "classifier", "person")
QUESTIONS = ("question", "question_slug", "question_id", "task")
ANSWERS = ("answer", "answer_slug", "reply", "response", "value", "choice")
COUNTS = ("count", "counts", "votes", "n")
FAR = 0.25  # votes: further from a whole number, fraction × total was rounded too hard, or is no raw fraction
TOO_MUCH = 0.5  # above 1: rounding, or taking out a bias, brings fractions above 1 by less


def read_votes(
    path: str | Path, tree: DecisionTree, id_column: str | None = None, columns: Mapped | None = None
) -> Votes:
    """Read a table (CSV, Parquet, FITS, VOTable) of counts, of fractions and totals, or of one reply a row.

    Counts and fractions have one row per subject (`of_subjects`); replies have a column each for the subject, the
    question and the answer, and may have one for the volunteer (`of_replies`). ``columns`` maps question → answer →
    column of counts where the names do not say it. See `Votes.note`. Raises GreenpeaError naming row and column.
    """
    table = read_table(path, text_columns=(id_column,) if id_column else ())
    where = Path(path).name
    if columns is None and is_long(table.column_names):
        return of_replies(table, tree, id_column, where)
    if {"annotations", "subject_data"} <= set(table.column_names):
        raise GreenpeaError(f"{where} is an export of Zooniverse: read it with 'greenpea import zooniverse'")
    id_column = find_id_column(table.column_names, id_column, where)
    subject_ids = column_as_strings(table[id_column])
    votes = of_subjects(table, tree, subject_ids, columns, where)
    refuse_duplicates(subject_ids, id_column, where)  # second: a table of another shape repeats its ids
    return votes


def holds_votes(names: Iterable[str], tree: DecisionTree) -> bool:
    """Whether a table with one row per subject has counts of this tree, or fractions with totals."""
    names = list(names)
    return any(find_columns(names, tree).values()) or any(
        "reached" in some for some in _fractions(names, tree).values()
    )


def votes_in(table: str | Path, tree: DecisionTree, subjects: SubjectSet) -> Votes | None:
    """Return the votes that stand in the table of subjects itself, or None where it has no such columns."""
    if not holds_votes(subjects.metadata.column_names, tree):
        return None
    # The metadata has the rows of the table in their order: no second reading, and the ids already found.
    return of_subjects(subjects.metadata, tree, subjects.subject_ids, where=Path(table).name)


# ---- a row per subject -------------------------------------------------------------------------------


def of_subjects(
    table: pa.Table,
    tree: DecisionTree,
    subject_ids: Sequence[str] | np.ndarray,
    columns: Mapped | None = None,
    where: str = "the table",
) -> Votes:
    """Read counts, and where a question has none, fractions × totals rounded to whole votes; see `Votes.from_table`."""
    if columns is not None:
        return Votes.from_table(table, tree, subject_ids, columns, where)
    counted = find_columns(table.column_names, tree)
    shares = {slug: found for slug, found in _fractions(table.column_names, tree).items() if not counted[slug]}
    usable = {slug: found for slug, found in shares.items() if "reached" in found}
    if not usable:
        return Votes.from_table(table, tree, subject_ids, None, where)
    rounded = _Rounded()
    mapped = {slug: dict(found) for slug, found in counted.items() if found}
    for slug, found in usable.items():
        table, mapped[slug] = rounded.counted(table, tree[slug], found, where)
    votes = Votes.from_table(table, tree, subject_ids, mapped, where)
    without = sorted(set(shares) - set(usable))
    return replace(votes, note="; ".join(filter(None, [votes.note, *rounded.notes(), *_without_totals(without)])))


def _fractions(names: Sequence[str], tree: DecisionTree) -> dict[str, dict[str, str]]:
    found = find_columns(names, tree, "fraction")
    return {slug: columns for slug, columns in found.items() if columns}


def _without_totals(questions: Sequence[str]) -> list[str]:
    if not questions:
        return []
    return [
        f"questions with fractions but without a total are left out: {', '.join(questions)}; add columns such as "
        f"{questions[0]}_total-votes"
    ]


@dataclass
class _Rounded:
    """Fractions × totals made whole, and how well that went."""

    questions: tuple[str, ...] = ()
    places: int = 0
    far: int = 0
    sums: int = 0  # subjects whose rounded counts do not add up to the total, over the questions
    largest: float = 0.0
    blank: int = 0  # places where only some of fractions and total are given

    def counted(
        self, table: pa.Table, question: Question, found: Mapping[str, str], where: str
    ) -> tuple[pa.Table, dict[str, str]]:
        """Return the table with columns of counts for a question, and the mapping that names them."""
        total = whole_numbers(table, found["reached"], where)
        mapped, every = {"reached": found["reached"]}, np.zeros(len(total), np.int64)
        shares = np.zeros(len(total))
        for answer in question.answer_slugs:
            fraction = _shares(table, found[answer], where)
            shares += fraction
            raw = fraction * total
            counts = np.rint(raw).astype(np.int64)
            off = np.abs(raw - counts)[total > 0]
            self.places += len(off)
            self.far += int((off > FAR).sum())
            self.largest = max(self.largest, float(off.max(initial=0.0)))
            every += counts
            mapped[answer] = f"{found[answer]} × {found['reached']}"
            table = table.append_column(mapped[answer], pa.array(counts))
        if question.kind == "single":
            _refuse_too_much(shares, question, where)
            self.sums += int((every != total).sum())
        self.blank += partly_blank(table, [*found.values()])
        self.questions += (question.slug,)
        return table, mapped

    def notes(self) -> list[str]:
        notes = [f"votes are fractions × totals, rounded to whole votes: {', '.join(self.questions)}"]
        if self.far:
            notes.append(
                f"in {self.far:,} of {self.places:,} places fraction × total is more than {FAR} from a whole number, "
                f"by up to {self.largest:.2f}: weighted or debiased fractions are no votes; give raw ones or the counts"
            )
        if self.blank:
            notes.append(f"in {self.blank:,} places some fractions or the total are blank: they are taken as 0")
        if self.sums:
            notes.append(f"in {self.sums:,} places the rounded counts do not add up to the total; the counts are kept")
        return notes


def _refuse_too_much(shares: np.ndarray, question: Question, where: str) -> None:
    """Raise GreenpeaError where the fractions of a question's answers add up to far more than 1."""
    wrong = np.flatnonzero(shares > 1 + TOO_MUCH)
    if len(wrong):
        row = int(wrong[0])
        raise GreenpeaError(
            f"{where}, row {row_number(where, row)}: the fractions of {question.slug!r} add up to {shares[row]:.3g} "
            f"({len(wrong):,} such rows), and everybody gives one answer: they add up to 1, or to less where an answer "
            f"has no column"
        )


def _shares(table: pa.Table, column: str, where: str) -> np.ndarray:
    values = numbers(table, column, where)
    wrong = np.flatnonzero((values < 0) | (values > 1))
    if len(wrong):
        value = values[wrong[0]]
        remedy = "divide percentages by 100" if value > 0 else "leave the cell blank where nothing is known"
        raise GreenpeaError(
            f"{where}, row {row_number(where, wrong[0])}, column {column!r}: {value:g}: fractions run from 0 to 1; "
            f"{remedy}"
        )
    return values


# ---- a row per reply ---------------------------------------------------------------------------------


def is_long(names: Iterable[str]) -> bool:
    """Whether a table has one reply a row: columns for subject, question and answer."""
    lower = {name.lower() for name in names}
    return all(lower & set(usual) for usual in (ID_COLUMNS, QUESTIONS, ANSWERS))


def of_replies(table: pa.Table, tree: DecisionTree, id_column: str | None = None, where: str = "the table") -> Votes:
    """Count replies: a row is what one volunteer answered to one question about one subject.

    Questions and answers are known by slug or by their text. Where a volunteer answered a question about a subject
    twice, the first row counts. To a ``multiple`` question a row is one of the answers chosen, and a blank answer is
    somebody who chose none. Without a column of volunteers every row counts, as often as a column of counts says.
    """
    replies = _Replies(table, tree, id_column, where)
    if replies.count is None:
        replies.leave_out_duplicates()
    votes = Votes.empty(tree, list(replies.subject_ids))
    for question in tree.questions:
        replies.tally(votes, question)
    votes.refuse_impossible(where, by_row=False)
    return replace(votes, note="; ".join(replies.notes))


class _Replies:
    """The columns of a long table as numbers, and which rows still count."""

    def __init__(self, table: pa.Table, tree: DecisionTree, id_column: str | None, where: str) -> None:
        self.tree, self.where, self.notes = tree, where, []  # type: tuple[DecisionTree, str, list[str]]
        names = {name.lower(): name for name in reversed(table.column_names)}
        id_column = find_id_column(table.column_names, id_column, where)
        self.subject_ids, self.subject = self._coded(column_as_strings(table[id_column]))
        if blank := np.flatnonzero(self.subject_ids[self.subject] == "").tolist():
            row = row_number(where, blank[0])
            raise GreenpeaError(f"{where}, row {row}: column {id_column!r} is blank; give the subject an id")
        self.volunteer = self._volunteers(table, next((names[one] for one in VOLUNTEERS if one in names), None))
        self.count = self._counts(table, next((names[one] for one in COUNTS if one in names), None))
        self.question = self._questions(table[next(names[one] for one in QUESTIONS if one in names)])
        self.answer = self._answers(table[next(names[one] for one in ANSWERS if one in names)])
        self.counts = self.question >= 0

    @staticmethod
    def _coded(texts: np.ndarray) -> tuple[np.ndarray, Int[np.ndarray, " row"]]:
        """Return the different texts in the order they come, and each row's place among them."""
        coded = pa.array(texts, pa.string()).dictionary_encode()
        return np.asarray(coded.dictionary.to_pylist(), dtype=object), coded.indices.to_numpy().astype(np.int64)

    def _volunteers(self, table: pa.Table, column: str | None) -> Int[np.ndarray, " row"] | None:
        if column is None:
            return None
        names, codes = self._coded(column_as_strings(table[column]))
        anonymous = names[codes] == ""
        if anonymous.any():
            self.notes.append(f"{int(anonymous.sum()):,} replies name no volunteer: each counts as somebody else's")
        return np.where(anonymous, len(names) + np.arange(len(codes)), codes)

    def _counts(self, table: pa.Table, column: str | None) -> Int[np.ndarray, " row"] | None:
        if self.volunteer is not None:
            return None
        if column is not None:
            return whole_numbers(table, column, self.where)
        self.notes.append("there is no column of volunteers: every row counts as a reply")
        return np.ones(table.num_rows, np.int64)

    def _questions(self, column: pa.ChunkedArray) -> Int[np.ndarray, " row"]:
        """Return each row's question, by its place in the tree; −1 for one that the tree does not have."""
        names, codes = self._coded(column_as_strings(column))
        known = _names({question.slug: (question.slug, *question.text.values()) for question in self.tree.questions})
        slugs = [known.get(slugify(name), "") for name in names]
        places = np.array([self.tree.slugs.index(slug) if slug else -1 for slug in slugs], np.int64)[codes]
        for name, slug in zip(names, slugs, strict=True):
            if not slug:
                rows = int((names[codes] == name).sum())
                hint = did_you_mean(slugify(name), self.tree.slugs)
                self.notes.append(f"{rows:,} replies to {name!r}, which the tree does not ask, are left out{hint}")
        if not (places >= 0).any():
            raise GreenpeaError(
                f"{self.where}: none of the questions ({', '.join(map(repr, names[:5]))}) is one of tree "
                f"{self.tree.name!r}: {', '.join(self.tree.slugs)}"
            )
        return places

    def _answers(self, column: pa.ChunkedArray) -> Int[np.ndarray, " row"]:
        """Return each row's answer, by its place in its question; −1 for a blank one."""
        names, codes = self._coded(column_as_strings(column))
        places = np.full(len(codes), -1, np.int64)
        for number, question in enumerate(self.tree.questions):
            known = _names({answer.slug: (answer.slug, *answer.text.values()) for answer in question.answers})
            slugs = [known.get(slugify(name), "") if name else "" for name in names]
            here = self.question == number
            local = np.array([question.answer_slugs.index(slug) if slug else -1 for slug in slugs], np.int64)
            unknown = here & (local[codes] < 0) & (names[codes] != "")
            if unknown.any():
                row = int(np.flatnonzero(unknown)[0])
                hint = did_you_mean(slugify(names[codes[row]]), question.answer_slugs)
                raise GreenpeaError(
                    f"{self.where}, row {row_number(self.where, row)}: question {question.slug!r} has no answer "
                    f"{names[codes[row]]!r}{hint}"
                    f" ({int(unknown.sum()):,} such rows)"
                )
            places[here] = local[codes[here]]
        return places

    def leave_out_duplicates(self) -> None:
        """Let only the first reply of a volunteer to a question count: of a ``multiple`` one, each answer once."""
        assert self.volunteer is not None
        multiple = np.array([question.kind == "multiple" for question in self.tree.questions])[self.question]
        asked = np.stack([self.subject, self.volunteer, self.question])
        again = _repeated(np.vstack([asked, np.where(multiple, self.answer, 0)[None]])) & self.counts
        other = again & ~_repeated(np.vstack([asked, self.answer[None]]))
        if again.any():
            self.notes.append(
                f"{int(again.sum()):,} replies of a volunteer to a question answered before are left out, the first "
                f"counts ({int(other.sum()):,} gave another answer)"
            )
        self.counts &= ~again

    def tally(self, votes: Votes, question: Question) -> None:
        """Add the replies to one question to ``votes``."""
        here = self.counts & (self.question == self.tree.slugs.index(question.slug))
        answered = here & (self.answer >= 0)
        weight = np.ones(len(here), np.int64) if self.count is None else self.count
        np.add.at(votes.counts[question.slug], (self.subject[answered], self.answer[answered]), weight[answered])
        if question.kind == "single":
            votes.reached[question.slug][:] = votes.counts[question.slug].sum(axis=1)
            if blank := int((here & (self.answer < 0)).sum()):
                self.notes.append(f"{blank:,} replies to {question.slug} are blank and left out")
        elif here.any():
            if self.volunteer is None:
                raise GreenpeaError(
                    f"{self.where}: {question.slug!r} is 'multiple', so its replies do not say how many volunteers "
                    f"were asked: add a column of volunteers"
                )
            first = here & ~_repeated(np.stack([self.subject, self.volunteer, np.where(here, 0, -1)]))
            np.add.at(votes.reached[question.slug], self.subject[first], 1)


def _names(texts: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Return what slugs may be called → slug; the slug itself goes before another's text."""
    called = {slugify(text): slug for slug, some in texts.items() for text in some if text}
    return called | {slug: slug for slug in texts}


def _repeated(keys: Int[np.ndarray, "part row"]) -> Bool[np.ndarray, " row"]:
    """Whether the same key stood in an earlier row."""
    order = np.lexsort(keys[::-1])  # stable: of equal keys the earlier row stays first
    same = (keys[:, order[1:]] == keys[:, order[:-1]]).all(axis=0)
    repeated = np.zeros(keys.shape[1], bool)
    repeated[order[1:][same]] = True
    return repeated

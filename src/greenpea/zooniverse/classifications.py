"""Classification exports: what volunteers answered, each row read at the workflow version it was cast on.

A row is used as far as its answers are one walk through that version's tree. What is not used is never dropped
without a word: annotations that are no part of the walk stay as they are in ``metadata["raw"]``, whole rows go
to the caller (`keeping`), and the `Report` has row, classification and reason of every one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from greenpea.classifications import Classification, walk
from greenpea.zooniverse.rows import Lines, Row, csv_line, moment, read_rows
from greenpea.zooniverse.workflows import ImportedWorkflow

COLUMNS = (
    *("classification_id", "user_name", "user_id", "user_ip", "workflow_id", "workflow_name", "workflow_version"),
    *("created_at", "gold_standard", "expert", "metadata", "annotations", "subject_data", "subject_ids"),
)
NEEDED = ("classification_id", "workflow_id", "workflow_version", "annotations", "subject_ids")
# Cells kept with a classification beside its answers; "NA" is what R writes for nothing.
KEPT = (
    *("classification_id", "user_id", "user_ip", "workflow_id", "workflow_name", "workflow_version", "created_at"),
    *("gold_standard", "expert"),
)
NOTHING = ("", "NA")
IMPORTED = "zooniverse-"


class Reason(StrEnum):
    """Why something of an export was not used."""

    # The row is not used.
    CUT_OFF = "the file breaks off in this row"
    CELLS = "the row has not as many cells as the header"
    NO_ID = "it has no classification_id"
    REPEATED = "its classification_id was read already"
    WORKFLOW = "its workflow was not given"
    VERSION = "neither its workflow version was given, nor one of the same major version"
    SUBJECT = "it names no subject"
    JSON = "its annotations are not a JSON list"
    EMPTY = "it has no annotations"
    # An annotation is not used; the row is, if answers are left.
    TASK_TYPE = "the task has no fixed answers to count"
    TASK = "volunteers cannot come to the task at that version"
    LABEL = "the task has no answer with that label at that version"
    SKIPPED = "the question was left without an answer"
    AGAIN = "the question was answered again later"
    ASTRAY = "the other answers do not lead to the question"
    # The row is used.
    UNFINISHED = "the answers stop before the end"
    METADATA = "its metadata are not a JSON object"
    TIME = "a time cannot be read"


@dataclass(frozen=True)
class Fault:
    """Something that was not used: where (the header is row 1), of which classification, and why."""

    row: int
    classification_id: str
    reason: Reason
    detail: str = ""


@dataclass(frozen=True)
class Unused:
    """A row that was not used, with its cells as they are."""

    fault: Fault
    cells: Mapping[str, str]


@dataclass
class Report:
    """What became of an export's rows, filled while it is read: ``rows == used + len(unused)``.

    ``classifications`` may exceed ``used``: a row may be about several subjects. ``partly`` lists what was set
    aside in rows that were used. ``other_versions`` counts rows read at another version than their own, by
    (workflow, version, version read at).
    """

    rows: int = 0
    used: int = 0
    classifications: int = 0
    latin_1_lines: int = 0
    unused: list[Fault] = field(default_factory=list)
    partly: list[Fault] = field(default_factory=list)
    other_versions: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    @property
    def reasons(self) -> Counter[Reason]:
        """Reason → how many rows were not used for it."""
        return Counter(fault.reason for fault in self.unused)

    def summary(self) -> list[str]:
        """Return the report as lines to print, each reason with its count and first example."""
        lines = [f"{self.used} of {self.rows} rows used, {self.classifications} classifications"]
        for title, faults in (("not used", self.unused), ("used in part", self.partly)):
            for reason, count in Counter(fault.reason for fault in faults).most_common():
                one = next(fault for fault in faults if fault.reason == reason)
                where = f"row {one.row}, classification {one.classification_id or 'without id'}"
                lines.append(f"{title}: {count} × {reason} ({where}{': ' if one.detail else ''}{one.detail})")
        for (workflow, version, read), count in self.other_versions.items():
            lines.append(f"{count} × workflow {workflow} version {version} read as version {read}, the nearest given")
        if self.latin_1_lines:
            lines.append(f"{self.latin_1_lines} lines are not UTF-8 and were read as Latin-1")
        return lines


class ImportedClassifications:
    """The classifications of an export, read row by row each time this is iterated.

    ``report`` is that of the latest iteration, complete at its end.
    """

    def __init__(
        self, path: str | Path, workflows: Sequence[ImportedWorkflow], unused: Callable[[Unused], object] | None = None
    ) -> None:
        self.path = Path(path)
        self.report = Report()
        self._versions = _Versions(workflows)
        self._unused = unused

    def __iter__(self) -> Iterator[Classification]:
        self.report = Report()
        lines, seen = Lines(self.path), set[int | str]()
        for row in read_rows(lines, NEEDED, "a classification export"):
            self.report.rows += 1
            self.report.latin_1_lines = lines.latin_1
            try:
                found = self._read(row, seen)
            except _NotUsed as why:
                self._set_aside(row, why)
                continue
            self.report.used += 1
            self.report.classifications += len(found)
            yield from found

    def _read(self, row: Row, seen: set[int | str]) -> list[Classification]:
        cells = row.cells
        name = _checked_id(row)
        # A million whole numbers take a third of the room of a million texts.
        key = int(name) if name.isdecimal() else name
        if key in seen:
            raise _NotUsed(Reason.REPEATED)
        workflow = self._versions.find(cells["workflow_id"].strip(), cells["workflow_version"].strip())
        subjects = _subjects(row)
        answers = resolve(workflow, _annotations(cells["annotations"]))
        if not answers.annotations:
            raise _NotUsed(*answers.why_empty())
        found, faults = _classifications(cells, workflow, subjects, answers)
        # Only what is used counts as read: a broken row may stand once more, whole.
        seen.add(key)
        self.report.partly += [Fault(row.number, name, *fault) for fault in (*answers.faults, *faults)]
        if workflow.version != cells["workflow_version"].strip():
            self.report.other_versions[workflow.workflow_id, cells["workflow_version"].strip(), workflow.version] += 1
        return found

    def _set_aside(self, row: Row, why: _NotUsed) -> None:
        fault = Fault(row.number, row.cells.get("classification_id", "").strip(), why.reason, why.detail)
        self.report.unused.append(fault)
        if self._unused is not None:
            self._unused(Unused(fault, row.cells))


def read_classifications(
    path: str | Path, workflows: Sequence[ImportedWorkflow], unused: Callable[[Unused], object] | None = None
) -> ImportedClassifications:
    """Return the classifications of a Panoptes export (CSV, plain or gzipped), to be iterated.

    Rows are read at their own version of ``workflows``, or else the newest minor one of the same major version;
    28.3 is 28.30 where there is no 28.3.
    A classification's ``uuid`` is ``zooniverse-<classification_id>``, so that importing twice counts once;
    ``version`` is the one it was read at. ``metadata["zooniverse"]`` keeps the row's own columns and metadata.
    A row about several subjects becomes one classification of each (``zooniverse-<id>-<subject>``), as Panoptes
    counts it. ``unused`` is called with each row that is not used (see `keeping`).

    Raises GreenpeaError where there is no such file, or a column is missing.
    """
    next(read_rows(Lines(path), NEEDED, "a classification export"), None)
    return ImportedClassifications(path, workflows, unused)


@contextmanager
def keeping(path: str | Path) -> Iterator[Callable[[Unused], object]]:
    """Write the rows that are not used to a CSV file: pass what this gives as ``unused``.

    The export's columns as they were, and after them ``row``, ``reason`` and ``detail``.
    """
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        file.write(csv_line((*COLUMNS, "row", "reason", "detail")))

        def keep(one: Unused) -> None:
            values = [one.cells.get(column, "") for column in COLUMNS]
            file.write(csv_line((*values, one.fault.row, str(one.fault.reason), one.fault.detail)))

        yield keep


class _NotUsed(Exception):
    """Ends the reading of a row that cannot be used."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


class _Versions:
    """Workflow versions, found by the two columns that name them."""

    def __init__(self, workflows: Sequence[ImportedWorkflow]) -> None:
        self._exact = {(one.workflow_id, one.version): one for one in workflows}
        self._newest: dict[tuple[str, str], ImportedWorkflow] = {}
        for one in sorted(workflows, key=lambda one: _minor(one.version)):
            self._newest[one.workflow_id, _major(one.version)] = one

    def find(self, workflow_id: str, version: str) -> ImportedWorkflow:
        # A table program that took 28.30 for a number has written 28.3.
        usual = self._exact.get((workflow_id, version)) or self._exact.get((workflow_id, f"{version}0"))
        found = usual or self._newest.get((workflow_id, _major(version)))
        if found is None:
            known = any(one == workflow_id for one, _ in self._exact)
            reason = Reason.VERSION if known else Reason.WORKFLOW
            raise _NotUsed(reason, f"workflow {workflow_id}" + (f", version {version}" if known else ""))
        return found


def _major(version: str) -> str:
    return version.partition(".")[0]


def _minor(version: str) -> int:
    minor = version.partition(".")[2]
    return int(minor) if minor.isdecimal() else -1


# ---- answers -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Resolved:
    """Annotations read at a version: the walk through its tree, what is no part of it, and why not."""

    annotations: Mapping[str, tuple[str, ...]]
    raw: Sequence[Any]
    faults: Sequence[tuple[Reason, str]]

    def why_empty(self) -> tuple[Reason, str]:
        """Return what best tells why nothing is left: a question's fault before a task that is none."""
        telling = [fault for fault in self.faults if fault[0] not in (Reason.TASK_TYPE, Reason.TASK)]
        return next(iter([*telling, *self.faults]), (Reason.EMPTY, ""))


def resolve(workflow: ImportedWorkflow, annotations: Sequence[Any]) -> Resolved:
    """Return the longest walk through the workflow's tree that exported annotations make.

    Where a question stands more than once, the last reply counts: it is what the volunteer left after going back.
    """
    given: dict[str, tuple[str, ...]] = {}
    sources: dict[str, Any] = {}
    raw: list[Any] = []
    faults: list[tuple[Reason, str]] = []
    for annotation in _flattened(annotations):
        try:
            question, answers = _answers(workflow, annotation)
        except _NotUsed as why:
            raw.append(annotation)
            faults.append((why.reason, why.detail))
            continue
        if question in given:
            raw.append(sources[question])
            faults.append((Reason.AGAIN, f"task {annotation['task']}"))
        given[question], sources[question] = answers, annotation
    passed, unanswered = walk(workflow.tree, given)
    for question in given:
        if question not in passed:
            raw.append(sources[question])
            faults.append((Reason.ASTRAY, f"task {sources[question]['task']}"))
    if passed and unanswered is not None and not faults:
        faults.append((Reason.UNFINISHED, f"no reply to {unanswered}"))
    return Resolved({question: given[question] for question in passed}, raw, faults)


def _flattened(annotations: Sequence[Any]) -> Iterator[Any]:
    """Yield annotations one by one, those within a combination of tasks in its place."""
    for annotation in annotations:
        inner = annotation.get("value") if isinstance(annotation, dict) else None
        if isinstance(inner, list) and inner and all(isinstance(one, dict) and "task" in one for one in inner):
            # The newer front end lists the replies beside the combination, and only refers to them within it.
            yield from (one for one in inner if "value" in one)
        else:
            yield annotation


def _answers(workflow: ImportedWorkflow, annotation: Any) -> tuple[str, tuple[str, ...]]:
    if not isinstance(annotation, dict) or not isinstance(annotation.get("task"), str):
        raise _NotUsed(Reason.TASK, "an annotation without a task")
    task, value = annotation["task"], annotation.get("value")
    if task not in workflow.questions:
        skipped = next((left.reason for left in workflow.skipped if left.task == task), "")
        raise _NotUsed(Reason.TASK_TYPE if skipped else Reason.TASK, f"task {task}{skipped and ': '}{skipped}")
    question = workflow.tree[workflow.questions[task]]
    values = value if isinstance(value, list) else [] if value is None else [value]
    answers = tuple(dict.fromkeys(_answer(workflow, task, one) for one in values))
    if question.kind == "single" and len(answers) != 1:
        raise _NotUsed(
            Reason.LABEL if answers else Reason.SKIPPED, f"task {task}" + ": several answers" * bool(answers)
        )
    return question.slug, answers


def _answer(workflow: ImportedWorkflow, task: str, value: Any) -> str:
    """Return an answer's slug by its label, or by its index as exports of unformatted annotations have it."""
    found = None
    if isinstance(value, str):
        found = workflow.labels.get((task, value))
    elif isinstance(value, int) and not isinstance(value, bool):
        found = workflow.answers.get((task, value))
    if found is None:
        raise _NotUsed(Reason.LABEL, f"task {task}: {str(value)[:120]!r}")
    return found


# ---- cells -------------------------------------------------------------------------------------------


def _checked_id(row: Row) -> str:
    if row.fault:
        raise _NotUsed(Reason.CUT_OFF if row.fault == "cut off" else Reason.CELLS, row.fault)
    name = row.cells["classification_id"].strip()
    if not name:
        raise _NotUsed(Reason.NO_ID)
    return name


def _subjects(row: Row) -> list[str]:
    """Return the subjects of a row: Panoptes joins several by semicolons, which other sites' ids may hold.

    The last cell of a file without a last line end is believed only where ``subject_data`` confirms it.
    """
    text = row.cells["subject_ids"]
    if not row.unended and ";" not in text:
        named = [text]
    else:
        known = _json(row.cells.get("subject_data", ""))
        known = known if isinstance(known, dict) else {}
        named = [text] if text in known else text.split(";")
        if row.unended and not all(one.strip() in known or one in known for one in named):
            raise _NotUsed(Reason.CUT_OFF, "the last subject may be cut off; end the file with a line end if it is not")
    named = [one for one in named if one.strip()]
    if not named:
        raise _NotUsed(Reason.SUBJECT)
    return list(dict.fromkeys(named))


def _annotations(cell: str) -> list[Any]:
    annotations = _json(cell)
    if not isinstance(annotations, list):
        raise _NotUsed(Reason.JSON, cell[:120])
    return annotations


def _json(cell: str) -> Any:
    """Return a cell's JSON, or None where it is none."""
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        return None


def _classifications(
    cells: Mapping[str, str], workflow: ImportedWorkflow, subjects: Sequence[str], answers: Resolved
) -> tuple[list[Classification], list[tuple[Reason, str]]]:
    faults: list[tuple[Reason, str]] = []
    session = _json(cells.get("metadata") or "{}")
    if not isinstance(session, dict):
        faults.append((Reason.METADATA, cells["metadata"][:120]))
        session = {"text": cells["metadata"]}
    times: dict[str, datetime | None] = {}
    for name, value in _times(cells, session).items():
        try:
            times[name] = moment(value)
        except ValueError:
            faults.append((Reason.TIME, f"{name}: {str(value)[:40]}"))
    uuid = _uuid(cells["classification_id"].strip())
    return [
        Classification(
            uuid=uuid if len(subjects) == 1 else f"{uuid}-{subject}",
            subject_id=subject,
            volunteer=_volunteer(cells),
            annotations=answers.annotations,
            version=workflow.version,
            started_at=times.get("started_at"),
            finished_at=times.get("finished_at"),
            **_provenance(cells, session, subjects, answers.raw),
        )
        for subject in subjects
    ], faults


def _uuid(name: str) -> str:
    """Return Zooniverse's numbers with the name of their origin; ids of another kind as they are."""
    return f"{IMPORTED}{name}" if name.isdecimal() else name


def _times(cells: Mapping[str, str], session: Mapping[str, Any]) -> dict[str, Any]:
    own = "greenpea" in session
    finished = session.get("finished_at") or ("" if own else cells.get("created_at"))
    return {"started_at": session.get("started_at"), "finished_at": finished}


def _volunteer(cells: Mapping[str, str]) -> str:
    """Return the user's name. A row without one is of somebody of whom nothing else is known."""
    name = cells.get("user_name", "")
    somebody = cells.get("user_ip", "").strip() or cells["classification_id"].strip()
    return name if name.strip() else f"not-logged-in-{somebody}"


def _provenance(
    cells: Mapping[str, str], session: Mapping[str, Any], subjects: Sequence[str], raw: Sequence[Any]
) -> dict[str, Any]:
    """Return how the subject was chosen and what else is known, as Greenpea's own exports or Panoptes' have it."""
    own = session.get("greenpea")
    if isinstance(own, dict) and isinstance(own.get("metadata"), dict) and isinstance(own.get("stream"), str):
        counted, chance = own.get("round"), own.get("probability")
        return {
            "stream": own["stream"],
            "round": counted if isinstance(counted, int) else None,
            "probability": chance if isinstance(chance, int | float) else None,
            "metadata": own["metadata"],
        }
    kept = {name: cells[name] for name in KEPT if cells.get(name, "").strip() not in NOTHING}
    metadata: dict[str, Any] = {"zooniverse": kept | {"metadata": session}}
    if raw:
        metadata["raw"] = list(raw)
    if len(subjects) > 1:
        metadata["together"] = list(subjects)
    # How Zooniverse chose the subject is not in its exports.
    return {"stream": "import", "metadata": metadata}

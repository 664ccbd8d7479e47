"""Subject exports: a row per subject and workflow becomes one value per subject."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from greenpea.zooniverse.rows import Lines, Row, moment, read_rows

COLUMNS = (
    *("subject_id", "project_id", "workflow_id", "subject_set_id", "metadata", "locations", "classifications_count"),
    *("retired_at", "retirement_reason", "created_at", "updated_at"),
)
NEEDED = ("subject_id", "metadata", "locations")
# A manifest's column whose name starts so is not shown to volunteers; "!" shows it after classifying.
HIDDEN_MARKS = ("#", "//", "!")


@dataclass(frozen=True)
class Status:
    """How far one workflow is with a subject. ``retired_at`` is None while it asks about it."""

    classifications_count: int = 0
    retired_at: datetime | None = None
    reason: str = ""


@dataclass(frozen=True)
class PanoptesSubject:
    """A subject as Zooniverse has it.

    ``images`` are web addresses in the order shown. ``metadata`` holds every column under its own name, the
    `hidden` ones included. ``workflows`` is workflow → `Status`; empty where the subject is in none.
    """

    subject_id: str
    images: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    workflows: Mapping[str, Status] = field(default_factory=dict)
    subject_sets: tuple[str, ...] = ()
    project_id: str = ""
    created_at: datetime | None = None
    updated_at: datetime | None = None

    @property
    def hidden(self) -> frozenset[str]:
        """The names in ``metadata`` that volunteers are not shown while they classify."""
        return frozenset(name for name in self.metadata if name.startswith(HIDDEN_MARKS))

    @property
    def shown(self) -> dict[str, Any]:
        """The metadata that volunteers are shown."""
        return {name: value for name, value in self.metadata.items() if name not in self.hidden}

    @property
    def classifications_count(self) -> int:
        """Classifications in all workflows together."""
        return sum(status.classifications_count for status in self.workflows.values())


@dataclass(frozen=True)
class BadRow:
    """A row that was not used (the header is row 1), and why."""

    row: int
    subject_id: str
    reason: str


@dataclass(frozen=True)
class ImportedSubjects:
    """Subjects by id, in the order in which they first stand, and the rows that could not be used.

    ``rows == used + len(unused)``. ``differing`` names subjects whose rows disagree on metadata or images: the
    last row counts.
    """

    subjects: Mapping[str, PanoptesSubject]
    rows: int
    used: int
    unused: tuple[BadRow, ...]
    differing: tuple[str, ...]
    latin_1_lines: int

    def __len__(self) -> int:
        return len(self.subjects)

    def __iter__(self) -> Iterator[PanoptesSubject]:
        return iter(self.subjects.values())


def read_subjects(path: str | Path) -> ImportedSubjects:
    """Read a Panoptes subject export (CSV, plain or gzipped); the rows of one subject are merged.

    Raises GreenpeaError where there is no such file, or a column is missing.
    """
    subjects: dict[str, PanoptesSubject] = {}
    unused: list[BadRow] = []
    differing: dict[str, None] = {}
    rows, lines = 0, Lines(path)
    for row in read_rows(lines, NEEDED, "a subject export"):
        rows += 1
        try:
            one = _subject(row)
        except ValueError as error:
            unused.append(BadRow(row.number, row.cells.get("subject_id", "").strip(), str(error)))
            continue
        known = subjects.get(one.subject_id)
        if known is not None and (known.metadata, known.images) != (one.metadata, one.images):
            differing[one.subject_id] = None
        subjects[one.subject_id] = one if known is None else _merged(known, one)
    return ImportedSubjects(subjects, rows, rows - len(unused), tuple(unused), tuple(differing), lines.latin_1)


def _subject(row: Row) -> PanoptesSubject:
    """Return the subject as one row has it. Raises ValueError saying what is wrong with the row."""
    cells = row.cells
    if row.fault and row.fault != "cut off":
        raise ValueError(row.fault)
    if row.fault or row.unended:
        raise ValueError("the file breaks off in this row; end it with a line end if the row is whole")
    if not cells["subject_id"].strip():
        raise ValueError("it has no subject_id")
    workflow = cells.get("workflow_id", "").strip()
    status = Status(
        _count(cells.get("classifications_count", "")),
        _moment(cells, "retired_at"),
        cells.get("retirement_reason", "").strip(),
    )
    return PanoptesSubject(
        subject_id=cells["subject_id"],
        images=_images(_object(cells, "locations")),
        metadata=_object(cells, "metadata"),
        workflows={workflow: status} if workflow else {},
        subject_sets=tuple(filter(None, [cells.get("subject_set_id", "").strip()])),
        project_id=cells.get("project_id", "").strip(),
        created_at=_moment(cells, "created_at"),
        updated_at=_moment(cells, "updated_at"),
    )


def _merged(known: PanoptesSubject, one: PanoptesSubject) -> PanoptesSubject:
    return replace(
        one,
        workflows={**known.workflows, **one.workflows},
        subject_sets=tuple(dict.fromkeys((*known.subject_sets, *one.subject_sets))),
    )


def _object(cells: Mapping[str, str], column: str) -> dict[str, Any]:
    try:
        value = json.loads(cells[column] or "{}")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its {column} are not JSON: {cells[column][:80]}") from error
    if not isinstance(value, dict):
        raise ValueError(f"its {column} are not a JSON object: {cells[column][:80]}")
    return value


def _images(locations: Mapping[str, Any]) -> tuple[str, ...]:
    """Return addresses in the order of their numbers ("10" after "9")."""
    ordered = sorted(locations.items(), key=lambda item: (len(item[0]), item[0]))
    return tuple(str(address) for _, address in ordered if address)


def _count(cell: str) -> int:
    try:
        return int(float(cell)) if cell.strip() else 0
    except (ValueError, OverflowError) as error:
        raise ValueError(f"its classifications_count is no number: {cell[:40]}") from error


def _moment(cells: Mapping[str, str], column: str) -> datetime | None:
    try:
        return moment(cells.get(column, ""))
    except ValueError as error:
        raise ValueError(f"its {column} is no time: {cells[column][:40]}") from error

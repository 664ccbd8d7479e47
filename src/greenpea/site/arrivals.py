"""What comes from Zooniverse: its exports brought into a campaign's store, what was not used kept beside it."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from greenpea.errors import GreenpeaError
from greenpea.site.api import plain
from greenpea.store import ImportReport, NewSubject, Store, Subject
from greenpea.zooniverse import (
    ImportedSubjects,
    ImportedWorkflow,
    PanoptesSubject,
    keeping,
    read_classifications,
    read_subjects,
)

LISTS = "imports"  # the folder within the campaign's for what was not used
PAGE = 500


@dataclass(frozen=True)
class Arrived:
    """What became of an export of classifications."""

    lines: tuple[str, ...]  # how it was read, in words
    report: ImportReport  # what the store made of it
    rows: int  # not used
    unused: Path  # those rows, where there are any
    refused: Path  # classifications that were read and not stored, where there are any


@dataclass(frozen=True)
class Described:
    """What became of an export of subjects: ``rows`` of it could not be used."""

    known: int
    unknown: int
    rows: int
    first_fault: str
    listed: Path  # subjects that the campaign has not, where there are any


def take_classifications(
    store: Store,
    folder: Path,
    export: Path,
    versions: Sequence[ImportedWorkflow],
    now: datetime,
    report: Callable[[int], None] | None = None,
) -> Arrived:
    """Store the classifications of an export; importing it again stores nothing twice.

    What is not used is written to DIR/imports, with why. Raises GreenpeaError, before anything is stored, where
    the file is no classification export.
    """
    read_classifications(export, versions)  # a wrong file is told before anything is written
    unused, refused = (_list(folder, export, what) for what in ("unused", "refused"))
    with keeping(unused) as sink:
        found = read_classifications(export, versions, unused=sink)
        result = store.classifications.import_(found, now, report)
    rows = len(found.report.unused)
    if not rows:
        unused.unlink()
    strangers = ((uuid, f"there is no subject {subject!r} here") for uuid, subject in result.strangers)
    _write(refused, ("classification", "reason"), [*result.refused, *strangers])
    return Arrived(tuple(found.report.summary()), result, rows, unused, refused)


def take_subjects(store: Store, folder: Path, export: Path, now: datetime) -> Described:
    """Give the campaign's subjects the metadata that an export has of them; their images stay.

    Subjects that the campaign has not are listed in DIR/imports with the addresses of their images: the site shows
    none from elsewhere. Raises GreenpeaError where the file is no subject export.
    """
    found = read_subjects(export)
    known: set[str] = set()
    listed = _list(folder, export, "to-fetch")
    store.subjects.add(_described(store, found, known), now)
    unknown = [one for one in found if one.subject_id not in known]
    _write(listed, ("id", "images"), ((one.subject_id, " ".join(one.images)) for one in unknown))
    fault = f"row {found.unused[0].row}: {found.unused[0].reason}" if found.unused else ""
    return Described(len(known), len(unknown), len(found.unused), fault, listed)


def _described(store: Store, found: ImportedSubjects, known: set[str]) -> Iterator[NewSubject]:
    """Yield the campaign's subjects of which there is more to say, and note their ids."""
    for subject in everyone(store):
        one: PanoptesSubject | None = found.subjects.get(subject.subject_id)
        if one is not None:
            known.add(subject.subject_id)
            yield NewSubject(subject.subject_id, subject.images, {**subject.metadata, **plain(one.metadata)})


def everyone(store: Store) -> Iterator[Subject]:
    """Yield every subject of a store, by id, `PAGE` at a time."""
    after = None
    while True:
        page, after = store.subjects.browse(order="subject_id", after=after, limit=PAGE)
        yield from page
        if after is None:
            return


def _list(folder: Path, export: Path, what: str) -> Path:
    """Return the file for a list; its folder is made. Raises GreenpeaError where it cannot be written."""
    path = folder / LISTS / f"{export.stem}.{what}.csv"
    try:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    except OSError as error:
        raise GreenpeaError(
            f"{LISTS}/{path.name} cannot be written in the campaign's folder: {error.strerror}"
        ) from error
    return path


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a list; none where there is nothing in it, and no empty folder either."""
    if some := list(rows):
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([header, *some])
    else:
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # lists of other imports may be there
            path.parent.rmdir()

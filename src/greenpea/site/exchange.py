"""The whole store as a folder of Zooniverse's exports: what panoptes_aggregation and Caesar's tools read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from greenpea.files import replacing
from greenpea.site.arrivals import everyone
from greenpea.site.exports import metadata_of, value_of
from greenpea.store import Store, Subject
from greenpea.zooniverse import PanoptesSubject, classifications_csv, reductions_csv, subjects_csv, workflows_csv
from greenpea.zooniverse.subjects import Status

Report = Callable[[str, float, str], None]


def zooniverse_folder(store: Store, name: str, out: Path, report: Report) -> dict[Path, int]:
    """Write classifications.csv, subjects.csv, workflows.csv and reductions.csv; return how many rows of each.

    Of the classifications, those that count. Rows are streamed; a file is whole or not there.
    """
    trees = {version.number: version.workflow.tree for version in store.workflows.all()}
    limit = store.workflows.active().workflow.limit
    counted = (value_of(stored) for stored in store.classifications.stream(counted_only=True))
    parts = {
        "workflows.csv": workflows_csv(trees, 1, name, retire_after=limit),
        "subjects.csv": subjects_csv(map(_panoptes, everyone(store))),
        "classifications.csv": classifications_csv(counted, trees, 1, name, metadata_of(store)),
        "reductions.csv": reductions_csv(store.classifications.votes()),
    }
    written = {}
    for number, (file, rows) in enumerate(parts.items()):
        report("writing exports", number / len(parts), file)
        written[out / file] = _write(out / file, rows)
    return written


def _panoptes(subject: Subject) -> PanoptesSubject:
    status = Status(subject.classifications, subject.retired_at, subject.reason or "")
    return PanoptesSubject(subject.subject_id, subject.images, subject.metadata, {"1": status})


def _write(path: Path, pieces: Iterable[str]) -> int:
    """Write a file of CSV from pieces of whole records; return how many rows it has below its header."""
    records = 0
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        for text in pieces:
            file.write(text)
            # Every other part is between quotes: a line end there is in a cell.
            records += sum(part.count("\r\n") for part in text.split('"')[::2])
    return records - 1

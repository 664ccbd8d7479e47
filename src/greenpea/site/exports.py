"""Exports for the team: everything that was classified, as tables, streamed at any size.

CSV cells that a spreadsheet would take for a formula are guarded by an apostrophe (`greenpea.zooniverse.rows`).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, islice
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from fastapi import APIRouter, Depends, Request
from starlette.responses import StreamingResponse

from greenpea.classifications import Classification
from greenpea.site.api import plain
from greenpea.site.context import site_of
from greenpea.site.identity import require
from greenpea.store import Role, Store, Stored, Volunteer
from greenpea.zooniverse import classifications_csv
from greenpea.zooniverse.rows import timestamp, write_rows

PAGE = 500  # rows asked of the store at a time
ROW_GROUP = 20_000  # classifications in a row group of Parquet
CHUNK = 1 << 18  # bytes sent at a time
SUBJECTS_REMEMBERED = 50_000

TIME = pa.timestamp("us", tz="UTC")
LONG = pa.schema(
    [
        ("classification", pa.int64()),
        ("uuid", pa.string()),
        ("subject_id", pa.string()),
        ("volunteer", pa.string()),  # the random public name, also of those who signed up
        ("version", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),  # empty: the question was reached, and none of its answers given
        ("counted", pa.string()),  # "counted", or why it is not part of the votes
        ("after_retirement", pa.bool_()),
        ("stream", pa.string()),
        ("round", pa.int64()),
        ("probability", pa.float64()),
        ("started_at", TIME),
        ("finished_at", TIME),
        ("received_at", TIME),
    ]
)

router = APIRouter(prefix="/team/exports", include_in_schema=False, dependencies=[Depends(require(Role.SCIENTIST))])


# ---- classifications -----------------------------------------------------------------------------------


@router.get("/classifications.csv")
def classifications(request: Request) -> StreamingResponse:
    """Send the classifications that count, with the columns of a Panoptes export."""
    store = site_of(request).store
    trees = {version.number: version.workflow.tree for version in store.workflows.all()}
    rows = (value_of(stored) for stored in store.classifications.stream(counted_only=True))
    name = store.workflows.active().workflow.tree.name
    return _csv(classifications_csv(rows, trees, 1, name, metadata_of(store)), "classifications.csv")


def value_of(stored: Stored) -> Classification:
    """Return a stored classification as it is exported."""
    return Classification(
        uuid=stored.uuid,
        subject_id=stored.subject_id,
        volunteer=export_name(stored.volunteer),
        annotations=stored.annotations,
        version=stored.version,
        started_at=stored.started_at,
        finished_at=stored.finished_at,
        stream=stored.stream,
        round=stored.round,
        probability=stored.probability,
        metadata=stored.metadata,
    )


def export_name(volunteer: Volunteer) -> str:
    """Return a volunteer's name as Panoptes writes it; whole, since eight characters may be two people's."""
    return volunteer.name or f"not-logged-in-{volunteer.public}"


def metadata_of(store: Store) -> Callable[[str], dict[str, Any]]:
    """Return subject id → metadata, remembering the latest: one subject's classifications lie close together."""

    @lru_cache(SUBJECTS_REMEMBERED)
    def metadata(subject_id: str) -> dict[str, Any]:
        subject = store.subjects.get(subject_id)
        return plain(subject.metadata) if subject else {}

    return metadata


@router.get("/classifications.parquet")
def long_annotations(request: Request) -> StreamingResponse:
    """Send one row per annotation of every classification ever taken, whether it counts or not."""
    stream = site_of(request).store.classifications.stream()
    blocks = iter(lambda: list(islice(stream, ROW_GROUP)), [])
    return _parquet(LONG, (long_table(block) for block in blocks), "classifications.parquet")


def long_table(stored: Iterable[Stored]) -> pa.Table:
    """Return one row per annotation; a question without any answer given has one row, its answer empty."""
    rows = [
        (one, question, answer)
        for one in stored
        for question, answers in one.annotations.items()
        for answer in answers or ("",)
    ]
    columns: dict[str, list[Any]] = {
        "classification": [one.id for one, _, _ in rows],
        "volunteer": [one.volunteer.public for one, _, _ in rows],
        "question": [question for _, question, _ in rows],
        "answer": [answer for _, _, answer in rows],
    }
    for name in LONG.names:
        if name not in columns:
            columns[name] = [getattr(one, name) for one, _, _ in rows]
    return pa.table([pa.array(columns[field.name], field.type) for field in LONG], schema=LONG)


# ---- votes ---------------------------------------------------------------------------------------------


@router.get("/votes.parquet")
def votes_parquet(request: Request) -> StreamingResponse:
    """Send the votes of the active workflow: ``<question>_<answer>`` and ``<question>_reached``."""
    table = site_of(request).store.classifications.votes().to_table()
    return _parquet(table.schema, [table], "votes.parquet")


@router.get("/votes.csv")
def votes_csv(request: Request) -> StreamingResponse:
    """Send the same as CSV."""
    table = site_of(request).store.classifications.votes().to_table()
    return _csv(write_rows(table.column_names, _records(table)), "votes.csv")


def _records(table: pa.Table) -> Iterator[Sequence[object]]:
    for batch in table.to_batches(max_chunksize=PAGE):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


# ---- subjects, finds, volunteers -----------------------------------------------------------------------


@router.get("/subjects.csv")
def subjects(request: Request) -> StreamingResponse:
    """Send the subjects, with where they stand in the active workflow."""
    header = ("subject_id", "number", "audit", "gold", "classifications", "retired_at", "reason", "metadata")
    return _csv(write_rows(header, _subjects(site_of(request).store)), "subjects.csv")


def _subjects(store: Store) -> Iterator[Sequence[object]]:
    after: tuple[Any, ...] | None = None
    while True:
        page, after = store.subjects.browse(after=after, limit=PAGE)
        for one in page:
            gold = "" if one.gold is None else _json(dict(one.gold))
            retired = timestamp(one.retired_at), one.reason or ""
            yield one.subject_id, one.id, one.audit, gold, one.classifications, *retired, _json(plain(one.metadata))
        if after is None:
            return


@router.get("/finds.csv")
def finds(request: Request) -> StreamingResponse:
    """Send what volunteers found unusual, hidden comments too."""
    header = ("uuid", "subject_id", "volunteer", "comment", "created_at", "hidden", "likes")
    return _csv(write_rows(header, _finds(site_of(request).store)), "finds.csv")


def _finds(store: Store) -> Iterator[Sequence[object]]:
    after: tuple[int, int] | None = None
    while True:
        page, after = store.finds.all(hidden=None, after=after, limit=PAGE)
        for one in page:
            who = one.volunteer.public
            yield one.uuid, one.subject_id, who, one.comment, timestamp(one.created_at), one.hidden, one.likes
        if after is None:
            return


@router.get("/volunteers.csv")
def volunteers(request: Request) -> StreamingResponse:
    """Send who took part: names and counts, no addresses."""
    header = ("volunteer", "name", "role", "created_at", "classifications", "last_at", "agreement", "banned_at")
    return _csv(write_rows(header, _volunteers(site_of(request).store)), "volunteers.csv")


def _volunteers(store: Store) -> Iterator[Sequence[object]]:
    after: Any = None
    while True:
        page, after = store.people.listing(order="newest", after=after, limit=PAGE)
        for row in page:
            who, agreement = row.volunteer, "" if row.agreement is None else round(row.agreement, 4)
            since, last = timestamp(who.created_at), timestamp(row.last_at)
            banned = timestamp(who.banned_at)
            yield who.public, who.name or "", who.role.value, since, row.classifications, last, agreement, banned
        if after is None:
            return


# ---- sending -------------------------------------------------------------------------------------------


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _csv(pieces: Iterator[str], name: str) -> StreamingResponse:
    # The first piece is made now: what is wrong then is an error, and not half a file.
    return _attached(chain([next(pieces)], pieces), "text/csv", name)


def _parquet(schema: pa.Schema, tables: Iterable[pa.Table], name: str) -> StreamingResponse:
    """Write the tables to a file that has no name, and send it: Parquet says at its end what is in it."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - it is closed when it has been sent
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table)
    size = file.tell()
    file.seek(0)
    return _attached(_chunks(file), "application/vnd.apache.parquet", name, {"Content-Length": str(size)})


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while chunk := file.read(CHUNK):
            yield chunk


def _attached(
    content: Iterator[str] | Iterator[bytes], media_type: str, name: str, headers: dict[str, str] | None = None
) -> StreamingResponse:
    about = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return StreamingResponse(content, headers=about | (headers or {}), media_type=media_type)

"""Backups: one zip file with every table as JSON lines, read on one state of the database, while people vote.

It can be restored into either kind of database: also the way from SQLite to PostgreSQL. Copying the file of a
SQLite store by hand loses the votes that are still in its write-ahead log.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, func, insert, select, text, type_coerce
from sqlalchemy.types import BigInteger

from greenpea.errors import GreenpeaError
from greenpea.files import replacing
from greenpea.store import migrations
from greenpea.store.engine import Database
from greenpea.store.schema import Instant, metadata

FORMAT = 1
ABOUT = "about.json"
BLOCK = 1000
Report = Callable[[str, float, str], None]


def write(database: Database, path: Path, now: datetime, report: Report | None = None) -> dict[str, int]:
    """Write a backup to ``path``; return how many rows of each table it holds. Nothing is written by half."""
    with replacing(path) as temporary, database.read() as connection:
        if database.kind == "postgresql":
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        counts: dict[str, int] = {
            table.name: int(connection.execute(select(func.count()).select_from(table)).scalar_one())
            for table in metadata.sorted_tables
        }
        about = {"format": FORMAT, "revision": migrations.revision(connection), "made_at": now.isoformat()}
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=4) as archive:
            archive.writestr(ABOUT, json.dumps(about | {"from": database.kind, "rows": counts}, indent=2))
            for table in metadata.sorted_tables:
                with archive.open(f"{table.name}.jsonl", "w", force_zip64=True) as file:
                    for done, line in enumerate(_lines(connection, table), start=1):
                        file.write(line)
                        if report and (done % BLOCK == 0 or done == counts[table.name]):
                            report(table.name, done / counts[table.name], f"{done:,} rows")
    return counts


def _lines(connection: Connection, table: Table) -> Iterator[bytes]:
    columns = [
        type_coerce(column, BigInteger).label(column.name) if isinstance(column.type, Instant) else column
        for column in table.columns
    ]
    query = select(*columns).order_by(*table.primary_key.columns)
    for row in connection.execute(query, execution_options={"yield_per": BLOCK}):
        yield json.dumps(row._asdict(), ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def read(database: Database, path: Path, report: Report | None = None) -> dict[str, int]:
    """Restore a backup into an empty database, in one transaction; return how many rows of each table.

    Raises GreenpeaError where the file is no backup, is damaged, is of another version, or the database is in use.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise GreenpeaError(
            f"{path} is not a backup that can be read ({error}): give a file of 'greenpea backup'"
        ) from error
    with archive:
        about = _about(archive, path)
        if damaged := archive.testzip():
            raise GreenpeaError(
                f"{path} is damaged: its part {damaged} does not match its checksum; use another backup"
            )
        if about["revision"] != migrations.newest():
            raise GreenpeaError(
                f"{path} is of revision {about['revision']}; this Greenpea restores {migrations.newest()}: restore "
                f"it with the version that made it, then run 'greenpea upgrade'"
            )
        migrations.check(database)
        found: dict[str, int] = database.write(
            lambda connection: _restore(connection, archive, about["rows"], path, report)
        )
    return found


def _about(archive: zipfile.ZipFile, path: Path) -> dict[str, Any]:
    try:
        about = json.loads(archive.read(ABOUT))
    except (KeyError, ValueError) as error:
        raise GreenpeaError(f"{path} is not a backup of a store: it has no {ABOUT}") from error
    if about.get("format") != FORMAT:
        raise GreenpeaError(
            f"{path} has the format {about.get('format')}; this Greenpea reads {FORMAT}: upgrade Greenpea"
        )
    return dict(about)


def _restore(
    connection: Connection, archive: zipfile.ZipFile, rows: dict[str, int], path: Path, report: Report | None
) -> dict[str, int]:
    for table in metadata.sorted_tables:
        used = connection.execute(select(func.count()).select_from(table)).scalar_one()
        if used and table.name != "meta":
            raise GreenpeaError(f"the database holds {used:,} rows of {table.name} already: restore into a new one")
    connection.execute(metadata.tables["meta"].delete())
    done: dict[str, int] = {}
    for table in metadata.sorted_tables:
        done[table.name] = _fill(connection, table, archive, rows[table.name], report)
        if done[table.name] != rows[table.name]:
            raise GreenpeaError(
                f"{path} should hold {rows[table.name]:,} rows of {table.name}, and holds {done[table.name]:,}: "
                f"use another backup"
            )
    if connection.dialect.name == "postgresql":
        _set_sequences(connection)
    return done


def _fill(connection: Connection, table: Table, archive: zipfile.ZipFile, expected: int, report: Report | None) -> int:
    # An account may have been merged into one that comes later: the references are written when all are there.
    merged: list[dict[str, Any]] = []
    done = 0
    instants = [column.name for column in table.columns if isinstance(column.type, Instant)]
    statement = insert(table)
    with archive.open(f"{table.name}.jsonl") as file:
        lines = iter(io.TextIOWrapper(file, encoding="utf-8"))
        while block := [json.loads(line) for line in islice(lines, BLOCK)]:
            for row in block:
                for name in instants:
                    row[name] = Instant().process_result_value(row[name], connection.dialect)
                if row.get("merged_into") is not None:
                    merged.append({"v": row["id"], "into": row["merged_into"]})
                    row["merged_into"] = None
            connection.execute(statement, block)
            done += len(block)
            if report:
                report(table.name, done / max(expected, 1), f"{done:,} rows")
    if merged:
        connection.execute(text("UPDATE volunteers SET merged_into = :into WHERE id = :v"), merged)
    return done


def _set_sequences(connection: Connection) -> None:
    """Let PostgreSQL count on from the highest id: rows that come with their ids do not move its counters."""
    for table in metadata.sorted_tables:
        sequence = (
            connection.execute(text("SELECT pg_get_serial_sequence(:t, 'id')").bindparams(t=table.name)).scalar()
            if "id" in table.columns
            else None
        )
        if sequence:
            connection.execute(
                text(f"SELECT setval(:s, GREATEST((SELECT MAX(id) FROM {table.name}), 1))").bindparams(s=sequence)
            )

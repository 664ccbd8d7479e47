"""Backups: one zip file with every table as JSON lines, read on one state of the database, while people vote.

It can be restored into either kind of database: also the way from SQLite to PostgreSQL. Copying the file of a
SQLite store by hand loses the votes that are still in its write-ahead log.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, MetaData, Table, func, insert, select, text
from sqlalchemy.exc import SQLAlchemyError

from greenpea.errors import GreenpeaError
from greenpea.files import replacing
from greenpea.store import migrations
from greenpea.store.engine import Database
from greenpea.store.schema import Instant, metadata

FORMAT = 1
ABOUT = "about.json"
BLOCK = 1000
# What reading a file that was changed by hand, or by a failing disk, can end in.
DAMAGES = (
    *(zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError),
    *(KeyError, TypeError, ValueError, AttributeError, OverflowError),
)
Report = Callable[[str, float, str], None]


def write(database: Database, path: Path, now: datetime, report: Report | None = None) -> dict[str, int]:
    """Write a backup to ``path``; return how many rows of each table it holds. Nothing is written by half.

    The tables are taken as they are, so that a store of an older revision can be kept before it is upgraded. Only
    the owner may read the file: it holds password hashes and the key that signs cookies. Raises GreenpeaError
    where ``path`` cannot be written, or the database holds no store.
    """
    if path.is_dir():
        raise GreenpeaError(f"{path} is a folder: give the name of a file, such as {path / 'backup.zip'}")
    if migrations.looked_at(database) is None:
        raise GreenpeaError("the database holds no store, so there is nothing to keep: check its address")
    try:
        with replacing(path) as temporary, database.snapshot() as connection:
            if database.kind == "postgresql":
                connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            temporary.touch(0o600)
            return _write(connection, temporary, now, report)
    except OSError as error:
        raise GreenpeaError(f"{path} cannot be written ({error.strerror or error}): choose another place") from error


def _write(connection: Connection, file: Path, now: datetime, report: Report | None) -> dict[str, int]:
    tables = _tables(connection)
    counts: dict[str, int] = {
        table.name: int(connection.execute(select(func.count()).select_from(table)).scalar_one()) for table in tables
    }
    about = {"format": FORMAT, "revision": migrations.revision(connection), "made_at": now.isoformat()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=4) as archive:
        archive.writestr(ABOUT, json.dumps(about | {"from": connection.dialect.name, "rows": counts}, indent=2))
        for table in tables:
            with archive.open(f"{table.name}.jsonl", "w", force_zip64=True) as part:
                for done, line in enumerate(_lines(connection, table), start=1):
                    part.write(line)
                    if report and (done % BLOCK == 0 or done == counts[table.name]):
                        report(table.name, done / counts[table.name], f"{done:,} rows")
    return counts


def _tables(connection: Connection) -> list[Table]:
    found = MetaData()
    found.reflect(connection)
    return [table for table in found.sorted_tables if table.name != "alembic_version"]


def _lines(connection: Connection, table: Table) -> Iterator[bytes]:
    query = select(table).order_by(*table.primary_key.columns)
    for row in connection.execute(query, execution_options={"yield_per": BLOCK}):
        # ASCII: half a character that a program has cut off has no bytes in UTF-8.
        yield json.dumps(row._asdict(), separators=(",", ":")).encode() + b"\n"


def read(database: Database, path: Path, report: Report | None = None) -> dict[str, int]:
    """Restore a backup into an empty database, in one transaction; return how many rows of each table.

    Raises GreenpeaError where the file is no backup, is damaged, is of another version, or the database is in use.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise GreenpeaError(f"{path} cannot be read as a backup ({error}): give a file of 'greenpea backup'") from error
    with archive:
        try:
            rows = _about(archive, path)
            migrations.check(database)
            found: dict[str, int] = database.write(lambda connection: _restore(connection, archive, rows, path, report))
        except (*DAMAGES, SQLAlchemyError, GreenpeaError) as error:
            odd = error.__cause__ if isinstance(error, GreenpeaError) else error  # what the database did not take
            if isinstance(error, GreenpeaError) and not isinstance(odd, (*DAMAGES, SQLAlchemyError)):
                raise
            reason = str(getattr(odd, "orig", None) or odd).partition("\n")[0]
            raise GreenpeaError(f"{path} is damaged ({reason}): nothing was restored; use another backup") from error
    return found


def _about(archive: zipfile.ZipFile, path: Path) -> dict[str, int]:
    """Return table → rows of a backup that is whole and of this version."""
    if ABOUT not in archive.namelist():
        raise GreenpeaError(f"{path} is not a backup of a store, it has no {ABOUT}: give a file of 'greenpea backup'")
    if damaged := archive.testzip():
        raise GreenpeaError(f"{path} is damaged: its part {damaged} does not match its checksum; use another backup")
    about = json.loads(archive.read(ABOUT))
    if about["format"] != FORMAT:
        raise GreenpeaError(f"{path} has the format {about['format']}; this Greenpea reads {FORMAT}: upgrade Greenpea")
    made, own = about["revision"], migrations.newest()
    if made not in migrations.known():
        raise GreenpeaError(f"{path} is of a newer Greenpea (revision {made}; this one has {own}): upgrade Greenpea")
    if made != own:
        raise GreenpeaError(
            f"{path} is of revision {made}; this Greenpea restores {own}: restore it with the version that made it, "
            f"then run 'greenpea upgrade'"
        )
    return {table.name: int(about["rows"][table.name]) for table in metadata.sorted_tables}


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
    names, statement = set(table.columns.keys()), insert(table)
    with archive.open(f"{table.name}.jsonl") as file:
        lines = iter(io.TextIOWrapper(file, encoding="utf-8"))
        while block := [json.loads(line) for line in islice(lines, BLOCK)]:
            for row in block:
                if row.keys() != names:
                    raise ValueError(f"a row of {table.name} has other columns than the table")
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

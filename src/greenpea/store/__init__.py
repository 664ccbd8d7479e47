"""The store: subjects, volunteers, classifications and their counts, on SQLite or PostgreSQL.

Takes and returns values (`greenpea.store.values`), never rows. Its promises stand in docs/store.md; each has a test
that tries to break it.
"""

from __future__ import annotations

import secrets
from datetime import datetime
from pathlib import Path
from typing import Any

from greenpea.store import migrations, notes
from greenpea.store.classifications import Classifications
from greenpea.store.engine import Database
from greenpea.store.finds import Finds
from greenpea.store.people import People
from greenpea.store.queue import Queue, QueueOptions
from greenpea.store.rounds import Rounds
from greenpea.store.standing import Standing, Standings
from greenpea.store.statistics import Statistics
from greenpea.store.subjects import Subjects
from greenpea.store.values import (
    Counted,
    Find,
    HandOut,
    ImportReport,
    NewSubject,
    Overview,
    Receipt,
    Role,
    Round,
    SentClassification,
    Stored,
    Stream,
    Subject,
    Version,
    Volunteer,
    VolunteerRow,
)
from greenpea.store.workflows import Workflows

__all__ = [
    "Counted",
    "Find",
    "HandOut",
    "ImportReport",
    "NewSubject",
    "Overview",
    "QueueOptions",
    "Receipt",
    "Role",
    "Round",
    "SentClassification",
    "Standing",
    "Store",
    "Stored",
    "Stream",
    "Subject",
    "Version",
    "Volunteer",
    "VolunteerRow",
]


class Store:
    """One campaign's database. Made by `open`; everything in it is reached through its parts."""

    def __init__(self, database: Database, options: QueueOptions | None = None) -> None:
        self.database = database
        self.workflows = Workflows(database)
        self.subjects = Subjects(database, self.workflows)
        self.queue = Queue(database, self.workflows, options)
        self.classifications = Classifications(database, self.workflows)
        self.people = People(database, self.workflows)
        self.finds = Finds(database)
        self.rounds = Rounds(database, self.workflows)
        self.standings = Standings(database, self.workflows)
        self.statistics = Statistics(database, self.workflows)
        self.secret = self._secret()

    @classmethod
    def open(cls, place: str | Path, *, group: bool = True, options: QueueOptions | None = None) -> Store:
        """Open a store: a SQLite file, or a database by its URL. A new one is set up.

        ``group``: whether what waits is committed together. Raises GreenpeaError where the database cannot be
        reached, or was made by another version of Greenpea.
        """
        database = Database(url_of(place), group)
        migrations.check(database)
        return cls(database, options)

    def close(self) -> None:
        """Write what waits and let go of the database."""
        self.database.close()

    def healthy(self, now: datetime) -> dict[str, Any]:
        """Return whether the database takes writes, and what waits; an error's words instead of an exception."""
        report: dict[str, Any] = {"database": self.database.kind, "queue": self.database.waiting}
        try:
            self.database.write(lambda connection: notes.write(connection, "written_at", now.isoformat()))
        except Exception as error:
            report |= {"writable": False, "error": str(error)}
        else:
            report["writable"] = True
        last = self.database.last_commit
        return report | {"last_commit": last.isoformat() if last else None}

    def _secret(self) -> bytes:
        new = secrets.token_hex(32)
        return bytes.fromhex(self.database.write(lambda connection: notes.write_first(connection, "secret", new)))


def url_of(place: str | Path) -> str:
    """Return the URL of a store given as a file or a URL."""
    return str(place) if "://" in str(place) else f"sqlite:///{Path(place).absolute()}"

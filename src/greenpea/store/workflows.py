"""Workflows as published: versions, the rules in force, and what a new version would change."""

from __future__ import annotations

import time
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, insert, select, update

from greenpea import retirement
from greenpea.classifications import Tally
from greenpea.errors import GreenpeaError
from greenpea.retirement import Rules
from greenpea.store import counters, notes
from greenpea.store.engine import Database
from greenpea.store.schema import pools, progress, subjects, versions
from greenpea.store.values import Version
from greenpea.workflow import Workflow

CHUNK = 2000  # subjects in one write: so many are re-read before a vote gets its turn
SETTLED = "settled version"
LONGEST_AUTHOR = 200  # characters
KEPT = 1.0  # seconds for which a process trusts what it knows of the active version


class Workflows:
    """The versions of the workflow. Votes stay with the major version they were cast on."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[int, Version] = {}  # all but `active` never changes
        self._active: tuple[float, Version] | None = None

    def active(self) -> Version:
        """Return the version that volunteers are shown; read again after a second."""
        if self._active is None or time.monotonic() - self._active[0] > KEPT:
            with self._database.read() as connection:
                row = connection.execute(select(versions).where(versions.c.active)).one_or_none()
            if row is None:
                raise GreenpeaError("the store has no workflow yet: publish one")
            self._active = time.monotonic(), self._version(row)
        return self._active[1]

    def get(self, id: int) -> Version:
        """Return a version by its id. Raises GreenpeaError where there is none."""
        if id not in self._known:
            with self._database.read() as connection:
                row = connection.execute(select(versions).where(versions.c.id == id)).one_or_none()
            if row is None:
                raise GreenpeaError(f"there is no workflow version with the id {id}")
            return self._version(row)
        return self._known[id]

    def all(self) -> list[Version]:
        """Return every version, newest first."""
        with self._database.read() as connection:
            rows = connection.execute(select(versions).order_by(versions.c.major.desc(), versions.c.minor.desc()))
            return [self._version(row) for row in rows]

    def _version(self, row: Row[Any]) -> Version:
        known = self._known.get(row.id)
        if known is None or known.active != row.active:
            workflow = known.workflow if known else Workflow.from_json(row.content, f"workflow version {row.id}")
            known = Version(row.id, row.major, row.minor, workflow, row.created_at, row.author, row.active)
            self._known[row.id] = known
        return known

    def publish(self, workflow: Workflow, now: datetime, author: str | None = None) -> Version:
        """Make a workflow the one volunteers are shown.

        An equal one changes nothing. One with the same questions, answers and ways is the next minor version:
        votes stay, and retirement is judged anew by its rules (a raised limit un-retires). Any other is the next
        major version, and counts begin at nothing. Counters are written in blocks, so that votes need not wait.
        """
        known = self.all()
        if known and known[0].active and known[0].workflow == workflow:
            self._settle(known[0], now)  # where it was interrupted
            return known[0]
        if author is not None and len(author) > LONGEST_AUTHOR:
            raise GreenpeaError(f"an author's name has at most {LONGEST_AUTHOR} characters")
        minor = bool(known) and workflow.follows(known[0].workflow)
        major = known[0].major if minor else (known[0].major + 1 if known else 1)
        if not minor:
            _start(self._database, major)  # most of it before anybody is shown the new version
        number = known[0].minor + 1 if minor else 0
        expected = known[0].id if known else None
        self._database.write(lambda c: _activate(c, workflow, major, number, now, author, expected))
        self._active = None
        active = self.active()
        self._settle(active, now)
        return active

    def _settle(self, version: Version, now: datetime) -> None:
        """Bring every counter in line with a version's rules, once: it is noted when that is done.

        A new major version starts without a vote, and no other rules have ever held there: nothing to judge anew.
        """
        with self._database.read() as connection:
            settled = notes.read(connection, SETTLED)
        if settled == str(version.id):
            return
        _start(self._database, version.major)  # subjects that were added meanwhile
        after: int | None = 0 if version.minor else None
        while after is not None:
            after = self._database.write(partial(_reconsider, parsed={}, major=version.major, after=after, now=now))
        self._database.write(lambda connection: notes.write(connection, SETTLED, str(version.id)))

    def consequences(self, workflow: Workflow) -> dict[str, Any]:
        """Return what publishing would do: its kind (same, minor, major), and how many would retire or come back."""
        active = self.active()
        kind = "major"
        if workflow.follows(active.workflow):
            kind = "same" if workflow == active.workflow else "minor"
        changed = {"would_retire": 0, "would_unretire": 0}
        if kind == "minor" and workflow.retirement != active.workflow.retirement:
            with self._database.snapshot() as connection:
                rows = connection.execute(
                    select(progress).where(progress.c.major == active.major), execution_options={"yield_per": CHUNK}
                )
                for row in rows:
                    if (change := _change(row, workflow.retirement)) is not None:
                        changed["would_retire" if change else "would_unretire"] += 1
        return {"kind": kind, "classifications": self._classified(active.major), **changed}

    def _classified(self, major: int) -> int:
        with self._database.read() as connection:
            counted = connection.execute(select(func.sum(progress.c.classifications)).where(progress.c.major == major))
            return int(counted.scalar() or 0)


def rules_of(connection: Connection, known: dict[int, Workflow]) -> tuple[dict[int, int], dict[int, Workflow]]:
    """Return version → its major, and major → the workflow whose rules are in force: its newest minor version's."""
    rows = connection.execute(NUMBERS).all()
    newest = {row.major: row.id for row in rows}
    return {row.id: row.major for row in rows}, {
        major: workflow_of(connection, known, id) for major, id in newest.items()
    }


def workflow_of(connection: Connection, known: dict[int, Workflow], id: int) -> Workflow:
    """Return a version's workflow, parsed once: the content of a version never changes."""
    if id not in known:
        content = connection.execute(select(versions.c.content).where(versions.c.id == id)).scalar_one()
        known[id] = Workflow.from_json(content, f"workflow version {id}")
    return known[id]


def lock_tables(connection: Connection, *names: str) -> None:
    """Let nobody else write to tables until the transaction ends. On SQLite nobody does anyway."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"LOCK TABLE {', '.join(names)} IN SHARE ROW EXCLUSIVE MODE")


def _activate(
    connection: Connection,
    workflow: Workflow,
    major: int,
    minor: int,
    now: datetime,
    author: str | None,
    expected: int | None,
) -> None:
    lock_tables(connection, "versions", "subjects")
    newest = connection.execute(
        select(versions.c.id).order_by(versions.c.major.desc(), versions.c.minor.desc()).limit(1)
    ).scalar_one_or_none()
    if newest != expected:
        raise GreenpeaError("somebody else has just published a workflow: look at theirs, then publish again")
    connection.execute(update(versions).values(active=False))
    made = insert(versions).values(
        major=major, minor=minor, content=workflow.to_json(), created_at=now, author=author, active=True
    )
    id = connection.execute(made.returning(versions.c.id)).scalar_one()
    settled = minor and notes.read(connection, SETTLED) == str(expected)
    if expected is not None and settled and workflow_of(connection, {}, expected).retirement == workflow.retirement:
        notes.write(connection, SETTLED, str(id))  # other texts, the same rules: every counter is right already


def _start(database: Database, major: int) -> None:
    """Write counters at nothing for the subjects that have none, in blocks."""
    after: int | None = 0
    while after is not None:
        after = database.write(partial(_start_some, major=major, after=after))


def _start_some(connection: Connection, major: int, after: int) -> int | None:
    begun = select(progress.c.subject).where((progress.c.major == major) & (progress.c.subject == subjects.c.id))
    rows = connection.execute(
        select(subjects.c.id, subjects.c.pool, subjects.c.place)
        .where((subjects.c.id > after) & ~begun.exists())
        .order_by(subjects.c.id)
        .limit(CHUNK)
    ).all()
    if not rows:
        return None
    counters.start(connection, major, [(row.id, row.pool, row.place) for row in rows])
    return int(rows[-1].id)


def _change(row: Row[Any], rules: Rules) -> str | None:
    """Return the reason for which a subject would retire now, "" if it would come back, None if nothing changes."""
    if row.pool == "gold" or (row.retired_at and row.retired_by != "rule"):
        return None
    reason = retirement.decide(rules, row.classifications, _tally(row), row.pool == "audit")
    if bool(reason) == bool(row.retired_at):
        return None
    return reason or ""


def _tally(row: Row[Any]) -> Tally:
    return dict(row.tally)


def _reconsider(
    connection: Connection, parsed: dict[int, Workflow], major: int, after: int, now: datetime
) -> int | None:
    rows = connection.execute(
        select(progress)
        .where((progress.c.major == major) & (progress.c.subject > after))
        .order_by(progress.c.subject)
        .limit(CHUNK)
        .with_for_update()
    ).all()
    # Read after the lock: somebody may have published other rules by now.
    rules = rules_of(connection, parsed)[1][major].retirement
    changes = [(row, change) for row in rows if (change := _change(row, rules)) is not None]
    counters.retire(connection, [(row, change) for row, change in changes if change], now, "rule")
    counters.bring_back(connection, [row for row, change in changes if not change])
    return int(rows[-1].subject) if rows else None


def open_count(connection: Connection, major: int, pool: str) -> tuple[int, int]:
    """Return how many subjects a pool has, and how many of them are not retired."""
    row = connection.execute(POOL, {"major": major, "pool": pool}).one_or_none()
    return (row.total, row.open) if row else (0, 0)


# Made once: to build a statement costs as much as to run it.
POOL = select(pools.c.total, pools.c.open).where(pools.c.major == bindparam("major"), pools.c.pool == bindparam("pool"))
NUMBERS = select(versions.c.id, versions.c.major).order_by(versions.c.major, versions.c.minor)

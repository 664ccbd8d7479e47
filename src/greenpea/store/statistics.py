"""Statistics: how far the campaign is, and how fast."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, Connection, Select, func, select, type_coerce

from greenpea.store.engine import Database
from greenpea.store.schema import EPOCH, MICROSECOND, classifications, finds, handouts, pools, progress, volunteers
from greenpea.store.values import Counted, Overview, Stream
from greenpea.store.workflows import Workflows

Step = tuple[datetime, int, int]  # start, classifications received, subjects retired
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


class Statistics:
    """Counts for the team's pages."""

    def __init__(self, database: Database, workflows: Workflows) -> None:
        self._database, self._workflows = database, workflows

    def overview(self, now: datetime) -> Overview:
        """Return where the active workflow stands. A pass over the classifications' index: not for every request."""
        active, table = self._workflows.active(), classifications.c
        major, limit = active.major, active.workflow.limit
        with self._database.snapshot() as connection:

            def number(query: Select[Any]) -> int:
                return int(connection.execute(query).scalar_one() or 0)

            states: dict[str, int] = dict(
                connection.execute(
                    select(table.counted, func.count()).where(table.major == major).group_by(table.counted)
                ).all()
            )
            retired = progress.c.retired_at.is_not(None) & (progress.c.major == major)
            reasons = select(progress.c.reason, func.count()).where(retired).group_by(progress.c.reason)
            by_reason = {reason: int(count) for reason, count in connection.execute(reasons)}
            classified = volunteers.c.count > 0
            since = select(func.count()).select_from(classifications)
            here = since.where(table.stream != Stream.IMPORT.value, table.counted != Counted.UNDONE.value)
            total = select(func.sum(pools.c.total)).where(pools.c.major == major)
            return Overview(
                subjects=number(total.where(pools.c.pool != "gold")),
                gold=number(total.where(pools.c.pool == "gold")),
                retired=sum(by_reason.values()),
                by_reason=by_reason,
                classifications=sum(states.values()),
                counted=states.pop(Counted.YES.value, 0),
                uncounted={state: int(count) for state, count in states.items()},
                after_retirement=number(since.where((table.major == major) & table.after_retirement)),
                volunteers=number(select(func.count()).where(classified)),
                signed_in=number(select(func.count()).where(classified & volunteers.c.name.is_not(None))),
                open_handouts=number(
                    select(func.count()).where(handouts.c.closed_at.is_(None) & (handouts.c.expires_at > now))
                ),
                finds=number(select(func.count()).select_from(finds)),
                last_hour=number(here.where(table.received_at > now - HOUR)),
                last_day=number(here.where(table.received_at > now - DAY)),
                outstanding=None if limit is None else number(_outstanding(major, limit)),
            )

    def per_hour(self, since: datetime, until: datetime, imported: bool = True) -> list[Step]:
        """Return (hour, classifications received, subjects retired) for every hour in UTC within [since, until).

        ``imported``: whether classifications made elsewhere are among them, at the time of their import.
        """
        return self._per(HOUR, since, until, imported)

    def per_day(self, since: datetime, until: datetime, imported: bool = True) -> list[Step]:
        """Return the same for every day in UTC."""
        return self._per(DAY, since, until, imported)

    def _per(self, length: timedelta, since: datetime, until: datetime, imported: bool) -> list[Step]:
        major = self._workflows.active().major
        first = EPOCH + ((since.astimezone(UTC) - EPOCH) // length) * length
        if first < since:
            first += length
        made = [] if imported else [classifications.c.stream != Stream.IMPORT.value]
        with self._database.read() as connection:
            received = _counts(connection, classifications.c.received_at, length, first, until, *made)
            retired = _counts(connection, progress.c.retired_at, length, first, until, progress.c.major == major)
        steps = []
        while first < until:
            steps.append((first, received.get(first, 0), retired.get(first, 0)))
            first += length
        return steps

    def by_stream(self) -> dict[str, int]:
        """Return how many counted classifications came from each stream."""
        table = classifications.c
        query = select(table.stream, func.count()).where(table.counted == Counted.YES.value).group_by(table.stream)
        with self._database.read() as connection:
            return {stream: int(count) for stream, count in connection.execute(query)}


def _outstanding(major: int, limit: int) -> Select[Any]:
    return select(func.sum(limit - progress.c.classifications)).where(
        progress.c.major == major,
        progress.c.pool != "gold",
        progress.c.retired_at.is_(None),
        progress.c.classifications < limit,
    )


def _counts(
    connection: Connection, column: Any, length: timedelta, since: datetime, until: datetime, *conditions: Any
) -> dict[datetime, int]:
    step = (type_coerce(column, BigInteger) // (length // MICROSECOND)).label("step")
    query = select(step, func.count()).where(column >= since, column < until, *conditions).group_by(step)
    return {EPOCH + int(found) * length: int(count) for found, count in connection.execute(query)}

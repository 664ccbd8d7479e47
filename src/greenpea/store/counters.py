"""The counters: `progress`, `pools` and the openness of `ranks`, always changed together and with the votes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, insert, select, update

from greenpea.store.schema import pools, progress, ranks, rounds


def start(connection: Connection, major: int, places: Sequence[tuple[int, str, int]]) -> None:
    """Begin counting subjects (id, pool, place) at nothing; those already begun stay as they are."""
    begun = set(
        connection.execute(
            select(progress.c.subject).where(
                (progress.c.major == major) & progress.c.subject.in_([subject for subject, _, _ in places])
            )
        ).scalars()
    )
    new = [place for place in places if place[0] not in begun]
    if not new:
        return
    connection.execute(
        insert(progress),
        [
            {"major": major, "subject": subject, "pool": pool, "place": place, "classifications": 0, "tally": {}}
            for subject, pool, place in new
        ],
    )
    for pool in {pool for _, pool, _ in new}:
        more = sum(one == pool for _, one, _ in new)
        changed = connection.execute(
            update(pools)
            .where((pools.c.major == major) & (pools.c.pool == pool))
            .values(total=pools.c.total + more, open=pools.c.open + more)
        )
        if not changed.rowcount:
            connection.execute(insert(pools).values(major=major, pool=pool, total=more, open=more))


def retire(connection: Connection, rows: Iterable[tuple[Row[Any], str]], now: datetime, by: str) -> None:
    """Retire subjects (a row of `progress`, the reason)."""
    values = [
        {"m": row.major, "s": row.subject, "retired_at": now, "reason": reason, "retired_by": by}
        for row, reason in rows
    ]
    _set(connection, values)
    open_or_close(connection, [row for row, _ in rows], -1)


def bring_back(connection: Connection, rows: Sequence[Row[Any]]) -> None:
    """Un-retire subjects (rows of `progress`)."""
    values = [
        {"m": row.major, "s": row.subject, "retired_at": None, "reason": None, "retired_by": None} for row in rows
    ]
    _set(connection, values)
    open_or_close(connection, rows, 1)


def _set(connection: Connection, values: list[dict[str, Any]]) -> None:
    if values:
        statement = (
            update(progress)
            .where((progress.c.major == bindparam("m")) & (progress.c.subject == bindparam("s")))
            .values(retired_at=bindparam("retired_at"), reason=bindparam("reason"), retired_by=bindparam("retired_by"))
        )
        connection.execute(statement, values)


def open_or_close(connection: Connection, rows: Iterable[Any], sign: int) -> None:
    """Follow what opened (+1) or retired (−1) in `pools` and `ranks`; rows have major, pool and subject."""
    changes: dict[tuple[int, str], list[int]] = {}
    for row in rows:
        changes.setdefault((row.major, row.pool), []).append(row.subject)
    for (major, pool), subjects in sorted(changes.items()):
        connection.execute(
            update(pools)
            .where((pools.c.major == major) & (pools.c.pool == pool))
            .values(open=pools.c.open + sign * len(subjects))
        )
        connection.execute(
            update(ranks)
            .where(ranks.c.subject.in_(subjects))
            .where(ranks.c.round.in_(select(rounds.c.id).where(rounds.c.major == major)))
            .values(open=(ranks.c.left > 0) if sign > 0 else False)
        )


def open_pools(connection: Connection) -> dict[tuple[int, str], tuple[int, int]]:
    """Return (major, pool) → (total, open), counted anew."""
    is_open = func.sum((progress.c.retired_at.is_(None)).cast(pools.c.open.type))
    rows = connection.execute(
        select(progress.c.major, progress.c.pool, func.count(), is_open).group_by(progress.c.major, progress.c.pool)
    )
    return {(major, pool): (total, int(opened)) for major, pool, total, opened in rows}

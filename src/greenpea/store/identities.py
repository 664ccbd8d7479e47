"""Who a volunteer is, within a transaction: accounts that took over others, bans, counts, imported names."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, update

from greenpea.store.engine import padded
from greenpea.store.schema import volunteers
from greenpea.store.values import Role, Volunteer

HIGHEST = 2**63  # of an id
_FIELDS = [
    "id",
    "public",
    "source",
    "name",
    "role",
    "created_at",
    "banned_at",
    "language",
    "credited",
    "email",
    "count",
]
COLUMNS = tuple(volunteers.c[name].label(f"volunteer_{name}") for name in _FIELDS)


def volunteer_of(row: Any) -> Volunteer:
    """Return the volunteer in a row that holds `COLUMNS`."""
    values = {name: row._mapping[f"volunteer_{name}"] for name in _FIELDS}
    return Volunteer(**values | {"role": Role(values["role"])})


def follow(connection: Connection, id: int) -> int | None:
    """Return the id of the account that a volunteer was merged into, or their own; None where there is none such."""
    return next((now for now, _ in _followed(connection, [id], WHEREABOUTS).values()), None)


def locked(connection: Connection, ids: Iterable[int]) -> dict[int, tuple[int, bool]]:
    """Return id → (the id of the account it was merged into, or itself; whether that is banned).

    They are locked until the transaction ends, before anything else is, in one order for everybody: nobody is
    merged or banned while a classification of theirs is being taken. Unknown ids are left out.
    """
    return _followed(connection, [id for id in ids if abs(id) < HIGHEST], LOCKED)


def _followed(connection: Connection, ids: Iterable[int], statement: Any) -> dict[int, tuple[int, bool]]:
    found: dict[int, tuple[int, bool]] = {}
    asked = {id: id for id in ids}
    while asked:
        rows = connection.execute(statement, {"ids": padded(set(asked.values()))})
        into = {row.id: (row.merged_into, row.banned_at is not None) for row in rows}
        found |= {first: (now, into[now][1]) for first, now in asked.items() if now in into and into[now][0] is None}
        asked = {first: into[now][0] for first, now in asked.items() if now in into and into[now][0] is not None}
    return found


def add_to_counts(connection: Connection, more: Mapping[int, int]) -> None:
    """Add to how many classifications of volunteers count."""
    values = [{"v": volunteer, "more": number} for volunteer, number in sorted(more.items()) if number]
    if values:
        connection.execute(ADD, values)


def create(connection: Connection, now: datetime, **values: Any) -> int:
    """Add a volunteer; return the id."""
    values = {"public": str(uuid.uuid4()), "created_at": now} | values
    return int(connection.execute(insert(volunteers).values(**values).returning(volunteers.c.id)).scalar_one())


def imported(connection: Connection, sources: set[str], now: datetime) -> dict[str, int]:
    """Return name at the source → volunteer's id; those who are new are added."""
    query = select(volunteers.c.source, volunteers.c.id).where(volunteers.c.source.in_(sorted(sources)))
    known: dict[str, int] = dict(connection.execute(query).all())
    for source in sorted(sources - known.keys()):
        known[source] = create(connection, now, source=source)
    return known


# Made once: to build a statement costs as much as to run it.
WHEREABOUTS = select(volunteers.c.id, volunteers.c.merged_into, volunteers.c.banned_at).where(
    volunteers.c.id.in_(bindparam("ids", expanding=True))
)
LOCKED = WHEREABOUTS.order_by(volunteers.c.id).with_for_update(key_share=True)
ADD = update(volunteers).where(volunteers.c.id == bindparam("v")).values(count=volunteers.c.count + bindparam("more"))

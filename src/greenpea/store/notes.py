"""Small facts about the store itself, by name: written by several processes at once without clashing."""

from __future__ import annotations

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from greenpea.store.schema import meta


def read(connection: Connection, key: str) -> str | None:
    """Return what was noted under a name, or None."""
    return connection.execute(select(meta.c.value).where(meta.c.key == key)).scalar_one_or_none()


def write(connection: Connection, key: str, value: str) -> None:
    """Note a value, in place of any before."""
    new = _insert(connection).values(key=key, value=value)
    connection.execute(new.on_conflict_do_update(index_elements=[meta.c.key], set_={"value": value}))


def write_first(connection: Connection, key: str, value: str) -> str:
    """Note a value where there is none; return the one that stays: of two who set up a store, the first one's."""
    connection.execute(_insert(connection).values(key=key, value=value).on_conflict_do_nothing())
    return str(read(connection, key))


def _insert(connection: Connection) -> sqlite.Insert | postgresql.Insert:
    return postgresql.insert(meta) if connection.dialect.name == "postgresql" else sqlite.insert(meta)

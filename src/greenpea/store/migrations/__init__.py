"""Migrations (Alembic): every change of the tables, in order, on both databases."""

from __future__ import annotations

from importlib import resources

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect
from sqlalchemy.exc import DBAPIError

from greenpea.errors import GreenpeaError
from greenpea.store.engine import Database

LOCK = 0x6772_6565_6E70_6561  # "greenpea": the advisory lock of migrations on PostgreSQL


def configuration(connection: Connection | None = None) -> Config:
    """Return Alembic's configuration; ``connection`` is what its commands work on."""
    config = Config()
    config.set_main_option("script_location", str(resources.files("greenpea.store") / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def newest() -> str:
    """Return the revision that this version of Greenpea works with."""
    return str(ScriptDirectory.from_config(configuration()).get_current_head())


def revision(connection: Connection) -> str | None:
    """Return the revision a database is at, or None where it is empty."""
    return MigrationContext.configure(connection).get_current_revision()


def check(database: Database) -> None:
    """Set up an empty database. Raises GreenpeaError where one cannot be reached, or is at another revision."""
    found = looked_at(database)
    if found is None:
        upgrade(database)
    elif found != newest():
        raise GreenpeaError(
            f"the store is of an older Greenpea (revision {found}; this one needs {newest()}): "
            f"make a backup, then run 'greenpea upgrade'"
        )


def upgrade(database: Database, to: str = "head") -> str | None:
    """Bring a database to a revision, in one transaction; return the one it was at (None: it was empty).

    Raises GreenpeaError where it cannot be reached, holds other tables, or is of a newer Greenpea.
    """
    found = looked_at(database)
    database.write(lambda connection: _upgrade(connection, to))
    return found


def looked_at(database: Database) -> str | None:
    """Return the revision a database is at, None where it is empty; nothing is changed.

    Raises GreenpeaError where it cannot be reached, holds other tables, or is of a newer Greenpea.
    """
    try:
        with database.read() as connection:
            # In this order: another process may set the database up between the two.
            tables = set(inspect(connection).get_table_names())
            found = revision(connection)
    except DBAPIError as error:
        reason = str(error.orig).splitlines()[0]
        raise GreenpeaError(f"the database cannot be opened ({reason}): check its address, and that it runs") from error
    if found is None and tables - {"alembic_version"}:
        raise GreenpeaError("the database holds other tables than Greenpea's: give it one of its own")
    if found is not None and found not in known():
        raise GreenpeaError(f"the store is of a newer Greenpea (revision {found}): upgrade Greenpea")
    return found


def known() -> set[str]:
    """Return every revision that this version of Greenpea knows."""
    return {script.revision for script in ScriptDirectory.from_config(configuration()).walk_revisions()}


def _upgrade(connection: Connection, to: str) -> None:
    if connection.dialect.name == "postgresql":
        # Of two processes that set up a new database at the same moment, the second waits, and finds it done.
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
    command.upgrade(configuration(connection), to)

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
    try:
        with database.read() as connection:
            found = revision(connection)
            tables = inspect(connection).get_table_names() if found is None else []
    except DBAPIError as error:
        reason = str(error.orig).splitlines()[0]
        raise GreenpeaError(f"the database cannot be opened ({reason}): check its address, and that it runs") from error
    if found is None and not set(tables) - {"alembic_version"}:
        upgrade(database)
        return
    if found is None:
        raise GreenpeaError("the database holds other tables than Greenpea's: give it one of its own")
    if found not in {script.revision for script in ScriptDirectory.from_config(configuration()).walk_revisions()}:
        raise GreenpeaError(f"the store is of a newer Greenpea (revision {found}): upgrade Greenpea")
    if found != newest():
        raise GreenpeaError(
            f"the store is of an older Greenpea (revision {found}; this one needs {newest()}): "
            f"make a backup, then run 'greenpea upgrade'"
        )


def upgrade(database: Database, to: str = "head") -> None:
    """Bring a database to a revision, in one transaction."""
    database.write(lambda connection: command.upgrade(configuration(connection), to))

"""A site on a small tree with any subjects, for the tests of what scripts use: API, pictures, exports, client."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from fastapi import FastAPI

from greenpea.settings import Settings
from greenpea.site.app import create_app
from greenpea.store import NewSubject, Store
from greenpea.workflow import Workflow
from hands import galaxy_tree

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
PASSWORD = "green galaxies are round"


def make_site(
    folder: Path,
    subjects: Iterable[NewSubject],
    workflow: Workflow | None = None,
    quiet: bool = True,
    database: str | None = None,
) -> tuple[FastAPI, Store]:
    """Return a site whose workflow is, by default, `galaxy_tree` with the default rules; none is in the audit set."""
    store = Store.open(database or folder / "store.sqlite")
    store.workflows.publish(workflow or Workflow(tree=galaxy_tree()), NOW)
    store.subjects.add(subjects, NOW, audit_share=0.0)
    settings = Settings().override(["site.per_minute=100000"])
    return create_app(store, folder, settings, quiet=quiet), store

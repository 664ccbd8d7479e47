"""Whether all is well: the database, the disk, the pictures, and a recount on request."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from greenpea.site.context import Site, site_of
from greenpea.site.security import protected
from greenpea.site.team.common import Scientist, team_page
from greenpea.store import Subject, Volunteer

router = APIRouter(prefix="/team/health")

SOFTWARE = ("greenpea", "fastapi", "starlette", "uvicorn", "sqlalchemy", "alembic", "pydantic", "jinja2")
LEAST_FREE = 0.05  # share of the disk; less is a warning
MOST_MISSING = 20  # pictures listed


@router.get("")
def health(request: Request, person: Scientist) -> Response:
    """How the site is."""
    return _health_page(request, person)


@router.post("/recount", dependencies=[Depends(protected)])
def recount(request: Request, person: Scientist) -> Response:
    """Count every classification again, and compare with the counters."""
    return _health_page(request, person, site_of(request).store.classifications.recount())


def _health_page(request: Request, person: Volunteer, differences: int | None = None) -> Response:
    site = site_of(request)
    now = site.clock()
    healthy = site.store.healthy(now)
    disk = shutil.disk_usage(site.folder)
    return team_page(
        request,
        "health.html",
        person,
        "/team/health",
        store=healthy,
        last_commit=datetime.fromisoformat(healthy["last_commit"]) if healthy["last_commit"] else None,
        disk=disk,
        disk_low=disk.free < LEAST_FREE * disk.total,
        software=_software(),
        missing=_missing(request, site),
        differences=differences,
        now=now,
    )


def _software() -> Mapping[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in SOFTWARE}}


def _missing(request: Request, site: Site) -> list[tuple[Subject, int]]:
    """Return pictures that could not be shown since the start, as far as this process was asked for them."""
    pictures = getattr(request.app.state, "pictures", None)
    places = sorted(getattr(pictures, "missing", ()))[:MOST_MISSING]
    found = ((site.store.subjects.by_number(number), image) for number, image in places)
    return [(subject, image) for subject, image in found if subject is not None]

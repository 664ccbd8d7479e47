"""Whether the site lives, and whether it can take classifications: for whatever watches over it."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import JSONResponse

from greenpea.site import logs
from greenpea.site.context import site_of

router = APIRouter(tags=["health"])
NO_CACHE = {"Cache-Control": "no-store"}


class Alive(BaseModel):
    """The process answers."""

    alive: bool


class Ready(BaseModel):
    """Whether the database can be written to."""

    ready: bool
    database: str


@router.get("/healthz", responses={200: {"model": Alive}})
async def alive() -> JSONResponse:
    """Say that the process answers, and nothing more: it asks no database."""
    return JSONResponse({"alive": True}, headers=NO_CACHE)


@router.get("/readyz", responses={200: {"model": Ready}, 503: {"model": Ready}})
def ready(request: Request) -> JSONResponse:
    """Say whether classifications can be taken: 200, or 503 while the database cannot be written to."""
    site = site_of(request)
    health = site.store.healthy(site.clock())
    if not health["writable"]:
        logs.log.error("not ready", reason=health["error"])
    values = {"ready": health["writable"], "database": health["database"]}
    return JSONResponse(values, 200 if health["writable"] else 503, NO_CACHE)

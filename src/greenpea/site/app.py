"""The application: routers, middleware and static files put together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from importlib import resources
from pathlib import Path

from fastapi import FastAPI
from starlette.staticfiles import StaticFiles

from greenpea import __version__
from greenpea.settings import Settings
from greenpea.site import accounts, api, classify, exports, finds, health, logs, pictures, security, team
from greenpea.site.context import Site, utc_now
from greenpea.store import Store


def create_app(
    store: Store,
    folder: Path,
    settings: Settings,
    secret: bytes | None = None,
    clock: Callable[[], datetime] = utc_now,
    quiet: bool = False,
) -> FastAPI:
    """Return the site of a campaign as an ASGI application.

    ``secret`` signs cookies and tickets; ``quiet`` writes a line of log for failed requests only. The store is
    closed when the application ends.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        store.close()

    app = FastAPI(
        title="Greenpea",
        version=__version__,
        description="The classifications of a campaign: hand out subjects, take classifications, read results.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
        lifespan=lifespan,
    )
    app.state.site = Site(store, folder, settings, secret or store.secret, clock)
    static = resources.files("greenpea.site") / "static"
    app.mount("/static", StaticFiles(directory=str(static)), name="static")
    for room in (api, pictures, classify, finds, accounts, team, exports, health):
        app.include_router(room.router)
    security.install(app)
    logs.install(app, quiet)
    return app

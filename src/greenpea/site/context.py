"""What every page needs: the store, the campaign's folder and settings, and a way to render templates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import Request
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from starlette.responses import HTMLResponse

from greenpea.settings import Settings
from greenpea.site.languages import chosen_language, translator
from greenpea.store import Store, Volunteer


def utc_now() -> datetime:
    """Return the time, in UTC: the clock of a site that is not under test."""
    return datetime.now(UTC)


@dataclass
class Site:
    """One campaign's site: made once by `create_app`, reached from a request by `site_of`."""

    store: Store
    folder: Path
    settings: Settings
    secret: bytes
    clock: Callable[[], datetime] = utc_now
    templates: Environment = field(init=False)

    def __post_init__(self) -> None:
        self.templates = Environment(
            loader=PackageLoader("greenpea.site"),
            autoescape=select_autoescape(),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    @property
    def title(self) -> str:
        """The campaign's name for people."""
        return self.store.workflows.active().workflow.tree.title.get("en") or self.folder.name


def site_of(request: Request) -> Site:
    """Return the site a request is for; a FastAPI dependency as well."""
    site: Site = request.app.state.site
    return site


def link(request: Request, path: str) -> str:
    """Return a path on this site, right behind a proxy that serves it below a prefix."""
    return str(request.scope.get("root_path", "")).rstrip("/") + path


def page(
    request: Request, template: str, person: Volunteer | None = None, status: int = 200, **values: Any
) -> HTMLResponse:
    """Render a template as a page for ``person``, in their language, with what every template may use.

    Templates see ``site``, ``person``, ``language``, ``t`` (translate), ``link``, ``csrf_field``, ``nonce``.
    """
    from greenpea.site.security import csrf_field

    site = site_of(request)
    language = chosen_language(request, person, site.store.workflows.active().workflow.languages)
    content = site.templates.get_template(template).render(
        request=request,
        site=site,
        person=person,
        language=language,
        t=translator(language),
        link=lambda path: link(request, path),
        csrf_field=lambda: csrf_field(request),
        status=status,
        nonce=getattr(request.state, "nonce", ""),
        **values,
    )
    response = HTMLResponse(content, status)
    # A page names the person it is for: no cache in between may keep it.
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers["Content-Language"] = language
    return response

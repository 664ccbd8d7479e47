"""What the team's pages share: who may see them, how they are rendered, and how long lists are paged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Depends, Request
from itsdangerous import BadSignature, URLSafeSerializer
from starlette.responses import HTMLResponse, RedirectResponse

from greenpea.site.context import Site, link, page, site_of
from greenpea.site.identity import require
from greenpea.site.team import words
from greenpea.store import Role, Volunteer

Moderator = Annotated[Volunteer, Depends(require(Role.MODERATOR))]
Scientist = Annotated[Volunteer, Depends(require(Role.SCIENTIST))]
Owner = Annotated[Volunteer, Depends(require(Role.OWNER))]

LIMIT = 50  # rows on a page
LONGEST = 2000  # characters of a place in a list; ours have some 100
SECTIONS = (
    ("/team", "Progress", Role.SCIENTIST),
    ("/team/subjects", "Subjects", Role.SCIENTIST),
    ("/team/rounds", "Rounds", Role.SCIENTIST),
    ("/team/volunteers", "Volunteers", Role.MODERATOR),
    ("/team/finds", "Finds", Role.MODERATOR),
    ("/team/workflow", "Workflow", Role.SCIENTIST),
    ("/team/imports", "Import", Role.SCIENTIST),
    ("/team/exports", "Export", Role.SCIENTIST),
    ("/team/health", "Health", Role.SCIENTIST),
)
DONE = {  # said after a redirect: only these sentences, and a number
    "banned": "Banned. {} classifications no longer count.",
    "banned-kept": "Banned. What they have classified still counts.",
    "unbanned": "The ban is lifted. {} classifications count again.",
    "role": "The role is changed.",
    "published": "Published: volunteers see the new workflow from now on.",
    "ranked": "The ranks of round {} order the queue again.",
    "same": "That is the active workflow already: nothing has changed.",
}


def team_page(
    request: Request, template: str, person: Volunteer, section: str = "", status: int = 200, **values: Any
) -> HTMLResponse:
    """Render one of the team's pages, with the sections that ``person`` may see; ``section`` is the present one."""
    sections = [(path, name, path == section) for path, name, role in SECTIONS if person.role.at_least(role)]
    values = {"notice": done(request), "error": None} | values
    return page(request, f"team/{template}", person, status, wide=True, sections=sections, words=words, **values)


def done(request: Request) -> str | None:
    """Return the sentence for what has just been done, where a redirect says so."""
    sentence = DONE.get(request.query_params.get("did", ""))
    return sentence.format(words.number(number_of(request.query_params.get("n", "")))) if sentence else None


def go(request: Request, path: str, **query: object) -> RedirectResponse:
    """Lead on to a page of this site, after something was done."""
    return RedirectResponse(link(request, path) + ("?" + urlencode(query) if query else ""), 303)


# ---- places in long lists ----------------------------------------------------------------------------


def place(site: Site, order: str, after: Sequence[Any]) -> str:
    """Return where a page of a list in this order ends, as text for an address; signed, since the store trusts it."""
    parts = [{"t": part.isoformat()} if isinstance(part, datetime) else part for part in after]
    return str(_signer(site, order).dumps(parts))


def placed(site: Site, order: str, text: str) -> tuple[Any, ...] | None:
    """Return the place that `place` wrote for this order; None, the beginning, for anything else."""
    try:
        parts = _signer(site, order).loads(text) if 0 < len(text) <= LONGEST else None
    except (BadSignature, UnicodeError):
        return None
    if parts is None:
        return None
    return tuple(datetime.fromisoformat(part["t"]) if isinstance(part, dict) else part for part in parts)


def pair(after: tuple[Any, ...] | None) -> tuple[int, int] | None:
    """Return a place of two numbers as the store takes it."""
    return None if after is None else (after[0], after[1])


def _signer(site: Site, order: str) -> URLSafeSerializer:
    return URLSafeSerializer(site.secret, salt=f"greenpea.team.place.{order}")


def next_page(
    request: Request, path: str, query: Mapping[str, Any], order: str, after: Sequence[Any] | None
) -> str | None:
    """Return the address of the next page of a list: the same query, from where this page ends."""
    if after is None:
        return None
    kept = {key: value for key, value in query.items() if value}
    return f"{link(request, path)}?{urlencode(kept | {'after': place(site_of(request), order, after)})}"


def number_of(text: str, otherwise: int = 0, most: int = 10**9) -> int:
    """Return the whole number a person typed, within 0 and ``most``; ``otherwise`` where it is none."""
    return min(int(text), most) if text.isascii() and text.isdigit() and len(text) < 19 else otherwise

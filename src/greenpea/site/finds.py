"""What volunteers pointed out as unusual: for the team, and, if the campaign likes, for every volunteer."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Form, HTTPException, Query, Request, Response
from starlette.responses import HTMLResponse, RedirectResponse

from greenpea.site import identity
from greenpea.site.context import Site, link, page, site_of
from greenpea.site.security import protected
from greenpea.store import Find, Role, Volunteer

router = APIRouter(include_in_schema=False)

Order = Literal["newest", "liked"]
PER_PAGE = 24


def moderates(person: Volunteer | None) -> bool:
    """Whether this person may hide finds."""
    return person is not None and person.banned_at is None and person.role.at_least(Role.MODERATOR)


def may_see(site: Site, person: Volunteer | None) -> bool:
    """Whether this person may see what others found unusual."""
    return site.settings.site.open_finds or moderates(person)


@router.get("/finds")
def finds(
    request: Request,
    person: Annotated[Volunteer | None, Depends(identity.person)],
    order: Order = "newest",
    likes: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    before: Annotated[int | None, Query(ge=1, lt=2**62)] = None,
    hidden: bool = False,
) -> HTMLResponse:
    """Show a page of finds; the next begins ``before`` the last one's number, which has so many ``likes``."""
    site = site_of(request)
    found: list[Find] = []
    after = None
    if may_see(site, person):
        found, after = site.store.finds.all(
            hidden=None if hidden and moderates(person) else False,
            order=order,
            after=(likes, before) if before else None,
            limit=PER_PAGE,
            viewer=person.id if person else None,
        )
    return page(
        request,
        "finds.html",
        person,
        open=may_see(site, person),
        moderates=moderates(person),
        finds=found,
        after=after,
        order=order,
        hidden=hidden,
    )


@router.post("/finds/{number}/like", dependencies=[Depends(protected)])
def like(
    request: Request,
    number: int,
    someone: Annotated[Volunteer, Depends(identity.volunteer)],
    on: Annotated[bool, Form()] = True,
    back: Annotated[str, Form()] = "/finds",
) -> Response:
    site = site_of(request)
    if not may_see(site, someone):
        raise HTTPException(403, "The team of this campaign keeps the finds to itself.")
    site.store.finds.like(number, someone.id, on)
    return _back(request, number, back)


@router.post("/finds/{number}/hide", dependencies=[Depends(protected)])
def hide(
    request: Request,
    number: int,
    moderator: Annotated[Volunteer, Depends(identity.require(Role.MODERATOR))],
    hidden: Annotated[bool, Form()],
    back: Annotated[str, Form()] = "/finds",
) -> Response:
    site_of(request).store.finds.hide(number, hidden)
    return _back(request, number, back)


def _back(request: Request, number: int, back: str) -> Response:
    place = identity.own_path(back, "/finds")
    return RedirectResponse(f"{link(request, place)}#find-{number}", status_code=303)

"""The volunteers: who classified how much and agrees how often; bans, roles, reset links and invitations."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Form, HTTPException, Request
from starlette.responses import Response

from greenpea.errors import GreenpeaError
from greenpea.site.context import link, site_of
from greenpea.site.security import protected
from greenpea.site.team.common import LIMIT, Moderator, Owner, go, next_page, number_of, pair, placed, team_page
from greenpea.store import Role, Volunteer

router = APIRouter(prefix="/team")

Order = Literal["count", "newest"]
ORDERS: dict[Order, str] = {"count": "most classifications first", "newest": "newest first"}
ROLES = {
    Role.VOLUNTEER: "classifies",
    Role.MODERATOR: "also hides comments and bans volunteers",
    Role.SCIENTIST: "also sees the results, edits the workflow and exports",
    Role.OWNER: "also gives roles",
}
SECTION = "/team/volunteers"


@router.get("/volunteers")
def browse(request: Request, person: Moderator, search: str = "", order: str = "count", after: str = "") -> Response:
    """The list of volunteers, a page of it."""
    site = site_of(request)
    chosen: Order = "newest" if order == "newest" else "count"
    search = search.strip()[:200].replace("\0", "")
    key = f"volunteers {chosen}"
    rows, end = site.store.people.listing(
        search=search, order=chosen, after=pair(placed(site, key, after)), limit=LIMIT
    )
    query = {"search": search, "order": chosen}
    return team_page(
        request,
        "volunteers.html",
        person,
        SECTION,
        rows=rows,
        query=query,
        orders=ORDERS,
        roles=ROLES,
        now=site.clock(),
        more_address=next_page(request, SECTION, query, key, end),
    )


@router.get("/volunteers/{public}")
def volunteer(request: Request, person: Moderator, public: str, before: str = "") -> Response:
    """One volunteer: what they did, and what may be done about it."""
    return _volunteer_page(request, person, _found(request, public), before)


@router.get("/volunteers/{public}/ban")
def ask_ban(request: Request, person: Moderator, public: str) -> Response:
    """Ask whether to ban, and whether to recount without what they classified."""
    someone = _found(request, public)
    _check(person, someone)
    return team_page(request, "ban.html", person, SECTION, someone=someone)


@router.post("/volunteers/{public}/ban", dependencies=[Depends(protected)])
def ban(request: Request, person: Moderator, public: str, recount: Annotated[str, Form()] = "") -> Response:
    """Ban, and recount without them where that was chosen."""
    site, someone = site_of(request), _found(request, public)
    _check(person, someone)
    uncounted = site.store.people.ban(someone.id, site.clock(), recount=recount == "yes")
    return go(request, f"{SECTION}/{someone.public}", did="banned" if recount == "yes" else "banned-kept", n=uncounted)


@router.post("/volunteers/{public}/unban", dependencies=[Depends(protected)])
def unban(request: Request, person: Moderator, public: str) -> Response:
    """Lift a ban; what was un-counted by it counts again."""
    site, someone = site_of(request), _found(request, public)
    _check(person, someone)
    return go(
        request, f"{SECTION}/{someone.public}", did="unbanned", n=site.store.people.unban(someone.id, site.clock())
    )


@router.post("/volunteers/{public}/role", dependencies=[Depends(protected)])
def set_role(request: Request, person: Owner, public: str, role: Annotated[str, Form()] = "") -> Response:
    """Give a role."""
    someone = _found(request, public)
    try:
        site_of(request).store.people.set_role(someone.id, _role(role, someone))
    except GreenpeaError as error:
        return _volunteer_page(request, person, someone, status=409, error=str(error))
    return go(request, f"{SECTION}/{someone.public}", did="role")


@router.post("/volunteers/{public}/reset", dependencies=[Depends(protected)])
def reset(request: Request, person: Moderator, public: str) -> Response:
    """Make a link with which somebody chooses a new password. It is shown now and never again."""
    site, someone = site_of(request), _found(request, public)
    _check(person, someone)
    if someone.anonymous:
        raise HTTPException(404, "Who has not signed up has no password.")
    token = site.store.people.reset_token(someone.id, site.clock())
    return team_page(
        request, "link.html", person, SECTION, someone=someone, role=None, address=_address(request, f"/reset/{token}")
    )


@router.post("/invitations", dependencies=[Depends(protected)])
def invite(request: Request, person: Owner, role: Annotated[str, Form()] = "") -> Response:
    """Make a link with which somebody joins in a role. It is shown now and never again."""
    site = site_of(request)
    given = _role(role)
    token = site.store.people.invite(given, site.clock())
    return team_page(
        request, "link.html", person, SECTION, someone=None, role=given, address=_address(request, f"/join/{token}")
    )


def may_act_on(actor: Volunteer, someone: Volunteer) -> bool:
    """Whether a person may ban somebody or reset their password: an owner anybody else, others those below them."""
    if actor.id == someone.id:
        return False
    return actor.role is Role.OWNER or not someone.role.at_least(actor.role)


def _check(actor: Volunteer, someone: Volunteer) -> None:
    if not may_act_on(actor, someone):
        raise HTTPException(403, "This takes a higher role than theirs, and nobody does it to themselves.")


def _found(request: Request, public: str) -> Volunteer:
    someone = site_of(request).store.people.by_public(public)
    if someone is None:
        raise HTTPException(404, "There is no such volunteer.")
    return someone


def _role(text: str, someone: Volunteer | None = None) -> Role:
    if text not in list(Role):
        raise GreenpeaError(f"there is no role {text[:40]!r}: choose one of {', '.join(Role)}")
    if someone is not None and someone.anonymous and text != Role.VOLUNTEER:
        raise GreenpeaError("who has not signed up can have no role: invite them instead")
    return Role(text)


def _address(request: Request, path: str) -> str:
    """Return a path as a whole address: of the host under which the person who asked sees this site."""
    return f"{request.url.scheme}://{request.url.netloc}{link(request, path)}"


def _volunteer_page(
    request: Request,
    person: Volunteer,
    someone: Volunteer,
    before: str = "",
    status: int = 200,
    error: str | None = None,
) -> Response:
    site = site_of(request)
    history = site.store.classifications.of_volunteer(someone.id, after=number_of(before) or None, limit=LIMIT)
    return team_page(
        request,
        "volunteer.html",
        person,
        SECTION,
        status,
        someone=someone,
        row=site.store.people.row(someone.id),
        history=history,
        older=history[-1].id if len(history) == LIMIT else None,
        may_act=may_act_on(person, someone),
        roles=ROLES,
        now=site.clock(),
        error=error,
    )

"""What volunteers found unusual, to be moderated. Hiding itself is the route of the volunteers' page of finds."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from starlette.responses import Response

from greenpea.site.context import site_of
from greenpea.site.identity import own
from greenpea.site.team.common import LIMIT, Moderator, next_page, pair, placed, team_page

router = APIRouter(prefix="/team")
Order = Literal["newest", "liked"]
ORDERS: dict[Order, str] = {"newest": "newest first", "liked": "most liked first"}


@router.get("/finds")
def finds(request: Request, person: Moderator, order: str = "newest", after: str = "") -> Response:
    """Every find, hidden ones too."""
    site = site_of(request)
    chosen: Order = "liked" if order == "liked" else "newest"
    key = f"finds {chosen}"
    found, end = site.store.finds.all(hidden=None, order=chosen, after=pair(placed(site, key, after)), limit=LIMIT)
    return team_page(
        request,
        "finds.html",
        person,
        "/team/finds",
        finds=found,
        order=chosen,
        orders=ORDERS,
        more_address=next_page(request, "/team/finds", {"order": chosen}, key, end),
        now=site.clock(),
        back=own(request),
    )

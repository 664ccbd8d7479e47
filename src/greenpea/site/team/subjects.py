"""The subjects: a browser with filters, and a page for each with everything that is known of it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from starlette.responses import Response

from greenpea.errors import GreenpeaError
from greenpea.site import charts
from greenpea.site.context import Site, site_of
from greenpea.site.rounds import numbers_of, rounds_of
from greenpea.site.team import posteriors
from greenpea.site.team.common import Scientist, next_page, number_of, placed, team_page
from greenpea.site.team.outline import votes
from greenpea.site.team.rounds import chance_in_words, nats, place_of
from greenpea.store import Subject, Version

router = APIRouter(prefix="/team/subjects")

ORDERS = {
    "subject_id": "by id",
    "classifications": "most classifications first",
    "newest": "newest first",
    "retired": "last retired first",
}
YES_NO = {"yes": True, "no": False}
FIELDS = ("search", "state", "reason", "audit", "gold", "least", "order")
REASONS_KEPT = 20.0  # seconds
TILES = 60  # subjects on a page: full rows of two, three, four, five or six
MOST_CLASSIFICATIONS = 500  # shown on a subject's page


def filters(query: Mapping[str, str]) -> dict[str, Any]:
    """Return what `Subjects.browse` takes, from an address; what makes no sense is left out."""
    order = query.get("order", "")
    return {
        "retired": {"retired": True, "open": False}.get(query.get("state", "")),
        "reason": query.get("reason") or None,
        "search": query.get("search", "").strip()[:200].replace("\0", ""),
        "audit": YES_NO.get(query.get("audit", "")),
        "gold": YES_NO.get(query.get("gold", "")),
        "least": number_of(query.get("least", "")),
        "order": order if order in ORDERS else "subject_id",
    }


@router.get("")
def browse(request: Request, person: Scientist) -> Response:
    """The list of subjects, a page of it."""
    site = site_of(request)
    query = {field: request.query_params.get(field, "") for field in FIELDS}
    wanted = filters(query)
    order = f"subjects {wanted['order']}"
    found, after = site.store.subjects.browse(
        **wanted, after=placed(site, order, request.query_params.get("after", "")), limit=TILES
    )
    return team_page(
        request,
        "subjects.html",
        person,
        "/team/subjects",
        subjects=found,
        query=query,
        orders=ORDERS,
        reasons=sorted({*_reasons(request, site), *filter(None, [query["reason"]])}),
        filtered=any(value for field, value in query.items() if field != "order"),
        total=site.store.subjects.count(),
        limit=site.store.workflows.active().workflow.limit,
        more=next_page(request, "/team/subjects", query, order, after),
    )


def _reasons(request: Request, site: Site) -> Iterable[str]:
    """Return why subjects have retired so far, to choose from: asked for rarely, since it takes a pass over all."""
    state = request.app.state
    if time.monotonic() - getattr(state, "team_reasons_at", -math.inf) > REASONS_KEPT:
        state.team_reasons = tuple(site.store.statistics.overview(site.clock()).by_reason)
        state.team_reasons_at = time.monotonic()
    reasons: tuple[str, ...] = state.team_reasons
    return reasons


@router.get("/{subject_id:path}")
def subject(request: Request, person: Scientist, subject_id: str) -> Response:
    """Everything about one subject."""
    site = site_of(request)
    found = site.store.subjects.get(subject_id)
    if found is None:
        raise HTTPException(404, "There is no subject of this id.")
    version = site.store.workflows.active()
    classifications = site.store.classifications.of_subject(found.id, limit=MOST_CLASSIFICATIONS)
    return team_page(
        request,
        "subject.html",
        person,
        "/team/subjects",
        subject=found,
        version=version,
        votes=votes(version.workflow.tree, found.tally, found.gold),
        share_bar=charts.share,
        classifications=classifications,
        cut=len(classifications) == MOST_CLASSIFICATIONS,
        finds=site.store.finds.all(hidden=None, subject=found.id)[0],
        numbers=numbers_of(site.folder, classifications),
        chance=chance_in_words,
        nats=nats,
        now=site.clock(),
        **believed(site, found, version),
    )


def believed(site: Site, subject: Subject, version: Version) -> dict[str, Any]:
    """Return what the template shows of the rounds: the posterior, the place in the ranking, and what is wrong."""
    faults: list[str] = []
    found, place = None, None
    try:
        found = posteriors.posterior_of(site, subject)
    except GreenpeaError as error:
        faults.append(str(error))
    try:
        place = place_of(rounds_of(site.folder), subject)
    except GreenpeaError as error:
        faults.append(str(error))
    shown = posteriors.pictures(found, version.workflow.tree, subject.tally) if found else {}
    return {"believed": found, "pictures": shown, "place": place, "faults": faults}

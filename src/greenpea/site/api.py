"""The JSON API under ``/api/v1``: hand out subjects, take classifications, look things up.

Answers are written by hand as dictionaries, for speed; the models in `messages` are what OpenAPI says of them.
A problem is ``{"detail": "…"}`` with the remedy in it.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Header, HTTPException, Query, Request, Response
from fastapi import Path as PathPart
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from greenpea.classifications import Annotations, walk
from greenpea.errors import GreenpeaError
from greenpea.site import identity, security, tickets
from greenpea.site.context import Site, link, site_of
from greenpea.site.languages import chosen_language
from greenpea.site.messages import (
    FindAnswer,
    MeAnswer,
    NewClassification,
    NewFind,
    NextAnswer,
    NextRequest,
    Problem,
    ReceiptAnswer,
    SignIn,
    SubjectAnswer,
    TokenAnswer,
    WorkflowAnswer,
)
from greenpea.store import HandOut, Receipt, Role, SentClassification, Subject, Version, Volunteer
from greenpea.workflow import Workflow

HIDDEN = ("#", "//", "!")  # a metadata column that begins so is for the team (Panoptes' manifests)
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
AHEAD = timedelta(days=1)  # a clock may be wrong by this much before it is not believed


# ---- the router ----------------------------------------------------------------------------------------


class _Route(APIRoute):
    """A route that says in one line of plain words what is wrong with a request."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_problems(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                raise HTTPException(422, _explain(error)) from error

        return handle_problems


def _explain(error: RequestValidationError) -> str:
    return "; ".join(_fault(fault) for fault in error.errors()[:5])


def _fault(fault: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in fault["loc"][1:] if part != "[key]")
    match fault["type"]:
        case "json_invalid":
            return f"the body is not JSON: {fault['ctx']['error']} at character {place}"
        case "missing" if place:
            return f"the key {place!r} is missing: add it"
    if not place:
        return "send a JSON object as the body, with Content-Type: application/json"
    return f"{place}: {fault['msg'].removeprefix('Value error, ')}"


def answer(values: Any, status: int = 200) -> Response:
    """Return ``values`` as JSON that no cache keeps."""
    text = json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(text.encode(), status, {"Cache-Control": "no-store"}, "application/json")


PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The body cannot be read"},
    403: {"model": Problem, "description": "Not allowed: banned, or sent by another site's page"},
    413: {"model": Problem, "description": "The body is too large"},
    422: {"model": Problem, "description": "Refused; the detail says why and what to do"},
    429: {"model": Problem, "description": "Too many requests: wait as long as Retry-After says"},
}
router = APIRouter(prefix="/api/v1", route_class=_Route, responses=PROBLEMS)

SomeVolunteer = Annotated[Volunteer, Depends(identity.volunteer)]
Person = Annotated[Volunteer | None, Depends(identity.person)]
SubjectId = Annotated[str, PathPart(max_length=1000, description="as the team named it; it may hold slashes")]
NO_TOKEN: dict[int | str, dict[str, Any]] = {401: {"model": Problem, "description": "The token is not known"}}
NO_SUBJECT: dict[int | str, dict[str, Any]] = {404: {"model": Problem, "description": "No such subject"}}


# ---- handing out and taking in -------------------------------------------------------------------------


@router.post("/next", tags=["classify"], responses={200: {"model": NextAnswer}, **NO_TOKEN})
async def hand_out(request: Request, volunteer: SomeVolunteer, wanted: NextRequest | None = None) -> Response:
    """Hand out the next subjects for this volunteer: none they have seen, each with a place kept for a while.

    Who comes without a cookie or a token becomes a new anonymous volunteer, named by the cookie that is set.
    """
    site = site_of(request)
    wanted = wanted or NextRequest()
    holding = None if wanted.holding is None else _held(site, wanted.holding)
    handouts = await site.store.queue.next_async(volunteer.id, wanted.count, site.clock(), holding=holding)
    version = site.store.workflows.active()
    values = {
        "subjects": [_handed(request, site, handout, version) for handout in handouts],
        "exhausted": not handouts,
        "version": {"id": version.id, "number": version.number},
    }
    return answer(values)


def _held(site: Site, held: list[str]) -> list[int]:
    """Return the hand-outs of tickets; one that cannot be read holds nothing."""
    found = []
    for ticket in held:
        with contextlib.suppress(GreenpeaError):
            found.append(tickets.read(site, ticket).handout)
    return found


def _handed(request: Request, site: Site, handout: HandOut, active: Version) -> dict[str, Any]:
    version = active if handout.version == active.id else site.store.workflows.get(handout.version)
    return {
        "ticket": tickets.make(site, handout),
        "subject_id": handout.subject.subject_id,
        "images": image_links(request, handout.subject),
        "version": version.number,
        "expires_at": handout.expires_at.isoformat(),
    }


def image_links(request: Request, subject: Subject) -> list[str]:
    """Return the paths of a subject's pictures."""
    return [link(request, f"/images/{subject.id}/{index}") for index in range(len(subject.images))]


@router.post(
    "/classifications",
    tags=["classify"],
    status_code=201,
    responses={
        200: {"model": ReceiptAnswer, "description": "Stored before, under the same uuid"},
        201: {"model": ReceiptAnswer, "description": "Stored"},
    },
)
async def classify(request: Request, new: NewClassification) -> Response:
    """Take a classification. The answer comes after the commit; without one, send the same again.

    It is cast under the identity in the ticket, whoever sends it, and kept with the workflow's version at which
    the subject was handed out. 422 means that it will never be taken as it is: do not send it again.
    """
    site = site_of(request)
    receipt = await take(site, new)
    return answer(_receipt(request, site, receipt, new), 200 if receipt.again else 201)


async def take(site: Site, new: NewClassification) -> Receipt:
    """Store a classification and return its receipt. Raises GreenpeaError where it is refused."""
    now = site.clock()
    receipt = await site.store.classifications.submit_async(classification_sent(site, new, now), now)
    if receipt.counted is None:
        raise GreenpeaError(receipt.error or "this classification cannot be taken")
    return receipt


def classification_sent(site: Site, new: NewClassification, now: datetime) -> SentClassification:
    """Return what the store takes. Raises GreenpeaError where the ticket is not this site's."""
    ticket = tickets.read(site, new.ticket)
    started_at, finished_at = believable(new.started_at, now), believable(new.finished_at, now)
    if started_at and finished_at and finished_at < started_at:
        started_at = finished_at = None
    return SentClassification(
        uuid=str(new.uuid),
        volunteer=ticket.volunteer,
        subject=ticket.subject,
        version=ticket.version,
        annotations=new.annotations,
        handout=ticket.handout,
        stream=ticket.stream,
        round=ticket.round,
        probability=ticket.probability,
        started_at=started_at,
        finished_at=finished_at,
        metadata=new.metadata,
    )


def believable(time: datetime | None, now: datetime) -> datetime | None:
    """Return a time of a client's clock in UTC; None where the clock is plainly wrong.

    A classification is not refused for it: when it was received is known anyway.
    """
    if time is None or not EARLIEST <= time <= now + AHEAD:
        return None
    return time.astimezone(UTC)


def _receipt(request: Request, site: Site, receipt: Receipt, new: NewClassification) -> dict[str, Any]:
    values: dict[str, Any] = {
        "uuid": receipt.uuid,
        "counted": receipt.counted,
        "again": receipt.again,
        "after_retirement": receipt.after_retirement,
        "retired": receipt.retired,
        "feedback": None,
    }
    if receipt.gold:
        workflow = site.store.workflows.get(tickets.read(site, new.ticket).version).workflow
        language = chosen_language(request, None, workflow.languages)
        values["feedback"] = feedback(workflow, new.annotations, receipt.gold, language)
    return values


def feedback(workflow: Workflow, given: Annotations, known: Annotations, language: str = "en") -> dict[str, Any] | None:
    """Compare answers with the known ones; None where no known question can be compared.

    The questions on the walk that the known answers take are all expected, in that order, so that an answer
    that strays into another branch is found where it strayed. Known questions behind one that is not known
    count where the volunteer came to them. ``at`` is the first that was answered otherwise.
    """
    try:
        expected, _ = walk(workflow.tree, known)
    except GreenpeaError:  # known for an earlier tree, whose questions this one has not
        return None
    order = [*expected, *(slug for slug in given if slug in known and slug not in expected)]
    if not order:
        return None
    at = next((slug for slug in order if set(given.get(slug, ())) != set(known[slug]) or slug not in given), None)
    texts = workflow.feedback.right if at is None else workflow.feedback.wrong
    return {
        "right": at is None,
        "at": at,
        "text": texts.get(language) or texts.get("en", ""),
        "known": {question: list(answers) for question, answers in known.items()},
    }


@router.delete(
    "/classifications/{uuid}",
    tags=["classify"],
    responses={
        200: {"model": ReceiptAnswer, "description": "Not counted any more"},
        404: {"model": Problem, "description": "There is none of this volunteer's"},
    },
)
def undo(
    request: Request,
    uuid: UUID,
    person: Person,
    x_ticket: Annotated[
        str | None,
        Header(max_length=tickets.LONGEST, description="the ticket it came with; else the cookie counts"),
    ] = None,
) -> Response:
    """Take a classification back: it stays stored, and is not counted. Only by the volunteer who made it."""
    site = site_of(request)
    if x_ticket is not None:
        volunteer = tickets.read(site, x_ticket).volunteer
    elif person is not None:
        volunteer = person.id
    else:
        raise HTTPException(404, "there is no such classification of yours: send its ticket as X-Ticket, or sign in")
    try:
        receipt = site.store.classifications.undo(str(uuid), volunteer, site.clock())
    except GreenpeaError as error:
        raise HTTPException(404, str(error)) from error
    values = {"uuid": receipt.uuid, "counted": receipt.counted, "again": receipt.again, "feedback": None}
    return answer(values | {"after_retirement": receipt.after_retirement, "retired": receipt.retired})


@router.post("/finds", tags=["classify"], status_code=201, responses={201: {"model": FindAnswer}})
def flag(request: Request, new: NewFind) -> Response:
    """Point out something unusual about a subject that was handed out; the same uuid again changes nothing."""
    site = site_of(request)
    ticket = tickets.read(site, new.ticket)
    volunteer = site.store.people.get(ticket.volunteer)
    if volunteer is None:
        raise GreenpeaError("the volunteer of this ticket is not known any more: ask for the next subject again")
    if volunteer.banned_at is not None:
        raise HTTPException(403, identity.BANNED)
    find = site.store.finds.flag(str(new.uuid), volunteer.id, ticket.subject, new.comment.strip(), site.clock())
    return answer({"uuid": find.uuid, "subject_id": find.subject_id, "comment": find.comment}, 201)


# ---- looking up ----------------------------------------------------------------------------------------


@router.get(
    "/workflow",
    tags=["look up"],
    responses={200: {"model": WorkflowAnswer}, 404: {"model": Problem, "description": "No such version"}},
)
def workflow(
    request: Request,
    version: Annotated[
        str | None, Query(max_length=40, description="such as 1.0; the active one if left out", examples=["1.0"])
    ] = None,
) -> Response:
    """Return the workflow: the questions to ask, and what to tell volunteers."""
    site = site_of(request)
    found = site.store.workflows.active() if version is None else _version(site, version)
    content = found.workflow
    values = {
        "id": found.id,
        "number": found.number,
        "active": found.active,
        "languages": content.languages,
        "tree": content.tree.model_dump(mode="json"),
        "tutorial": content.tutorial,
        "guide": content.guide,
    }
    return answer(values)


def _version(site: Site, number: str) -> Version:
    versions = site.store.workflows.all()
    for version in versions:
        if version.number == number:
            return version
    there = ", ".join(version.number for version in versions[:10])
    raise HTTPException(404, f"there is no version {number!r} of the workflow; there are {there}")


@router.get(
    "/subjects/{subject_id:path}",
    tags=["look up"],
    responses={200: {"model": SubjectAnswer}, **NO_SUBJECT},
)
def subject(request: Request, subject_id: SubjectId, person: Person) -> Response:
    """Return a subject's pictures and metadata; its votes only to the team, so that nobody is led by others."""
    found = _subject(site_of(request), subject_id)
    values: dict[str, Any] = {"subject_id": found.subject_id, "images": image_links(request, found)}
    if person is None or not person.role.at_least(Role.SCIENTIST):
        shown = {name: value for name, value in found.metadata.items() if not name.startswith(HIDDEN)}
        return answer(values | {"metadata": plain(shown)})
    values |= {"metadata": plain(found.metadata), "classifications": found.classifications, "votes": found.tally}
    return answer(values | {"retired": found.reason})


def _subject(site: Site, subject_id: str) -> Subject:
    found = None if "\0" in subject_id else site.store.subjects.get(subject_id)
    if found is None:
        raise HTTPException(404, f"there is no subject {subject_id!r}")
    return found


def plain(value: Any) -> Any:
    """Return metadata as JSON can hold it: what is not a finite number becomes null, what is no JSON, its text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


# ---- people --------------------------------------------------------------------------------------------


@router.post("/volunteers", tags=["people"], status_code=201, responses={201: {"model": TokenAnswer}})
def become_volunteer(request: Request) -> Response:
    """Become an anonymous volunteer: for scripts, which keep no cookie."""
    site = site_of(request)
    return answer({"token": identity.anonymous_token(site, site.store.people.anonymous(site.clock()))}, 201)


@router.post(
    "/sessions",
    tags=["people"],
    status_code=201,
    responses={201: {"model": TokenAnswer}, 401: {"model": Problem, "description": "Wrong name or password"}},
)
def sign_in(request: Request, who: SignIn) -> Response:
    """Sign in with a name and a password: for scripts. The token is valid for thirty days."""
    volunteer = security.check_password(request, who.name, who.password)
    if volunteer is None:
        raise HTTPException(401, "name or password is wrong")
    return answer({"token": identity.open_session(site_of(request), volunteer)}, 201)


@router.delete("/sessions", tags=["people"], status_code=204)
def sign_out(request: Request) -> Response:
    """End the session whose token is sent."""
    identity.end_session(request)
    return Response(status_code=204)


@router.get(
    "/me",
    tags=["people"],
    responses={200: {"model": MeAnswer}, 401: {"model": Problem, "description": "Nobody yet"}},
)
def me(person: Person) -> Response:
    """Say whom the cookie or the token stands for."""
    if person is None:
        raise HTTPException(401, "no cookie and no token came with this: ask for a subject first, or sign in")
    return answer(
        {
            "public": person.public,
            "name": person.name,
            "role": person.role,
            "classifications": person.count,
            "banned": person.banned_at is not None,
        }
    )


@router.put("/favourites/{subject_id:path}", tags=["people"], status_code=204, responses=NO_SUBJECT | NO_TOKEN)
def add_favourite(request: Request, subject_id: SubjectId, volunteer: SomeVolunteer) -> Response:
    """Keep a subject among one's favourites."""
    return _favour(request, subject_id, volunteer, True)


@router.delete("/favourites/{subject_id:path}", tags=["people"], status_code=204, responses=NO_SUBJECT | NO_TOKEN)
def remove_favourite(request: Request, subject_id: SubjectId, volunteer: SomeVolunteer) -> Response:
    """Take a subject from one's favourites."""
    return _favour(request, subject_id, volunteer, False)


def _favour(request: Request, subject_id: str, volunteer: Volunteer, on: bool) -> Response:
    site = site_of(request)
    site.store.people.favourite(volunteer.id, _subject(site, subject_id).id, on, site.clock())
    return Response(status_code=204)

"""A person's own pages: what they classified, their favourites, settings, their data; and the credits of everybody."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Form, HTTPException, Query, Request, Response
from starlette.responses import HTMLResponse, RedirectResponse

from greenpea.errors import GreenpeaError
from greenpea.site import identity
from greenpea.site.context import Site, link, page, site_of
from greenpea.site.languages import LANGUAGES
from greenpea.site.mail import is_address
from greenpea.site.rounds import asked, numbers_of
from greenpea.site.security import check_password, protected
from greenpea.store import Volunteer
from greenpea.store import people as rules
from greenpea.tree import DecisionTree

router = APIRouter(include_in_schema=False)

Person = Annotated[Volunteer | None, Depends(identity.person)]
Member = Annotated[Volunteer, Depends(identity.signed_in)]
Line = Annotated[str, Form(max_length=1000)]
PROTECTED = [Depends(protected)]
PER_PAGE = 24
YEAR = timedelta(days=365)

DONE = {
    "settings": "Your settings are saved.",
    "password": "Your password is changed. Wherever else you were signed in, you are signed out.",
    "deleted": "Your account is deleted. Thank you for everything you did.",
    "forgotten": "This device is forgotten. Thank you for everything you did.",
}
WRONG_PASSWORD = "This is not your password."


def notice(request: Request, done: str) -> str:
    """Return what to say after something was done, known by a short word in the address."""
    text = DONE.get(done)
    return identity.translator_for(request, identity.person(request))(text) if text else ""


def password_fault(password: str, again: str, name: str = "") -> str | None:
    """Return what is wrong with a new password typed twice, if anything."""
    try:
        rules.check_password(password, name)
    except GreenpeaError as error:
        return str(error)
    return None if password == again else "The two passwords are not the same. Type them again."


def languages(site: Site) -> dict[str, str]:
    """Return the languages to choose from: code → its own name."""
    offered = site.store.workflows.active().workflow.languages
    return LANGUAGES | {code: code for code in offered if code not in LANGUAGES}


# ---- what I did ----


@router.get("/me")
def history(
    request: Request, person: Person, after: Annotated[int | None, Query(ge=1, lt=2**62)] = None, done: str = ""
) -> HTMLResponse:
    site = site_of(request)
    found = site.store.classifications.of_volunteer(person.id, after, PER_PAGE + 1) if person else []
    numbers = numbers_of(site.folder, found)
    return page(
        request,
        "account/me.html",
        person,
        classifications=found[:PER_PAGE],
        more=len(found) > PER_PAGE,
        first=after is None,
        favourites={subject.id for subject in site.store.people.favourites(person.id)} if person else set(),
        said=lambda annotations, language: said(_tree(site), annotations, language),
        asked=lambda one, t: asked(one, numbers.get(one.round), t),
        notice=notice(request, done),
    )


@router.get("/me/favourites")
def favourites(request: Request, person: Person) -> HTMLResponse:
    found = site_of(request).store.people.favourites(person.id) if person else []
    return page(request, "account/favourites.html", person, favourites=found)


@router.post("/favourite", dependencies=PROTECTED)
def favourite(
    request: Request,
    someone: Annotated[Volunteer, Depends(identity.volunteer)],
    subject: Annotated[int, Form(ge=1, lt=2**62)],
    on: Annotated[bool, Form()] = True,
    next: Line = "/me/favourites",
) -> Response:
    """Keep a subject among the favourites, or no longer: the way without JavaScript."""
    site = site_of(request)
    if site.store.subjects.by_number(subject) is None:
        raise HTTPException(404, "There is no such subject.")
    site.store.people.favourite(someone.id, subject, on, site.clock())
    return _to(request, identity.own_path(next, "/me/favourites"))


def said(tree: DecisionTree, annotations: Mapping[str, Sequence[str]], language: str) -> str:
    """Return the answers of a classification in words, as far as the tree of today knows them."""
    words = []
    for slug, answers in annotations.items():
        known = tree[slug].answer_slugs if slug in tree else ()
        words += [tree[slug].answer(answer).label(language) if answer in known else answer for answer in answers]
    return " · ".join(words)


def _tree(site: Site) -> DecisionTree:
    return site.store.workflows.active().workflow.tree


# ---- settings ----


@router.get("/me/settings")
def settings_page(request: Request, member: Member, done: str = "") -> HTMLResponse:
    return _settings_page(request, member, done=done)


@router.post("/me/settings", dependencies=PROTECTED)
def settings(
    request: Request,
    member: Member,
    language: Line = "en",
    email: Line = "",
    current: Line = "",
    credited: Annotated[bool, Form()] = False,
) -> Response:
    """Change settings; a new address needs the password, since whoever reads its letters can take the account."""
    site, address = site_of(request), email.strip()
    changed = address != (member.email or "")
    if address and not is_address(address):
        return _settings_page(request, member, {"email": "This does not look like an e-mail address."}, address)
    if changed and not _knows_password(request, member, current):
        return _settings_page(request, member, {"current": WRONG_PASSWORD}, address)
    language = language if language in languages(site) else "en"
    site.store.people.settings(member.id, language=language, credited=credited, email=address if changed else None)
    identity.set_cookie(request, "language", language, YEAR)
    return _to(request, "/me/settings?done=settings")


@router.post("/me/password", dependencies=PROTECTED)
def password(request: Request, member: Member, current: Line = "", password: Line = "", again: Line = "") -> Response:
    """Change the password, and end every session but a new one here."""
    site = site_of(request)
    if not _knows_password(request, member, current):
        return _settings_page(request, member, {"old": WRONG_PASSWORD})
    if fault := password_fault(password, again, member.name or ""):
        return _settings_page(request, member, {"password": fault})
    site.store.people.set_password(member.id, password, site.clock())
    identity.begin_session(request, member)
    return _to(request, "/me/settings?done=password")


def _knows_password(request: Request, member: Volunteer, password: str) -> bool:
    found = check_password(request, member.name or "", password)
    return found is not None and found.id == member.id


def _settings_page(
    request: Request, member: Volunteer, faults: dict[str, str] | None = None, email: str | None = None, done: str = ""
) -> HTMLResponse:
    return page(
        request,
        "account/settings.html",
        member,
        422 if faults else 200,
        faults=faults or {},
        email=(member.email or "") if email is None else email,
        languages=languages(site_of(request)),
        notice=notice(request, done),
    )


# ---- my data ----


@router.get("/me/export")
def export(request: Request, person: Person) -> Response:
    """Everything the site knows about the person, as a JSON file."""
    if person is None:
        return _to(request, "/me")
    content = json.dumps(site_of(request).store.people.export(person.id), ensure_ascii=False, indent=2, default=str)
    headers = {"Content-Disposition": 'attachment; filename="my-classifications.json"', "Cache-Control": "no-store"}
    return Response(content, headers=headers, media_type="application/json")


@router.get("/me/delete")
def delete_page(request: Request, person: Person) -> Response:
    return _to(request, "/me") if person is None else _delete_page(request, person)


@router.post("/me/delete", dependencies=PROTECTED)
def delete(request: Request, person: Person, current: Line = "") -> Response:
    """Delete what names the person; their classifications go on counting without a name."""
    if person is None:
        return _to(request, "/me")
    if not person.anonymous and not _knows_password(request, person, current):
        return _delete_page(request, person, WRONG_PASSWORD)
    site = site_of(request)
    try:
        site.store.people.delete(person.id, site.clock())
    except GreenpeaError as error:
        return _delete_page(request, person, str(error))
    identity.end_session(request)
    identity.forget_cookie(request, identity.ANONYMOUS)
    return _to(request, "/me?done=forgotten" if person.anonymous else "/me?done=deleted")


def _delete_page(request: Request, person: Volunteer, fault: str | None = None) -> HTMLResponse:
    return page(request, "account/delete.html", person, 422 if fault else 200, fault=fault)


# ---- everybody ----


@router.get("/credits")
def credits(request: Request, person: Person) -> HTMLResponse:
    everybody = site_of(request).store.people.credits()
    named = [(name, count) for name, count in everybody if name]
    others = next((count for name, count in everybody if not name), 0)  # how many people, not classifications
    return page(request, "account/credits.html", person, named=named, others=others)


def _to(request: Request, path: str) -> Response:
    return RedirectResponse(link(request, path), status_code=303)

"""Accounts: signing up with the work done before, signing in and out, passwords forgotten, invitations."""

from __future__ import annotations

import os
import smtplib
from typing import Annotated

from fastapi import APIRouter, Depends, Form, HTTPException, Request, Response
from pydantic import BaseModel, Field
from starlette.background import BackgroundTask
from starlette.responses import HTMLResponse, RedirectResponse

from greenpea.errors import GreenpeaError
from greenpea.site import identity, me
from greenpea.site.context import Site, link, page, site_of
from greenpea.site.languages import translator
from greenpea.site.logs import log
from greenpea.site.mail import Mailer, is_address, mailer
from greenpea.site.security import check_password, protected
from greenpea.store import Role, Volunteer
from greenpea.store.people import check_name

router = APIRouter(include_in_schema=False)
router.include_router(me.router)

Person = Annotated[Volunteer | None, Depends(identity.person)]
Line = Annotated[str, Form(max_length=1000)]
PROTECTED = [Depends(protected)]

WRONG = "Name and password do not belong together."
USED = "This invitation has been used, or is too old. Ask the team for a new one."
USED_LINK = "This link has been used, or is too old. Ask for a new one."
NO_ADDRESS = "This does not look like an e-mail address."
CLOSED = "The team of this campaign gives out accounts itself. You can classify without one."
LETTER = """Hello {name},

this link lets you choose a new password for {site}. It works once, within a day:

{url}

If you did not ask for it, there is nothing to do: your password stays as it is.
"""

Faults = dict[str, str]  # the form's field → what is wrong with it


class NewAccount(BaseModel):
    """What the sign-up form sends."""

    name: str = Field("", max_length=200)
    password: str = Field("", max_length=2000)
    again: str = Field("", max_length=2000)
    email: str = Field("", max_length=320)
    language: str = Field("en", max_length=20)
    credited: bool = False  # as a checkbox sends it: not at all, where it is not ticked
    next: str = Field("/", max_length=2000)

    def faults(self, site: Site) -> Faults:
        """Return what is wrong with it, field by field."""
        faults = {}
        try:
            check_name(self.name)
            if site.store.people.by_name(self.name):
                faults["name"] = "This name is taken. Choose another."
        except GreenpeaError as error:
            faults["name"] = str(error)
        if fault := me.password_fault(self.password, self.again, self.name):
            faults["password"] = fault
        if self.email.strip() and not is_address(self.email.strip()):
            faults["email"] = NO_ADDRESS
        return faults


AccountForm = Annotated[NewAccount, Form()]


# ---- signing up ----


@router.get("/join")
def join_page(request: Request, person: Person, next: str = "/") -> Response:
    if person is not None and not person.anonymous:
        return _to(request, "/me")
    return _join_page(request, NewAccount(next=identity.own_path(next), credited=True))


@router.post("/join", dependencies=PROTECTED)
def join(request: Request, new: AccountForm) -> Response:
    site = site_of(request)
    if not site.settings.site.sign_up:
        raise HTTPException(403, CLOSED)
    faults = new.faults(site)
    if not faults:
        try:
            return _welcome(request, new, Role.VOLUNTEER)
        except GreenpeaError as error:
            faults["name"] = str(error)
    return _join_page(request, new, faults)


@router.get("/join/{token}")
def invitation_page(request: Request, token: str) -> Response:
    site = site_of(request)
    works = site.store.people.invited(token, site.clock()) is not None
    return _join_page(request, NewAccount(credited=True), None if works else {"form": USED}, token)


@router.post("/join/{token}", dependencies=PROTECTED)
def accept_invitation(request: Request, token: str, new: AccountForm, person: Person) -> Response:
    """Give a role to who is signed in, or to the account made by this form; an invitation works once."""
    site = site_of(request)
    known = person if person is not None and not person.anonymous else None
    if known is not None and known.banned_at:
        raise HTTPException(403, identity.BANNED)
    if site.store.people.invited(token, site.clock()) is None:
        return _join_page(request, new, {"form": USED}, token)
    if faults := {} if known else new.faults(site):
        return _join_page(request, new, faults, token)
    role = site.store.people.use_invite(token, site.clock())
    if role is None:
        return _join_page(request, new, {"form": USED}, token)
    if known is not None:
        if not known.role.at_least(role):
            site.store.people.set_role(known.id, role)
        return _to(request, _first_page(role, "/me"))
    try:
        return _welcome(request, new, role)
    except GreenpeaError as error:
        # Somebody took the name in between: the invitation is not lost with it.
        again = site.store.people.invite(role, site.clock())
        return _join_page(request, new, {"name": str(error)}, again)


def _welcome(request: Request, new: NewAccount, role: Role) -> Response:
    """Make the account, with the work done before on this device, and sign in. Raises GreenpeaError: name taken."""
    site, before = site_of(request), identity.anonymous(request)
    if before is not None and before.banned_at:
        raise HTTPException(403, identity.BANNED)
    account = site.store.people.sign_up(
        new.name,
        new.password,
        site.clock(),
        email=new.email.strip() or None,
        role=role,
        anonymous=before.id if before else None,
    )
    language = new.language if new.language in me.languages(site) else "en"
    site.store.people.settings(account.id, language=language, credited=new.credited)
    identity.begin_session(request, account)
    identity.forget_cookie(request, identity.ANONYMOUS)
    return _to(request, _first_page(role, identity.own_path(new.next)))


def _first_page(role: Role, otherwise: str) -> str:
    """Return where an invitation leads: the team's pages for who may open them."""
    return "/team" if role.at_least(Role.MODERATOR) else otherwise


def _join_page(
    request: Request, new: NewAccount, faults: Faults | None = None, token: str | None = None
) -> HTMLResponse:
    site, person, before = site_of(request), identity.person(request), identity.anonymous(request)
    role = site.store.people.invited(token, site.clock()) if token else None
    return page(
        request,
        "account/join.html",
        person,
        422 if faults else 200,
        new=new,
        faults=faults or {},
        token=token,
        role=role.value if role else None,
        open=site.settings.site.sign_up or token is not None,
        before=before.count if before else 0,
        languages=me.languages(site),
        known=person is not None and not person.anonymous,
    )


# ---- signing in and out ----


@router.get("/sign-in")
def sign_in_page(request: Request, person: Person, next: str = "/", done: str = "") -> Response:
    if person is not None and not person.anonymous:
        return _to(request, identity.own_path(next))
    return _sign_in_page(request, next, done=done)


@router.post("/sign-in", dependencies=PROTECTED)
def sign_in(
    request: Request, name: Line = "", password: Line = "", next: Line = "/", along: Annotated[bool, Form()] = False
) -> Response:
    account = check_password(request, name, password)
    if account is None:
        return _sign_in_page(request, next, name, wrong=True)
    before = identity.anonymous(request)
    if along and before is not None:
        if not before.banned_at:
            site = site_of(request)
            site.store.people.merge(before.id, account.id, site.clock())
        identity.forget_cookie(request, identity.ANONYMOUS)
    identity.begin_session(request, account)
    return _to(request, identity.own_path(next))


@router.post("/sign-out", dependencies=PROTECTED)
def sign_out(request: Request) -> Response:
    identity.end_session(request)
    return _to(request, "/")


def _sign_in_page(request: Request, next: str, name: str = "", wrong: bool = False, done: str = "") -> HTMLResponse:
    before = identity.anonymous(request)
    return page(
        request,
        "account/sign_in.html",
        identity.person(request),
        422 if wrong else 200,
        name=name,
        next=identity.own_path(next),
        fault=WRONG if wrong else None,
        before=before.count if before else 0,
        open=site_of(request).settings.site.sign_up,
        notice=me.notice(request, done),
    )


# ---- passwords forgotten ----


@router.get("/reset")
def reset_page(request: Request, person: Person) -> Response:
    return page(request, "account/reset.html", person, letters=mailer(os.environ) is not None, sent=False)


@router.post("/reset", dependencies=PROTECTED)
def reset(request: Request, person: Person, name: Line = "") -> Response:
    """Answer the same, as quickly, whether there is such an account: the letter is written afterwards."""
    letters = mailer(os.environ)
    response = page(request, "account/reset.html", person, letters=letters is not None, sent=True)
    if letters is not None:
        response.background = BackgroundTask(_send_links, site_of(request), letters, name.strip())
    return response


def _send_links(site: Site, letters: Mailer, asked: str) -> None:
    """Send a link to every account of this name or address that has an address."""
    if not asked.isprintable():
        return
    people = site.store.people
    named = people.by_name(asked)
    for account in {one.id: one for one in [*people.by_email(asked)[:5], *([named] if named else [])]}.values():
        if account.email:
            _send_link(site, letters, account, account.email)


def _send_link(site: Site, letters: Mailer, account: Volunteer, address: str) -> None:
    t = translator(account.language)
    url = f"{letters.site}/reset/{site.store.people.reset_token(account.id, site.clock())}"
    title = " ".join(site.title.split())
    try:
        subject = t("A new password for {site}", site=title)
        letters.send(address, subject, t(LETTER, name=account.name, site=title, url=url))
    except (OSError, smtplib.SMTPException) as error:
        # Not the exception itself: its text may name the address.
        log.error("a letter could not be sent: look at GREENPEA_SMTP", problem=type(error).__name__)


@router.get("/reset/{token}")
def new_password_page(request: Request, token: str) -> Response:
    works = _works(request, token)
    return _new_password_page(request, token, None if works else USED_LINK, works)


@router.post("/reset/{token}", dependencies=PROTECTED)
def new_password(request: Request, token: str, password: Line = "", again: Line = "") -> Response:
    """Set a new password by a link that works once, and end every session of the account."""
    site = site_of(request)
    if not _works(request, token):
        return _new_password_page(request, token, USED_LINK, False)
    if fault := me.password_fault(password, again):
        return _new_password_page(request, token, fault)
    try:
        account = site.store.people.use_reset_token(token, password, site.clock())
    except GreenpeaError as error:
        return _new_password_page(request, token, str(error))
    if account is None:
        return _new_password_page(request, token, USED_LINK, False)
    identity.end_session(request)
    return _to(request, "/sign-in?done=password")


def _works(request: Request, token: str) -> bool:
    site = site_of(request)
    return site.store.people.reset_open(token, site.clock())


def _new_password_page(request: Request, token: str, fault: str | None, works: bool = True) -> HTMLResponse:
    person = identity.person(request)
    status = 422 if fault else 200
    return page(request, "account/new_password.html", person, status, token=token, fault=fault, works=works)


def _to(request: Request, path: str) -> Response:
    return RedirectResponse(link(request, path), status_code=303)

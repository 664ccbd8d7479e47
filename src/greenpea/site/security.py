"""What every request passes: who may send it, how often and how much; and what every answer says to the browser.

One piece of pure ASGI middleware around all routes, the forms' tokens against forged requests, and the error pages.
`docs/security.md` says what is protected against whom, and what is not.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Mapping
from datetime import timedelta
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from markupsafe import Markup
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from greenpea.errors import GreenpeaError
from greenpea.site.context import page, site_of
from greenpea.site.identity import (
    SAFE_METHODS,
    SESSION,
    bearer,
    own,
    person,
    queued_cookies,
    set_cookie,
    translator_for,
)
from greenpea.site.limits import Limits, address_of, now_of, refuse
from greenpea.store import Role, Volunteer
from greenpea.store.people import name_key

CSRF = "greenpea_csrf"
BODY = 2**20  # bytes that anybody may send
UPLOAD = 2**29  # bytes that the team may upload: a campaign's whole export

HOST = re.compile(r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+])?(?::\d{1,5})?", re.ASCII)

POLICY = (
    "default-src 'none'; script-src 'self' 'nonce-{nonce}'; style-src 'self'; img-src 'self' data: blob:; "
    "font-src 'self'; connect-src 'self'; manifest-src 'self'; worker-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    # Not no-referrer: browsers would then send "Origin: null" with our own forms.
    "referrer-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=(), fullscreen=(self)",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
TRANSPORT = "max-age=31536000"  # this host alone: other sites of the domain may not have encryption

ERRORS = {
    400: ("That did not work", "The browser sent something this site does not understand."),
    401: ("Sign in first", "This is for people who have signed in."),
    403: ("Not allowed", "You may not do this here."),
    404: ("Nothing here", "There is no such page. Perhaps the address was typed wrongly."),
    405: ("That did not work", "This address does not take such a request."),
    413: ("Too large", "What was sent is larger than this site takes."),
    422: ("That did not work", "Something was missing, or not of the kind expected. Go back and look it over."),
    429: ("Too fast", "That was a lot in a short time. Wait a moment, then try again."),
    500: ("Something broke", "That was not your fault. What you have sent before is safe; try again in a moment."),
    503: ("Not ready", "The site is busy or being looked after. Try again in a moment."),
}
FOREIGN = "This came from another site. Open the page here, and try again."
STALE = "This form is out of date, or did not come from this site. Go back, reload the page, and send it again."


def install(app: FastAPI) -> None:
    """Put the middleware around an application and let its errors become pages, or JSON under ``/api``."""
    app.state.limits = Limits(app.state.site.settings.site.per_minute)
    app.add_middleware(Guard)
    app.add_exception_handler(StarletteHTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(GreenpeaError, _on_greenpea_error)


class Guard:
    """Pure ASGI middleware: refuses what is foreign, too often or too large; completes every answer's headers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.small, self.large = RequestBodyLimitMiddleware(app, BODY), RequestBodyLimitMiddleware(app, UPLOAD)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if scope["method"] == "HEAD":  # what a GET would say; the server leaves the body out
            scope = {**scope, "method": "GET"}
        request = Request(scope)
        request.state.nonce = secrets.token_urlsafe(16)
        answer = _Answer(request, send)
        if not HOST.fullmatch(request.headers.get("host", "")):
            return await Response("bad Host header", 400)(scope, receive, answer)
        try:
            await self._pass(request, receive, answer)
        except Exception:
            if not answer.started:
                response = await run_in_threadpool(error_response, request, 500)
                await response(scope, receive, answer)
            raise  # the server writes it to its log

    async def _pass(self, request: Request, receive: Receive, send: Send) -> None:
        app: ASGIApp
        try:
            app = self.small if request.method in SAFE_METHODS else await self._admit(request)
        except HTTPException as refusal:
            app = await run_in_threadpool(_on_http_error, request, refusal)
        await app(request.scope, receive, send)

    async def _admit(self, request: Request) -> ASGIApp:
        """Return the application within the limit of what this request may send. Raises 403, 413 or 429."""
        if not same_origin(request):
            raise HTTPException(403, FOREIGN)
        limits: Limits = request.app.state.limits
        limits.take(request)
        guarded = self.large if await _is_upload(request) else self.small
        declared = request.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > guarded.max_body_size:
            raise HTTPException(413)
        return guarded


class _Answer:
    """An ASGI ``send`` that adds our headers and the cookies queued for the answer."""

    def __init__(self, request: Request, send: Send) -> None:
        self.request, self.send, self.started = request, send, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            message["headers"] = self._complete(list(message.get("headers", [])))
        await self.send(message)

    def _complete(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        if cookies := queued_cookies(self.request):
            # What carries a cookie is for one person: no cache in between may keep it.
            headers = [header for header in headers if header[0] != b"cache-control"] + [
                (b"cache-control", b"no-store")
            ]
            headers += [(b"set-cookie", cookie.encode("latin-1")) for cookie in cookies.values()]
        given = {name for name, _ in headers}
        ours = HEADERS | {"content-security-policy": POLICY.format(nonce=self.request.state.nonce)}
        if self.request.scope["scheme"] == "https":
            ours["strict-transport-security"] = TRANSPORT
        pairs = ((name.encode(), value.encode()) for name, value in ours.items())
        return headers + [(name, value) for name, value in pairs if name not in given]


def same_origin(request: Request) -> bool:
    """Whether a request that changes something was sent by a page of this site, or by no page at all.

    Browsers say so in ``Sec-Fetch-Site`` (on encrypted and local connections), else in ``Origin`` or ``Referer``;
    a script that says nothing carries no one's cookies by accident. Only hosts are compared: a proxy may hide the
    scheme. A bearer token is never sent by a browser by itself.
    """
    if bearer(request) is not None:
        return True
    if said := request.headers.get("sec-fetch-site"):
        return said in ("same-origin", "none")
    for name in ("origin", "referer"):
        if origin := request.headers.get(name):
            return _host(origin) == request.headers.get("host", "").lower()
    return True


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).netloc.lower() or None
    except ValueError:
        return None


async def _is_upload(request: Request) -> bool:
    """Whether a member of the team sends this to a page of the team."""
    if not own(request).startswith("/team/"):
        return False
    someone = await run_in_threadpool(person, request)
    return someone is not None and someone.role.at_least(Role.MODERATOR) and someone.banned_at is None


# ---- passwords and forged requests ----


def check_password(request: Request, name: str, password: str) -> Volunteer | None:
    """Return the volunteer of a name and password, or None; an unknown name takes as long as a wrong password.

    Raises 429 after ten wrong tries of one name from one address; they come back one a minute.
    """
    limits: Limits = request.app.state.limits
    key = f"{address_of(request)} {name_key(name[:100])}"
    refuse(limits.names.take(key, now_of(request)))
    sound = name.isprintable() and _is_text(name + password)
    found = site_of(request).store.people.check_password(*((name, password) if sound else ("", "")))
    if found is not None:
        limits.names.fill(key)
    return found


def _is_text(text: str) -> bool:
    """Whether a string can be written as UTF-8: JSON may bring halves of characters."""
    return text == text.encode("utf-8", "replace").decode()


def csrf_token(request: Request) -> str:
    """Return what a form of this visitor must carry: a signature over a cookie of theirs and their session.

    The cookie alone can be planted by a site on a sibling domain; the session's part cannot be known there.
    """
    if not hasattr(request.state, "csrf"):
        known = request.cookies.get(CSRF, "")
        request.state.csrf = known if len(known) == 43 else secrets.token_urlsafe(32)
        if request.state.csrf != known:
            set_cookie(request, CSRF, request.state.csrf, timedelta(days=365))
    signed = f"{request.state.csrf}|{request.cookies.get(SESSION, '')}".encode("utf-8", "replace")
    return hmac.new(site_of(request).secret, b"greenpea.csrf|" + signed, hashlib.sha256).hexdigest()


def csrf_field(request: Request) -> Markup:
    """Return the hidden input that every form carries."""
    return Markup('<input type="hidden" name="csrf" value="{}">').format(csrf_token(request))


async def protected(request: Request) -> None:
    """Refuse a form without this visitor's token (the field ``csrf``, or the header ``X-CSRF-Token``): a dependency.

    Raises 403. Bearer requests pass: a browser does not send them by itself.
    """
    if bearer(request) is not None:
        return
    given = request.headers.get("x-csrf-token") or (await request.form()).get("csrf")
    text = given if isinstance(given, str) else ""
    if not hmac.compare_digest(text.encode("utf-8", "replace"), csrf_token(request).encode()):
        raise HTTPException(403, STALE)


# ---- errors ----


def error_response(
    request: Request, status: int, words: object = None, headers: Mapping[str, str] | None = None
) -> Response:
    """Return an error as a page, or as JSON ``{"detail": …}`` for scripts; ``words`` None: what is usual."""
    title, usual = ERRORS.get(status, ("That did not work", HTTPStatus(status).phrase))
    if not _wants_page(request) or not isinstance(words, str | None):
        return _json({"detail": usual if words is None else words}, status, headers)
    try:
        response: Response = _error_page(request, status, title, words or usual)
    except Exception:
        if status < 500:
            raise
        # Where the database is gone, a page cannot be made with what it says.
        response = HTMLResponse(
            Markup("<!DOCTYPE html><title>{0}</title><h1>{0}</h1><p>{1}</p>").format(title, usual), status
        )
    response.headers.update(headers or {})
    return response


def _error_page(request: Request, status: int, title: str, words: str) -> Response:
    someone: Volunteer | None = getattr(request.state, "person", None) if status >= 500 else person(request)
    t = translator_for(request, someone)
    return page(request, "error.html", someone, status, title=t(title), words=t(words))


def _wants_page(request: Request) -> bool:
    accepted = request.headers.get("accept", "")
    asks_other = accepted.startswith("image/") or ("json" in accepted and "html" not in accepted)
    return not own(request).startswith("/api/") and not asks_other


def _json(content: object, status: int, headers: Mapping[str, str] | None) -> Response:
    # ASCII, so that half a character that somebody sent can be said back to them.
    return Response(json.dumps(content), status, headers, "application/json")


def _on_http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, StarletteHTTPException):
        raise error
    status, words, headers = error.status_code, error.detail, error.headers
    if status < 400:
        return Response(None, status, headers)
    return error_response(request, status, None if words == HTTPStatus(status).phrase else words, headers)


def _on_invalid(request: Request, error: Exception) -> Response:
    """Say what FastAPI found wrong, without saying back what was sent."""
    if not isinstance(error, RequestValidationError):
        raise error
    if _wants_page(request):
        return error_response(request, 422)
    faults: list[dict[str, Any]] = [{key: fault[key] for key in ("loc", "msg", "type")} for fault in error.errors()]
    return error_response(request, 422, faults)


def _on_greenpea_error(request: Request, error: Exception) -> Response:
    return error_response(request, 422, str(error))

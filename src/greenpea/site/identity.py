"""Who asks: a person signed in by a session, a volunteer known by a signed cookie, or nobody yet.

Two credentials, each signed by the site's secret, as a cookie or as ``Authorization: Bearer``: a session (its token's
hash is in the store, so that it can be ended), and the public id of a volunteer who has not signed up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import quote, urlsplit

from fastapi import Depends, HTTPException, Request
from itsdangerous import BadSignature, Signer
from starlette.requests import HTTPConnection
from starlette.responses import Response

from greenpea.site.context import Site, link, site_of
from greenpea.site.languages import chosen_language, translator
from greenpea.store import Role, Volunteer

SESSION = "greenpea_session"
ANONYMOUS = "greenpea_volunteer"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
SESSION_LASTS = timedelta(days=30)
ANONYMOUS_LASTS = timedelta(days=365)
LONGEST = 300  # characters of a credential; ours have some 100
BANNED = "A moderator has paused your taking part. You can still look around; please write to the team about it."


@dataclass(frozen=True)
class Credential:
    """What a request carries that this site has signed: ``kind`` is `SESSION` or `ANONYMOUS`."""

    kind: str
    value: str


def sign(site: Site, purpose: str, text: str) -> str:
    """Return ``text`` with a signature that holds for one purpose only."""
    return _signer(site, purpose).sign(text).decode()


def unsign(site: Site, purpose: str, signed: str) -> str | None:
    """Return the text that `sign` was given, or None where it was not signed here for this purpose."""
    try:
        return _signer(site, purpose).unsign(signed).decode() if len(signed) <= LONGEST else None
    except (BadSignature, UnicodeError):
        return None


def _signer(site: Site, purpose: str) -> Signer:
    return Signer(site.secret, salt=f"greenpea.{purpose}", key_derivation="hmac", digest_method=hashlib.sha256)


def bearer(request: HTTPConnection) -> str | None:
    """Return the token of an ``Authorization: Bearer`` header, if there is one."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def credentials(request: HTTPConnection) -> Iterator[Credential]:
    """Yield what a request carries with our signature, a session first; nothing is looked up.

    With a bearer token the cookies are not looked at, so that such a request cannot be forged by another site.
    """
    site: Site = request.app.state.site
    token = bearer(request)
    for kind in (SESSION, ANONYMOUS):
        given = request.cookies.get(kind, "") if token is None else token
        if value := unsign(site, kind, given):
            yield Credential(kind, value)


def person(request: Request) -> Volunteer | None:
    """Return who asks, or None where nobody is known yet; a FastAPI dependency. Looked up once a request."""
    if not hasattr(request.state, "person"):
        site = site_of(request)
        found = (_look_up(site, credential) for credential in credentials(request))
        _remember(request, next((someone for someone in found if someone is not None), None))
    known: Volunteer | None = request.state.person
    return known


def _look_up(site: Site, credential: Credential) -> Volunteer | None:
    if credential.kind == SESSION:
        return site.store.people.session(credential.value, site.clock())
    found = site.store.people.by_public(credential.value)
    # Work that joined an account leads to that account, but the old cookie must not open it.
    return found if found is not None and found.anonymous else None


def anonymous(request: Request) -> Volunteer | None:
    """Return the volunteer of the anonymous cookie, also where the person is signed in beside it."""
    found = (_look_up(site_of(request), one) for one in credentials(request) if one.kind == ANONYMOUS)
    return next(found, None)


def volunteer(request: Request) -> Volunteer:
    """Return who asks, made now and given a cookie where nobody was known; a FastAPI dependency.

    Raises 403 where a banned volunteer sends something, 401 where a bearer token is not known.
    """
    found = person(request)
    if found is None and bearer(request) is not None:
        raise HTTPException(401, "This token is not known, or has ended.", {"WWW-Authenticate": "Bearer"})
    if found is None:
        site = site_of(request)
        found = site.store.people.anonymous(site.clock())
        _remember(request, found)
        set_cookie(request, ANONYMOUS, anonymous_token(site, found), ANONYMOUS_LASTS)
    if found.banned_at and request.method not in SAFE_METHODS:
        raise HTTPException(403, BANNED)
    return found


def signed_in(request: Request) -> Volunteer:
    """Return the person signed in, a banned one too (their data stays theirs); a FastAPI dependency.

    Raises a redirect to the sign-in page for browsers, 401 for scripts.
    """
    found = person(request)
    if found is not None and not found.anonymous:
        return found
    if own(request).startswith("/api/"):
        raise HTTPException(401, "Sign in first.", {"WWW-Authenticate": "Bearer"})
    back = own(request) if request.method in SAFE_METHODS else "/"
    raise HTTPException(303, headers={"Location": link(request, f"/sign-in?next={quote(back, safe='/')}")})


def require(role: Role) -> Callable[..., Volunteer]:
    """Return a FastAPI dependency: the person signed in, if they may do what ``role`` may and are not banned."""

    def required(request: Request, someone: Volunteer = Depends(signed_in)) -> Volunteer:  # noqa: B008
        if someone.banned_at is not None:
            raise HTTPException(403, BANNED)
        if not someone.role.at_least(role):
            t = translator_for(request, someone)
            raise HTTPException(403, t("Your role ({role}) does not open this page.", role=t(someone.role.value)))
        return someone

    return required


def anonymous_token(site: Site, volunteer: Volunteer) -> str:
    """Return the credential of a volunteer who has not signed up."""
    return sign(site, ANONYMOUS, volunteer.public)


def open_session(site: Site, volunteer: Volunteer) -> str:
    """Open a session and return its credential; it lasts for `SESSION_LASTS`."""
    return sign(site, SESSION, site.store.people.open_session(volunteer.id, site.clock(), SESSION_LASTS))


def begin_session(request: Request, volunteer: Volunteer) -> None:
    """Sign a person in: a new session whatever the request carried, so that none can be planted beforehand."""
    end_session(request)
    set_cookie(request, SESSION, open_session(site_of(request), volunteer), SESSION_LASTS)
    _remember(request, volunteer)


def end_session(request: Request) -> None:
    """End the session that the request carries, in the store as well as in the browser."""
    for credential in credentials(request):
        if credential.kind == SESSION:
            site_of(request).store.people.close_session(credential.value)
    forget_cookie(request, SESSION)
    _remember(request, None)


def _remember(request: Request, someone: Volunteer | None) -> None:
    """Keep who asks for the rest of this request; its log line names the public id."""
    request.state.person = someone
    request.state.volunteer = someone.public if someone else None


def set_cookie(request: Request, name: str, value: str, lasting: timedelta) -> None:
    """Have the answer set a cookie that no script and no other site can use, encrypted connections only if this is one.

    The middleware of `greenpea.site.security` puts it on the answer, whichever response the route returns.
    """
    carrier = Response()
    carrier.set_cookie(
        name,
        value,
        max_age=int(lasting.total_seconds()),
        path=link(request, "") or "/",
        secure=request.scope["scheme"] == "https",
        httponly=True,
        samesite="lax",
    )
    queued_cookies(request)[name] = carrier.headers["set-cookie"]


def forget_cookie(request: Request, name: str) -> None:
    """Have the answer remove a cookie, if the request carries it."""
    queued_cookies(request).pop(name, None)
    if name in request.cookies:
        set_cookie(request, name, "", timedelta(0))


def queued_cookies(request: HTTPConnection) -> dict[str, str]:
    """Return the cookies that the answer will set: name → header."""
    if not hasattr(request.state, "cookies"):
        request.state.cookies = {}
    cookies: dict[str, str] = request.state.cookies
    return cookies


def translator_for(request: Request, someone: Volunteer | None) -> Callable[..., str]:
    """Return what translates the site's own texts into the language of who asks."""
    languages = site_of(request).store.workflows.active().workflow.languages
    return translator(chosen_language(request, someone, languages))


def own(request: HTTPConnection) -> str:
    """Return the path and query of a request as on a site without a prefix."""
    # Not request.url: that is put together with the Host header, which may hold anything.
    path, root = str(request.scope["path"]), str(request.scope.get("root_path", "")).rstrip("/")
    if root and (path == root or path.startswith(root + "/")):
        path = path[len(root) :] or "/"
    query = request.scope.get("query_string", b"").decode("latin-1")
    return f"{path}?{query}" if query else path


def own_path(path: str | None, otherwise: str = "/") -> str:
    """Return ``path`` where it is one on this site, else ``otherwise``: what a person types must not lead elsewhere."""
    if not path or not path.startswith("/") or path.startswith("//") or "\\" in path or not path.isprintable():
        return otherwise
    try:
        parts = urlsplit(path)
    except ValueError:
        return otherwise
    return otherwise if parts.scheme or parts.netloc else path

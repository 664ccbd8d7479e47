"""What a hostile visitor may try: forged forms, floods, oversized bodies, odd paths, markup in every field."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import update
from starlette.testclient import TestClient
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from greenpea.errors import GreenpeaError
from greenpea.site import identity, limits, security
from greenpea.store import Role
from greenpea.store.schema import volunteers
from site_hands import serving
from test_accounts import account, member
from visitors import PASSWORD, Place, Visitor, place


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Place]:
    with place(tmp_path, per_minute=1000) as made:
        yield made


# ---- forged forms ----


def form(visitor: Visitor, token: str | None, **headers: str) -> Any:
    """Send the smallest form of the site."""
    return visitor.client.post("/favourite", data={"subject": 1} | ({"csrf": token} if token else {}), headers=headers)


def test_a_form_needs_the_token_of_its_visitor(site: Place) -> None:
    ada, mallory = site.visitor(), site.visitor()
    mine, theirs = ada.token(), mallory.token()
    for wrong in (None, "", "x", "ä", mine[:-1], mine.upper() + "0", theirs, "0" * 64):
        answer = form(ada, wrong)
        assert (answer.status_code, security.STALE in answer.text) == (403, True)
    assert form(ada, mine).status_code == 303
    assert form(ada, None, **{"x-csrf-token": mine}).status_code == 303
    assert form(ada, mine, **{"x-csrf-token": theirs}).status_code == 403


def test_a_token_is_of_one_session(site: Place) -> None:
    ada = site.visitor()
    before = ada.token()
    ada.join()
    assert form(ada, before).status_code == 403
    during = ada.token("/me/settings")
    assert form(ada, during).status_code == 303
    ada.send("/sign-out")
    assert form(ada, during).status_code == 403


def test_a_token_planted_with_its_cookie_does_not_hold_in_a_session(site: Place) -> None:
    ada, mallory = member(site), site.visitor()
    theirs = mallory.token()
    ada.client.cookies.set(security.CSRF, mallory.cookies[security.CSRF], domain="testserver.local")
    assert form(ada, theirs).status_code == 403


def test_every_form_post_is_protected(site: Place) -> None:
    """Each route that takes a form without the token says 403; the JSON API is guarded by origin and content type."""
    visitor = member(site, role=Role.OWNER)
    checked = []
    for route in routes(site.app):
        if "POST" in route.methods and not route.path.startswith("/api/"):
            answer = visitor.client.post(filled(route.path), data={"csrf": "0" * 64})
            assert answer.status_code == 403, route.path
            checked.append(route.path)
    assert {"/join", "/sign-in", "/sign-out", "/reset", "/me/delete", "/favourite"} <= set(checked)


def test_a_json_route_does_not_take_a_form_of_another_site(site: Place) -> None:
    ada = member(site)
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        answer = ada.client.post(
            "/api/v1/sessions", content='{"name":"a","password":"b"}', headers={"content-type": kind}
        )
        assert answer.status_code == 422, kind


@pytest.mark.parametrize(
    ("headers", "admitted"),
    [
        ({}, True),
        ({"origin": "http://testserver"}, True),
        ({"origin": "https://testserver"}, True),  # the proxy did not say that it encrypts
        ({"origin": "HTTP://TESTSERVER"}, True),
        ({"origin": "http://testserver:8000"}, False),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "http://testserver.evil.example"}, False),
        ({"origin": "null"}, False),
        ({"origin": "http://[broken"}, False),
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "none"}, True),
        ({"sec-fetch-site": "same-site"}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "cross-site", "origin": "http://testserver"}, False),
        ({"sec-fetch-site": "same-origin", "origin": "null"}, True),
        ({"referer": "http://testserver/me"}, True),
        ({"referer": "http://evil.example/testserver"}, False),
        ({"origin": "http://evil.example", "referer": "http://testserver/"}, False),
        ({"origin": "http://evil.example", "authorization": "Bearer x"}, True),
    ],
)
def test_what_comes_from_another_site_is_refused(site: Place, headers: dict[str, str], admitted: bool) -> None:
    visitor = site.visitor()
    answer = visitor.client.post("/api/v1/volunteers", headers=headers)
    assert answer.status_code == (201 if admitted else 403)
    assert visitor.get("/credits", headers=headers).status_code == 200  # reading is free
    if not admitted:
        assert answer.json() == {"detail": security.FOREIGN}


# ---- floods ----


@given(
    burst=st.integers(1, 6),
    seconds=st.integers(1, 50),
    steps=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 40)), max_size=40),
)
def test_buckets_are_token_buckets(burst: int, seconds: int, steps: list[tuple[str, int]]) -> None:
    buckets, now = limits.Buckets(burst, seconds), 1e9
    tokens, last = {"a": float(burst), "b": float(burst)}, {"a": now, "b": now}
    for key, pause in steps:
        now += pause / 4
        tokens[key] = min(burst, tokens[key] + (now - last[key]) * burst / seconds)
        last[key] = now
        wait = buckets.take(key, now)
        if wait == 0:
            tokens[key] -= 1
            assert tokens[key] > -1e-4
        else:
            assert tokens[key] < 1 + 1e-4
            assert wait == pytest.approx((1 - tokens[key]) * seconds / burst, abs=1e-3)


def test_buckets_are_bounded_and_forget_the_longest_unused() -> None:
    buckets = limits.Buckets(1, 1000, most=100)
    for number in range(1000):
        assert buckets.take(str(number), 0.0) == 0
    assert len(buckets.full_at) == 100
    assert buckets.take("999", 0.0) > 0
    assert buckets.take("0", 0.0) == 0


def test_a_clock_that_is_set_back_shuts_nobody_out_for_longer_than_a_bucket_takes() -> None:
    buckets = limits.Buckets(5, 60)
    assert buckets.take("a", 1e9) == 0
    assert buckets.take("a", 1e9 - 3600) <= 3600 + 60


def test_guessing_a_password_is_slow(site: Place) -> None:
    site.store.people.sign_up("Ada", PASSWORD, site.clock())
    visitor = site.visitor()
    answers = [visitor.sign_in("Ada" if n % 2 else "ADA", "a wrong guess") for n in range(11)]
    assert [answer.status_code for answer in answers] == [422] * 10 + [429]
    assert answers[-1].headers["retry-after"] == "60"
    assert "Too fast" in answers[-1].text
    script = visitor.client.post("/api/v1/sessions", json={"name": "ada", "password": PASSWORD})
    assert script.status_code == 429
    # Another name, and another address, are not shut out; and time mends it.
    assert visitor.sign_in("Grace", "a wrong guess").status_code == 422
    assert site.visitor(client=("198.51.100.7", 1)).sign_in().status_code == 303
    site.clock.pass_(minutes=1)
    assert visitor.sign_in().status_code == 303
    assert [visitor.sign_in(password="a wrong guess").status_code for _ in range(11)].count(429) == 1


@pytest.mark.parametrize(
    ("path", "most"), [("/sign-in", 30), ("/join", 60), ("/reset", 10), ("/join/x", 60), ("/reset/x", 10)]
)
def test_pages_that_can_be_guessed_at_have_tight_limits(site: Place, path: str, most: int) -> None:
    visitor = site.visitor()
    token = visitor.token()
    found = [visitor.client.post(path, data={"csrf": token, "name": f"n{n}"}).status_code for n in range(most + 1)]
    assert 429 not in found[:-1]
    assert found[-1] == 429
    assert visitor.get(path).status_code in (200, 422)  # reading is free
    assert form(visitor, token).status_code == 303  # and so is classifying


def test_strangers_at_an_address_share_what_each_volunteer_has_alone(tmp_path: Path) -> None:
    with place(tmp_path, per_minute=5) as site:
        pupils = [site.visitor() for _ in range(5)]
        for pupil in pupils:
            pupil.begin()
        assert site.visitor().client.post("/api/v1/volunteers").status_code == 429
        # A classroom goes on behind its one address, each with a share of their own.
        for pupil in pupils:
            assert [pupil.client.post("/api/v1/next", json={}).status_code for _ in range(6)] == [200] * 5 + [429]
        stranger = site.visitor(client=("198.51.100.7", 1))
        assert stranger.client.post("/api/v1/volunteers").status_code == 201


def test_an_address_as_a_whole_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CROWD", 2)
    with place(tmp_path, per_minute=3) as site:
        pupils = [site.visitor() for _ in range(3)]
        for pupil in pupils:
            pupil.begin()
        found = [pupil.client.post("/api/v1/next", json={}).status_code for _ in range(3) for pupil in pupils]
        assert found == [200] * 6 + [429] * 3


def test_made_up_cookies_are_strangers(tmp_path: Path) -> None:
    with place(tmp_path, per_minute=3) as site:
        visitor = site.visitor()
        for number in range(4):
            cookies = {"cookie": f"greenpea_session={number}.x; greenpea_volunteer={number}.y"}
            last = visitor.client.post("/api/v1/volunteers", headers=cookies)
        assert last.status_code == 429


@pytest.mark.parametrize(
    ("host", "counted"),
    [("192.0.2.1", "192.0.2.1"), ("2001:db8:1:2:3::9", "2001:db8:1:2::/64"), ("testclient", "testclient")],
)
def test_addresses_are_counted_by_network(host: str, counted: str) -> None:
    request = security.Request({"type": "http", "client": (host, 1), "headers": []})
    assert limits.address_of(request) == counted


def test_an_address_comes_from_a_proxy_only_where_it_is_trusted(tmp_path: Path) -> None:
    with place(tmp_path, per_minute=2) as site:
        for trusted, last in (("192.0.2.9", 429), ("192.0.2.1", 201)):
            client = TestClient(ProxyHeadersMiddleware(site.app, trusted), client=("192.0.2.1", 1))  # type: ignore[arg-type]
            found = [
                client.post("/api/v1/volunteers", headers={"x-forwarded-for": f"198.51.100.{n}"}).status_code
                for n in range(3)
            ]
            assert found == [201, 201, last]


# ---- too much ----


def test_a_body_that_says_it_is_too_large_is_not_read(site: Place) -> None:
    visitor = site.visitor()
    answer = visitor.client.post("/sign-in", content=b"name=" + b"x" * security.BODY)
    assert (answer.status_code, "Too large" in answer.text) == (413, True)
    answer = visitor.client.post("/api/v1/next", content=b" " * (security.BODY + 1))
    assert (answer.status_code, answer.json()) == (413, {"detail": security.ERRORS[413][1]})


def chunked(
    app: FastAPI, path: str, first: bytes, kind: str, chunks: int = 1000, **headers: str
) -> tuple[int, int, str]:
    """Send a body in chunks of 64 KiB without its length; return the status, how many were read, the text."""
    read, sent = 0, []

    async def receive() -> dict[str, Any]:
        nonlocal read
        read += 1
        return {"type": "http.request", "body": first if read == 1 else b"a" * 65536, "more_body": read < chunks}

    async def send(message: Any) -> None:
        sent.append(message)

    pairs = {"host": "testserver", "content-type": kind, "transfer-encoding": "chunked"} | headers
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "server": ("testserver", 80),
        "client": ("192.0.2.1", 1),
        "http_version": "1.1",
        "headers": [(name.encode(), value.encode()) for name, value in pairs.items()],
    }
    asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], read, body.decode()


PART = b'--zz\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
FIELD = b'--zz\r\nContent-Disposition: form-data; name="current"\r\n\r\n'


@pytest.mark.parametrize(
    ("path", "first", "kind"),
    [
        ("/sign-in", b"name=", "application/x-www-form-urlencoded"),
        ("/api/v1/sessions", b'{"name": "', "application/json"),
        ("/sign-out", PART, "multipart/form-data; boundary=zz"),
        ("/sign-out", FIELD, "multipart/form-data; boundary=zz"),
    ],
)
def test_a_body_that_does_not_say_how_long_it_is_ends_at_the_limit(
    site: Place, path: str, first: bytes, kind: str
) -> None:
    status, read, text = chunked(site.app, path, first, kind)
    assert status in (400, 413)  # 400: one field alone has a limit as well
    assert read <= security.BODY // 65536 + 2
    assert "Traceback" not in text


def test_only_the_team_may_upload_more(site: Place) -> None:
    ada, rosa = member(site), member(site, "Rosa", Role.SCIENTIST)
    content = b"x" * (security.BODY + 1)
    assert ada.client.post("/team/workflow/preview", content=content).status_code == 413
    assert rosa.client.post("/team/workflow/preview", content=content).status_code != 413
    assert rosa.client.post("/sign-in", content=content).status_code == 413


@pytest.mark.parametrize("length", ["-1", "1e9", "", "99999999999999999999999"])
def test_an_odd_content_length_breaks_nothing(site: Place, length: str) -> None:
    status, _, _ = chunked(site.app, "/api/v1/next", b"{", "application/json", 2, **{"content-length": length})
    assert 400 <= status < 500


# ---- what answers say ----


def routes(app: FastAPI) -> list[Any]:
    """Every route of the site, of included routers as well."""
    return [
        route
        for route in iter_route_contexts(app.routes)
        if getattr(route, "path", None) and getattr(route, "methods", None)
    ]


def filled(path: str, value: str = "1") -> str:
    return re.sub(r"{[^}]+}", value, path)


def test_every_answer_carries_the_headers(site: Place) -> None:
    visitor = member(site, role=Role.OWNER)
    paths = {filled(route.path) for route in routes(site.app)} | {"/nothing-here", "/static/style.css", "/static/none"}
    assert len(paths) > 40
    for path in sorted(paths):
        for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"):
            answer = visitor.client.request(method, path)
            assert answer.status_code < 500, (method, path)
            for name, value in security.HEADERS.items():
                assert answer.headers.get(name) == value, (method, path, name)
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy, (method, path)
            assert "unsafe" not in policy, (method, path)
            assert "strict-transport-security" not in answer.headers


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/classify", "/api/v1/workflow", "/nowhere"])
def test_what_looks_only_whether_a_page_is_there_is_answered(site: Place, path: str) -> None:
    with serving(site.app) as url:
        seen, asked = httpx.get(url + path), httpx.head(url + path)
    assert asked.status_code == seen.status_code
    assert asked.content == b""
    assert asked.headers["content-type"] == seen.headers["content-type"]
    assert "content-security-policy" in asked.headers


def test_the_nonce_is_new_every_time(site: Place) -> None:
    visitor = site.visitor()
    nonces = {
        re.search(r"'nonce-([^']+)'", visitor.get("/credits").headers["content-security-policy"]) for _ in range(5)
    }
    assert len({found[1] for found in nonces if found}) == 5


@pytest.mark.parametrize(
    ("trusted", "scheme", "secure"),
    [("192.0.2.1", "https", True), ("192.0.2.1", "http", False), ("192.0.2.9", "https", False)],
)
def test_cookies_behind_a_proxy(site: Place, trusted: str, scheme: str, secure: bool) -> None:
    site.store.people.sign_up("Ada", PASSWORD, site.clock())
    wrapped = ProxyHeadersMiddleware(site.app, trusted)  # type: ignore[arg-type]
    # The browser is on https; between the proxy and us it is http.
    visitor = Visitor(wrapped, client=("192.0.2.1", 1), headers={"x-forwarded-proto": scheme})  # type: ignore[arg-type]
    started = visitor.client.post("/api/v1/next", json={})
    page = visitor.get("/sign-in")
    token = re.search(r'name="csrf" value="(\w+)"', page.text)
    assert token is not None
    crumbs = f"{security.CSRF}={re.findall(security.CSRF + '=([^;]+)', page.headers['set-cookie'])[0]}"
    fields = {"csrf": token[1], "name": "Ada", "password": PASSWORD}
    signed = visitor.client.post("/sign-in", data=fields, headers={"cookie": crumbs, "origin": "https://testserver"})
    assert signed.status_code == 303
    for answer, name in ((started, identity.ANONYMOUS), (page, security.CSRF), (signed, identity.SESSION)):
        cookie = next(one for one in answer.headers.get_list("set-cookie") if one.startswith(name))
        assert ("; Secure" in cookie) is secure
        assert "; HttpOnly" in cookie
        assert "; SameSite=lax" in cookie
        assert "; Path=/" in cookie
        assert "domain" not in cookie.lower()
        assert answer.headers["cache-control"] == "no-store"
        assert ("strict-transport-security" in answer.headers) is secure


def test_a_fault_of_ours_is_a_page_without_its_traceback(site: Place) -> None:
    @site.app.get("/broken")
    @site.app.get("/api/v1/broken")
    def broken() -> None:
        raise RuntimeError("the secret of the house")

    visitor = site.visitor(raise_server_exceptions=False)
    answer = visitor.get("/broken")
    assert (answer.status_code, "Something broke" in answer.text) == (500, True)
    assert "content-security-policy" in answer.headers
    api = visitor.get("/api/v1/broken")
    assert (api.status_code, api.json()) == (500, {"detail": security.ERRORS[500][1]})
    for one in (answer, api):
        assert "secret of the house" not in one.text
        assert "Traceback" not in one.text
    # The server still learns of it, for its log.
    with pytest.raises(RuntimeError, match="secret of the house"):
        site.visitor().get("/broken")


def test_a_fault_while_the_database_is_gone_is_a_page_as_well(site: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any) -> None:
        raise ConnectionError("the database at 10.0.0.5 is gone")

    monkeypatch.setattr(type(site.store.workflows), "active", gone)
    answer = site.visitor(raise_server_exceptions=False).get("/credits")
    assert (answer.status_code, "Something broke" in answer.text) == (500, True)
    assert "10.0.0.5" not in answer.text
    assert "content-security-policy" in answer.headers


def test_faults_of_a_person_are_pages_for_browsers_and_json_for_scripts(site: Place) -> None:
    @site.app.get("/mistaken")
    @site.app.get("/api/v1/mistaken")
    def mistaken() -> None:
        raise GreenpeaError("row 3, column 'ra': '<b>' is not a number")

    visitor = site.visitor()
    answer = visitor.get("/mistaken")
    assert (answer.status_code, "row 3, column &#39;ra&#39;: &#39;&lt;b&gt;&#39;" in answer.text) == (422, True)
    assert visitor.get("/api/v1/mistaken").json()["detail"].startswith("row 3")
    assert visitor.get("/mistaken", headers={"accept": "application/json"}).json()["detail"].startswith("row 3")
    assert visitor.get("/nothing", headers={"accept": "image/avif,*/*"}).json() == {"detail": security.ERRORS[404][1]}
    german = visitor.get("/nothing", headers={"accept-language": "de"})
    assert "Hier ist nichts" in german.text


ODD_JSON = [
    '{"name": "\\ud800", "password": "\\ud800"}',
    '{"name": "a\\u0000", "password": "aaaaaaaaaa"}',
    '{"name": NaN}',
    '{"\\ud800": 1}',
    "[" * 5000,
    "\x00",
]


@pytest.mark.parametrize("body", ODD_JSON)
def test_odd_json_is_refused_and_not_said_back(site: Place, body: str) -> None:
    answer = site.visitor().client.post("/api/v1/sessions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 401, 422)
    json.loads(answer.text)
    assert '"input"' not in answer.text


# ---- odd paths ----

TRAVERSALS = [
    "../../../etc/passwd",
    "..%2f..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/etc/passwd",
    "..%5c..%5cetc%5cpasswd",
    "....//....//etc/passwd",
    "%2fetc%2fpasswd",
    "file:%2f%2f%2fetc%2fpasswd",
    "store.sqlite",
    "..%2fstore.sqlite",
    "..%252f..%252fstore.sqlite",
    "campaign.toml",
    "%00",
    "%ff",
    "%E2%80%AE",
    "-1",
    "1e9",
    "99999999999999999999999",
    "a" * 3000,
    "'%20OR%201=1--",
    "%3Cscript%3Ealert(1)%3C%2Fscript%3E",
]


def test_no_path_parameter_reaches_a_file_or_breaks(site: Place) -> None:
    visitor = member(site, role=Role.OWNER)
    paths = [route.path for route in routes(site.app) if "{" in route.path] + ["/static/{path}"]
    for path in paths:
        for attempt in TRAVERSALS:
            answer = visitor.get(filled(path, attempt))
            assert answer.status_code < 500, (path, attempt)
            assert b"root:" not in answer.content, (path, attempt)
            assert b"SQLite format" not in answer.content, (path, attempt)
            if answer.headers.get("content-type", "").startswith("text/html"):
                assert "<script>alert" not in answer.text, (path, attempt)


@pytest.mark.parametrize("host", ["[", "a/b", "a@b", "a b", "évil", 'a"><b>', "a:b", "a?x", "[::1", "a" * 70000 + "/"])
def test_an_odd_host_is_refused(site: Place, host: str) -> None:
    answer = site.visitor().client.get("/credits", headers={b"host": host.encode()})
    assert answer.status_code == 400
    assert "content-security-policy" in answer.headers


@pytest.mark.parametrize("host", ["example.org", "example.org:8000", "[2001:db8::1]:80", "my_host", "192.0.2.1"])
def test_a_sound_host_is_not(site: Place, host: str) -> None:
    assert site.visitor().client.get("/credits", headers={"host": host}).status_code == 200


# ---- markup and SQL in every field ----

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'; DROP TABLE volunteers; --",
    "' OR '1'='1",
    "{{ 7*7 }}",
    "%s%n",
    "{name}",
    "\x00",
    "\u202e",
    "\ufffe",
    "a\r\nset-cookie: x=y",
    "😀" * 200,
    "javascript:alert(1)",
]


class Outline(HTMLParser):
    """The elements and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))


def dangers(text: str) -> list[str]:
    """What a strict policy would refuse, or would have to: inline scripts, styles, handlers, script addresses."""
    found = []
    for tag, attributes in Outline(text).elements:
        inert = attributes.get("type") in ("application/json", "importmap") or "nonce" in attributes
        if tag == "style" or (tag == "script" and "src" not in attributes and not inert):
            found.append(f"<{tag}>")
        found += [f"<{tag} {name}>" for name in attributes if name == "style" or name.startswith("on")]
        found += [f"<{tag} {name}>" for name in ("href", "src", "action") if "script:" in (attributes.get(name) or "")]
    return found


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_in_every_field_of_every_form(site: Place, text: str) -> None:
    ada = member(site, role=Role.OWNER)
    ada.send("/me/settings", language=text, email=text, current=text, credited=text)
    ada.send("/me/password", current=text, password=text, again=text)
    ada.send("/favourite", subject=text, on=text, next=text)
    ada.send("/me/delete", current=text)
    for page in ("/me", "/me/favourites", "/me/settings", "/credits", "/team/volunteers"):
        answer = ada.get(page, params={"done": text, "search": text, "next": text, "order": text})
        assert (answer.status_code, dangers(answer.text)) == (200, []), page
    visitor = site.visitor()
    fields = dict.fromkeys(("name", "password", "again", "email", "language", "next"), text)
    answers = [visitor.send(path, **fields) for path in ("/join", "/sign-in", "/reset", "/reset/x", "/join/x")]
    answers += [visitor.join(text), visitor.join("Bob", email=text), visitor.join("Bo", language=text, next=text)]
    for answer in answers:
        assert answer.status_code < 500
        assert dangers(answer.text) == []
        assert "x" not in answer.cookies
    assert account(site).role is Role.OWNER


@pytest.mark.parametrize("name", ["<b>x</b>", "a'b", 'a"b', "Ada & Co", "O'Neil; DROP TABLE volunteers"])
def test_names_are_shown_as_text(site: Place, name: str) -> None:
    site.store.people.sign_up("Plain", PASSWORD, site.clock())
    changed = update(volunteers).where(volunteers.c.name == "Plain").values(name=name, count=1)
    site.store.database.write(lambda connection: connection.execute(changed))  # as an import may have left it
    visitor = site.visitor()
    visitor.sign_in("Plain")
    for page in ("/credits", "/me", "/me/settings"):
        text = visitor.get(page).text
        assert "<b>x</b>" not in text
        assert dangers(text) == []


def test_no_template_holds_an_inline_script_style_or_handler() -> None:
    folder = Path(str(resources.files("greenpea.site"))) / "templates"
    templates = sorted(folder.rglob("*.html"))
    assert len(templates) > 15
    for template in templates:
        source = re.sub(r"{#.*?#}|{%.*?%}", "", template.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert dangers(re.sub(r"{{.*?}}", "x", source, flags=re.DOTALL)) == [], template.name


def test_every_form_of_every_template_carries_the_token() -> None:
    folder = Path(str(resources.files("greenpea.site"))) / "templates"
    for template in sorted(folder.rglob("*.html")):
        for found in re.findall(r"<form\b.*?</form>", template.read_text(encoding="utf-8"), re.DOTALL):
            assert 'method="post"' not in found or "csrf_field()" in found, template.name


def test_every_page_shown_is_free_of_inline_code(site: Place) -> None:
    visitor = member(site, role=Role.OWNER)
    for route in routes(site.app):
        if "GET" in route.methods and "{" not in route.path:
            answer = visitor.get(route.path)
            if answer.headers.get("content-type", "").startswith("text/html"):
                assert dangers(answer.text) == [], route.path

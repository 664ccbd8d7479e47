"""Accounts: work that follows, sessions that end, links that work once, data that can be taken and deleted."""

from __future__ import annotations

import ast
import inspect
import re
import socket
import threading
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from greenpea.errors import GreenpeaError
from greenpea.site import accounts, identity, me, security
from greenpea.site.languages import translations
from greenpea.site.mail import is_address, mailer
from greenpea.store import Counted, Role, Volunteer
from visitors import PASSWORD, Place, Visitor, place


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Place]:
    with place(tmp_path) as made:
        yield made


def volunteer_of(site: Place, public: str) -> Volunteer:
    found = site.store.people.by_public(public)
    assert found is not None
    return found


def account(site: Place, name: str = "Ada") -> Volunteer:
    found = site.store.people.by_name(name)
    assert found is not None
    return found


def member(site: Place, name: str = "Ada", role: Role = Role.VOLUNTEER, **how: Any) -> Visitor:
    """A visitor signed in to a new account."""
    site.store.people.sign_up(name, PASSWORD, site.clock(), role=role)
    visitor = site.visitor(**how)
    assert visitor.sign_in(name).status_code == 303
    return visitor


# ---- joining and signing in ----


def test_anonymous_work_follows_at_sign_up(site: Place) -> None:
    ada = site.visitor()
    public = ada.begin()
    site.classify(volunteer_of(site, public), "s0")
    assert "Your 1 classification so far comes with you" in ada.get("/join").text
    answer = ada.join(language="de")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert ada.me()["name"] == "Ada"
    assert account(site).count == 1
    assert account(site).language == "de"
    assert "s0" in ada.get("/me").text


def test_anonymous_work_merges_at_sign_in_and_the_later_duplicate_does_not_count(site: Place) -> None:
    member(site)
    site.classify(account(site), "s0")
    ada = site.visitor()
    before = volunteer_of(site, ada.begin())
    for subject in ("s0", "s1"):
        site.classify(before, subject)
    assert "Add the 2 classifications made on this device" in ada.get("/sign-in").text
    assert ada.sign_in(along="true").status_code == 303
    mine = site.store.classifications.of_volunteer(account(site).id)
    assert [(one.subject_id, one.counted) for one in mine] == [
        ("s1", Counted.YES),
        ("s0", Counted.REPEATED),
        ("s0", Counted.YES),
    ]
    assert site.store.classifications.recount() == 0
    assert "seen before: counted once" in ada.get("/me").text
    assert identity.ANONYMOUS not in ada.cookies


def test_anonymous_work_stays_where_the_box_is_not_ticked(site: Place) -> None:
    member(site)
    ada = site.visitor()
    public = ada.begin()
    site.classify(volunteer_of(site, public), "s1")
    ada.sign_in()
    assert site.store.classifications.of_volunteer(account(site).id) == []
    ada.send("/sign-out")
    assert ada.me()["public"] == public


@pytest.mark.parametrize("way", ["join", "sign_in"])
def test_an_old_anonymous_cookie_does_not_open_the_account(site: Place, way: str) -> None:
    if way == "sign_in":
        site.store.people.sign_up("Ada", PASSWORD, site.clock())
    ada, thief = site.visitor(), site.visitor()
    ada.begin()
    stolen = ada.cookies[identity.ANONYMOUS]
    assert (ada.join() if way == "join" else ada.sign_in(along="true")).status_code == 303
    thief.client.cookies.set(identity.ANONYMOUS, stolen)
    assert thief.get("/api/v1/me").status_code == 401
    assert thief.get("/api/v1/me", headers={"authorization": f"Bearer {stolen}"}).status_code == 401
    assert thief.get("/me/settings").headers["location"].startswith("/sign-in")


def test_a_session_cannot_be_planted(site: Place) -> None:
    mallory = member(site, "Mallory")
    site.store.people.sign_up("Ada", PASSWORD, site.clock())
    planted = mallory.cookies[identity.SESSION]
    ada = site.visitor()
    ada.client.cookies.set(identity.SESSION, planted, domain="testserver.local")
    ada.client.cookies.set(security.CSRF, mallory.cookies[security.CSRF], domain="testserver.local")
    assert ada.sign_in().status_code == 303
    assert ada.me()["name"] == "Ada"
    assert ada.cookies[identity.SESSION] != planted
    assert mallory.get("/api/v1/me").status_code == 401  # the planted session has ended


def test_every_sign_in_has_its_own_session_and_sign_out_ends_it(site: Place) -> None:
    first = member(site)
    second = site.visitor()
    second.sign_in()
    session = first.cookies[identity.SESSION]
    assert session != second.cookies[identity.SESSION]
    assert first.send("/sign-out").headers["location"] == "/"
    assert identity.SESSION not in first.cookies
    first.client.cookies.set(identity.SESSION, session)
    assert first.get("/api/v1/me").status_code == 401
    assert second.me()["name"] == "Ada"


def test_a_session_ends_after_thirty_days(site: Place) -> None:
    ada = member(site)
    site.clock.pass_(days=29)
    assert ada.me()["name"] == "Ada"
    site.clock.pass_(days=2)
    assert ada.get("/api/v1/me").status_code == 401


def test_an_unknown_name_and_a_wrong_password_look_the_same(site: Place) -> None:
    site.store.people.sign_up("Ada", PASSWORD, site.clock())
    visitor = site.visitor()
    pages = [visitor.sign_in(name, "not the password").text.replace(name, "") for name in ("Ada", "Eve", "E\x00ve")]
    assert [accounts.WRONG in page for page in pages] == [True, True, True]
    # What is secret of a page is new in each; the rest is equal.
    assert len({re.sub(r"value=\"[^\"]*\"", "", page) for page in pages}) == 1


def test_names_are_the_same_whatever_their_capitals_and_spaces(site: Place) -> None:
    visitor = site.visitor()
    assert visitor.join("Ada  Lovelace").status_code == 303
    other = site.visitor()
    assert "taken" in other.join("ADA LOVELACE").text
    assert other.sign_in(" ada lovelace ").status_code == 303


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"password": "short", "again": "short"}, "10 to 256 characters"),
        ({"password": "ada lovelace", "again": "ada lovelace", "name": "Ada Lovelace"}, "guessed first"),
        ({"password": "Password123", "again": "Password123"}, "guessed first"),
        ({"again": "something else"}, "The two passwords are not the same"),
        ({"name": ""}, "A name has"),
        ({"name": "ada@example.org"}, "A name has"),
        ({"name": "not-logged-in-1"}, "without an account"),
        ({"name": "Ada\u202eevil"}, "A name has"),
        ({"email": "nobody"}, "does not look like an e-mail address"),
        ({"email": "a@b.c\r\nBcc: eve@example.org"}, "does not look like an e-mail address"),
    ],
)
def test_a_form_that_will_not_do_says_why_and_keeps_what_was_typed(
    site: Place, fields: dict[str, str], words: str
) -> None:
    visitor = site.visitor()
    answer = visitor.join(**({"name": "Grace"} | fields))
    assert answer.status_code == 422
    assert words in answer.text
    assert PASSWORD not in answer.text
    if "name" not in fields:
        assert 'value="Grace"' in answer.text
        assert site.store.people.by_name("Grace") is None


def test_any_characters_make_a_password(site: Place) -> None:
    password = "  ключ 🔑 <b>'; --  "
    visitor = site.visitor()
    assert visitor.join(password=password, again=password).status_code == 303
    assert site.visitor().sign_in(password=password).status_code == 303
    assert site.visitor().sign_in(password=password.strip()).status_code == 422


def test_a_campaign_may_give_out_accounts_itself(tmp_path: Path) -> None:
    with place(tmp_path, sign_up=False) as site:
        visitor = site.visitor()
        assert accounts.CLOSED in visitor.get("/join").text
        assert visitor.join().status_code == 403
        token = site.store.people.invite(Role.SCIENTIST, site.clock())
        answer = visitor.send(f"/join/{token}", name="Ada", password=PASSWORD, again=PASSWORD)
        assert answer.status_code == 303
        assert account(site).role is Role.SCIENTIST


ELSEWHERE = [
    "https://evil.example",
    "//evil.example",
    "///evil.example",
    " //evil.example",
    "/\\evil.example",
    "\\/evil.example",
    "/\t/evil.example",
    "http:/evil.example",
    "evil.example",
    "javascript:alert(1)",
    "/x\r\nset-cookie: a=b",
    "",
]


@pytest.mark.parametrize("elsewhere", ELSEWHERE)
def test_only_paths_of_this_site_are_paths_of_this_site(elsewhere: str) -> None:
    assert identity.own_path(elsewhere, "/otherwise") == "/otherwise"
    assert identity.own_path("/me?after=3#x", "/otherwise") == "/me?after=3#x"


def test_next_leads_only_to_this_site(site: Place) -> None:
    site.store.people.sign_up("Ada", PASSWORD, site.clock())
    visitor = site.visitor()
    for elsewhere in ELSEWHERE:
        assert visitor.sign_in(next=elsewhere).headers["location"] == "/"
        assert visitor.get("/sign-in", params={"next": elsewhere}).headers["location"] == "/"
        visitor.send("/sign-out")
    assert visitor.join("Grace", next=ELSEWHERE[0]).headers["location"] == "/"


def test_signing_in_leads_back_to_the_page_that_asked_for_it(site: Place) -> None:
    site.store.people.sign_up("Ada", PASSWORD, site.clock())
    visitor = site.visitor()
    answer = visitor.get("/me/settings?done=settings")
    assert answer.headers["location"] == "/sign-in?next=/me/settings%3Fdone%3Dsettings"
    page = visitor.get(answer.headers["location"])
    assert 'name="next" value="/me/settings?done=settings"' in page.text
    assert visitor.sign_in(next="/me/settings?done=settings").headers["location"] == "/me/settings?done=settings"


def test_below_a_prefix_links_redirects_and_cookies_have_it(site: Place) -> None:
    site.store.people.sign_up("Ada", PASSWORD, site.clock())
    visitor = Visitor(site.app, root_path="/zoo")
    assert visitor.get("/zoo/me/settings").headers["location"] == "/zoo/sign-in?next=/me/settings"
    page = visitor.get("/zoo/sign-in")
    assert 'action="/zoo/sign-in"' in page.text
    assert "Path=/zoo;" in page.headers["set-cookie"]
    token = visitor.token("/zoo/sign-in")
    answer = visitor.client.post(
        "/zoo/sign-in", data={"csrf": token, "name": "Ada", "password": PASSWORD, "next": "/me"}
    )
    assert answer.headers["location"] == "/zoo/me"


# ---- links that work once ----


def test_a_reset_link_works_once_and_ends_every_session(site: Place) -> None:
    ada = member(site)
    token = site.store.people.reset_token(account(site).id, site.clock())
    visitor = site.visitor()
    weak = visitor.send(f"/reset/{token}", password="short", again="short")
    assert (weak.status_code, "10 to 256" in weak.text) == (422, True)
    named = visitor.send(f"/reset/{token}", password=PASSWORD + "!", again=PASSWORD)
    assert "not the same" in named.text
    done = visitor.send(f"/reset/{token}", password="another horse", again="another horse")
    assert done.headers["location"] == "/sign-in?done=password"
    assert ada.get("/api/v1/me").status_code == 401
    assert visitor.sign_in(password=PASSWORD).status_code == 422
    assert visitor.sign_in(password="another horse").status_code == 303
    again = site.visitor().send(f"/reset/{token}", password="a third horse", again="a third horse")
    assert (again.status_code, accounts.USED_LINK in again.text) == (422, True)


def test_a_reset_link_is_too_old_after_a_day(site: Place) -> None:
    member(site)
    token = site.store.people.reset_token(account(site).id, site.clock())
    site.clock.pass_(hours=25)
    assert accounts.USED_LINK in site.visitor().get(f"/reset/{token}").text
    assert site.visitor().send(f"/reset/{token}", password="another horse", again="another horse").status_code == 422
    assert site.visitor().sign_in().status_code == 303


def test_an_invitation_works_once(site: Place) -> None:
    token = site.store.people.invite(Role.MODERATOR, site.clock())
    visitor = site.visitor()
    shown = visitor.get(f"/join/{token}").text
    assert "Join the team" in shown
    assert "The role this invitation gives: moderator." in shown
    fields = {"password": PASSWORD, "again": PASSWORD}
    assert visitor.send(f"/join/{token}", name="Ada", password="short", again="short").status_code == 422
    assert visitor.send(f"/join/{token}", name="Ada", **fields).headers["location"] == "/team"
    assert account(site).role is Role.MODERATOR
    late = site.visitor().send(f"/join/{token}", name="Grace", **fields)
    assert (late.status_code, accounts.USED in late.text) == (422, True)
    assert site.store.people.by_name("Grace") is None


def test_an_invitation_raises_who_is_signed_in_and_lowers_nobody(site: Place) -> None:
    ada = member(site)
    assert "lets your account, Ada" in ada.get(f"/join/{site.store.people.invite(Role.SCIENTIST, site.clock())}").text
    for role in (Role.SCIENTIST, Role.MODERATOR):
        token = site.store.people.invite(role, site.clock())
        assert ada.send(f"/join/{token}").headers["location"] == "/team"
        assert account(site).role is Role.SCIENTIST


def test_an_invitation_is_not_lost_with_a_name_that_is_taken(site: Place) -> None:
    member(site)
    token = site.store.people.invite(Role.MODERATOR, site.clock())
    visitor = site.visitor()
    assert "taken" in visitor.send(f"/join/{token}", name="ada", password=PASSWORD, again=PASSWORD).text
    assert visitor.send(f"/join/{token}", name="Grace", password=PASSWORD, again=PASSWORD).status_code == 303


# ---- letters ----


class PostOffice(threading.Thread):
    """A mail server that takes letters, on a port of its own, without encryption."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.door = socket.create_server(("127.0.0.1", 0))
        self.letters: list[str] = []

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.door.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb") as talk:
                self._take(talk)

    def _take(self, talk: Any) -> None:
        def say(text: str) -> None:
            talk.write(text.encode() + b"\r\n")
            talk.flush()

        say("220 here")
        while line := talk.readline():
            word = line[:4].upper()
            if word == b"DATA":
                say("354 go on")
                self.letters.append(b"".join(iter(talk.readline, b".\r\n")).decode())
            say("221 bye" if word == b"QUIT" else "250 fine")
            if word == b"QUIT":
                return


@pytest.fixture
def post(monkeypatch: pytest.MonkeyPatch) -> Iterator[PostOffice]:
    office = PostOffice()
    office.start()
    monkeypatch.setenv("GREENPEA_SMTP", f"smtp://127.0.0.1:{office.door.getsockname()[1]}")
    monkeypatch.setenv("GREENPEA_URL", "https://zoo.example.org/peas/")
    yield office
    office.door.shutdown(socket.SHUT_RDWR)
    office.door.close()
    office.join()


def test_a_letter_brings_a_link_that_works(site: Place, post: PostOffice) -> None:
    site.store.people.sign_up("Ada", PASSWORD, site.clock(), email="ada@example.org")
    visitor = site.visitor()
    for asked in ("ada", "ADA@example.org"):
        visitor.client.headers["host"] = "evil.example"  # the link must not follow what a request claims
        assert visitor.send("/reset", name=asked).status_code == 200
        visitor.client.headers["host"] = "testserver"
    assert len(post.letters) == 2
    assert "To: ada@example.org" in post.letters[0]
    assert "evil.example" not in post.letters[0]
    link = re.search(r"https://zoo\.example\.org/peas(/reset/[\w-]+)", post.letters[1])
    assert link is not None
    assert visitor.send(link[1], password="another horse", again="another horse").status_code == 303


def test_a_reset_says_the_same_whether_there_is_such_an_account(site: Place, post: PostOffice) -> None:
    site.store.people.sign_up("Ada", PASSWORD, site.clock(), email="ada@example.org")
    site.store.people.sign_up("Grace", PASSWORD, site.clock())  # has no address
    visitor = site.visitor()
    pages = {visitor.send("/reset", name=name).text for name in ("Ada", "Grace", "Nobody", "x@example.org", "\x00")}
    assert len({re.sub(r"value=\"[^\"]*\"", "", page) for page in pages}) == 1
    assert len(post.letters) == 1


def test_a_mail_server_that_is_gone_is_an_entry_in_the_log(
    site: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    monkeypatch.setenv("GREENPEA_SMTP", f"smtp://127.0.0.1:{port}")
    monkeypatch.setenv("GREENPEA_URL", "https://zoo.example.org")
    site.store.people.sign_up("Ada", PASSWORD, site.clock(), email="ada@example.org")
    assert site.visitor().send("/reset", name="Ada").status_code == 200
    written = capsys.readouterr().err
    assert "GREENPEA_SMTP" in written
    assert "ada@" not in written


def test_without_a_mail_server_the_page_says_who_can_help(site: Place) -> None:
    visitor = site.visitor()
    assert "This site sends no letters" in visitor.get("/reset").text
    assert "This site sends no letters" in visitor.send("/reset", name="Ada").text


@pytest.mark.parametrize(
    "environment",
    [{"GREENPEA_SMTP": "mail.example.org"}, {"GREENPEA_SMTP": "smtp://mail.example.org"},
     {"GREENPEA_SMTP": "smtp://mail.example.org", "GREENPEA_URL": "example.org"}],
)  # fmt: skip
def test_half_a_mail_server_is_an_error_with_a_remedy(environment: dict[str, str]) -> None:
    with pytest.raises(GreenpeaError, match="GREENPEA_"):
        mailer(environment)


def test_the_sender_and_the_password_are_read_from_the_environment() -> None:
    both = {"GREENPEA_SMTP": "smtps://me%40example.org:p%2Fw@mail.example.org:4650", "GREENPEA_URL": "https://x.org/"}
    made = mailer(both)
    assert made is not None
    assert (made.sender, made.site, made.server.port) == ("me@example.org", "https://x.org", 4650)
    assert mailer({}) is None


def test_what_can_be_an_address() -> None:
    assert [is_address(text) for text in ("a@b.org", "ü@ö.de")] == [True, True]
    for wrong in ("a b@c.org", "a@b@c", "<a@b.org>", "a@b.org\n", "a@b.org, c@d.org", ""):
        assert not is_address(wrong)


# ---- my own pages ----


def test_history_has_pages(tmp_path: Path) -> None:
    with place(tmp_path, subjects=30) as site:
        ada = member(site)
        for number in range(30):
            site.classify(account(site), f"s{number}")
        newest = ada.get("/me").text
        assert newest.count('class="card one') == me.PER_PAGE
        older = re.search(r'rel="next" href="([^"]+)"', newest)
        assert older is not None
        oldest = ada.get(older[1]).text
        assert oldest.count('class="card one') == 30 - me.PER_PAGE
        assert 'rel="next"' not in oldest
        assert ada.get("/me?after=1e99").status_code == 422
        assert ada.get(f"/me?after={10**30}").status_code == 422


def test_answers_are_shown_in_words_also_those_the_tree_no_longer_has(site: Place) -> None:
    tree = site.store.workflows.active().workflow.tree
    given = {"smooth": ["no"], "gone": ["away"], "rare": ["ring", "lens"]}
    assert me.said(tree, given, "en") == "no · away · ring · lens"


def test_favourites_without_scripts(site: Place) -> None:
    visitor = site.visitor()
    number = site.store.subjects.get("s3").id  # type: ignore[union-attr]
    answer = visitor.send("/favourite", subject=number, on="true", next="/me")
    assert (answer.status_code, answer.headers["location"]) == (303, "/me")
    assert "s3" in visitor.get("/me/favourites").text
    assert visitor.send("/favourite", subject=number, on="false").headers["location"] == "/me/favourites"
    assert "s3" not in visitor.get("/me/favourites").text
    assert visitor.send("/favourite", subject=999).status_code == 404
    assert visitor.send("/favourite", subject=10**30).status_code == 422


def test_settings_are_kept_and_a_new_address_needs_the_password(site: Place) -> None:
    ada = member(site)
    refused = ada.send("/me/settings", language="de", email="eve@example.org", current="wrong password")
    assert (refused.status_code, me.WRONG_PASSWORD in refused.text) == (422, True)
    assert account(site).email is None
    ada.send("/me/settings", language="de", email="ada@example.org", current=PASSWORD)
    assert (account(site).email, account(site).language, account(site).credited) == ("ada@example.org", "de", False)
    assert "Einstellungen" in ada.get("/me/settings").text
    ada.send("/me/settings", language="xx", email="ada@example.org", credited="true")
    assert (account(site).email, account(site).language, account(site).credited) == ("ada@example.org", "en", True)
    ada.send("/me/settings", language="en", email="", current=PASSWORD)
    assert account(site).email is None


def test_a_new_password_ends_the_other_sessions_and_keeps_this_one(site: Place) -> None:
    ada, elsewhere = member(site), site.visitor()
    elsewhere.sign_in()
    fields = {"password": "another horse", "again": "another horse"}
    assert me.WRONG_PASSWORD in ada.send("/me/password", current="wrong password", **fields).text
    before = ada.cookies[identity.SESSION]
    assert ada.send("/me/password", current=PASSWORD, **fields).headers["location"] == "/me/settings?done=password"
    assert ada.me()["name"] == "Ada"
    assert ada.cookies[identity.SESSION] != before
    assert elsewhere.get("/api/v1/me").status_code == 401


def test_my_data_is_a_file_and_only_mine(site: Place) -> None:
    ada, eve = member(site), member(site, "Eve")
    site.classify(account(site), "s2")
    answer = ada.get("/me/export")
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["cache-control"] == "no-store"
    data = answer.json()
    assert data["volunteer"]["name"] == "Ada"
    assert [one["subject_id"] for one in data["classifications"]] == ["s2"]
    assert "argon2" not in answer.text
    assert eve.get("/me/export").json()["classifications"] == []
    assert site.visitor().get("/me/export").headers["location"] == "/me"


def test_deleting_takes_the_name_and_leaves_the_counts(site: Place) -> None:
    ada = member(site)
    site.store.people.settings(account(site).id, email="ada@example.org")
    public, session = account(site).public, ada.cookies[identity.SESSION]
    site.classify(account(site), "s2")
    assert "Stays: your 1 classifications" in ada.get("/me/delete").text
    assert me.WRONG_PASSWORD in ada.send("/me/delete", current="wrong password").text
    assert ada.send("/me/delete", current=PASSWORD).headers["location"] == "/me?done=deleted"
    assert site.store.people.by_name("Ada") is None
    assert site.store.people.by_email("ada@example.org") == []
    assert volunteer_of(site, public).anonymous
    assert site.store.subjects.get("s2").classifications == 1  # type: ignore[union-attr]
    assert site.store.classifications.recount() == 0
    ada.client.cookies.set(identity.SESSION, session)
    assert ada.get("/api/v1/me").status_code == 401
    assert ada.join().status_code == 303  # the name is free again


def test_a_device_can_be_forgotten_without_an_account(site: Place) -> None:
    visitor = site.visitor()
    visitor.begin()
    assert visitor.send("/me/delete").headers["location"] == "/me?done=forgotten"
    assert identity.ANONYMOUS not in visitor.cookies


def test_the_last_owner_cannot_be_deleted(site: Place) -> None:
    owner = member(site, "Olga", Role.OWNER)
    assert "needs an owner" in owner.send("/me/delete", current=PASSWORD).text
    assert account(site, "Olga").role is Role.OWNER
    assert owner.me()["name"] == "Olga"


def test_credits_name_who_agreed(site: Place) -> None:
    for name, credited in (("Ada", True), ("Grace", False)):
        site.store.people.sign_up(name, PASSWORD, site.clock())
        site.store.people.settings(account(site, name).id, credited=credited)
        site.classify(account(site, name), "s0")
    text = site.visitor().get("/credits").text
    assert "Ada" in text
    assert "Grace" not in text
    assert "And 1 volunteer who is not named here" in text


# ---- roles and bans ----


@pytest.mark.parametrize("role", list(Role))
def test_roles_open_what_is_theirs(site: Place, role: Role) -> None:
    visitor = member(site, "Rosa", role)
    assert visitor.get("/team/volunteers").status_code == (403 if role is Role.VOLUNTEER else 200)
    closed = visitor.get("/team/workflow")
    assert closed.status_code == (200 if role.at_least(Role.SCIENTIST) else 403)
    if not role.at_least(Role.SCIENTIST):
        assert f"Your role ({role}) does not open this page." in closed.text


def test_a_banned_volunteer_may_read_and_leave_but_send_nothing(site: Place) -> None:
    ada = member(site, role=Role.SCIENTIST)
    site.classify(account(site), "s0")
    site.store.people.ban(account(site).id, site.clock(), recount=True)
    assert ada.get("/me").status_code == 200, "still signed in: not somebody new"
    assert "A moderator has paused" in ada.get("/classify/form").text
    assert ada.sign_in().status_code == 303
    assert ada.get("/team").status_code == 403
    refused = ada.send("/favourite", subject=1)
    assert (refused.status_code, "A moderator has paused" in refused.text) == (403, True)
    assert ada.client.post("/api/v1/next", json={"count": 1}).status_code == 403
    token = site.store.people.invite(Role.OWNER, site.clock())
    assert ada.send(f"/join/{token}").status_code == 403
    assert ada.get("/me/export").status_code == 200
    assert ada.send("/me/delete", current=PASSWORD).headers["location"] == "/me?done=deleted"


def test_banned_work_does_not_come_along(site: Place) -> None:
    visitor = site.visitor()
    before = volunteer_of(site, visitor.begin())
    site.classify(before, "s0")
    site.store.people.ban(before.id, site.clock(), recount=True)
    assert visitor.join().status_code == 403
    site.store.people.sign_up("Ada", PASSWORD, site.clock())
    assert visitor.sign_in(along="true").status_code == 303
    assert site.store.classifications.of_volunteer(account(site).id) == []


# ---- scripts ----


def test_bearer_tokens_of_both_kinds(site: Place) -> None:
    site.store.people.sign_up("Ada", PASSWORD, site.clock())
    script = site.visitor()
    token = script.client.post("/api/v1/sessions", json={"name": "Ada", "password": PASSWORD}).json()["token"]
    headers = {"authorization": f"Bearer {token}"}
    assert script.get("/api/v1/me", headers=headers).json()["name"] == "Ada"
    assert script.client.delete("/api/v1/sessions", headers=headers).status_code == 204
    assert script.get("/api/v1/me", headers=headers).status_code == 401
    token = script.client.post("/api/v1/volunteers").json()["token"]
    me_ = script.get("/api/v1/me", headers={"authorization": f"bearer {token}"}).json()
    assert me_["name"] is None
    # Only what was signed counts: the public id alone stands in every export.
    for wrong in (me_["public"], token[:-2] + "xx", "", "a" * 5000, token.replace(".", "..")):
        headers = {"authorization": f"Bearer {wrong}"}
        assert script.get("/api/v1/me", headers=headers).status_code == 401
        assert script.client.post("/api/v1/next", json={"count": 1}, headers=headers).status_code == 401


def test_a_wrong_bearer_token_is_not_made_good_by_a_cookie(site: Place) -> None:
    ada = member(site)
    assert ada.get("/api/v1/me", headers={"authorization": "Bearer nonsense"}).status_code == 401


# ---- words ----


def used_texts() -> set[str]:
    """Every text of these rooms that is translated: in templates, the sentences in the code, the store's faults."""
    folder = resources.files("greenpea.site") / "templates" / "account"
    templates = [file.read_text(encoding="utf-8") for file in folder.iterdir() if file.name.endswith(".html")]
    found = {text for source in templates for text in re.findall(r'\bt\("((?:[^"\\]|\\.)*)"', source)}
    found |= {words for pair in security.ERRORS.values() for words in pair}
    return found | {sentence for module in (accounts, me, security, identity) for sentence in sentences(module)}


def sentences(module: ModuleType) -> set[str]:
    """The sentences among the strings of a module, documentation aside."""
    tree = ast.parse(inspect.getsource(module))
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in documentation]
    return {text for text in texts if isinstance(text, str) and re.fullmatch(r"[A-Z].* .*[.!?]\n?", text, re.DOTALL)}


@pytest.mark.parametrize("language", ["de", "es"])
def test_every_text_is_translated_with_the_same_places(language: str) -> None:
    known = translations(language)
    texts = used_texts()
    assert len(texts) > 100
    assert sorted(texts - known.keys()) == []
    for text in texts:
        assert set(re.findall(r"{(\w+)}", text)) == set(re.findall(r"{(\w+)}", known[text])), text


@pytest.mark.parametrize("language", ["de", "es"])
def test_faults_of_names_and_passwords_are_translated(site: Place, language: str) -> None:
    visitor = site.visitor()
    visitor.client.cookies.set("language", language)
    for fields in ({"password": "short"}, {"password": "password123"}, {"name": "@"}, {"name": "not-logged-in-x"}):
        answer = visitor.join(**({"name": "Grace"} | fields))
        faults = re.findall(r'class="wrong"[^>]*>([^<]+)<', answer.text)
        assert faults
        assert not re.search(r"\b(password|name) (has|would)|begin with", " ".join(faults))

"""People: accounts, sessions, one-time tokens, bans, and what they may take with them or have deleted."""

from __future__ import annotations

import hashlib
import re
import secrets
import unicodedata
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Literal

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError
from sqlalchemy import Connection, Select, and_, bindparam, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from greenpea.errors import GreenpeaError
from greenpea.store import classifications as counting
from greenpea.store import identities
from greenpea.store.engine import Database, fitting, text_of
from greenpea.store.schema import (
    classifications,
    favourites,
    finds,
    handouts,
    likes,
    progress,
    sessions,
    subjects,
    tokens,
    versions,
    volunteers,
)
from greenpea.store.subjects import subjects_by_number
from greenpea.store.values import Counted, Role, Subject, Volunteer, VolunteerRow
from greenpea.store.workflows import Workflows
from greenpea.workflow import Workflow

NAME = re.compile(r"[^\W_](?:[\w .'’-]{0,38}[^\W_])?")
RECENT = 100  # classifications of a volunteer that the agreement shown is of
MOST_KEY, MOST_EMAIL = 300, 320  # characters, as the table keeps them
LEAST_PASSWORD, MOST_PASSWORD = 10, 256
_hasher = PasswordHasher()


@cache
def _nobody() -> str:
    """Return the hash that is checked where a name is unknown: the answer takes as long as where it is known."""
    return _hasher.hash(secrets.token_hex())


def name_key(name: str) -> str:
    """Return the form of a name in which two that look alike to a reader are the same."""
    return unicodedata.normalize("NFKC", " ".join(text_of(name).split())).casefold()


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


class People:
    """Volunteers and accounts."""

    def __init__(self, database: Database, workflows: Workflows) -> None:
        self._database, self._workflows = database, workflows
        self._parsed: dict[int, Workflow] = {}

    # ---- finding -------------------------------------------------------------------------------

    def get(self, id: int) -> Volunteer | None:
        """Return a volunteer, or the account that took over their work."""
        with self._database.read() as connection:
            found = identities.follow(connection, id)
            return _one(connection, volunteers.c.id == found) if found is not None else None

    def by_public(self, public: str) -> Volunteer | None:
        """Return a volunteer by their public id, or the account that took over their work."""
        with self._database.read() as connection:
            row = connection.execute(BY_PUBLIC, {"public": text_of(public)}).one_or_none()
            if row is None or row.merged_into is None:
                return identities.volunteer_of(row) if row else None
            now = identities.follow(connection, row.volunteer_id)
            return _one(connection, volunteers.c.id == now)

    def by_name(self, name: str) -> Volunteer | None:
        """Return an account by its name, whatever its capitals."""
        with self._database.read() as connection:
            return _one(connection, volunteers.c.name_key == name_key(name))

    def by_email(self, email: str) -> list[Volunteer]:
        """Return the accounts with this e-mail address: an address is not checked, so several may have it."""
        with self._database.read() as connection:
            query = select(*identities.COLUMNS).where(volunteers.c.email_key == text_of(email).strip().casefold())
            return [identities.volunteer_of(row) for row in connection.execute(query)]

    # ---- accounts ------------------------------------------------------------------------------

    def anonymous(self, now: datetime) -> Volunteer:
        """Add a volunteer who has not signed up."""
        id = self._database.write(lambda connection: identities.create(connection, now))
        return _sure(self.get(id))

    def sign_up(
        self,
        name: str,
        password: str,
        now: datetime,
        email: str | None = None,
        role: Role = Role.VOLUNTEER,
        anonymous: int | None = None,
    ) -> Volunteer:
        """Make an account; the work of ``anonymous`` follows. Raises GreenpeaError saying what to choose otherwise."""
        shown = check_name(name)
        check_password(password, shown)
        values = {
            "name": shown,
            "name_key": name_key(shown),
            **_email(email or ""),
            "password": _hasher.hash(password),
            "role": Role(role).value,
        }

        def write(connection: Connection) -> int:
            if connection.execute(select(volunteers.c.id).where(volunteers.c.name_key == values["name_key"])).first():
                raise GreenpeaError(f"the name {shown!r} is taken: choose another")
            # The same person goes on under a name: nothing needs to move.
            taken = connection.execute(
                update(volunteers)
                .where(volunteers.c.id == anonymous, _nobody_yet())
                .values(**values)
                .returning(volunteers.c.id)
            ).scalar_one_or_none()
            return taken if taken is not None else identities.create(connection, now, **values)

        try:
            return _sure(self.get(self._database.write(write)))
        except IntegrityError as error:  # somebody else took the name in the same moment
            raise GreenpeaError(f"the name {shown!r} is taken: choose another") from error

    def check_password(self, name: str, password: str) -> Volunteer | None:
        """Return the account with this name and password, or None; as slow when there is no such name."""
        with self._database.read() as connection:
            row = connection.execute(
                select(volunteers.c.id, volunteers.c.password).where(volunteers.c.name_key == name_key(name))
            ).one_or_none()
        stored = row.password if row and row.password else _nobody()
        try:
            _hasher.verify(stored, password[:MOST_PASSWORD])
        except (VerifyMismatchError, InvalidHashError):
            return None
        if row is None or not row.password:
            return None
        if _hasher.check_needs_rehash(stored):
            self._update(row.id, password=_hasher.hash(password))
        return self.get(row.id)

    def set_password(self, id: int, password: str, now: datetime) -> None:
        """Set a password; every session of the account ends, and every other reset token."""
        one = _sure(self.get(id))
        check_password(password, one.shown)
        hashed = _hasher.hash(password)

        self._database.write(lambda connection: _set_password(connection, one.id, hashed))

    def settings(
        self, id: int, *, language: str | None = None, credited: bool | None = None, email: str | None = None
    ) -> None:
        """Change what is given; an empty ``email`` removes the address."""
        values: dict[str, Any] = {}
        if language is not None:
            values["language"] = text_of(language)[:20]
        if credited is not None:
            values["credited"] = credited
        if email is not None:
            values |= _email(email)
        if values:
            self._update(id, **values)

    def set_role(self, id: int, role: Role) -> None:
        """Give a role. Raises GreenpeaError where the last owner would be none any more."""

        def write(connection: Connection) -> None:
            one = _one(connection, volunteers.c.id == id)
            if one is None or one.anonymous:
                raise GreenpeaError("only accounts have roles")
            if one.role is Role.OWNER and role is not Role.OWNER:
                owners = select(volunteers.c.id).where(volunteers.c.role == Role.OWNER.value)
                # Locked, in one order: of two who resign at once, the second sees that the first has.
                if len(connection.execute(owners.order_by(volunteers.c.id).with_for_update()).all()) < 2:
                    raise GreenpeaError("a campaign needs an owner: make somebody else owner first")
            connection.execute(update(volunteers).where(volunteers.c.id == id).values(role=Role(role).value))

        self._database.write(write)

    def owners(self) -> int:
        """Return how many owners there are."""
        with self._database.read() as connection:
            query = select(func.count()).where(volunteers.c.role == Role.OWNER.value)
            return int(connection.execute(query).scalar_one())

    def _update(self, id: int, **values: Any) -> None:
        self._database.write(lambda c: c.execute(update(volunteers).where(volunteers.c.id == id).values(**values)))

    # ---- sessions and tokens -------------------------------------------------------------------

    def open_session(self, id: int, now: datetime, lasting: timedelta = timedelta(days=30)) -> str:
        """Return a new session's token; only its hash is stored."""
        token = secrets.token_urlsafe(32)

        def write(connection: Connection) -> None:
            connection.execute(delete(sessions).where(sessions.c.expires_at <= now))
            connection.execute(
                insert(sessions).values(token=_hash(token), volunteer=id, created_at=now, expires_at=now + lasting)
            )

        self._database.write(write)
        return token

    def session(self, token: str, now: datetime) -> Volunteer | None:
        """Return whose session this is, or None where it ended."""
        with self._database.read() as connection:
            row = connection.execute(SESSION, {"token": _hash(token), "now": now}).one_or_none()
        return identities.volunteer_of(row) if row else None

    def close_session(self, token: str) -> None:
        """End a session."""
        self._database.write(lambda c: c.execute(delete(sessions).where(sessions.c.token == _hash(token))))

    def reset_token(self, id: int, now: datetime, lasting: timedelta = timedelta(hours=24)) -> str:
        """Return a token with which a new password can be set, once."""
        return self._token("reset", now + lasting, volunteer=id)

    def use_reset_token(self, token: str, password: str, now: datetime) -> Volunteer | None:
        """Set the password and use the token up; None where it is unknown, used or too old.

        Raises GreenpeaError where the password will not do; the token can then be used again.
        """
        with self._database.read() as connection:
            row = connection.execute(_token_row(token, "reset", now)).one_or_none()
        if row is None:
            return None
        check_password(password, _sure(self.get(row.volunteer)).shown)
        hashed = _hasher.hash(password)

        def write(connection: Connection) -> bool:
            if connection.execute(_token_row(token, "reset", now).with_for_update()).first() is None:
                return False
            _set_password(connection, row.volunteer, hashed)
            return True

        return self.get(row.volunteer) if self._database.write(write) else None

    def reset_open(self, token: str, now: datetime) -> bool:
        """Whether a reset token can still be used."""
        with self._database.read() as connection:
            return connection.execute(_token_row(token, "reset", now)).first() is not None

    def invite(self, role: Role, now: datetime, lasting: timedelta = timedelta(days=7)) -> str:
        """Return a token with which an account of this role can be made, once."""
        return self._token("invite", now + lasting, role=Role(role).value)

    def invited(self, token: str, now: datetime) -> Role | None:
        """Return the role an invitation is for, or None where it is unknown, used or too old."""
        with self._database.read() as connection:
            row = connection.execute(_token_row(token, "invite", now)).one_or_none()
        return Role(row.role) if row else None

    def use_invite(self, token: str, now: datetime) -> Role | None:
        """Use an invitation up; return its role, or None where it is unknown, used or too old."""
        row = self._use(token, "invite", now)
        return Role(row.role) if row else None

    def _token(self, kind: str, expires_at: datetime, **values: Any) -> str:
        token = secrets.token_urlsafe(32)
        values |= {"token": _hash(token), "kind": kind, "expires_at": expires_at}
        self._database.write(lambda connection: connection.execute(insert(tokens).values(**values)))
        return token

    def _use(self, token: str, kind: str, now: datetime) -> Any:
        def write(connection: Connection) -> Any:
            row = connection.execute(_token_row(token, kind, now)).one_or_none()
            used = connection.execute(delete(tokens).where(tokens.c.token == _hash(token)))
            return row if row is not None and used.rowcount == 1 else None

        return self._database.write(write)

    # ---- joining, banning, leaving -------------------------------------------------------------

    def merge(self, anonymous: int, into: int, now: datetime) -> int:
        """Move an anonymous volunteer's work to an account; return how many classifications moved.

        Nothing moves into a banned account, nor from one that was deleted. Where both classified a subject, the
        later one is un-counted. The anonymous identity leads to the account
        from then on, also for what still waits in an outbox.
        """

        def write(connection: Connection) -> int:
            followed = identities.locked(connection, [anonymous, into])
            target, banned = followed.get(into, (None, False))
            nobody = connection.execute(
                select(volunteers.c.id).where(volunteers.c.id == anonymous, _nobody_yet())
            ).first()
            if nobody is None or target is None or target == anonymous or banned:
                return 0
            pairs = counting.repeated(connection, anonymous, target)
            later = [second for _, second in pairs]
            counting.uncount(connection, self._parsed, later, Counted.REPEATED, now)
            return _move(connection, anonymous, target)

        return int(self._database.write(write))

    def ban(self, id: int, now: datetime, recount: bool) -> int:
        """Ban a volunteer, and with ``recount`` take their votes out; return how many were un-counted."""

        def write(connection: Connection) -> int:
            identities.locked(connection, [id])
            one = _one(connection, volunteers.c.id == id)
            if one is None:
                raise GreenpeaError(f"there is no volunteer {id}")
            if one.role is Role.OWNER:
                raise GreenpeaError("an owner cannot be banned: give them another role first")
            connection.execute(update(volunteers).where(volunteers.c.id == id).values(banned_at=now))
            if not recount:
                return 0
            rows = _of(connection, id, counting.LIVE)
            counting.uncount(connection, self._parsed, rows, Counted.BANNED, now)
            return len(rows)

        return int(self._database.write(write))

    def unban(self, id: int, now: datetime) -> int:
        """Lift a ban; what it took out counts again, but for subjects classified anew since. Returns how many."""

        def write(connection: Connection) -> int:
            identities.locked(connection, [id])
            connection.execute(update(volunteers).where(volunteers.c.id == id).values(banned_at=None))
            live = {(row.major, row.subject) for row in _of(connection, id, counting.LIVE)}
            back = []
            for row in _of(connection, id, (Counted.BANNED.value,)):
                if (row.major, row.subject) not in live:
                    live.add((row.major, row.subject))
                    back.append(row)
            counting.count_again(connection, self._parsed, back, now)
            return len(back)

        return int(self._database.write(write))

    def export(self, id: int) -> dict[str, Any]:
        """Return everything that is kept about one person, as plain values for JSON."""
        with self._database.snapshot() as connection:
            about = select(volunteers).where(volunteers.c.id == id)
            person = connection.execute(about).one()._asdict()
            for secret in ("password", "name_key", "email_key"):
                person.pop(secret)
            mine = {
                "classifications": select(classifications, subjects.c.subject_id)
                .join(subjects, subjects.c.id == classifications.c.subject)
                .where(classifications.c.volunteer == id)
                .order_by(classifications.c.id),
                "hand-outs": select(handouts, subjects.c.subject_id)
                .join(subjects, subjects.c.id == handouts.c.subject)
                .where(handouts.c.volunteer == id)
                .order_by(handouts.c.id),
                "finds": select(finds, subjects.c.subject_id)
                .join(subjects, subjects.c.id == finds.c.subject)
                .where(finds.c.volunteer == id),
                "favourites": select(subjects.c.subject_id, favourites.c.created_at)
                .join(favourites, favourites.c.subject == subjects.c.id)
                .where(favourites.c.volunteer == id),
            }
            parts = {name: [_plain(row._asdict()) for row in connection.execute(query)] for name, query in mine.items()}
        return {"volunteer": _plain(person), **parts}

    def delete(self, id: int, now: datetime) -> None:
        """Forget who this was: name, address, password, sessions, comments and favourites go; counts stay.

        Raises GreenpeaError for the last owner.
        """
        one = _sure(self.get(id))
        if one.role is Role.OWNER:
            self.set_role(id, Role.VOLUNTEER)

        def write(connection: Connection) -> None:
            for table in (sessions, tokens, favourites, likes):
                connection.execute(delete(table).where(table.c.volunteer == id))
            connection.execute(update(finds).where(finds.c.volunteer == id).values(comment=""))
            author = connection.execute(select(volunteers.c.name).where(volunteers.c.id == id)).scalar_one()
            connection.execute(update(versions).where(versions.c.author == author).values(author=None))
            gone = dict.fromkeys(("name", "name_key", "email", "email_key", "password", "source"))
            connection.execute(
                update(volunteers)
                .where(volunteers.c.id == id)
                .values(**gone, role=Role.VOLUNTEER.value, credited=False, deleted_at=now, language="en")
            )
            connection.execute(update(classifications).where(classifications.c.volunteer == id).values(metadata={}))

        self._database.write(write)

    # ---- favourites, lists ---------------------------------------------------------------------

    def favourite(self, id: int, subject: int, on: bool, now: datetime) -> None:
        """Add a subject to a volunteer's favourites, or take it away."""

        def write(connection: Connection) -> None:
            if connection.execute(select(subjects.c.id).where(subjects.c.id == subject)).first() is None:
                raise GreenpeaError(f"there is no subject {subject}")
            where = (favourites.c.volunteer == id) & (favourites.c.subject == subject)
            there = connection.execute(select(favourites.c.subject).where(where)).first()
            if on and not there:
                connection.execute(insert(favourites).values(volunteer=id, subject=subject, created_at=now))
            elif there and not on:
                connection.execute(delete(favourites).where(where))

        self._database.write(write)

    def favourites(self, id: int) -> list[Subject]:
        """Return a volunteer's favourites, newest first."""
        with self._database.read() as connection:
            query = select(favourites.c.subject).where(favourites.c.volunteer == id)
            ids = connection.execute(query.order_by(favourites.c.created_at.desc())).scalars().all()
            found = subjects_by_number(connection, self._workflows.active().major, ids)
        return [found[one] for one in ids if one in found]

    def listing(
        self,
        *,
        search: str = "",
        order: Literal["count", "newest"] = "count",
        after: tuple[int, int] | None = None,
        limit: int = 50,
    ) -> tuple[list[VolunteerRow], tuple[int, int] | None]:
        """Return a page of the volunteers who have classified or signed up, and where the next page begins."""
        query = select(*identities.COLUMNS).where(
            volunteers.c.merged_into.is_(None), or_(volunteers.c.count > 0, volunteers.c.name.is_not(None), _has_any())
        )
        if search:
            query = query.where(
                or_(
                    *(
                        volunteers.c[name].icontains(text_of(search), autoescape=True)
                        for name in ("name", "source", "public")
                    )
                )
            )
        if order == "count":
            query = query.order_by(volunteers.c.count.desc(), volunteers.c.id)
            if after is not None:
                same = and_(volunteers.c.count == after[0], volunteers.c.id > after[1])
                query = query.where(or_(volunteers.c.count < after[0], same))
        else:
            query = query.order_by(volunteers.c.id.desc())
            if after is not None:
                query = query.where(volunteers.c.id < after[1])
        with self._database.read() as connection:
            found = [identities.volunteer_of(row) for row in connection.execute(query.limit(limit + 1))]
            rows = [self._row(connection, one) for one in found[:limit]]
        last = found[limit - 1] if len(found) > limit else None
        return rows, (last.count, last.id) if last else None

    def row(self, id: int) -> VolunteerRow | None:
        """Return one volunteer as the listing shows them."""
        with self._database.read() as connection:
            one = _one(connection, volunteers.c.id == id)
            return self._row(connection, one) if one else None

    def _row(self, connection: Connection, one: Volunteer) -> VolunteerRow:
        last = select(func.max(classifications.c.received_at)).where(classifications.c.volunteer == one.id)
        last_at = connection.execute(last).scalar_one()  # type: ignore[arg-type]
        return VolunteerRow(one, one.count, last_at, _agreement(connection, one.id))

    def credits(self) -> list[tuple[str, int]]:
        """Return the names of those who agreed to be named, with their counts; last ("", how many are not named)."""
        named = volunteers.c.credited & volunteers.c.name.is_not(None)
        with self._database.read() as connection:
            rows = connection.execute(
                select(volunteers.c.name, volunteers.c.count)
                .where((volunteers.c.count > 0) & named & volunteers.c.banned_at.is_(None))
                .order_by(volunteers.c.count.desc(), volunteers.c.name_key)
            ).all()
            others = connection.execute(select(func.count()).where((volunteers.c.count > 0) & ~named)).scalar_one()
        return [*((name, count) for name, count in rows if name), ("", int(others))]


# Asked with every request: made once.
BY_PUBLIC = select(*identities.COLUMNS, volunteers.c.merged_into).where(volunteers.c.public == bindparam("public"))
SESSION = (
    select(*identities.COLUMNS)
    .join(sessions, sessions.c.volunteer == volunteers.c.id)
    .where(sessions.c.token == bindparam("token"), sessions.c.expires_at > bindparam("now"))
)


def check_name(name: str) -> str:
    """Return a name as it will be shown. Raises GreenpeaError saying what a name may be."""
    shown = unicodedata.normalize("NFC", " ".join(name.split()))
    if not NAME.fullmatch(shown):
        raise GreenpeaError(
            "a name has 1 to 40 letters, digits, spaces, dots, hyphens, and begins and ends with a letter or digit"
        )
    if name_key(shown).startswith("not-logged-in"):
        raise GreenpeaError("names that begin with 'not-logged-in' are for those without an account: choose another")
    if len(name_key(shown)) > MOST_KEY:
        raise GreenpeaError("this name is too long when it is written out: choose a shorter one")
    return shown


def check_password(password: str, name: str) -> None:
    """Raise GreenpeaError where a password is too short, too long, too common, or the name."""
    if not LEAST_PASSWORD <= len(password) <= MOST_PASSWORD:
        raise GreenpeaError(
            f"a password has {LEAST_PASSWORD} to {MOST_PASSWORD} characters; a short sentence does well"
        )
    plain = password.casefold()
    if plain in _COMMON or name_key(name) == plain or len(set(password)) < 4:
        raise GreenpeaError("this password would be guessed first: choose another; a short sentence does well")


_COMMON = frozenset(
    [
        "1234567890",
        "12345678910",
        "0123456789",
        "1q2w3e4r5t",
        "qwertyuiop",
        "password12",
        "password123",
        "password1234",
        "passwordpassword",
        "iloveyou12",
        "iloveyou123",
        "letmein123",
        "welcome123",
        "qwerty12345",
        "qwerty123456",
        "1qaz2wsx3edc",
        "abcdefghij",
        "abcdefghijk",
        "abc1234567",
        "admin12345",
        "administrator",
        "galaxyzoo1",
        "galaxyzoo12",
        "galaxyzoo123",
        "greenpea123",
        "greenpeas123",
        "sunshine123",
        "princess123",
        "football123",
        "baseball123",
        "superman123",
        "trustno1234",
        "zooniverse",
        "zooniverse1",
        "zooniverse123",
    ]
)


def _email(address: str) -> dict[str, str | None]:
    address = fitting(address, MOST_EMAIL, "an e-mail address").strip()
    return {"email": address or None, "email_key": fitting(address.casefold(), MOST_EMAIL, "an e-mail address") or None}


def _set_password(connection: Connection, id: int, hashed: str) -> None:
    connection.execute(update(volunteers).where(volunteers.c.id == id).values(password=hashed))
    connection.execute(delete(sessions).where(sessions.c.volunteer == id))
    connection.execute(delete(tokens).where(tokens.c.volunteer == id))


def _nobody_yet() -> Any:
    """Return the condition that a volunteer is anonymous: no account, none they joined, none that was deleted."""
    table = volunteers.c
    gone = or_(table.deleted_at.is_not(None), table.merged_into.is_not(None), table.banned_at.is_not(None))
    return and_(table.name_key.is_(None), table.source.is_(None), ~gone)


def _sure(one: Volunteer | None) -> Volunteer:
    if one is None:
        raise GreenpeaError("there is no such volunteer")
    return one


def _one(connection: Connection, condition: Any) -> Volunteer | None:
    row = connection.execute(select(*identities.COLUMNS).where(condition)).one_or_none()
    return identities.volunteer_of(row) if row else None


def _of(connection: Connection, volunteer: int, states: Sequence[str]) -> Sequence[Any]:
    table = classifications.c
    query = select(classifications).where((table.volunteer == volunteer) & table.counted.in_(states))
    return connection.execute(query.order_by(table.id)).all()


def _token_row(token: str, kind: str, now: datetime) -> Select[Any]:
    return select(tokens).where(
        (tokens.c.token == _hash(token)) & (tokens.c.kind == kind) & (tokens.c.expires_at > now)
    )


def _has_any() -> Any:
    return select(classifications.c.id).where(classifications.c.volunteer == volunteers.c.id).exists()


def _move(connection: Connection, source: int, target: int) -> int:
    moved = connection.execute(
        update(classifications).where(classifications.c.volunteer == source).values(volunteer=target)
    ).rowcount
    for table in (handouts, finds):
        connection.execute(update(table).where(table.c.volunteer == source).values(volunteer=target))
    for table, other in ((favourites, favourites.c.subject), (likes, likes.c.find)):
        had = select(other).where(table.c.volunteer == target)
        connection.execute(delete(table).where((table.c.volunteer == source) & other.in_(had)))
        connection.execute(update(table).where(table.c.volunteer == source).values(volunteer=target))
    count = connection.execute(select(volunteers.c.count).where(volunteers.c.id == source)).scalar_one()
    connection.execute(update(volunteers).where(volunteers.c.id == source).values(merged_into=target, count=0))
    identities.add_to_counts(connection, {target: count})
    return int(moved)


def _agreement(connection: Connection, volunteer: int) -> float | None:
    """Return the mean share of the others who gave the answers this volunteer gave, of the latest counted ones."""
    rows = connection.execute(
        select(classifications.c.annotations, progress.c.tally)
        .join(
            progress,
            (progress.c.subject == classifications.c.subject) & (progress.c.major == classifications.c.major),
        )
        .where((classifications.c.volunteer == volunteer) & (classifications.c.counted == Counted.YES.value))
        .order_by(classifications.c.id.desc())
        .limit(RECENT)
    )
    shares = [
        (row.tally.get(f"{question}/{answer}", 0) - 1) / (row.tally.get(question, 0) - 1)
        for row in rows
        for question, answers in row.annotations.items()
        for answer in answers
        if row.tally.get(question, 0) > 1
    ]
    return sum(shares) / len(shares) if shares else None


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in values.items()}

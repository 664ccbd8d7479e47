"""Finds: what volunteers pointed out as unusual. The Green Peas were found that way."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, Row, Select, and_, delete, func, insert, literal, or_, select, update

from greenpea.errors import GreenpeaError
from greenpea.store import identities
from greenpea.store.engine import Database, fitting
from greenpea.store.schema import finds, likes, subjects, volunteers
from greenpea.store.values import Find

LONGEST = 2000  # characters of a comment
After = tuple[int, int]


class Finds:
    """Unusual subjects, with what was said about them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def flag(self, uuid: str, volunteer: int, subject: int, comment: str, now: datetime) -> Find:
        """Point a subject out; the same ``uuid`` again returns the first.

        Raises GreenpeaError where the comment is too long, or the volunteer or the subject is unknown or banned.
        """
        if not uuid.isprintable():
            raise GreenpeaError(f"{uuid!r} is not an id: send a UUID")
        comment, uuid = fitting(comment, LONGEST, "a comment").strip(), fitting(uuid, 64, "an id")

        def write(connection: Connection) -> None:
            who, banned = identities.locked(connection, [volunteer]).get(volunteer, (None, False))
            row = connection.execute(select(finds.c.volunteer).where(finds.c.uuid == uuid)).one_or_none()
            if row is not None:
                if row.volunteer != who:
                    raise GreenpeaError("this id belongs to another comment: make a new one")
                return
            known = connection.execute(select(subjects.c.id).where(subjects.c.id == subject)).first()
            if who is None or known is None or banned:
                raise GreenpeaError("this comment cannot be taken: the subject or the volunteer is not known here")
            values = {"uuid": uuid, "volunteer": who, "subject": subject, "comment": comment}
            connection.execute(insert(finds).values(**values, created_at=now, hidden=False))

        self._database.write(write)
        return self._read(_all(None).where(finds.c.uuid == uuid))[0]

    def all(
        self,
        *,
        hidden: bool | None = False,
        order: Literal["newest", "liked"] = "newest",
        after: After | None = None,
        limit: int = 50,
        subject: int | None = None,
        viewer: int | None = None,
    ) -> tuple[list[Find], After | None]:
        """Return a page of finds and where the next begins; ``hidden`` None returns hidden ones as well.

        ``liked`` says whether ``viewer``, a volunteer, likes them.
        """
        query = _all(viewer)
        if hidden is not None:
            query = query.where(finds.c.hidden == hidden)
        if subject is not None:
            query = query.where(finds.c.subject == subject)
        if order == "liked":
            query = query.order_by(_LIKES.desc(), finds.c.id.desc())
            if after is not None:
                fewer, same = after[0] > _LIKES, literal(after[0]) == _LIKES
                query = query.where(or_(fewer, and_(same, finds.c.id < after[1])))
        else:
            query = query.order_by(finds.c.id.desc())
            if after is not None:
                query = query.where(finds.c.id < after[1])
        found = self._read(query.limit(limit + 1))
        last = found[limit - 1] if len(found) > limit else None
        return found[:limit], (last.likes, last.id) if last else None

    def hide(self, id: int, hidden: bool) -> None:
        """Hide a find from volunteers, or show it again."""
        self._database.write(lambda c: c.execute(update(finds).where(finds.c.id == id).values(hidden=hidden)))

    def like(self, id: int, volunteer: int, on: bool) -> int:
        """Like a find, or no more; return how many do. Raises GreenpeaError where there is no such find."""

        def write(connection: Connection) -> int:
            if connection.execute(select(finds.c.id).where(finds.c.id == id)).first() is None:
                raise GreenpeaError(f"there is no find {id}")
            mine = (likes.c.find == id) & (likes.c.volunteer == volunteer)
            connection.execute(delete(likes).where(mine))
            if on:
                connection.execute(insert(likes).values(find=id, volunteer=volunteer))
            return int(connection.execute(select(func.count()).where(likes.c.find == id)).scalar_one())

        return int(self._database.write(write))

    def _read(self, query: Select[Any]) -> list[Find]:
        with self._database.read() as connection:
            return [_find(row) for row in connection.execute(query)]


_LIKES = select(func.count()).where(likes.c.find == finds.c.id).correlate(finds).scalar_subquery()


def _all(viewer: int | None) -> Select[Any]:
    liked = select(likes.c.find).where((likes.c.find == finds.c.id) & (likes.c.volunteer == viewer)).exists()
    return (
        select(finds, subjects.c.subject_id, _LIKES.label("likes"), liked.label("liked"), *identities.COLUMNS)
        .select_from(finds)
        .join(subjects, subjects.c.id == finds.c.subject)
        .join(volunteers, volunteers.c.id == finds.c.volunteer)
    )


def _find(row: Row[Any]) -> Find:
    return Find(
        id=row.id,
        uuid=row.uuid,
        subject_id=row.subject_id,
        subject=row.subject,
        volunteer=identities.volunteer_of(row),
        comment=row.comment,
        created_at=row.created_at,
        hidden=row.hidden,
        likes=row.likes,
        liked=bool(row.liked),
    )

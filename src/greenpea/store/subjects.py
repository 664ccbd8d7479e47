"""Subjects: added once, browsed, and looked at with where they stand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, Row, Select, and_, bindparam, func, insert, or_, select, update

from greenpea.classifications import walk
from greenpea.errors import GreenpeaError
from greenpea.store import counters
from greenpea.store.engine import Database, text_of
from greenpea.store.schema import classifications, progress, subjects, versions
from greenpea.store.values import NewSubject, Stream, Subject
from greenpea.store.workflows import Workflows, lock_tables
from greenpea.subjects import in_audit

LONGEST_ID = 500  # characters of a subject's id
BLOCK = 1000  # subjects added in one transaction
Order = Literal["subject_id", "classifications", "newest", "retired"]


class Subjects:
    """The subjects of a campaign."""

    def __init__(self, database: Database, workflows: Workflows) -> None:
        self._database, self._workflows = database, workflows

    def add(
        self,
        new: Iterable[NewSubject],
        now: datetime,
        audit_share: float = 0.02,
        report: Callable[[int], None] | None = None,
    ) -> int:
        """Add subjects, `BLOCK` in a transaction; return how many were new.

        Those known by their id keep their counts and the set they are in; images and metadata are replaced. Known
        answers must exist in the active workflow. ``report`` hears how many are done.
        """
        added, done, block = 0, 0, []
        for one in new:
            block.append(one)
            if len(block) == BLOCK:
                added += self._add(block, now, audit_share)
                done, block = done + len(block), []
                if report:
                    report(done)
        added += self._add(block, now, audit_share) if block else 0
        self._database.analyze()
        return added

    def _add(self, block: Sequence[NewSubject], now: datetime, audit_share: float) -> int:
        for one in block:
            if not one.subject_id or len(one.subject_id) > LONGEST_ID or "\x00" in one.subject_id:
                raise GreenpeaError(
                    f"a subject's id has 1 to {LONGEST_ID} characters, none of them NUL: {one.subject_id[:80]!r}"
                )
            if one.gold is not None:
                self._check_gold(one)
        return int(self._database.write(lambda connection: _add(connection, block, now, audit_share)))

    def _check_gold(self, one: NewSubject) -> None:
        tree = self._workflows.active().workflow.tree
        try:
            for question in one.gold or {}:
                walk(tree.model_copy(update={"first": tree[question].slug}), one.gold or {})
        except GreenpeaError as error:
            raise GreenpeaError(f"the known answer of subject {one.subject_id!r}: {error}") from error

    def count(self) -> int:
        """Return how many subjects there are."""
        with self._database.read() as connection:
            return int(connection.execute(select(func.count()).select_from(subjects)).scalar_one())

    def get(self, subject_id: str) -> Subject | None:
        """Return a subject by its id, or None."""
        return next(iter(self._read(self._all().where(subjects.c.subject_id == text_of(subject_id)))), None)

    def by_number(self, id: int) -> Subject | None:
        """Return a subject by its number in the store, or None."""
        if abs(id) >= 2**63:
            return None
        return next(iter(self._read(self._all().where(subjects.c.id == id))), None)

    def browse(
        self,
        *,
        retired: bool | None = None,
        reason: str | None = None,
        search: str = "",
        stream: Stream | None = None,
        audit: bool | None = None,
        gold: bool | None = None,
        least: int = 0,
        order: Order = "subject_id",
        after: tuple[Any, ...] | None = None,
        limit: int = 50,
    ) -> tuple[list[Subject], tuple[Any, ...] | None]:
        """Return a page of subjects and where the next page begins (None: there is none).

        ``search`` is part of an id; ``stream`` keeps subjects with a classification from that stream; ``least`` is
        of classifications. Pages are found by key, so that the thousandth costs what the first does.
        """
        keys = _ORDERS[order]
        query = self._all().where(progress.c.classifications >= least)
        if retired is not None:
            query = query.where(progress.c.retired_at.is_not(None) if retired else progress.c.retired_at.is_(None))
        if reason is not None:
            query = query.where(progress.c.reason == text_of(reason))
        if search:
            query = query.where(subjects.c.subject_id.icontains(text_of(search), autoescape=True))
        if stream is not None:
            made = classifications.c.stream == Stream(stream).value
            query = query.where(
                select(classifications.c.id).where((classifications.c.subject == subjects.c.id) & made).exists()
            )
        for wanted, pool in ((audit, "audit"), (gold, "gold")):
            if wanted is not None:
                query = query.where((subjects.c.pool == pool) if wanted else (subjects.c.pool != pool))
        if order == "retired":
            query = query.where(progress.c.retired_at.is_not(None))
        if after is not None:
            query = query.where(_beyond(keys, after))
        query = query.order_by(*(column.desc() if down else column.asc() for column, down in keys)).limit(limit + 1)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        more = rows[limit - 1] if len(rows) > limit else None
        following = tuple(_plain(more._mapping[column.name]) for column, _ in keys) if more else None
        return [_subject(row) for row in rows[:limit]], following

    def _all(self) -> Select[Any]:
        major = self._workflows.active().major
        return _with_progress().where(progress.c.major == major)

    def _read(self, query: Select[Any]) -> list[Subject]:
        with self._database.read() as connection:
            return [_subject(row) for row in connection.execute(query)]


_ORDERS: dict[str, list[tuple[Any, bool]]] = {  # column, descending
    "subject_id": [(subjects.c.subject_id, False)],
    "classifications": [(progress.c.classifications, True), (subjects.c.id, False)],
    "newest": [(progress.c.subject, True)],
    "retired": [(progress.c.retired_at, True), (subjects.c.id, False)],
}


def _beyond(keys: Sequence[tuple[Any, bool]], after: Sequence[Any]) -> Any:
    """Return the condition that a row comes after ``after`` in the order of ``keys``."""
    ways = []
    for index, (column, down) in enumerate(keys):
        same = [key == value for (key, _), value in zip(keys[:index], after[:index], strict=True)]
        value = _instant(after[index]) if column is progress.c.retired_at else after[index]
        ways.append(and_(*same, column < value if down else column > value))
    return or_(*ways)


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _instant(value: Any) -> Any:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


def _with_progress() -> Select[Any]:
    return select(
        subjects.c.id,
        progress.c.subject,
        subjects.c.subject_id,
        subjects.c.images,
        subjects.c.metadata,
        subjects.c.gold,
        subjects.c.pool,
        progress.c.classifications,
        progress.c.tally,
        progress.c.retired_at,
        progress.c.reason,
    ).join(progress, progress.c.subject == subjects.c.id)


BY_NUMBER = _with_progress().where(
    progress.c.major == bindparam("major"), subjects.c.id.in_(bindparam("ids", expanding=True))
)


def subjects_by_number(connection: Connection, major: int, ids: Sequence[int]) -> dict[int, Subject]:
    """Return number → subject, with where it stands at a major version."""
    rows = connection.execute(BY_NUMBER, {"major": major, "ids": list(ids)})
    return {row.id: _subject(row) for row in rows}


def _subject(row: Row[Any]) -> Subject:
    return Subject(
        id=row.id,
        subject_id=row.subject_id,
        images=tuple(row.images),
        metadata=row.metadata,
        audit=row.pool == "audit",
        gold=row.gold,
        classifications=row.classifications,
        tally=dict(row.tally),
        retired_at=row.retired_at,
        reason=row.reason,
    )


def _add(connection: Connection, block: Sequence[NewSubject], now: datetime, audit_share: float) -> int:
    lock_tables(connection, "subjects")  # numbers and places follow on from the highest there is
    ids = [one.subject_id for one in block]
    known = set(connection.execute(select(subjects.c.subject_id).where(subjects.c.subject_id.in_(ids))).scalars())
    if old := [one for one in block if one.subject_id in known]:
        statement = update(subjects).where(subjects.c.subject_id == bindparam("s"))
        connection.execute(
            statement.values(images=bindparam("i"), metadata=bindparam("m")),
            [{"s": one.subject_id, "i": list(one.images), "m": dict(one.metadata)} for one in old],
        )
    new = {one.subject_id: one for one in block if one.subject_id not in known}
    if new:
        places = _insert(connection, list(new.values()), now, audit_share)
        for major in connection.execute(select(versions.c.major).distinct()).scalars():
            counters.start(connection, major, places)
    return len(new)


def _insert(
    connection: Connection, new: Sequence[NewSubject], now: datetime, audit_share: float
) -> list[tuple[int, str, int]]:
    next_id = int(connection.execute(select(func.coalesce(func.max(subjects.c.id), 0))).scalar_one()) + 1
    taken: dict[str, int] = {
        pool: int(last) + 1
        for pool, last in connection.execute(
            select(subjects.c.pool, func.max(subjects.c.place)).group_by(subjects.c.pool)
        )
    }
    rows: list[dict[str, Any]] = []
    for number, one in enumerate(new):
        pool = "gold" if one.gold is not None else "audit" if in_audit(one.subject_id, audit_share) else "main"
        place = taken.get(pool, 0)
        taken[pool] = place + 1
        rows.append(
            {
                "id": next_id + number,
                "subject_id": one.subject_id,
                "images": list(one.images),
                "metadata": dict(one.metadata),
                "gold": None if one.gold is None else {q: list(answers) for q, answers in one.gold.items()},
                "pool": pool,
                "place": place,
                "created_at": now,
            }
        )
    connection.execute(insert(subjects), rows)
    return [(row["id"], row["pool"], row["place"]) for row in rows]

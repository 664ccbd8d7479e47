"""The queue: which subject a volunteer is handed next, by streams, with leases, and never one they have seen."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import Connection, func, insert, select, update

from greenpea.errors import GreenpeaError
from greenpea.store import identities
from greenpea.store.engine import Database, text_of
from greenpea.store.schema import active_round, classifications, handouts, progress, ranks, subjects, volunteers
from greenpea.store.subjects import subjects_by_number
from greenpea.store.values import Counted, HandOut, Stream
from greenpea.store.workflows import Workflows, open_count

TRIES = 48  # random places looked at together
SCANNED = 400  # open subjects looked at together, in the order of the ranks or from a random place on
POOLS = {Stream.RANDOM: "main", Stream.AUDIT: "audit", Stream.GOLD: "gold"}


@dataclass(frozen=True)
class QueueOptions:
    """How the streams are mixed; the chance of a gold subject decays from ``gold_first`` to ``gold_last``."""

    weights: Mapping[Stream, float] = field(
        default_factory=lambda: {Stream.RANK: 0.7, Stream.RANDOM: 0.2, Stream.AUDIT: 0.1}
    )
    gold_first: float = 0.3
    gold_last: float = 0.05
    gold_decay: float = 20.0  # classifications
    lease: timedelta = timedelta(minutes=30)

    def gold(self, classified: int) -> float:
        """Return the chance of a gold subject for a volunteer with so many classifications."""
        return self.gold_last + (self.gold_first - self.gold_last) * math.exp(-classified / self.gold_decay)


@dataclass(frozen=True)
class _Choice:
    subject: int
    stream: Stream
    round: int | None
    probability: float | None


class Queue:
    """Hands subjects to volunteers. What is handed out is kept, with how it was chosen."""

    def __init__(self, database: Database, workflows: Workflows, options: QueueOptions | None = None) -> None:
        self._database, self._workflows = database, workflows
        self.options = options or QueueOptions()

    def next(
        self,
        volunteer: int,
        count: int,
        now: datetime,
        rng: np.random.Generator | None = None,
        holding: Collection[int] | None = None,
    ) -> list[HandOut]:
        """Hand ``count`` subjects to a volunteer; fewer where there are no more, [] where they have seen everything.

        ``holding`` are the hand-outs that the volunteer still has before them: others that are open are handed
        out again first (None: none is). A subject's open hand-outs and counted classifications never exceed its
        limit together.
        """
        return self._submit(volunteer, count, now, rng, holding).result()

    async def next_async(
        self,
        volunteer: int,
        count: int,
        now: datetime,
        rng: np.random.Generator | None = None,
        holding: Collection[int] | None = None,
    ) -> list[HandOut]:
        """As `next`, in a transaction with what else waits."""
        return await asyncio.wrap_future(self._submit(volunteer, count, now, rng, holding))

    def _submit(
        self,
        volunteer: int,
        count: int,
        now: datetime,
        rng: np.random.Generator | None,
        holding: Collection[int] | None,
    ) -> Future[list[HandOut]]:
        version = self._workflows.active()
        rng = rng or np.random.default_rng()
        return self._database.submit(
            lambda c: _Handing(
                c, volunteer, version.major, version.id, version.workflow.limit, now, rng, self.options
            ).hand(count, holding)
        )

    def direct(self, volunteer: int, subject_id: str, now: datetime) -> HandOut | None:
        """Hand the subject a volunteer asked for; None where they have classified it, or there is none such."""
        version = self._workflows.active()
        return self._database.write(
            lambda c: _Handing(
                c, volunteer, version.major, version.id, None, now, np.random.default_rng(), self.options
            ).direct(subject_id)
        )


class _Handing:
    """One volunteer asking for more, within a transaction. Some six statements, whatever the number of subjects."""

    def __init__(
        self,
        connection: Connection,
        volunteer: int,
        major: int,
        version: int,
        limit: int | None,
        now: datetime,
        rng: np.random.Generator,
        options: QueueOptions,
    ) -> None:
        self.connection, self.major, self.version, self.limit = connection, major, version, limit
        self.now, self.rng, self.options = now, rng, options
        followed = identities.follow(connection, [volunteer])
        if volunteer not in followed:
            raise GreenpeaError(f"there is no volunteer {volunteer}")
        self.volunteer = followed[volunteer]
        row = connection.execute(
            select(volunteers.c.count.label("number"), volunteers.c.banned_at).where(volunteers.c.id == self.volunteer)
        ).one()
        self.classified, self.banned = row.number, row.banned_at is not None
        self.held: dict[int, Any] = {row.subject: row for row in self._open()}
        self.chosen: dict[int, _Choice] = {}
        self.passed: set[int] = set()

    def _open(self) -> Sequence[Any]:
        table = handouts.c
        return self.connection.execute(
            select(handouts).where(
                table.volunteer == self.volunteer,
                table.major == self.major,
                table.closed_at.is_(None),
                table.expires_at > self.now,
            )
        ).all()

    # ---- handing out ---------------------------------------------------------------------------

    def hand(self, count: int, holding: Collection[int] | None) -> list[HandOut]:
        if self.banned or count < 1:
            return []
        again = [] if holding is None else [row for row in self.held.values() if row.id not in set(holding)]
        again = again[:count]
        for _ in range(count - len(again)):
            if not self._choose():
                break
        return self._again(again) + self._new(list(self.chosen.values()))

    def direct(self, subject_id: str) -> HandOut | None:
        subject = self.connection.execute(
            select(subjects.c.id).where(subjects.c.subject_id == text_of(subject_id))
        ).scalar_one_or_none()
        if subject is None or self.banned or self._seen([subject]):
            return None
        if subject in self.held:
            return self._again([self.held[subject]])[0]
        return self._new([_Choice(subject, Stream.DIRECT, None, None)])[0]

    def _again(self, rows: Sequence[Any]) -> list[HandOut]:
        if not rows:
            return []
        expires = self.now + self.options.lease
        self.connection.execute(
            update(handouts).where(handouts.c.id.in_([row.id for row in rows])).values(expires_at=expires)
        )
        found = subjects_by_number(self.connection, self.major, [row.subject for row in rows])
        return [
            HandOut(
                row.id,
                self.volunteer,
                found[row.subject],
                row.version,
                Stream(row.stream),
                row.round,
                row.probability,
                row.handed_at,
                expires,
            )
            for row in rows
        ]

    def _new(self, choices: Sequence[_Choice]) -> list[HandOut]:
        if not choices:
            return []
        expires = self.now + self.options.lease
        rows = [
            {
                "volunteer": self.volunteer,
                "subject": one.subject,
                "major": self.major,
                "version": self.version,
                "stream": one.stream.value,
                "round": one.round,
                "probability": one.probability,
                "handed_at": self.now,
                "expires_at": expires,
            }
            for one in choices
        ]
        statement = insert(handouts).returning(handouts.c.id, sort_by_parameter_order=True)
        ids = self.connection.execute(statement, rows).scalars().all()
        found = subjects_by_number(self.connection, self.major, [one.subject for one in choices])
        return [
            HandOut(
                id,
                self.volunteer,
                found[one.subject],
                self.version,
                one.stream,
                one.round,
                one.probability,
                self.now,
                expires,
            )
            for id, one in zip(ids, choices, strict=True)
        ]

    # ---- choosing ------------------------------------------------------------------------------

    def _choose(self) -> bool:
        """Choose one more subject: by the stream that the dice say, else by another. False where nothing is left."""
        for stream in self._streams():
            for _ in range(TRIES):  # somebody else may have taken the last place on it just now
                choice = self._by_rank() if stream is Stream.RANK else self._at_random(stream)
                if choice is None:
                    break
                if self._still_free(choice.subject):
                    self.chosen[choice.subject] = choice
                    return True
                self.passed.add(choice.subject)
        return False

    def _still_free(self, subject: int) -> bool:
        """Whether a place is free while nobody else can take one. On SQLite only one transaction writes anyway.

        A subject that another transaction holds is passed over: handing out never waits, so it cannot deadlock.
        """
        if self.limit is None or self.connection.dialect.name == "sqlite":
            return True
        lock = select(progress.c.subject).where(progress.c.major == self.major, progress.c.subject == subject)
        if self.connection.execute(lock.with_for_update(skip_locked=True)).first() is None:
            return False
        return not self._full([subject])

    def _streams(self) -> Iterator[Stream]:
        classified = self.classified + len(self.held) + len(self.chosen)
        if self.rng.random() < self.options.gold(classified):
            yield Stream.GOLD
        weights = {stream: weight for stream, weight in self.options.weights.items() if weight > 0}
        while weights:
            share = np.array(list(weights.values()))
            stream = list(weights)[int(self.rng.choice(len(share), p=share / share.sum()))]
            del weights[stream]
            yield stream
        # A stream with no weight still has subjects that need classifying when all others have run dry.
        yield from (stream for stream in (Stream.RANDOM, Stream.AUDIT) if not self.options.weights.get(stream))

    def _at_random(self, stream: Stream) -> _Choice | None:
        """Choose uniformly among a pool's open subjects that this volunteer has not seen.

        Random places are looked at first: each is a random subject, so the first that may be handed out is a
        fair draw. Where few are open, the open ones are read on from a random place instead.
        """
        pool = POOLS[stream]
        total, opened = open_count(self.connection, self.major, pool)
        if not opened:
            return None
        places = self.rng.integers(0, total, TRIES)
        order = {int(place): turn for turn, place in reversed(list(enumerate(places)))}
        rows = self._places(pool, progress.c.place.in_(sorted(order)))
        fit = self._fit([row.subject for row in sorted(rows, key=lambda row: order[row.place])])
        subject = next(iter(fit), None)
        if subject is None:
            subject = self._scan(pool, int(places[0]))
        return None if subject is None else _Choice(subject, stream, None, 1 / opened)

    def _scan(self, pool: str, start: int) -> int | None:
        for first, last in ((start, None), (0, start)):
            place: int | None = first
            while place is not None:
                condition = progress.c.place >= place
                if last is not None:
                    condition &= progress.c.place < last
                rows = self._places(pool, condition)
                if fit := self._fit([row.subject for row in rows]):
                    return int(fit[self.rng.integers(len(fit))])
                place = rows[-1].place + 1 if len(rows) == SCANNED else None
        return None

    def _places(self, pool: str, condition: Any) -> Sequence[Any]:
        return self.connection.execute(
            select(progress.c.subject, progress.c.place)
            .where(progress.c.major == self.major, progress.c.pool == pool, progress.c.retired_at.is_(None), condition)
            .order_by(progress.c.place)
            .limit(SCANNED)
        ).all()

    def _by_rank(self) -> _Choice | None:
        """Choose the highest-ranked open subject of the active round that this volunteer has not seen."""
        round = self.connection.execute(select(active_round.c.round)).scalar_one_or_none()
        rank, size = -1, 4 * TRIES
        while round is not None:
            rows = self.connection.execute(
                select(ranks)
                .where(ranks.c.round == round, ranks.c.rank > rank, ranks.c.open)
                .order_by(ranks.c.rank)
                .limit(size)
            ).all()
            fit = self._fit([row.subject for row in rows])
            if fit:
                row = next(row for row in rows if row.subject == fit[0])
                return _Choice(row.subject, Stream.RANK, round, row.probability)
            if len(rows) < size:
                return None
            rank, size = rows[-1].rank, 1000
        return None

    # ---- who may be handed out -----------------------------------------------------------------

    def _fit(self, candidates: Sequence[int]) -> list[int]:
        """Return the candidates, in their order, that are neither seen, nor held, nor full with hand-outs."""
        taken = {*self.held, *self.chosen, *self.passed}
        candidates = [one for one in dict.fromkeys(candidates) if one not in taken]
        if not candidates:
            return []
        seen = self._seen(candidates)
        candidates = [one for one in candidates if one not in seen]
        full = self._full(candidates) if candidates and self.limit is not None else set()
        return [one for one in candidates if one not in full]

    def _seen(self, candidates: Sequence[int]) -> set[int]:
        table = classifications.c
        return set(
            self.connection.execute(
                select(table.subject).where(
                    table.volunteer == self.volunteer,
                    table.major == self.major,
                    table.subject.in_(candidates),
                    table.counted != Counted.UNDONE.value,
                )
            ).scalars()
        )

    def _full(self, candidates: Sequence[int]) -> set[int]:
        table = handouts.c
        leased: dict[int, int] = dict(
            self.connection.execute(
                select(table.subject, func.count().label("number"))
                .where(
                    table.subject.in_(candidates),
                    table.major == self.major,
                    table.closed_at.is_(None),
                    table.expires_at > self.now,
                )
                .group_by(table.subject)
            ).all()
        )
        if not leased:
            return set()
        rows = self.connection.execute(
            select(progress.c.subject, progress.c.classifications.label("number"), progress.c.pool).where(
                progress.c.major == self.major, progress.c.subject.in_(sorted(leased))
            )
        )
        limit = self.limit or 0
        return {row.subject for row in rows if row.pool != "gold" and row.number + leased[row.subject] >= limit}

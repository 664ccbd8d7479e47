"""The queue: which subject a volunteer is handed next, by streams, with leases, and never one they have seen."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Connection,
    bindparam,
    case,
    func,
    insert,
    or_,
    select,
    update,
)

from greenpea.errors import GreenpeaError
from greenpea.store.engine import Again, Database, padded, text_of
from greenpea.store.schema import active_round, classifications, handouts, progress, ranks, rounds, subjects, volunteers
from greenpea.store.subjects import subjects_by_number
from greenpea.store.values import Counted, HandOut, Stream, Version
from greenpea.store.workflows import KEPT, Workflows, open_count

MOST_HELD = 100  # open hand-outs of one volunteer: nobody keeps a campaign from the others
TRIES = 48  # random places looked at together
SCANNED = 100  # open subjects looked at together, in the order of the ranks or from a random place on
UNLIMITED = 2**31
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
        self._sizes: dict[tuple[int, str], tuple[float, tuple[int, int]]] = {}

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
        limit together. Raises GreenpeaError where the volunteer holds `MOST_HELD` already.
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
        turns = itertools.count()  # in its second turn it waits for what another process holds

        def hand(connection: Connection) -> list[HandOut]:
            handing = _Handing(connection, self, version, volunteer, now, rng, patient=next(turns) > 0)
            return handing.hand(count, holding)

        return self._database.submit(hand)

    def size(self, connection: Connection, major: int, pool: str) -> tuple[int, int]:
        """Return how many subjects a pool has and how many are open, as it was at most `KEPT` seconds ago."""
        read_at, size = self._sizes.get((major, pool), (-math.inf, (0, 0)))
        if time.monotonic() - read_at > KEPT or not size[1]:
            size = open_count(connection, major, pool)
            self._sizes[major, pool] = time.monotonic(), size
        return size

    def direct(self, volunteer: int, subject_id: str, now: datetime) -> HandOut | None:
        """Hand the subject a volunteer asked for; None where they have classified it, or there is none such."""
        version = self._workflows.active()
        return self._database.write(
            lambda connection: _Handing(connection, self, version, volunteer, now, np.random.default_rng()).direct(
                subject_id
            )
        )


class _Handing:
    """One volunteer asking for more, within a transaction. Some six statements, whatever the number of subjects."""

    def __init__(
        self,
        connection: Connection,
        queue: Queue,
        version: Version,
        volunteer: int,
        now: datetime,
        rng: np.random.Generator,
        patient: bool = False,
    ) -> None:
        self.patient = patient
        self.connection, self.queue, self.options = connection, queue, queue.options
        self.major, self.version, self.limit = version.major, version.id, version.workflow.limit
        self.now, self.rng = now, rng
        row = connection.execute(WHO, {"volunteer": volunteer}).one_or_none()
        while row is not None and row.merged_into is not None:
            row = connection.execute(WHO, {"volunteer": row.merged_into}).one_or_none()
        if row is None:
            raise GreenpeaError(f"there is no volunteer {volunteer}")
        self.volunteer, self.classified, self.banned = row.id, row.number, row.banned_at is not None
        self.held = {row.subject: row for row in self._read(HELD, volunteer=self.volunteer, now=now)}
        self.chosen: dict[int, _Choice] = {}
        self.passed: set[int] = set()
        self.wells: dict[Stream, Iterator[_Choice]] = {}  # what each stream would give next

    # ---- handing out ---------------------------------------------------------------------------

    def hand(self, count: int, holding: Collection[int] | None) -> list[HandOut]:
        if self.banned or count < 1:
            return []
        again = [] if holding is None else self._still_wanted(set(holding))[:count]
        if len(self.held) >= MOST_HELD and not again:
            raise GreenpeaError(f"{len(self.held)} subjects are in your hands already: classify some of them first")
        count = min(count, max(MOST_HELD - len(self.held), 0) + len(again))
        while len(self.chosen) < count - len(again):
            found = [self._choose() for _ in range(count - len(again) - len(self.chosen))]
            self._give_up_taken()
            if not all(found):
                break
        handed = self._again(again) + self._new(list(self.chosen.values()))
        if self.passed and not handed:
            raise Again(handed)  # what another process held for a moment may be free now
        return handed

    def _still_wanted(self, holding: set[int]) -> list[Any]:
        """Return open hand-outs that are not before the volunteer, without those seen or retired meanwhile."""
        rows = [row for row in self.held.values() if row.id not in holding]
        if not rows:
            return []
        wanted = {
            row.subject
            for row in self._read(WANTED, volunteer=self.volunteer, candidates=padded([row.subject for row in rows]))
        }
        if gone := [row.id for row in rows if row.subject not in wanted]:
            self.connection.execute(update(handouts).where(handouts.c.id.in_(gone)).values(closed_at=self.now))
        return [row for row in rows if row.subject in wanted]

    def direct(self, subject_id: str) -> HandOut | None:
        subject = self.connection.execute(
            select(subjects.c.id).where(subjects.c.subject_id == text_of(subject_id))
        ).scalar_one_or_none()
        if subject is None or self.banned or self._read(SEEN, volunteer=self.volunteer, subject=subject):
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
        if ranked := [{"r": one.round, "s": one.subject} for one in choices if one.stream is Stream.RANK]:
            self.connection.execute(ASKED, ranked)
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
            if stream not in self.wells:
                self.wells[stream] = self._by_rank() if stream is Stream.RANK else self._at_random(stream)
            for choice in self.wells[stream]:
                if choice.subject not in (*self.held, *self.chosen, *self.passed):  # streams may meet
                    self.chosen[choice.subject] = choice
                    return True
        return False

    def _give_up_taken(self) -> None:
        """Let go of chosen subjects of which another process may be taking the last place just now.

        The others stay locked until the commit. A subject that another transaction holds is passed over: handing
        out does not wait, so it cannot deadlock. Only where there is no other subject it is tried again by itself,
        and waits. On SQLite nobody else writes meanwhile.
        """
        if self.connection.dialect.name == "sqlite" or not self.chosen:
            return
        lock = LOCK_OR_WAIT if self.patient else LOCK
        locked = {row.subject for row in self._read(lock, candidates=padded(self.chosen))}
        # Asked only now that nobody else can take a place on them.
        limit = UNLIMITED if self.limit is None else self.limit
        places = self._read(STILL_FREE, candidates=padded(locked), limit=limit, now=self.now)
        free = {row.subject for row in places}
        self.passed |= self.chosen.keys() - free
        self.chosen = {subject: choice for subject, choice in self.chosen.items() if subject in free}

    def _streams(self) -> Iterator[Stream]:
        classified = self.classified + len(self.held) + len(self.chosen)
        if self.rng.random() < self.options.gold(classified):
            yield Stream.GOLD
        weights = {stream: weight for stream, weight in self.options.weights.items() if weight > 0}
        while weights:
            dice = self.rng.random() * sum(weights.values())
            edges = itertools.accumulate(weights.values())
            stream = next((stream for stream, edge in zip(weights, edges, strict=True) if dice < edge), [*weights][-1])
            del weights[stream]
            yield stream
        # A stream with no weight still has subjects that need classifying when all others have run dry.
        yield from (stream for stream in (Stream.RANDOM, Stream.AUDIT) if not self.options.weights.get(stream))

    def _at_random(self, stream: Stream) -> Iterator[_Choice]:
        """Yield a pool's open subjects that this volunteer has not seen, uniformly at random.

        Random places are looked at first: each is a random subject, so those that may be handed out are fair
        draws. Where few are open, the open ones are read on from a random place instead.
        """
        pool = POOLS[stream]
        total, opened = self.queue.size(self.connection, self.major, pool)
        if not opened:
            return
        places = [int(place) for place in self.rng.integers(0, total, TRIES)]
        by_place = {row.place: row.subject for row in self._find(AT_PLACES, pool=pool, places=padded(set(places)))}
        found = dict.fromkeys(by_place[place] for place in places if place in by_place)
        yield from (_Choice(subject, stream, None, 1 / opened) for subject in found)
        for first, last in ((places[0], total), (0, places[0])):
            while first < last:
                rows = self._find(FROM_PLACE, pool=pool, first=first, last=last)
                order = self.rng.permutation(len(rows))
                yield from (_Choice(rows[turn].subject, stream, None, 1 / opened) for turn in order)
                first = rows[-1].place + 1 if len(rows) == SCANNED else last

    def _by_rank(self) -> Iterator[_Choice]:
        """Yield the open subjects of the active round that this volunteer has not seen, best first."""
        rank = -1
        while True:
            rows = self._find(RANKED, rank=rank)
            yield from (_Choice(row.subject, Stream.RANK, row.round, row.probability) for row in rows)
            if len(rows) < TRIES:
                return
            rank = rows[-1].rank

    def _find(self, statement: Any, **values: Any) -> Sequence[Any]:
        """Return open subjects that this volunteer has not seen and that have a free place."""
        limit = UNLIMITED if self.limit is None or values.get("pool") == "gold" else self.limit
        return self._read(statement, volunteer=self.volunteer, limit=limit, now=self.now, **values)

    def _read(self, statement: Any, **values: Any) -> Sequence[Any]:
        return self.connection.execute(statement, {"major": self.major} | values).all()


# Made once: to build a statement costs as much as to run it.
_MAJOR: BindParameter[int] = bindparam("major")
_CANDIDATES: BindParameter[int] = bindparam("candidates", expanding=True)


def _unseen(subject: ColumnElement[int]) -> ColumnElement[bool]:
    """Return the condition that the volunteer has not classified a subject, or took it back."""
    seen = select(classifications.c.id).where(
        classifications.c.volunteer == bindparam("volunteer"),
        classifications.c.major == _MAJOR,
        classifications.c.subject == subject,
        classifications.c.counted != Counted.UNDONE.value,
    )
    return ~seen.exists()


_LEASED = (
    select(func.count())
    .where(
        handouts.c.subject == progress.c.subject,
        handouts.c.major == _MAJOR,
        handouts.c.closed_at.is_(None),
        handouts.c.expires_at > bindparam("now"),
    )
    .scalar_subquery()
)
_LEFT = bindparam("limit", type_=BigInteger) - progress.c.classifications
# An open subject beyond its limit (the rule asks for more) is handed to one at a time.
_FREE = case((_LEFT < 1, 1), else_=_LEFT) > _LEASED
# Without the "+ 0" SQLite would search the primary key, and so read every subject, retired or not.
_OPEN_PLACES = select(progress.c.subject, progress.c.place).where(
    progress.c.major + 0 == _MAJOR,
    progress.c.pool == bindparam("pool"),
    progress.c.retired_at.is_(None),
    _unseen(progress.c.subject),
    _FREE,
)
AT_PLACES = _OPEN_PLACES.where(progress.c.place.in_(bindparam("places", expanding=True)))
FROM_PLACE = (
    _OPEN_PLACES.where(progress.c.place >= bindparam("first"), progress.c.place < bindparam("last"))
    .order_by(progress.c.place)
    .limit(SCANNED)
)
# The ranks of the active round, if they were made for this version of the workflow.
_ROUND = (
    select(active_round.c.round)
    .join(rounds, rounds.c.id == active_round.c.round)
    .where(rounds.c.major == _MAJOR)
    .scalar_subquery()
)
RANKED = (
    select(ranks.c.round, ranks.c.rank, ranks.c.subject, ranks.c.probability)
    .join(progress, (progress.c.subject == ranks.c.subject) & (progress.c.major == _MAJOR))
    .where(ranks.c.round == _ROUND, ranks.c.rank > bindparam("rank"), ranks.c.open)
    .where(progress.c.retired_at.is_(None), _unseen(ranks.c.subject), _FREE)
    .order_by(ranks.c.rank)
    .limit(TRIES)
)
ASKED = (
    update(ranks)
    .where(ranks.c.round == bindparam("r"), ranks.c.subject == bindparam("s"))
    .values(left=ranks.c.left - 1, open=ranks.c.open & (ranks.c.left > 1))
)
STILL_FREE = select(progress.c.subject).where(
    progress.c.major == _MAJOR, progress.c.subject.in_(_CANDIDATES), or_(progress.c.pool == "gold", _FREE)
)
SEEN = select(subjects.c.id).where(subjects.c.id == bindparam("subject"), ~_unseen(subjects.c.id))
WANTED = select(progress.c.subject).where(
    progress.c.major == _MAJOR,
    progress.c.subject.in_(_CANDIDATES),
    progress.c.retired_at.is_(None),
    _unseen(progress.c.subject),
)
_LOCK = (
    select(progress.c.subject)
    .where(progress.c.major == _MAJOR, progress.c.subject.in_(_CANDIDATES), progress.c.retired_at.is_(None))
    .order_by(progress.c.subject)
)
LOCK, LOCK_OR_WAIT = _LOCK.with_for_update(skip_locked=True), _LOCK.with_for_update()
WHO = (
    select(volunteers.c.id, volunteers.c.merged_into, volunteers.c.banned_at, volunteers.c.count.label("number"))
    .where(volunteers.c.id == bindparam("volunteer"))
    .with_for_update(key_share=True)
)
HELD = select(handouts).where(
    handouts.c.volunteer == bindparam("volunteer"),
    handouts.c.major == _MAJOR,
    handouts.c.closed_at.is_(None),
    handouts.c.expires_at > bindparam("now"),
)

"""Ranks: what active-learning rounds publish to the queue, in small writes, and then by one switch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any, SupportsFloat

from sqlalchemy import Connection, delete, func, insert, select, update

from greenpea.errors import GreenpeaError
from greenpea.store import counters
from greenpea.store.engine import Database, fitting
from greenpea.store.schema import active_round, progress, ranks, rounds, subjects
from greenpea.store.values import Round
from greenpea.store.workflows import Workflows

LONGEST, LONGEST_REASON = 100, 200  # characters
UNLIMITED = 2**31 - 1  # times that a rank may be handed out
BLOCK = 1000  # ranks written in one transaction, so that no vote waits for more


class Rounds:
    """The rounds published, and which of them ranks the queue."""

    def __init__(self, database: Database, workflows: Workflows) -> None:
        self._database, self._workflows = database, workflows

    def create(self, model: str, seed: int, settings: Mapping[str, Any], now: datetime) -> int:
        """Begin a round for the active workflow; return its number. It ranks nothing until it is activated."""
        fitting(model, LONGEST, "a model's hash")
        if not abs(seed) < 2**63:
            raise GreenpeaError(f"the seed {seed} is too large: choose one below 2^63")
        major = self._workflows.active().major
        values = {"major": major, "created_at": now, "model": model, "seed": seed, "settings": dict(settings)}
        statement = insert(rounds).values(**values, complete=False).returning(rounds.c.id)
        return int(self._database.write(lambda connection: connection.execute(statement).scalar_one()))

    def publish(
        self,
        round: int,
        ranked: Sequence[tuple[str, float]],
        probabilities: Sequence[float] | None = None,
        asks: int | None = None,
    ) -> int:
        """Write a round's ranks, best first, as (subject id, score); return how many.

        ``probabilities`` of selection are recorded with each hand-out. A subject is handed out by its rank ``asks``
        times (None: up to its limit), and then the next: what a score is worth falls with the votes that follow it.
        Audit and gold subjects, retired ones and strangers are left out. Interrupted, it is simply run again. Raises
        GreenpeaError for the active round.
        """
        for subject, score in ranked:
            if not isinstance(score, SupportsFloat) or not math.isfinite(score):
                raise GreenpeaError(f"the score of {subject!r} is not a number: rank by finite scores")
        self._database.write(lambda connection: _begin(connection, round))
        chances = [None] * len(ranked) if probabilities is None else list(probabilities)
        entries = iter(zip(ranked, chances, strict=True))
        rank = 0
        while block := list(islice(entries, BLOCK)):
            rank += self._gently(partial(_publish, round=round, block=block, rank=rank, asks=asks))
        self._database.write(
            lambda connection: connection.execute(update(rounds).where(rounds.c.id == round).values(complete=True))
        )
        return rank

    def activate(self, round: int, now: datetime) -> None:
        """Let a complete round rank the queue, from one moment to the next. An earlier one: a rollback."""
        self._database.write(lambda connection: _activate(connection, round, now))

    def prune(self, keep: int) -> int:
        """Forget the ranks of all but the newest ``keep`` rounds and the active one, in small writes; return how many.

        The rounds stay: what was handed out by them names them.
        """
        kept = [one.id for number, one in enumerate(self.all()) if number < keep or one.active]
        old = select(ranks.c.subject, ranks.c.round).where(ranks.c.round.not_in(kept)).limit(BLOCK)

        def forget(connection: Connection) -> int:
            rows = connection.execute(old).all()
            for round in {row.round for row in rows}:
                some = [row.subject for row in rows if row.round == round]
                connection.execute(delete(ranks).where(ranks.c.round == round, ranks.c.subject.in_(some)))
            for round in connection.execute(select(rounds.c.id).where(rounds.c.id.not_in(kept), rounds.c.complete)):
                connection.execute(update(rounds).where(rounds.c.id == round.id).values(complete=False))
            return len(rows)

        forgotten = 0
        while some := int(self._gently(forget)):
            forgotten += some
        return forgotten

    def active(self) -> int | None:
        """Return the round that ranks the queue, or None."""
        with self._database.read() as connection:
            return connection.execute(select(active_round.c.round)).scalar_one_or_none()

    def all(self) -> list[Round]:
        """Return every round, newest first."""
        size = select(func.count()).where(ranks.c.round == rounds.c.id).scalar_subquery()
        with self._database.read() as connection:
            active = connection.execute(select(active_round.c.round)).scalar_one_or_none()
            rows = connection.execute(select(rounds, size.label("size")).order_by(rounds.c.id.desc())).all()
        return [
            Round(row.id, row.created_at, row.model, row.seed, row.settings, row.size, row.id == active) for row in rows
        ]

    def retire(self, reasons: Mapping[str, str], now: datetime) -> int:
        """Retire subjects (id → reason) because votes and network know enough; return how many did.

        Never an audit subject: those go to the full limit (they judge the network).
        """

        for reason in reasons.values():
            fitting(reason, LONGEST_REASON, "a reason")
        ids, major = sorted(reasons), self._workflows.active().major

        def retire(connection: Connection, some: Sequence[str]) -> int:
            query = (
                select(progress, subjects.c.subject_id)
                .join(subjects, subjects.c.id == progress.c.subject)
                .where(
                    progress.c.major == major,
                    subjects.c.subject_id.in_(some),
                    progress.c.pool == "main",
                    progress.c.retired_at.is_(None),
                )
                .order_by(progress.c.subject)
                .with_for_update(of=progress)
            )
            rows = connection.execute(query).all()
            counters.retire(connection, [(row, reasons[row.subject_id]) for row in rows], now, "posterior")
            return len(rows)

        blocks = (ids[start : start + BLOCK] for start in range(0, len(ids), BLOCK))
        return sum(int(self._gently(partial(retire, some=some))) for some in blocks)

    def _gently(self, write: Callable[[Connection], Any]) -> Any:
        """Write, then let others write as long: where SQLite has one writer after another, a pause lets them in."""
        begun = time.perf_counter()
        result = self._database.write(write)
        if self._database.kind == "sqlite":
            time.sleep(time.perf_counter() - begun)
        return result


def _begin(connection: Connection, round: int) -> None:
    """Empty a round that is to be written (again); until it is complete it cannot be activated."""
    found = connection.execute(update(rounds).where(rounds.c.id == round).values(complete=False))
    if not found.rowcount:
        raise GreenpeaError(f"there is no round {round}: create it first")
    if connection.execute(select(active_round.c.round)).scalar_one_or_none() == round:
        raise GreenpeaError(f"round {round} ranks the queue now: create a new one")
    connection.execute(delete(ranks).where(ranks.c.round == round))


def _publish(
    connection: Connection,
    round: int,
    block: Sequence[tuple[tuple[str, float], float | None]],
    rank: int,
    asks: int | None,
) -> int:
    major = connection.execute(select(rounds.c.major).where(rounds.c.id == round)).scalar_one()
    found = dict(
        connection.execute(
            select(subjects.c.subject_id, subjects.c.id)
            .join(progress, (progress.c.subject == subjects.c.id) & (progress.c.major == major))
            .where(
                subjects.c.subject_id.in_([subject for (subject, _), _ in block]),
                subjects.c.pool == "main",
                progress.c.retired_at.is_(None),
            )
            .with_for_update(of=progress)
        ).all()
    )
    rows = [
        {
            "round": round,
            "subject": found[subject],
            "score": float(score),
            "probability": chance,
            "open": True,
            "left": UNLIMITED if asks is None else asks,
        }
        for (subject, score), chance in block
        if subject in found
    ]
    if rows:
        connection.execute(insert(ranks), [row | {"rank": rank + number} for number, row in enumerate(rows)])
    return len(rows)


def _activate(connection: Connection, round: int, now: datetime) -> None:
    asked = select(rounds.c.complete).where(rounds.c.id == round).with_for_update()
    complete = connection.execute(asked).scalar_one_or_none()
    if not complete:
        what = "is not complete: publish it first" if complete is not None else "does not exist"
        raise GreenpeaError(f"round {round} {what}")
    changed = connection.execute(update(active_round).where(active_round.c.id == 1).values(round=round, changed_at=now))
    if not changed.rowcount:
        connection.execute(insert(active_round).values(id=1, round=round, changed_at=now))

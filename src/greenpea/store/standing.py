"""Where subjects stand, many at once: what an active-learning round begins with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int
from sqlalchemy import Connection, func, or_, select

from greenpea.classifications import Tally, add, votes_of
from greenpea.store.engine import Database
from greenpea.store.schema import classifications, pools, progress, ranks, subjects
from greenpea.store.values import Counted, Stream
from greenpea.store.workflows import Workflows
from greenpea.votes import Votes

FETCHED = 10_000  # rows read at a time


@dataclass(frozen=True, eq=False)
class Standing:
    """Votes and state of subjects at one major version, row by row; subjects with known answers are not among them."""

    major: int
    votes: Votes
    audit: Bool[np.ndarray, " subject"]
    classifications: Int[np.ndarray, " subject"]
    retired: Bool[np.ndarray, " subject"]

    def __len__(self) -> int:
        return len(self.audit)


class Standings:
    """Reads them, in one state of the database; a reader never holds a writer up."""

    def __init__(self, database: Database, workflows: Workflows) -> None:
        self._database, self._workflows = database, workflows

    def newest(self) -> int:
        """Return a number that grows with every classification stored; one look at an index."""
        with self._database.read() as connection:
            return int(connection.execute(select(func.coalesce(func.max(classifications.c.id), 0))).scalar_one())

    def size(self) -> int:
        """Return how many subjects can be ranked at the active version: neither audit nor gold."""
        query = select(pools.c.total).where(pools.c.major == self._workflows.active().major, pools.c.pool == "main")
        with self._database.read() as connection:
            return int(connection.execute(query).scalar_one_or_none() or 0)

    def read(self, parts: int = 1, part: int = 0, round: int | None = None) -> Standing:
        """Return where the subjects stand: all of them, or every ``parts``-th beginning with ``part``.

        Whatever the part, audit subjects, those with votes and those that ``round`` ranked are among them.
        One pass over the counters.
        """
        version = self._workflows.active()
        wanted = progress.c.place % parts == part
        if parts > 1:
            ranked = select(ranks.c.subject).where(ranks.c.round == round)
            wanted = or_(
                wanted, progress.c.classifications > 0, progress.c.pool == "audit", progress.c.subject.in_(ranked)
            )
        query = (
            select(
                subjects.c.subject_id,
                progress.c.pool,
                progress.c.classifications,
                progress.c.tally,
                progress.c.retired_at,
            )
            .join(subjects, subjects.c.id == progress.c.subject)
            .where(progress.c.major == version.major, progress.c.pool != "gold", wanted)
            .order_by(progress.c.subject)
        )
        with self._database.snapshot() as connection:
            rows = connection.execution_options(yield_per=FETCHED).execute(query).all()
        return Standing(
            major=version.major,
            votes=votes_of({row.subject_id: row.tally for row in rows}, version.workflow.tree),
            audit=np.array([row.pool == "audit" for row in rows], dtype=bool),
            classifications=np.array([row.classifications for row in rows], dtype=np.int64),
            retired=np.array([row.retired_at is not None for row in rows], dtype=bool),
        )

    def savings(self, limit: int) -> tuple[int, int]:
        """Return (classifications that retired subjects did not need of their ``limit``, those that they had)."""
        fewer = func.sum(limit - progress.c.classifications).filter(progress.c.classifications < limit)
        query = select(func.coalesce(fewer, 0), func.coalesce(func.sum(progress.c.classifications), 0)).where(
            progress.c.major == self._workflows.active().major,
            progress.c.pool == "main",
            progress.c.retired_at.is_not(None),
        )
        with self._database.read() as connection:
            saved, spent = connection.execute(query).one()
        return int(saved), int(spent)

    def by_stream(self, streams: Iterable[Stream]) -> dict[Stream, Votes]:
        """Return the counted votes of each stream at the active version: one pass over the classifications."""
        version, chosen = self._workflows.active(), tuple(streams)
        tallies: dict[Stream, dict[str, Tally]] = {stream: {} for stream in chosen}
        with self._database.snapshot() as connection:
            for stream, subject_id, annotations in _cast(connection, version.major, chosen):
                add(tallies[Stream(stream)].setdefault(subject_id, {}), annotations)
        return {stream: votes_of(found, version.workflow.tree) for stream, found in tallies.items()}


def _cast(connection: Connection, major: int, streams: tuple[Stream, ...]) -> Iterator[tuple[str, str, dict]]:  # type: ignore[type-arg]
    table = classifications.c
    query = (
        select(table.stream, subjects.c.subject_id, table.annotations)
        .join(subjects, subjects.c.id == table.subject)
        .where(table.major == major, table.counted == Counted.YES.value)
        .where(table.stream.in_([stream.value for stream in streams]))
    )
    rows = connection.execution_options(yield_per=FETCHED).execute(query)
    yield from ((row.stream, row.subject_id, row.annotations) for row in rows)

"""How long a volunteer waits for the next subjects, with a million subjects and a thousand seen per volunteer.

On SQLite, by each stream: by rank with 10^5 ranks of which the volunteer has seen the first thousand, at random with
nine in ten subjects retired, and mixed. Each request hands out 5 subjects and is committed. The naive way, measured
beside it: one query that sorts all open subjects at random and leaves out those seen.

    python benchmarks/next_subject.py [--subjects 1000000] [--seen 1000]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import text

from greenpea.store import NewSubject, QueueOptions, Store, Stream
from greenpea.workflow import Workflow

BATCH = 5
NAIVE = """
SELECT subject FROM progress WHERE major = 1 AND retired_at IS NULL AND pool = 'main'
AND subject NOT IN (SELECT subject FROM classifications WHERE volunteer = :volunteer AND major = 1)
ORDER BY random() LIMIT 5
"""
RETIRE = "UPDATE progress SET retired_at = 0, reason = 'count', retired_by = 'rule' WHERE major = 1 AND subject = :s"
# Written in bulk: taking a thousand classifications from each of fifty volunteers is not what is measured here.
SEEN = """
INSERT INTO classifications (uuid, volunteer, subject, major, version, annotations, counted, after_retirement, stream,
received_at, metadata) VALUES (:uuid, :volunteer, :subject, 1, 1, '{}', 'repeated', 0, 'random', 0, '{}')
"""


def populate(store: Store, subjects: int, retired: float, rng: np.random.Generator, now: datetime) -> None:
    store.workflows.publish(Workflow.load("gz-decals-5"), now)

    def some() -> Iterator[NewSubject]:
        for number in range(subjects):
            yield NewSubject(f"g{number:07d}", ("",))

    store.subjects.add(some(), now, 0.02, lambda done: _say(f"{done:,} subjects") if done % 200_000 == 0 else None)
    ranked = [(f"g{number:07d}", float(-place)) for place, number in enumerate(rng.permutation(subjects)[:100_000])]
    round = store.rounds.create("benchmark", 0, {}, now)
    store.rounds.publish(round, ranked)
    store.rounds.activate(round, now)
    gone = rng.random(subjects) < retired
    ids = np.flatnonzero(gone) + 1
    stay = {row[0] for row in store.database.write(lambda c: c.execute(text("SELECT subject FROM ranks")).all())}
    for start in range(0, len(ids), 20_000):
        values = [{"s": int(i)} for i in ids[start : start + 20_000] if int(i) not in stay]
        store.database.write(
            lambda c, values=values: c.execute(
                text(RETIRE),
                values,
            )
        )
    recount = """UPDATE pools SET open = (SELECT count(*) FROM progress p
                 WHERE p.major = pools.major AND p.pool = pools.pool AND p.retired_at IS NULL)"""
    store.database.write(lambda c: c.execute(text(recount)))


def volunteers(store: Store, count: int, seen: int, rng: np.random.Generator, now: datetime) -> list[int]:
    """Make volunteers who have seen the highest-ranked subjects, and as many others at random."""
    top = store.database.write(
        lambda c: [row[0] for row in c.execute(text("SELECT subject FROM ranks ORDER BY rank LIMIT :n"), {"n": seen})]
    )
    total = store.subjects.count()
    made = [store.people.anonymous(now).id for _ in range(count)]
    for one in made:
        others = rng.choice(total, seen // 2, replace=False) + 1
        subjects = [*top[: seen - len(others)], *others.tolist()]
        rows = [{"uuid": f"{one}-{i}", "volunteer": one, "subject": int(s)} for i, s in enumerate(subjects)]
        store.database.write(lambda c, rows=rows: c.execute(text(SEEN), rows))
    return made


def measure(
    store: Store, people: list[int], weights: dict[Stream, float], requests: int, now: datetime
) -> dict[str, Any]:
    store.queue.options = QueueOptions(weights=weights)
    rng, times = np.random.default_rng(1), []
    for number in range(requests):
        # Two minutes from one request to the next, so that leases run out as they would.
        asked = now + timedelta(minutes=2 * number)
        begun = time.perf_counter()
        handed = store.queue.next(people[number % len(people)], BATCH, asked, rng)
        times.append(1000 * (time.perf_counter() - begun))
        if len(handed) < BATCH:
            raise RuntimeError("the queue ran dry")
    return {"p50_ms": _round(times, 50), "p99_ms": _round(times, 99), "max_ms": round(max(times), 2)}


def naive(store: Store, people: list[int], requests: int) -> dict[str, Any]:
    times = []
    for number in range(requests):
        begun = time.perf_counter()
        with store.database.read() as connection:
            connection.execute(text(NAIVE), {"volunteer": people[number % len(people)]}).all()
        times.append(1000 * (time.perf_counter() - begun))
    return {"p50_ms": _round(times, 50)}


def _round(times: list[float], percent: float) -> float:
    return round(float(np.percentile(times, percent)), 2)


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=1_000_000)
    parser.add_argument("--seen", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=2000)
    chosen = parser.parse_args()
    rng, now = np.random.default_rng(0), datetime.now(UTC)
    with tempfile.TemporaryDirectory(prefix="greenpea-next-") as folder:
        store = Store.open(Path(folder) / "store.sqlite")
        populate(store, chosen.subjects, 0.9, rng, now)
        people = volunteers(store, 50, chosen.seen, rng, now)
        result: dict[str, Any] = {"subjects": chosen.subjects, "seen": chosen.seen, "handed_per_request": BATCH}
        mixes = {
            "rank": {Stream.RANK: 1.0},
            "random": {Stream.RANDOM: 1.0},
            "mixed": dict(QueueOptions().weights),
        }
        for turn, (name, weights) in enumerate(mixes.items()):
            later = now + timedelta(days=10 * turn)  # by then every lease of the turn before has run out
            result[name] = measure(store, people, weights, chosen.requests, later)
            _say(f"{name}: {result[name]}")
        result["p99_ms"] = max(result[name]["p99_ms"] for name in mixes)
        result["naive_random"] = naive(store, people, 5)
        result["ratio_to_naive"] = round(result["naive_random"]["p50_ms"] / result["random"]["p50_ms"], 1)
        store.close()
    print(json.dumps(result))


if __name__ == "__main__":
    main()

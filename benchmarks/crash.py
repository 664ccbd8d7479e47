"""kill -9 on the server, again and again, while volunteers classify: is anything lost or counted twice?

On SQLite (one process) and on PostgreSQL (two workers), the server and all its workers are killed at random moments
under the load of `site_load.py`, and started again on the same port. Every volunteer goes on trying with the same
uuid until it is acknowledged, also where the acknowledgement was lost on the way. In the end every acknowledged
classification must be stored, none counted twice, and the counters equal a recount.

    python benchmarks/crash.py [--rounds 20] [--only sqlite]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections import Counter
from typing import Any

from crowd import Server, Volunteers, new_database, postgres_server, server, stored
from greenpea.store import Counted, Store


async def crash(served: Server, volunteers: Volunteers, rounds: int, rng: random.Random) -> tuple[Any, int]:
    """Kill the server ``rounds`` times while the volunteers work; return what they saw, and what was under way."""
    working = asyncio.create_task(volunteers.run(float("inf")))
    under_way = 0
    for number in range(rounds):
        before = len(volunteers.load.acknowledged)
        while len(volunteers.load.acknowledged) < before + 20:  # it works again
            await asyncio.sleep(0.02)
            if working.done():
                raise RuntimeError(f"the volunteers gave up: {working}")
        await asyncio.sleep(rng.uniform(0.0, 1.5))
        under_way += volunteers.waiting
        served.kill()
        await asyncio.to_thread(served.start)
        print(f"  round {number + 1}: {len(volunteers.load.acknowledged):,} acknowledged", file=sys.stderr, flush=True)
    volunteers.stop_soon()
    return await working, under_way


def judge(store: Store, acknowledged: list[str]) -> dict[str, int]:
    """Compare what was acknowledged with what is stored and counted."""
    every = list(store.classifications.stream())
    counted = Counter((one.volunteer.id, one.subject) for one in every if one.counted is Counted.YES)
    ids = Counter(one.uuid for one in every)
    return {
        "acknowledged": len(acknowledged),
        "stored": len(every),
        "lost": len(set(acknowledged) - set(ids)),
        "counted_twice": sum(number > 1 for number in counted.values()) + sum(number > 1 for number in ids.values()),
        "recount_differences": store.classifications.recount(),
    }


def measure(database: str | None, workers: int, rounds: int, volunteers: int) -> dict[str, Any]:
    with server(4000, database, workers) as served:
        crowd = Volunteers(served.address, volunteers, patient=True)
        load, under_way = asyncio.run(crash(served, crowd, rounds, random.Random(1)))
        served.stop()
        with stored(served.folder, database) as store:
            found = judge(store, load.acknowledged)
    return {"rounds": rounds, **found, "requests_under_way_when_killed": under_way, "errors": len(load.errors)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--volunteers", type=int, default=16)
    parser.add_argument("--only", choices=["sqlite", "postgres"])
    chosen = parser.parse_args()
    result: dict[str, Any] = {}
    if chosen.only != "postgres":
        result["sqlite"] = measure(None, 1, chosen.rounds, chosen.volunteers)
        print("sqlite", result["sqlite"], file=sys.stderr)
    if chosen.only != "sqlite":
        with postgres_server(durable=True) as url:
            if url is None:
                print("PostgreSQL is not installed: skipped", file=sys.stderr)
            else:
                result["postgres"] = measure(new_database(url), 2, chosen.rounds, chosen.volunteers)
                print("postgres", result["postgres"], file=sys.stderr)
    for what in ("lost", "counted_twice", "recount_differences"):
        result[what] = sum(one[what] for one in result.values() if isinstance(one, dict))
    result["rounds"] = min(one["rounds"] for one in result.values() if isinstance(one, dict))
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""How many classifications a second the site takes, on SQLite and on PostgreSQL, with the generator on the same cores.

32 simulated volunteers arrive one after another within three seconds, which are not measured, and then walk the GZ
DECaLS tree at random for a minute: each asks for 5 subjects, fetches a picture
for each, and posts a classification, which is acknowledged after its commit. Afterwards the counters are recounted
from the raw classifications. SQLite runs again with a commit for every write: the naive way, and the ratio to it.

    python benchmarks/site_load.py [--seconds 60] [--volunteers 32] [--only sqlite]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import Any

from crowd import Volunteers, new_database, postgres_server, server, stored

RAMP = 3.0  # seconds


def measure(
    database: str | None, workers: int, group: bool, seconds: float, volunteers: int, subjects: int
) -> dict[str, Any]:
    with server(subjects, database, workers, group) as served:
        crowd = Volunteers(served.address, volunteers)
        load = asyncio.run(crowd.run(seconds, ramp=RAMP))
        served.stop()
        with stored(served.folder, database) as store:
            kept = {one.uuid for one in store.classifications.stream(counted_only=True)}
            differences = store.classifications.recount()
    return {
        "per_second": round(len(load.acknowledged) / load.seconds, 1),
        "p50_ms": round(load.percentile("classification", 0.50), 1),
        "p99_ms": round(load.percentile("classification", 0.99), 1),
        "next_p99_ms": round(load.percentile("next", 0.99), 1),
        "image_p99_ms": round(load.percentile("image", 0.99), 1),
        "errors": len(load.errors),
        "first_errors": load.errors[:3],
        "acknowledged": len(load.acknowledged),
        "lost": len({*load.acknowledged, *crowd.early} - kept),
        "recount_differences": differences,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--volunteers", type=int, default=32)
    parser.add_argument("--subjects", type=int, default=3000)
    parser.add_argument("--only", choices=["sqlite", "postgres"])
    chosen = parser.parse_args()
    result: dict[str, Any] = {"seconds": chosen.seconds, "volunteers": chosen.volunteers}

    def run(name: str, database: str | None, workers: int, group: bool) -> None:
        measured = measure(database, workers, group, chosen.seconds, chosen.volunteers, chosen.subjects)
        print(name, measured, file=sys.stderr)
        result[name] = measured

    if chosen.only != "postgres":
        run("sqlite", None, 1, True)
        run("sqlite_without_group_commit", None, 1, False)
        ratio = result["sqlite"]["per_second"] / result["sqlite_without_group_commit"]["per_second"]
        result["ratio_to_no_group_commit"] = round(ratio, 2)
    if chosen.only != "sqlite":
        with postgres_server(durable=True) as url:
            if url is None:
                print("PostgreSQL is not installed: skipped", file=sys.stderr)
            else:
                run("postgres", new_database(url), 2, True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

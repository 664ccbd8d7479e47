"""A million classifications through the store without the web: simulated volunteers on subjects of random truth.

A volunteer is handed 50 subjects by the queue, answers each as a simulated volunteer of known skill would, and the
50 classifications are submitted in one transaction, until every subject has its 40 and has retired. Afterwards the
counters are recounted, and the store's votes compared with those counted beside it. The naive way, measured on the
first 2,000 in the same run: each classification in a transaction of its own.

    python benchmarks/headless.py [--classifications 1000000]
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from greenpea import simulate
from greenpea.classifications import Tally, add, votes_of
from greenpea.store import HandOut, NewSubject, SentClassification, Store
from greenpea.tree import DecisionTree
from greenpea.workflow import Workflow

LIMIT, HANDED, NAIVE = 40, 50, 2000


def random_truth(tree: DecisionTree, subjects: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return fractions per subject and answer that no picture stands behind: simulated, and not of galaxies."""
    return {
        question.slug: rng.beta(0.3, 3.0, (subjects, len(question.answers)))
        if question.kind == "multiple"
        else rng.dirichlet(np.full(len(question.answers), 0.5), subjects)
        for question in tree.questions
    }


class Crowd:
    """Simulated volunteers in a store: who they are there, and what they answer."""

    def __init__(self, store: Store, subjects: int, people: int, now: datetime) -> None:
        self.store, self.now, self.rng = store, now, np.random.default_rng(0)
        self.tree = store.workflows.active().workflow.tree
        self.truth = random_truth(self.tree, subjects, self.rng)
        self.confusion = simulate.volunteers(people, 0).confusions(self.tree)
        self.ids = [store.people.anonymous(now).id for _ in range(people)]
        self.tallies: dict[str, Tally] = {f"g{number:06d}": {} for number in range(subjects)}

    def classify(self, one: int, handed: Sequence[HandOut]) -> list[SentClassification]:
        """Return what volunteer ``one`` makes of the subjects, and count it beside the store."""
        numbers = np.array([int(each.subject.subject_id[1:]) for each in handed])
        who = np.full(len(numbers), one)
        walks = simulate.annotate(self.truth, self.tree, self.confusion, numbers, who, self.rng)
        made = []
        for each, walk in zip(handed, walks, strict=True):
            add(self.tallies[each.subject.subject_id], walk)
            made.append(
                SentClassification(
                    str(uuid.UUID(bytes=self.rng.bytes(16), version=4)),
                    each.volunteer,
                    each.subject.id,
                    each.version,
                    walk,
                    each.id,
                    each.stream,
                    each.round,
                    each.probability,
                )
            )
        return made


def run(store: Store, crowd: Crowd, naive: int) -> dict[str, float]:
    """Let the crowd classify until nobody is handed anything; return counts and seconds."""
    spent = {"queue": 0.0, "store": 0.0, "naive": 0.0}
    done, idle, turn = 0, 0, 0
    begun = time.perf_counter()
    while idle < len(crowd.ids):
        one, turn = turn % len(crowd.ids), turn + 1
        start = time.perf_counter()
        handed = store.queue.next(crowd.ids[one], HANDED, crowd.now, crowd.rng)
        spent["queue"] += time.perf_counter() - start
        idle = 0 if handed else idle + 1
        made = crowd.classify(one, handed) if handed else []
        start = time.perf_counter()
        if done < naive:
            for sent in made:
                store.classifications.submit([sent], crowd.now)
            spent["naive"] += time.perf_counter() - start
        elif made:
            store.classifications.submit(made, crowd.now)
            spent["store"] += time.perf_counter() - start
        before, done = done, done + len(made)
        if done // 100_000 > before // 100_000:
            rate = done / (time.perf_counter() - begun)
            print(f"{done:,} classifications, {rate:,.0f} a second", file=sys.stderr, flush=True)
    return {"classifications": done, "seconds": time.perf_counter() - begun, **spent}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classifications", type=int, default=1_000_000)
    parser.add_argument("--volunteers", type=int, default=2000)
    chosen = parser.parse_args()
    subjects, now = chosen.classifications // LIMIT, datetime.now(UTC)
    with tempfile.TemporaryDirectory(prefix="greenpea-headless-") as folder:
        store = Store.open(Path(folder) / "store.sqlite")
        store.workflows.publish(Workflow.load("gz-decals-5"), now)
        store.subjects.add((NewSubject(f"g{number:06d}", ("",)) for number in range(subjects)), now)
        crowd = Crowd(store, subjects, chosen.volunteers, now)
        figures = run(store, crowd, NAIVE)
        votes, overview = store.classifications.votes(), store.statistics.overview(now)
        expected = votes_of(crowd.tallies, crowd.tree)
        after = figures["classifications"] - NAIVE
        result: dict[str, Any] = {
            "simulated": True,
            "classifications": figures["classifications"],
            "per_second": round(figures["classifications"] / figures["seconds"]),
            "store_per_second": round(after / figures["store"]),
            "queue_per_second": round(figures["classifications"] / figures["queue"]),
            "ratio_to_one_by_one": round((after / figures["store"]) / (NAIVE / figures["naive"]), 1),
            "retired": overview.retired,
            "subjects": overview.subjects,
            "recount_differences": store.classifications.recount(),
            "votes_equal": bool(votes.align(expected.subject_ids) == expected),
            "store_mib": round((Path(folder) / "store.sqlite").stat().st_size / 2**20),
            "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        }
        store.close()
    print(json.dumps(result))


if __name__ == "__main__":
    main()

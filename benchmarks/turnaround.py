"""From the last of 1,000 new votes to a queue turned by them: 100,000 subjects with cached embeddings, beside the site.

The campaign's subjects are *simulated*: embeddings at random, opinions linear in them, no pictures behind them; what
is measured is time, not skill. ``greenpea serve`` and ``greenpea loop`` run as processes of their own, as people run
them, on the same cores as the volunteers, who send votes all the while at a steady pace. ``blocked_ms`` is the longest
that any volunteer waited for a receipt while a round was under way, ``quiet_blocked_ms`` the same with no round.

    python benchmarks/turnaround.py [--subjects 100000] [--rate 20]
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common import finish
from crowd import Server, stored
from greenpea import records, simulate
from greenpea.campaign import Campaign
from greenpea.client import Client
from greenpea.embeddings import Embeddings
from greenpea.settings import Settings
from greenpea.store import NewSubject, SentClassification, Store, Stream
from greenpea.subjects import SubjectSet
from greenpea.tree import DecisionTree
from greenpea.workflow import Workflow

NEW, PEOPLE = 1000, 8


class Opinions:
    """Simulated subjects: embeddings, and what people think of them."""

    def __init__(self, subjects: int, length: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.tree = DecisionTree.load("gz-decals-5")
        self.embeddings = rng.normal(size=(subjects, length)).astype(np.float32)
        self.truth = {question.slug: self._truth(question, length, rng) for question in self.tree.questions}

    def _truth(self, question: Any, length: int, rng: np.random.Generator) -> np.ndarray:
        logits = self.embeddings @ rng.normal(size=(length, len(question.answers))) * (2 / np.sqrt(length))
        if question.kind == "multiple":
            return np.asarray(1 / (1 + np.exp(2.5 - logits)))
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def prepare(folder: Path, opinions: Opinions, classified: int) -> None:
    """Make the campaign: subjects, a store with some classifications, cached embeddings."""
    rows = len(opinions.embeddings)
    ids = [f"g{number:06d}" for number in range(rows)]
    (folder / "images").mkdir(parents=True)
    noise = np.random.default_rng(2).integers(0, 60, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(folder / "images" / f"{ids[0]}.jpg")  # the encoder asks how many channels there are
    SubjectSet.from_files(ids, [folder / "images" / f"{one}.jpg" for one in ids]).save(folder)
    (folder / "workflow.json").write_text(Workflow(tree=opinions.tree).to_json())
    settings = Settings().override(["site.per_minute=100000000", f"loop.classifications={NEW}", "loop.minutes=1000"])
    (folder / "campaign.toml").write_text(settings.to_toml())
    with stored(folder, None) as store:
        now = datetime.now(UTC)
        store.workflows.publish(Workflow.load(folder / "workflow.json"), now)
        store.subjects.add((NewSubject(one, ("",)) for one in ids), now, settings.site.whole_share)
        classify(store, opinions, classified)
    keep_embeddings(Campaign.open(folder), ids, opinions.embeddings)


def keep_embeddings(campaign: Campaign, ids: list[str], embeddings: np.ndarray) -> None:
    """Keep made-up embeddings under the campaign's own encoder, as if they had been computed."""
    kept = campaign.encoder()
    if kept.length != embeddings.shape[1]:
        raise SystemExit(f"--length {kept.length} is what the encoder gives")
    found = Embeddings.create(campaign.folder, kept.fingerprint, kept.length)
    for start in range(0, len(ids), 10_000):
        found = found.append(ids[start : start + 10_000], embeddings[start : start + 10_000])


def classify(store: Store, opinions: Opinions, count: int) -> None:
    """Store so many classifications on subjects at random, forty to a volunteer: what the campaign had before."""
    rng, now, version = np.random.default_rng(1), datetime.now(UTC), store.workflows.active().id
    confusion = simulate.volunteers(-(-count // 40), 0).confusions(opinions.tree)
    for person in range(-(-count // 40)):
        one = store.people.anonymous(now).id
        some = rng.choice(len(opinions.embeddings), min(40, count - 40 * person), replace=False)
        walks = simulate.annotate(opinions.truth, opinions.tree, confusion, some, np.full(len(some), person), rng)
        store.classifications.submit(
            [
                SentClassification(str(uuid.uuid4()), one, int(subject) + 1, version, said, stream=Stream.RANDOM)
                for subject, said in zip(some, walks, strict=True)
            ],
            now,
        )


class People:
    """Volunteers over HTTP at a steady pace, each in a thread; keeps when each classification went and what it took."""

    def __init__(self, address: str, opinions: Opinions, rate: float) -> None:
        self.address, self.opinions, self.pause = address, opinions, PEOPLE / rate
        self.sent: list[tuple[float, float]] = []
        self.errors: list[str] = []
        self.stop = threading.Event()
        confusion = simulate.volunteers(PEOPLE, 2).confusions(opinions.tree)
        self.threads = [
            threading.Thread(target=self._volunteer, args=(number, confusion), daemon=True) for number in range(PEOPLE)
        ]

    @contextlib.contextmanager
    def voting(self) -> Iterator[None]:
        for thread in self.threads:
            thread.start()
            time.sleep(self.pause / PEOPLE)
        yield
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def _volunteer(self, number: int, confusion: Any) -> None:
        rng = np.random.default_rng(number)
        try:
            with Client.anonymous(self.address) as client:
                while not self.stop.is_set():
                    for handed in client.next(5):
                        subject = np.array([int(handed.subject_id[1:])])
                        who = np.array([number])
                        said = simulate.annotate(self.opinions.truth, self.opinions.tree, confusion, subject, who, rng)
                        self.stop.wait(self.pause * rng.uniform(0.5, 1.5))
                        begun = time.perf_counter()
                        client.classify(handed, said[0])
                        self.sent.append((begun, time.perf_counter() - begun))
        except Exception as error:
            self.errors.append(repr(error))

    def slowest(self, since: float, until: float) -> float:
        """Return the longest that one waited, in milliseconds, of those under way within [since, until]."""
        waits = [1000 * took for begun, took in self.sent if begun + took > since and begun < until]
        return max(waits, default=float("nan"))


def wait_for_round(store: Store, before: int | None, process: subprocess.Popen[bytes], log: Path) -> float:
    """Return the moment at which another round ranks the queue."""
    for _ in range(60_000):
        if store.rounds.active() != before:
            return time.perf_counter()
        if process.poll() is not None:
            raise RuntimeError(log.read_text()[-3000:])
        time.sleep(0.01)
    raise TimeoutError(log.read_text()[-3000:])


def measure(folder: Path, opinions: Opinions, rate: float) -> dict[str, Any]:
    served = Server(folder, None, 1, True)
    served.start()
    log = folder / "loop.log"
    with stored(folder, None) as store, log.open("wb") as file:
        command = [sys.executable, "-m", "greenpea", "loop", str(folder)]
        process = subprocess.Popen(command, stdout=file, stderr=file)
        try:
            begun = time.perf_counter()
            first = wait_for_round(store, None, process, log) - begun
            return {"first_round_seconds": first} | _turn(store, process, log, served, opinions, rate)
        finally:
            process.terminate()
            process.wait()
            served.stop()


def _turn(
    store: Store, process: subprocess.Popen[bytes], log: Path, served: Server, opinions: Opinions, rate: float
) -> dict[str, Any]:
    people, before, counted = People(served.address, opinions, rate), store.rounds.active(), store.standings.newest()
    with people.voting():
        begun = time.perf_counter()
        while store.standings.newest() < counted + NEW:
            if people.errors:
                raise RuntimeError(people.errors[0])
            time.sleep(0.01)
        last = time.perf_counter()
        turned = wait_for_round(store, before, process, log)
        time.sleep(5)  # what follows the switch: retirement, forgetting old ranks
        ended = time.perf_counter()
    record = records.every(served.folder)[-1]
    times = list(record.stages.values())
    took = [(after - before).total_seconds() for before, after in pairwise([record.begun_at, *times])]
    return {
        "seconds": turned - last,
        "steps": dict(zip(record.stages, took, strict=True)),
        "blocked_ms": people.slowest(last, ended),
        "quiet_blocked_ms": people.slowest(begun + 1, last),
        "median_ms": 1000 * float(np.median([took for _, took in people.sent])),
        "classifications_meanwhile": sum(last < at < ended for at, _ in people.sent),
        "errors": len(people.errors),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=100_000)
    parser.add_argument("--classified", type=int, default=20_000, help="classifications there were before")
    parser.add_argument("--length", type=int, default=128, help="numbers in an embedding")
    parser.add_argument("--rate", type=float, default=20, help="classifications a second, all volunteers together")
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="greenpea-turnaround-"))
    try:
        opinions = Opinions(chosen.subjects, chosen.length)
        prepare(folder, opinions, chosen.classified)
        finish(vars(chosen) | {"new": NEW} | measure(folder, opinions, chosen.rate))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

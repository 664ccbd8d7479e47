"""Simulated volunteers who visit a real site: over its API, as anybody's program would.

They come and go as in a rehearsal (`greenpea.rehearsal.Habits`), one after the other; the days between are left out.
Nothing here imports torch: a crowd is a light process beside the site.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event

import httpx
import numpy as np

from greenpea import simulate
from greenpea.classifications import Annotations
from greenpea.client import Client, Handed
from greenpea.errors import GreenpeaError
from greenpea.rehearsal import Answers, FromTruth, Habits, behaviour, misbehaved, visits
from greenpea.tree import DecisionTree

LANES = 6  # volunteers at the site at the same time
HANDED = 10  # subjects a volunteer asks for at once
CROWD = 200  # skills among the volunteers, as `creation.simulate` has them
PAUSE = 0.3  # seconds before somebody else comes, where there was nothing to do


@dataclass
class Crowd:
    """Simulated volunteers, who come to the site one after the other, `LANES` of them at a time."""

    address: str
    answers: Answers
    tree: DecisionTree
    seed: int
    per_second: float
    stop: Event
    habits: Habits = field(default_factory=Habits)

    def __post_init__(self) -> None:
        self.tokens: dict[int, str | None] = {}
        self.coming = visits(self.habits, np.random.default_rng([self.seed, 1]))
        self.door = threading.Lock()

    def run(self) -> None:
        """Classify until ``stop``."""
        lanes = [threading.Thread(target=self._lane, args=(number,)) for number in range(LANES)]
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join()

    def _lane(self, number: int) -> None:
        rng = np.random.default_rng([self.seed, 2, number])
        with httpx.Client(timeout=30) as http:
            while not self._over():
                with self.door:
                    _, volunteer, wanted = next(self.coming)
                try:
                    made = self._visit(http, volunteer, wanted, rng)
                except GreenpeaError:  # the site is gone or busy: come again a little later
                    made = 0
                if not made:
                    time.sleep(PAUSE)

    def _visit(self, http: httpx.Client, volunteer: int, wanted: int, rng: np.random.Generator) -> int:
        """Classify until there is enough, or nothing left; return how many."""
        token = self.tokens.get(volunteer)
        client = Client(self.address, token, http=http) if token else Client.anonymous(self.address, http=http)
        self.tokens[volunteer] = client.token
        made = 0
        while made < wanted and not self._over():
            handed = client.next(min(HANDED, wanted - made))
            if not handed:
                break
            for one, walk in zip(handed, self._walks(volunteer, handed, rng), strict=True):
                begun = time.monotonic()
                if walk is not None:
                    client.classify(one, walk)
                made += 1
                time.sleep(max(0.0, LANES / self.per_second - (time.monotonic() - begun)))
        return made

    def _walks(
        self, volunteer: int, handed: Sequence[Handed], rng: np.random.Generator
    ) -> Sequence[Annotations | None]:
        kind = behaviour(self.habits, volunteer, self.seed)
        if kind == "honest":
            return self.answers(volunteer, [one.subject_id for one in handed], rng)
        return [misbehaved(kind, self.tree, volunteer, rng) for _ in handed]

    def _over(self) -> bool:
        parent = multiprocessing.parent_process()
        return self.stop.is_set() or (parent is not None and not parent.is_alive())


def come(address: str, subjects: int, seed: int, pixels: int, per_second: float, stop: Event) -> None:
    """Be the crowd of a campaign made by `creation.simulate` without votes, until ``stop``; in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the demonstration's to take
    tree = DecisionTree.load("gz-decals-5")
    some = simulate.galaxies(subjects, seed, pixels)
    answers = FromTruth(some.truth, some.subject_ids, tree, simulate.volunteers(CROWD, seed))
    Crowd(address, answers, tree, seed, per_second, stop).run()

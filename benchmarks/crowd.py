"""A crowd for the site's benchmarks: a campaign to serve, the server as a process, and volunteers over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from greenpea.settings import Settings
from greenpea.site.opening import GROUP, fill, open_store
from greenpea.store import Store
from greenpea.subjects import SubjectSet
from greenpea.tree import DecisionTree
from greenpea.workflow import Workflow
from site_hands import free_port, new_database, postgres_server

__all__ = ["Load", "Volunteers", "campaign", "new_database", "postgres_server", "server", "stored"]
START = 180.0  # seconds that a server may take to start on a busy machine
LIMITS = ["site.per_minute=100000000", "site.audit_share=0.02"]


def campaign(folder: Path, subjects: int, pixels: int = 64) -> Path:
    """Write a campaign of noise images on the GZD-5 tree: what is on them does not matter here."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(subjects):
        picture = Image.fromarray(rng.integers(0, 60, (pixels, pixels, 3), np.uint8))
        picture.save(folder / "images" / f"g{number:06d}.jpg", quality=85)
    SubjectSet.from_folder(folder / "images").save(folder)
    (folder / "workflow.json").write_text(Workflow(tree=DecisionTree.load("gz-decals-5")).to_json())
    (folder / "campaign.toml").write_text(Settings().override(LIMITS).to_toml())
    return folder


@contextlib.contextmanager
def stored(folder: Path, database: str | None) -> Iterator[Store]:
    """Yield the campaign's store, opened beside the server."""
    store = open_store(folder, database)
    yield store
    store.close()


def prepare(folder: Path, database: str | None) -> None:
    """Fill the store, so that the server starts at once."""
    settings = Settings.load(folder / "campaign.toml")
    with stored(folder, database) as store:
        fill(store, folder, settings, datetime.now(UTC))


@dataclass
class Server:
    """``greenpea serve`` as a process of its own."""

    folder: Path
    database: str | None
    workers: int
    group: bool
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "greenpea", "serve", str(self.folder), "--port", str(self.port), "--quiet"]
        command += ["--workers", str(self.workers)] + (["--database", self.database] if self.database else [])
        environment = os.environ | {GROUP: "1" if self.group else "0", "OMP_NUM_THREADS": "1"}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        self._wait()

    def _wait(self) -> None:
        import urllib.request

        deadline = time.monotonic() + START
        while time.monotonic() < deadline:
            if self.process is None or self.process.poll() is not None:
                raise RuntimeError((self.folder / "server.log").read_text()[-2000:])
            with contextlib.suppress(OSError), urllib.request.urlopen(self.address + "/readyz", timeout=2):
                return
            time.sleep(0.05)
        raise TimeoutError("the server does not answer")

    def kill(self) -> None:
        """kill -9, with all its workers."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()


@contextlib.contextmanager
def server(subjects: int, database: str | None, workers: int = 1, group: bool = True) -> Iterator[Server]:
    """Yield a served campaign in a temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="greenpea-load-"))
    try:
        campaign(folder / "campaign", subjects)
        prepare(folder / "campaign", database)
        one = Server(folder / "campaign", database, workers, group)
        one.start()
        try:
            yield one
        finally:
            one.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Load:
    """What the volunteers saw."""

    seconds: float
    acknowledged: list[str]  # uuids
    milliseconds: dict[str, list[float]]  # what was asked → how long each answer took
    errors: list[str]

    def percentile(self, what: str, share: float) -> float:
        times = self.milliseconds.get(what) or [float("nan")]
        return float(np.percentile(times, 100 * share))


class Volunteers:
    """Simulated volunteers: each asks for a few subjects, looks at each picture, walks the tree, posts.

    ``patient``: whether a volunteer goes on trying where the server does not answer, with the same uuid.
    """

    def __init__(self, address: str, count: int, batch: int = 5, patient: bool = False, seed: int = 0) -> None:
        self.address, self.count, self.batch, self.patient = address, count, batch, patient
        self.tree = DecisionTree.load("gz-decals-5")
        self.rng = random.Random(seed)
        self.load = Load(0.0, [], {"next": [], "image": [], "classification": []}, [])
        self.stop = False
        self.waiting = 0  # classifications sent, and not answered yet
        self._end = asyncio.Event()
        self.early: list[str] = []  # acknowledged while they arrived

    def stop_soon(self) -> None:
        """Let every volunteer finish what they have begun."""
        self._end.set()

    async def run(self, seconds: float, ramp: float = 0.0) -> Load:
        """Classify for so long; return what was seen, but for the first ``ramp`` seconds, in which they arrive."""
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=300)
        async with aiohttp.ClientSession(self.address, connector=connector) as session:
            tokens = [await self._arrive(session) for _ in range(self.count)]
            people = []
            for token in tokens:
                people.append(asyncio.create_task(self._volunteer(session, token)))
                await asyncio.sleep(ramp / len(tokens))
            begun, earlier = time.perf_counter(), self.load
            self.load = Load(0.0, [], {what: [] for what in earlier.milliseconds}, earlier.errors)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._end.wait(), None if math.isinf(seconds) else seconds)
            self.stop = True
            await asyncio.gather(*people)
            self.load.seconds = time.perf_counter() - begun
            self.early = earlier.acknowledged
        return self.load

    async def _arrive(self, session: aiohttp.ClientSession) -> str:
        async with session.post("/api/v1/volunteers", json={}) as answer:
            return str((await answer.json())["token"])

    async def _volunteer(self, session: aiohttp.ClientSession, token: str) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        while not self.stop:
            handed = await self._ask(session, "next", "POST", "/api/v1/next", headers, {"count": self.batch})
            if handed is None or not handed["subjects"]:
                if not self.patient:
                    self.load.errors.append("no more subjects" if handed else "no answer to next")
                    return
                await asyncio.sleep(0.05)
                continue
            for subject in handed["subjects"]:
                if self.stop:
                    return
                await self._ask(session, "image", "GET", subject["images"][0], headers, None)
                await self._classify(session, headers, subject["ticket"])

    async def _classify(self, session: aiohttp.ClientSession, headers: dict[str, str], ticket: str) -> None:
        sent = {"uuid": str(uuid.uuid4()), "ticket": ticket, "annotations": self._walk()}
        self.waiting += 1
        receipt = await self._ask(session, "classification", "POST", "/api/v1/classifications", headers, sent)
        self.waiting -= 1
        if receipt is not None:
            self.load.acknowledged.append(sent["uuid"])

    def _walk(self) -> dict[str, list[str]]:
        annotations: dict[str, list[str]] = {}
        slug: str | None = self.tree.first
        while slug is not None:
            question = self.tree[slug]
            if question.kind == "multiple":
                annotations[slug] = [a for a in question.answer_slugs if self.rng.random() < 0.1]
                slug = question.next
            else:
                answer = self.rng.choice(question.answers)
                annotations[slug], slug = [answer.slug], answer.next
        return annotations

    async def _ask(
        self, session: aiohttp.ClientSession, what: str, method: str, path: str, headers: dict[str, str], body: Any
    ) -> Any:
        while True:
            begun = time.perf_counter()
            try:
                async with session.request(method, path, json=body, headers=headers) as answer:
                    content = await (answer.read() if what == "image" else answer.json())
                    if answer.status < 300:
                        self.load.milliseconds[what].append(1000 * (time.perf_counter() - begun))
                        return content
                    fault = f"{what}: {answer.status} {content!r:.200}"
                    final = answer.status < 500 and answer.status != 429
            except (aiohttp.ClientError, ConnectionError, TimeoutError, ValueError) as error:
                fault, final = f"{what}: {type(error).__name__} {error}", False
            if not self.patient or final:
                self.load.errors.append(fault)
                return None
            # A killed server: the same request again, the same uuid in it, until it is back.
            if self.stop and what != "classification":
                return None
            await asyncio.sleep(0.05)

"""The demonstration: the whole loop on simulated galaxies, with simulated volunteers at a real site.

::

    galaxies ─ greenpea serve ◄── volunteers, over the API, in a process of their own
                    │                 ▲
                  votes             queue
                    └──► rounds ──────┘          the network learns from the votes, and says what to ask next

Everything is what a survey would run, but for the galaxies and the people.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Bool, Float

from greenpea import calibration, creation, records, simulate
from greenpea.campaign import SETTINGS, TRUTH, WORKFLOW, Campaign
from greenpea.combining import combine
from greenpea.embeddings import Embeddings
from greenpea.errors import GreenpeaError
from greenpea.heads import Heads
from greenpea.posterior import Posterior
from greenpea.records import Record
from greenpea.rehearsal import truth_in
from greenpea.retirement import Count, Settled
from greenpea.rounds import audit_set, comparing, run
from greenpea.site.opening import open_store
from greenpea.store import Overview, Role, Store
from greenpea.tree import DecisionTree
from greenpea.visiting import come
from greenpea.votes import Votes
from greenpea.workflow import Workflow

CHOSEN = (
    "site.per_minute=10000000",
    "site.audit_share=0.05",
    "site.reference_share=0.04",
    "site.lease_minutes=2",
    "learning.draws=30",
    "loop.kept=100",  # all heads stay, to be compared at the end
    "loop.report=false",
    "loop.folds=3",  # a round in three fifths of the time
)
WATCHED = 0.5  # seconds between two looks at the store
STARTING = 60.0  # seconds the site may take to answer
LOG = "server.log"
Report = Callable[[str, float, str], None]  # stage, share done, words


@dataclass(frozen=True)
class Scale:
    """How much there is to do: by default what two cores do in some four minutes."""

    subjects: int = 1200
    limit: int = 40  # classifications after which a subject retires in any case
    classifications: int = 19_200  # after which the demonstration ends, retired or not
    rounds: int = 8  # at most; as many as come in time
    per_second: float = 130.0  # classifications of all volunteers together, so that rounds keep up
    pixels: int = 64
    seed: int = 0


@dataclass(frozen=True)
class Moment:
    """What a spectator sees."""

    scale: Scale
    classifications: int
    volunteers: int
    subjects: int
    retired: int
    seconds: float  # since the first volunteer
    rate: float  # classifications a second since
    doing: str
    rounds: tuple[Record, ...]
    address: str


@dataclass(frozen=True)
class Learned:
    """What a round's heads know, judged on the audit votes as they were at the end: the same for all rounds.

    Gains are over the predictor that sees no image, in nats per vote, each vote as if it were a galaxy's first
    (`greenpea.rounds.comparing.one_by_one`). None: the round has no such heads.
    """

    round: int
    answers: int
    gain: float | None
    random_answers: int
    random_gain: float | None  # of heads that learned from the random stream alone


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of it, judged by the simulated truth; ``accuracy`` is question → how → share of right answers.

    An answer is right where it is the one that most of infinitely many such volunteers would give. A question
    counts on the subjects at which at least half of them would come to it. How: "votes", the counts alone; "combined",
    votes and network; "full", what the counts would say had everybody been asked to the full limit.
    """

    scale: Scale
    overview: Overview
    rounds: tuple[Record, ...]
    accuracy: Mapping[str, Mapping[str, float]]
    overall: Mapping[str, float]
    most: tuple[tuple[str, int], ...]  # (subject id, classifications so far): to ask about first, and last
    least: tuple[tuple[str, int], ...]
    ranked_by: int  # the round that ranked them; 0: none did
    learned: tuple[Learned, ...] = ()
    judges: tuple[int, int] = (0, 0)  # audit subjects, and their votes

    @property
    def full(self) -> int:
        """Classifications that every subject's full limit would take."""
        return self.scale.limit * self.overview.subjects

    @property
    def seconds(self) -> float:
        """From the beginning of the first round to the end of the last."""
        if not self.rounds:
            return 0.0
        return (max(self.rounds[-1].stages.values()) - self.rounds[0].begun_at).total_seconds()


# ---- setting the scene -------------------------------------------------------------------------------


def prepare(folder: Path, scale: Scale, report: Report) -> Campaign:
    """Make the demonstration's campaign, or go on with the one that is there."""
    if (folder / SETTINGS).is_file():
        campaign = Campaign.open(folder)
        if not campaign.simulated or campaign.tree.name != "gz-decals-5":
            raise GreenpeaError(f"{folder} is a campaign, but not the demonstration's: name another folder")
        return campaign
    creation.simulate(folder, scale.subjects, 0, scale.pixels, scale.seed, report, CHOSEN)
    workflow = Workflow.load(folder / WORKFLOW)
    rules = (
        Count(classifications=scale.limit),
        Settled(rule="settled", gain=0.02, classifications=min(5, scale.limit)),
    )
    text = workflow.model_copy(update={"retirement": rules}).to_json()
    (folder / WORKFLOW).write_text(text, encoding="utf-8")
    return Campaign.open(folder)


class Site:
    """``greenpea serve`` on the campaign, as a process of its own."""

    def __init__(self, folder: Path, port: int) -> None:
        self.address = f"http://localhost:{port}"
        command = [sys.executable, "-m", "greenpea", "serve", str(folder), "--port", str(port), "--quiet"]
        with (folder / LOG).open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})
        try:
            self._wait(folder / LOG)
        except BaseException:
            self.stop()
            raise

    def _wait(self, log: Path) -> None:
        begun = time.monotonic()
        while time.monotonic() - begun < STARTING:
            if self.process.poll() is not None:
                break
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.address}/readyz", timeout=2):
                return
            time.sleep(0.1)
        raise GreenpeaError(f"the site did not start; its last words, in {log}:\n{log.read_text('utf-8')[-800:]}")

    def wait(self) -> None:
        """Stay until somebody ends the site."""
        self.process.wait()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def free_port(wanted: int) -> int:
    """Return ``wanted`` if it can be listened on, else any port that can."""
    for port in (wanted, 0):
        with socket.socket() as one, contextlib.suppress(OSError):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("127.0.0.1", port))
            return int(one.getsockname()[1])
    raise GreenpeaError("there is no free port on this machine")


# ---- the volunteers ----------------------------------------------------------------------------------


@contextlib.contextmanager
def volunteers(address: str, scale: Scale, subjects: int) -> Iterator[Callable[[], None]]:
    """Let volunteers classify at the site meanwhile, or until the function is called that this gives."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    process = context.Process(
        target=come, args=(address, subjects, scale.seed, scale.pixels, scale.per_second, stop), daemon=True
    )
    process.start()
    try:
        yield stop.set
    finally:
        stop.set()
        process.join(20)
        if process.is_alive():
            process.kill()


# ---- the loop ----------------------------------------------------------------------------------------


class _Watch:
    """Looks at the store now and then, in a thread, and tells what there is."""

    def __init__(self, store: Store, scale: Scale, address: str, told: Callable[[Moment], None]) -> None:
        self.store, self.scale, self.address, self.told = store, scale, address, told
        self.doing, self.rounds = "", list[Record]()
        self.begun = time.monotonic()
        self.over = threading.Event()
        self.enough: Callable[[], None] = lambda: None  # called when there is: a round may be under way for long
        self.overview = store.statistics.overview(datetime.now(UTC))
        self.first = self.overview.counted  # there before, where a demonstration is gone on with
        self.thread = threading.Thread(target=self._watch)

    def __enter__(self) -> _Watch:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()
        self.look()

    def report(self, stage: str, share: float, words: str) -> None:
        self.doing = f"{stage} {words}".strip()

    def look(self) -> Overview:
        self.overview = self.store.statistics.overview(datetime.now(UTC))
        if _enough(self.overview, self.scale):
            self.enough()
        self.told(self.moment())
        return self.overview

    def moment(self) -> Moment:
        now, seconds = self.overview, time.monotonic() - self.begun
        return Moment(
            scale=self.scale,
            classifications=now.counted,
            volunteers=now.volunteers,
            subjects=now.subjects,
            retired=now.retired,
            seconds=seconds,
            rate=(now.counted - self.first) / max(seconds, 1.0),
            doing=self.doing,
            rounds=tuple(self.rounds),
            address=self.address,
        )

    def _watch(self) -> None:
        while not self.over.wait(WATCHED):
            self.look()


def play(campaign: Campaign, store: Store, site: Site, scale: Scale, told: Callable[[Moment], None]) -> None:
    """Let volunteers vote and rounds follow, until there is enough. Tells what there is to see."""
    subjects = len(campaign.subjects)
    with _Watch(store, scale, site.address, told) as watch:
        watch.rounds += [one for one in records.every(campaign.folder) if one.finished]
        with volunteers(site.address, scale, subjects) as watch.enough:
            while not _enough(watch.overview, scale):
                due = scale.classifications * (len(watch.rounds) + 1) / (scale.rounds + 1)
                if watch.overview.counted < min(due, scale.classifications):
                    watch.doing = "volunteers are voting"
                    time.sleep(WATCHED / 2)
                    continue
                _round(campaign, store, watch)
        _round(campaign, store, watch)


def _round(campaign: Campaign, store: Store, watch: _Watch) -> None:
    record = run(campaign, store, report=watch.report)
    if record is None:
        time.sleep(WATCHED)
    else:
        watch.rounds.append(record)


def _enough(now: Overview, scale: Scale) -> bool:
    return now.counted >= scale.classifications or now.retired >= now.subjects


# ---- what came of it ---------------------------------------------------------------------------------


def judge(campaign: Campaign, store: Store, scale: Scale) -> Outcome:
    """Compare with the simulated truth."""
    found = [one for one in records.every(campaign.folder) if one.finished]
    ids, tree = campaign.subjects.subject_ids, campaign.tree
    truth = truth_in(campaign.folder / TRUTH, tree, ids)
    votes = store.classifications.votes().align(ids)
    crowd = simulate.Volunteers(np.ones(scale.limit), np.ones(scale.limit), scale.seed)
    full = simulate.classify(truth, tree, scale.limit, crowd, scale.seed, ids)
    said = {"votes": leading(votes), "full": leading(full)}
    if combined := _combined(campaign, found, votes):
        said["combined"] = {slug: combined.mean(slug).argmax(axis=1) for slug in leading(votes)}
    right = {slug: truth[slug].argmax(axis=1) for slug in said["votes"]}
    matters = {slug: share[:, 0] >= 0.5 for slug, share in _reach(tree, truth).items()}
    accuracy = {
        slug: {how: _share(answers[slug] == right[slug], matters[slug]) for how, answers in said.items()}
        for slug in right
        if matters[slug].any()
    }
    overall = {
        how: _share(
            np.concatenate([answers[slug] == right[slug] for slug in accuracy]),
            np.concatenate([matters[slug] for slug in accuracy]),
        )
        for how, answers in said.items()
    }
    counts = {subject: number for subject, number, _ in store.classifications.tallies()}
    number, ranked = _ranked(found)
    most, least = (tuple((one, counts.get(one, 0)) for one in some) for some in (ranked[:SHOWN], ranked[::-1][:SHOWN]))
    overview = store.statistics.overview(datetime.now(UTC))
    learned, judges = compared(campaign, store, found)
    return Outcome(scale, overview, tuple(found), accuracy, overall, most, least, number, learned, judges)


def compared(campaign: Campaign, store: Store, found: Sequence[Record]) -> tuple[tuple[Learned, ...], tuple[int, int]]:
    """Return what the heads of every round know, judged on the same votes: the audit set's of now; and these."""
    last = records.newest_with_heads(list(found))
    if last is None:
        return (), (0, 0)
    standing = store.standings.read()
    embeddings = Embeddings.open(campaign.folder, last.encoder)
    known = embeddings.rows_of(standing.votes.subject_ids) >= 0
    audited = audit_set(standing.audit, standing.votes.subject_ids, campaign.settings)
    audit = standing.votes.select(np.flatnonzero(audited & known & (standing.votes.total > 0)))
    learned_from = standing.votes.select(np.flatnonzero(~audited & (standing.votes.total > 0)))
    if not len(audit):
        return (), (0, 0)
    blind = calibration.constant(learned_from, audit.subject_ids)
    vectors = embeddings.take(embeddings.rows_of(audit.subject_ids))

    def gain(folder: Path) -> float | None:
        if not folder.is_dir():
            return None
        return comparing.one_by_one(Heads.load(folder).posterior(vectors, audit.subject_ids), blind, audit)[None]

    rounds = [one for one in found if one.encoder == last.encoder]
    learned = [
        Learned(
            one.number, one.answers, gain(one.folder / records.HEADS),
            one.random_answers, gain(one.folder / records.CHANCE),
        )
        for one in rounds
    ]  # fmt: skip
    return tuple(learned), (len(audit), int(audit.total.sum()))


def leading(votes: Votes) -> dict[str, np.ndarray]:
    """Return, per question with one answer, which has most votes; the first of several, and of none."""
    single = [question.slug for question in votes.tree.questions if question.kind == "single"]
    return {slug: votes.counts[slug].argmax(axis=1) for slug in single}


def _reach(tree: DecisionTree, truth: Mapping[str, np.ndarray]) -> dict[str, Float[np.ndarray, "subject one"]]:
    return {slug: np.asarray(share) for slug, share in tree.reach({k: v[:, None] for k, v in truth.items()}).items()}


def _share(right: Bool[np.ndarray, " case"], matters: Bool[np.ndarray, " case"]) -> float:
    return float(right[matters].mean())


def _combined(campaign: Campaign, found: Sequence[Record], votes: Votes) -> Posterior | None:
    """Return the posterior given images and votes, of the newest promoted heads, for all subjects."""
    last = records.newest_with_heads(list(found))
    if last is None:
        return None
    embeddings = Embeddings.open(campaign.folder, last.encoder)
    heads = Heads.load(last.folder / records.HEADS)
    posterior = heads.posterior(embeddings.take(embeddings.rows_of(votes.subject_ids)), votes.subject_ids)
    return combine(posterior, votes)


SHOWN = 6  # subjects of each kind in the gallery


def _ranked(found: Sequence[Record]) -> tuple[int, list[str]]:
    """Return the newest round that ranked many subjects, and these, best first."""
    for record in reversed(found):
        if (record.folder / records.SCORES).is_file() and record.ranked >= 2 * SHOWN:
            table = pq.read_table(record.folder / records.SCORES, columns=["subject_id"])
            return record.number, table["subject_id"].to_pylist()
    return 0, []


def invitation(store: Store, address: str) -> str | None:
    """Return where the owner's account is made; None where somebody owns the campaign already."""
    if store.people.owners():
        return None
    return f"{address}/join/{store.people.invite(Role.OWNER, datetime.now(UTC))}"


def stage(folder: Path, scale: Scale, port: int, report: Report) -> tuple[Campaign, Site, Store]:
    """Set everything up: the campaign, its site, and its store beside the site."""
    campaign = prepare(folder, scale, report)
    report("opening the site", 0.0, "")
    site = Site(folder, free_port(port))
    report("opening the site", 1.0, site.address)
    return campaign, site, open_store(folder, None, campaign.settings)

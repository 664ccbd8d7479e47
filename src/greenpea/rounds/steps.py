"""One round. Every step leaves its result in the round's folder before it is ticked off: killed anywhere, the next
start goes on from there, and ends as it would have.

=========== ========================================================= ===============================
step        does                                                      costs
=========== ========================================================= ===============================
collected   votes of all subjects, on one state of the store          a pass over the counters
fitted      cross-fitted heads on cached embeddings                   some seconds; new images first
gated       new heads against the incumbent, on the audit set         two passes over the audit set
scored      posterior and information of the open pool, in blocks     a pass over the embeddings
published   ranks to the store, in small writes, then one switch      a hundred writes of a thousand
retired     subjects of which votes and heads know enough             small writes
judged      scores on the audit set; heads of chance to compare with   another fit
finished    what it saved is counted; old ranks are forgotten         a pass over the counters
=========== ========================================================= ===============================
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from threadpoolctl import threadpool_limits

from greenpea import acquisition, calibration, information, records, retirement
from greenpea.acquisition import Acquisition
from greenpea.calibration import Evaluation
from greenpea.campaign import Campaign
from greenpea.combining import combine
from greenpea.embeddings import Embeddings
from greenpea.errors import GreenpeaError
from greenpea.files import alone, replacing
from greenpea.heads import Heads
from greenpea.learning.crossfit import cross_fit
from greenpea.posterior import Posterior
from greenpea.records import Gate, Record
from greenpea.rounds import comparing, gate, reporting, streams
from greenpea.rounds.collecting import (
    CLASSIFICATIONS,
    POOL,
    RETIRED,
    audit_set,
    digest,
    fitted_as,
    read_votes,
    table,
    write,
)
from greenpea.rounds.reporting import Audited
from greenpea.store import Store, Stream
from greenpea.votes import Votes
from greenpea.workflow import Workflow

Report = Callable[[str, float, str], None]  # stage, share done, words
LOCK, RETIRE = "lock", "retire.json"
BLOCK, THREADS = 2048, 2  # subjects scored at a time, and how many such blocks
CONTROL_FOLDS = 2  # of the control heads, which judge nobody they learned from
TARGETS = 400  # subjects of the pool whose votes are to be foreseen
PICTURED = 500  # audit subjects whose images a report loads
LOOKED_AT = 1000  # subjects by which it is told whether there are draws enough


def run(
    campaign: Campaign,
    store: Store,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    report: Report = lambda stage, share, words: None,
    after: Callable[[str], None] = lambda step: None,
    acquire: Acquisition | None = None,
) -> Record | None:
    """Run one round, or finish the one that was begun; return it, or None where nothing is new since the last.

    ``acquire`` scores what to ask first (default: as ``loop.acquisition`` says); ``after`` is told each step that is
    done. Raises GreenpeaError where another process runs a round here now.
    """
    with _alone(campaign.folder):
        found = records.every(campaign.folder)
        if found and not found[-1].finished and found[-1].workflow != store.workflows.active().number:
            found[-1] = _abandon(found[-1], clock())
        if found and not found[-1].finished:
            record, earlier = found[-1], found[:-1]
        else:
            begun = _begin(campaign, store, found, clock())
            if begun is None:
                return None
            record, earlier = begun, found
        after("collected")
        return _Steps(campaign, store, record, earlier, clock, report, acquire).finish(after)


def roll_back(campaign: Campaign, store: Store, number: int, now: datetime) -> Record:
    """Let an earlier round rank the queue again; its ranks are published anew where the store has forgotten them."""
    with _alone(campaign.folder):
        found = {one.number: one for one in records.every(campaign.folder)}
        record = found.get(number)
        if record is None or not record.finished:
            raise GreenpeaError(f"there is no finished round {number}: 'greenpea rounds {campaign.folder}' lists them")
        if record.store_round is None:
            raise GreenpeaError(f"round {number} ranked nothing ({record.gate.why if record.gate else ''})")
        known = {one.id: one.subjects for one in store.rounds.all()}
        if not known.get(record.store_round):
            _publish(store, record)
        store.rounds.activate(record.store_round, now)
        return record


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the campaign's rounds for this process; the lock goes with the process, however it ends."""
    (folder / records.ROUNDS).mkdir(exist_ok=True)
    with alone(folder / records.ROUNDS / LOCK, f"another process is running a round of {folder} now: let it finish"):
        yield


# ---- collecting --------------------------------------------------------------------------------------


def _begin(campaign: Campaign, store: Store, found: list[Record], now: datetime) -> Record | None:
    number = 1 + (found[-1].number if found else 0)
    chosen = campaign.settings.loop
    last = records.newest_with_heads(found)
    parts = max(1, -(-store.standings.size() // chosen.scored))
    standing = store.standings.read(parts, number % parts, last.store_round if last else None)
    version = store.workflows.active()
    folder = campaign.folder / records.ROUNDS / f"{number:04d}"
    data = digest(standing.votes)
    tuning = records.in_use(campaign.folder)
    known = (data, version.number, tuning.number if tuning else 0)
    if found and (found[-1].data, found[-1].workflow, found[-1].tuning) == known:
        return None
    write(folder / records.VOTES, table(standing))
    total = int(standing.classifications.sum())
    learned = ~audit_set(standing.audit, standing.votes.subject_ids, campaign.settings)
    record = Record(
        number=number,
        seed=campaign.settings.learning.seed + number,
        begun_at=now,
        stages={"collected": now},
        settings=campaign.settings.model_dump(mode="json"),
        workflow=version.number,
        tuning=known[-1],
        data=data,
        classifications=total,
        answers=int(standing.votes.total[learned].sum()),
        subjects=int((standing.votes.total[learned] > 0).sum()),
        scored="the whole pool" if parts == 1 else f"part {number % parts + 1} of {parts}, and all with votes or ranks",
        folder=folder,
    )
    record.save()
    return record


def _abandon(record: Record, now: datetime) -> Record:
    """End a round that was under way when the workflow was changed: its votes are of another version."""
    gate = Gate("failed", "the workflow was changed while the round was under way")
    ended = replace(record, gate=gate, stages=dict(record.stages) | {"finished": now})
    ended.save()
    return ended


# ---- the rest ----------------------------------------------------------------------------------------


@dataclass
class _Steps:
    """A round under way."""

    campaign: Campaign
    store: Store
    record: Record
    earlier: list[Record]
    clock: Callable[[], datetime]
    report: Report
    acquire: Acquisition | None = None  # None: as the settings say

    def finish(self, after: Callable[[str], None]) -> Record:
        """Do what is not done yet, step by step; return the record."""
        for name in records.STAGES[1:]:
            if name in self.record.stages:
                continue
            self.report(name, 0.0, "")
            changes = getattr(self, f"_{name}")()
            stages = dict(self.record.stages) | {name: self.clock()}
            self.record = replace(self.record, **changes, stages=stages)
            self.record.save()
            self.report(name, 1.0, "")
            after(name)
        return self.record

    # ---- what it works with ----------------------------------------------------------------------

    @cached_property
    def workflow(self) -> Workflow:
        """The workflow that the votes were cast on."""
        return next(one for one in self.store.workflows.all() if one.number == self.record.workflow).workflow

    @cached_property
    def _collected_table(self) -> tuple[Votes, pa.Table]:
        return read_votes(self.record.folder / records.VOTES, self.workflow.tree)

    @property
    def votes(self) -> Votes:
        return self._collected_table[0]

    def column(self, name: str) -> np.ndarray:
        """Return what was collected beside the votes, row by row."""
        return np.asarray(self._collected_table[1][name].to_numpy())

    @cached_property
    def embeddings(self) -> Embeddings:
        """The embeddings of all subjects whose image can be read, by the encoder this round began with."""
        if self.record.encoder:
            return Embeddings.open(self.campaign.folder, self.record.encoder)
        return self.campaign.embeddings(report=self.report)

    @cached_property
    def rows(self) -> np.ndarray:
        """The row of every subject in the embeddings, −1 where its image cannot be read."""
        return self.embeddings.rows_of(self.votes.subject_ids)

    @cached_property
    def incumbent(self) -> Record | None:
        """The last round before whose heads were promoted, on the same tree."""
        same = [one for one in self.earlier if one.workflow.split(".")[0] == self.record.workflow.split(".")[0]]
        return records.newest_with_heads(same)

    def posterior(
        self, heads: Heads, embeddings: Embeddings, subjects: np.ndarray, draws: int | None = None
    ) -> Posterior:
        """Return what heads say of some of the collected subjects (indices)."""
        ids = self.votes.subject_ids[subjects]
        return heads.posterior(embeddings.take(embeddings.rows_of(ids)), ids, draws)

    @cached_property
    def audited(self) -> np.ndarray:
        """Which of the collected subjects are of the audit set."""
        return audit_set(self.column(POOL), self.votes.subject_ids, self.campaign.settings)

    @cached_property
    def reference(self) -> np.ndarray:
        """Which of the collected subjects are of the reference set: chosen by nobody, asked to the full limit."""
        return self.column(POOL) & ~self.audited

    @cached_property
    def audit(self) -> np.ndarray:
        """The audit subjects (indices) with votes whose image can be read."""
        return np.flatnonzero(self.audited & (self.votes.total > 0) & (self.rows >= 0))

    # ---- the steps -------------------------------------------------------------------------------

    def _fitted(self) -> dict[str, Any]:
        learned = np.flatnonzero(~self.audited & (self.votes.total > 0) & (self.rows >= 0))
        known: dict[str, Any] = {"encoder": self.embeddings.encoder}
        try:
            heads = self._fit(self.votes.select(learned), self._start(), by_chance=self.reference[learned])
        except GreenpeaError as error:
            return known | {"gate": Gate("failed", str(error))}
        heads.save(self.record.folder / records.HEADS)
        return known | {"model": heads.fingerprint}

    def _start(self) -> Heads | None:
        """The incumbent's heads to begin with, if they stand on the same encoder."""
        if self.incumbent is None or self.incumbent.encoder != self.embeddings.encoder:
            return None
        return Heads.load(self.incumbent.folder / records.HEADS)

    def _fit(
        self,
        votes: Votes,
        start: Heads | None,
        folds: int | None = None,
        reserve: int | None = None,
        by_chance: np.ndarray | None = None,
    ) -> Heads:
        return cross_fit(
            self.embeddings.take(self.embeddings.rows_of(votes.subject_ids)),
            votes,
            **fitted_as(self.campaign, self.embeddings, folds, reserve),
            start=start,
            by_chance=by_chance,
            report=self.report,
        )

    def _gated(self) -> dict[str, Any]:
        if self.record.gate is not None:  # the fit has failed
            return {"model": self._ranking_model()}
        heads = Heads.load(self.record.folder / records.HEADS)
        votes = self.votes.select(self.audit)
        new = self.posterior(heads, self.embeddings, self.audit)
        verdict = self._judge(new, votes)
        promoted = verdict.outcome in ("promoted", "ungated")
        return {"gate": verdict, "model": heads.fingerprint if promoted else self._ranking_model()}

    def _ranking_model(self) -> str:
        return self.incumbent.model if self.incumbent else ""

    def _judge(self, new: Posterior, votes: Votes) -> Gate:
        chosen = self.campaign.settings.loop
        return gate.judge(
            new,
            self._before(),
            votes,
            first=self.incumbent is None,
            margin=chosen.margin,
            superior=self._another_encoder(),
            enough=chosen.audit_votes,
            rng=np.random.default_rng([self.record.seed, 1]),
        )

    def _another_encoder(self) -> bool:
        """Whether these heads stand on an encoder that has yet to show that it is better than the incumbent's."""
        if self.incumbent is None or self.incumbent.encoder == self.embeddings.encoder:
            return False
        tuned = records.in_use(self.campaign.folder)  # which has shown it already, on the same votes
        return tuned is None or (tuned.encoder, tuned.before) != (self.embeddings.encoder, self.incumbent.encoder)

    def _before(self) -> Posterior:
        """Return what the incumbent says of the audit subjects; before there is one, the predictor without images."""
        if self.incumbent is None:
            return self._constant
        place = Embeddings.open(self.campaign.folder, self.incumbent.encoder)
        return self.posterior(Heads.load(self.incumbent.folder / records.HEADS), place, self.audit)

    @cached_property
    def _constant(self) -> Posterior:
        learned = self.votes.select(np.flatnonzero(~self.audited & (self.votes.total > 0)))
        return calibration.constant(learned, self.votes.subject_ids[self.audit])

    def _judged(self) -> dict[str, Any]:
        """Score the new heads on the audit set, promoted or not, beside heads that learned from chance alone."""
        folder = self.record.folder
        if not (folder / records.HEADS).is_dir() or not len(self.audit):  # nothing to judge, or nobody by whom
            return {}
        by_stream = self._by_stream()
        told = {"skipped": f"more than {self.campaign.settings.loop.compared:,} classifications (loop.compared)"}
        if by_stream is not None:
            told = streams.summary(streams.compare(by_stream[Stream.RANK], by_stream[Stream.RANDOM]))
        votes, heads = self.votes.select(self.audit), Heads.load(folder / records.HEADS)
        new = self.posterior(heads, self.embeddings, self.audit)
        chance = None if by_stream is None else by_stream[Stream.RANDOM]
        rng = np.random.default_rng([self.record.seed, 2])
        evaluation = calibration.evaluate(new, votes, self._constant, rng)
        self._report(Audited(evaluation, new, votes), heads)
        return {
            "scores": self._scores(evaluation, new, votes, None if chance is None else self._control(chance)),
            "streams": told,
            "random_answers": 0 if chance is None else int(chance.total.sum()),
        }

    def _report(self, audited: Audited, heads: Heads) -> None:
        chosen = self.campaign.settings
        if not chosen.loop.report:
            return
        some = np.random.default_rng(self.record.seed).permutation(len(audited.votes))[:PICTURED]
        shown = Audited(audited.evaluation, audited.posterior.select(some), audited.votes.select(some))
        reporting.write(
            audited if len(some) == len(audited.votes) else shown,
            self.record.folder / records.REPORT,
            self.record,
            heads,
            self.campaign.subjects,
            chosen.images,
            chosen.loop.votes,
            self.campaign.simulated,
        )

    def _by_stream(self) -> Mapping[Stream, Votes] | None:
        if self.record.classifications > self.campaign.settings.loop.compared:
            return None
        return self.store.standings.by_stream([Stream.RANDOM, Stream.RANK])

    def _scores(
        self, evaluation: Evaluation, new: Posterior, votes: Votes, control: Posterior | None
    ) -> tuple[records.Score, ...]:
        gain = comparing.one_by_one(new, self._constant, votes)
        by_chance = {} if control is None else comparing.one_by_one(control, self._constant, votes)
        lead = {} if control is None else comparing.together(control, self._constant, votes)
        found = []
        for score in evaluation.scores:
            question = None if score.question == "overall" else score.question
            found.append(
                records.Score(
                    question=question,
                    votes=score.votes,
                    excess=score.excess.value,
                    constant_excess=score.constant_excess,
                    coverage={f"{float(level) / 100:g}": held for level, held in score.coverage.items()},
                    random_excess=score.constant_excess - lead[question] if question in lead else None,
                    gain=gain.get(question),
                    random_gain=by_chance.get(question),
                )
            )
        return tuple(found)

    def _control(self, chance: Votes) -> Posterior | None:
        """Return what heads say of the audit set that learned from the random stream alone, and keep these heads."""
        known = chance.select(np.flatnonzero(self.embeddings.rows_of(chance.subject_ids) >= 0))
        try:
            heads = self._fit(known, None, CONTROL_FOLDS, 0)
        except GreenpeaError:  # too few yet
            return None
        heads.save(self.record.folder / records.CHANCE)
        return self.posterior(heads, self.embeddings, self.audit)

    def _scored(self) -> dict[str, Any]:
        source = self.record if self._promoted else self.incumbent
        if source is None:
            return {}
        heads = Heads.load(source.folder / records.HEADS)
        embeddings = self.embeddings if self._promoted else Embeddings.open(self.campaign.folder, source.encoder)
        scored = _Scored.of(self, heads, embeddings, self.acquire or self._acquisition(heads, embeddings))
        rng = np.random.default_rng([self.record.seed, 3])
        chosen = self.campaign.settings.loop
        ranked = acquisition.gumbel_order(scored.score, rng, coldness=chosen.coldness, keep=chosen.ranked)
        order = ranked.order[: chosen.ranked]
        write(
            self.record.folder / records.SCORES,
            pa.table(
                {
                    "subject_id": pa.array(scored.subject_ids[order], pa.string()),
                    "rank": pa.array(np.arange(len(order))),
                    "score": pa.array(scored.score[order]),
                    "probability": pa.array(ranked.probability[: chosen.ranked]),
                    "effective_draws": pa.array(scored.effective_draws[order]),
                }
            ),
        )
        with replacing(self.record.folder / RETIRE) as temporary:
            temporary.write_text(json.dumps(scored.retire), encoding="utf-8")
        return {"ranked": len(order), "saturated": self._saturated(heads, embeddings), "model": source.model}

    def _acquisition(self, heads: Heads, embeddings: Embeddings) -> Acquisition:
        """Return the acquisition of the campaign's settings; what it aims at is a sample of the open pool."""
        chosen = self.campaign.settings.loop
        if chosen.acquisition == "random":
            return acquisition.random()
        if chosen.acquisition == "information":
            return acquisition.information(chosen.scored_votes, chosen.questions or None)
        some = self._sample(embeddings, TARGETS)
        if not len(some):  # nobody is left to be scored
            return acquisition.random()
        targets = self.posterior(heads, embeddings, some, heads.weights.shape[1])
        return acquisition.prediction(targets, votes=chosen.scored_votes, questions=chosen.questions or None)

    def _sample(self, embeddings: Embeddings, most: int) -> np.ndarray:
        """Return some of the open pool (indices), at random."""
        open_ = np.flatnonzero(~self.column(POOL) & ~self.column(RETIRED))
        known = open_[embeddings.rows_of(self.votes.subject_ids[open_]) >= 0]
        return np.random.default_rng([self.record.seed, 5]).permutation(known)[:most]

    def _saturated(self, heads: Heads, embeddings: Embeddings) -> float:
        """Return the share of a sample of the open pool whose information is near ln T: there draws are too few."""
        some = self._sample(embeddings, LOOKED_AT)
        posterior = combine(self.posterior(heads, embeddings, some), self.votes.select(some))
        rng = np.random.default_rng([self.record.seed, 6])
        learned = information.of_tree(posterior, self.campaign.settings.loop.scored_votes, rng)
        return information.saturated(learned.value, heads.draws)

    @cached_property
    def may_retire(self) -> bool:
        """Whether it is known how opinions spread: the reference set has votes enough, or all that it will get."""
        if not self.reference.any() or self.column(RETIRED)[self.reference].all():
            return True
        return int(self.votes.total[self.reference].sum()) >= self.campaign.settings.loop.reference_votes

    @property
    def _promoted(self) -> bool:
        return self.record.gate is not None and self.record.gate.outcome in ("promoted", "ungated")

    def _published(self) -> dict[str, Any]:
        if not (self.record.folder / records.SCORES).is_file():
            return {}
        number = _publish(self.store, self.record)
        self.store.rounds.activate(number, self.clock())
        return {"store_round": number}

    def _retired(self) -> dict[str, Any]:
        path = self.record.folder / RETIRE
        reasons: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        self.store.rounds.retire(reasons, self.clock())
        counts: dict[str, int] = {}
        for reason in reasons.values():
            counts[reason] = counts.get(reason, 0) + 1
        return {"retired": counts}

    def _finished(self) -> dict[str, Any]:
        self._forget(self.campaign.settings.loop.kept)
        limit = self.store.workflows.active().workflow.limit
        saved, spent = self.store.standings.savings(limit) if limit else (0, 0)
        return {"saved": saved, "spent": spent}

    def _forget(self, kept: int) -> None:
        """Let go of what old rounds need no more: ranks in the store, and heads, which are large."""
        self.store.rounds.prune(kept)
        incumbent = records.newest_with_heads([*self.earlier, replace(self.record, stages={"finished": self.clock()})])
        for one in self.earlier[: max(0, len(self.earlier) + 1 - kept)]:
            if incumbent is None or one.number != incumbent.number:
                shutil.rmtree(one.folder / records.HEADS, ignore_errors=True)
            shutil.rmtree(one.folder / records.CHANCE, ignore_errors=True)


def _publish(store: Store, record: Record) -> int:
    """Write a round's ranks to the store, and return the number they have there; again where it was interrupted."""
    table = pq.read_table(record.folder / records.SCORES)
    key = {"round": record.number, "data": record.data, "encoder": record.encoder}
    begun = [one.id for one in store.rounds.all() if dict(one.settings) == key]
    number = begun[0] if begun else store.rounds.create(record.model, record.seed, key, record.begun_at)
    if store.rounds.active() != number:
        ranked = list(zip(table["subject_id"].to_pylist(), table["score"].to_pylist(), strict=True))
        store.rounds.publish(number, ranked, table["probability"].to_pylist(), record.settings["loop"]["votes"])
    return number


@dataclass(frozen=True, eq=False)
class _Scored:
    """The open pool, scored; and who may retire."""

    subject_ids: np.ndarray
    score: np.ndarray
    effective_draws: np.ndarray
    retire: dict[str, str]

    @classmethod
    def of(cls, steps: _Steps, heads: Heads, embeddings: Embeddings, acquire: Acquisition) -> _Scored:
        """Score in blocks: memory does not grow with the pool but by a few numbers a subject."""
        rows = embeddings.rows_of(steps.votes.subject_ids)
        pool = np.flatnonzero(~steps.column(POOL) & ~steps.column(RETIRED) & (rows >= 0))
        values, effective = np.zeros(len(pool)), np.zeros(len(pool))
        retire: dict[str, str] = {}
        counted, fewest = steps.column(CLASSIFICATIONS), steps.campaign.settings.loop.fewest_draws

        def block(start: int) -> int:
            some = pool[start : start + BLOCK]
            votes, rng = steps.votes.select(some), np.random.default_rng([steps.record.seed, 4, start])
            for place, posterior in _combined(heads, embeddings.take(rows[some]), votes, fewest):
                values[start + place] = acquire(posterior, rng)
                effective[start + place] = posterior.effective_draws
                if not steps.may_retire:
                    continue
                known = votes.select(place), counted[some][place]
                reasons = retirement.by_posterior(steps.workflow.retirement, posterior, *known, rng)
                retire.update({str(one): why for one, why in zip(posterior.subject_ids, reasons, strict=True) if why})
            return len(some)

        done = 0
        # Small products on several threads wait for each other: one thread each, two blocks at a time.
        with threadpool_limits(1), ThreadPoolExecutor(THREADS) as threads:
            for size in threads.map(block, range(0, len(pool), BLOCK)):
                done += size
                steps.report("scored", done / len(pool), f"{done:,} of {len(pool):,}")
        ordered = {str(one): retire[one] for one in steps.votes.subject_ids[pool] if one in retire}
        return cls(steps.votes.subject_ids[pool], values, effective, ordered)


def _combined(
    heads: Heads, embeddings: np.ndarray, votes: Votes, fewest: float
) -> Iterator[tuple[np.ndarray, Posterior]]:
    """Yield the posterior given image and votes, with more draws for those whose votes leave few."""
    silent = np.flatnonzero(votes.total == 0)
    if len(silent):
        yield silent, heads.posterior(embeddings[silent], votes.subject_ids[silent])
    asked = np.flatnonzero(votes.total > 0)
    if not len(asked):
        return
    cast = votes.select(asked)
    posterior = combine(heads.posterior(embeddings[asked], cast.subject_ids), cast)
    few = np.flatnonzero(posterior.effective_draws < fewest)
    enough = np.flatnonzero(posterior.effective_draws >= fewest)
    if len(enough):
        yield asked[enough], posterior.select(enough)
    if len(few):
        more = heads.posterior(embeddings[asked[few]], cast.subject_ids[few], draws=heads.weights.shape[1])
        yield asked[few], combine(more, cast.select(few))

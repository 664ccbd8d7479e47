"""A tuning: the encoder trained on with the campaign's votes, and used from then on if the audit set says it is better.

=========== ======================================================================= ==================================
step        does                                                                    costs
=========== ======================================================================= ==================================
collected   the votes of all subjects, on one state of the store                    a pass over the counters
trained     two encoders, each on the votes of one half of the subjects             the images of these, a dozen times
judged      heads on the tuned encoder against heads on the one before, same votes  two fits; images of those with votes
embedded    if it is better: the embeddings of all subjects                         a pass over the images
finished    rounds look through it from now on, or it is laid aside                 nothing
=========== ======================================================================= ==================================

Every step leaves its result before it is ticked off: killed anywhere, the next tuning goes on from there, and until the
last step nothing has changed for the rounds. These may go on meanwhile in another process.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np

from greenpea import images, records
from greenpea.campaign import Campaign
from greenpea.embeddings import Embeddings
from greenpea.errors import GreenpeaError
from greenpea.files import alone
from greenpea.heads import HALVES, half_of
from greenpea.learning import checkpoint
from greenpea.learning.crossfit import cross_fit
from greenpea.learning.kept import KeptEncoder
from greenpea.learning.tuned import TunedEncoder, place_of, tune
from greenpea.posterior import Posterior
from greenpea.records import Gate, Tuning
from greenpea.rounds import gate
from greenpea.rounds.collecting import POOL, audit_set, digest, fitted_as, read_votes, table, write
from greenpea.store import Store
from greenpea.votes import Votes

Report = Callable[[str, float, str], None]  # stage, share done, words
LOCK = "lock"
MOST = 20_000  # subjects of a half whose images an encoder learns from
GROWN = 2  # a milestone: so many times the answers of the last tuning


def due(campaign: Campaign) -> bool:
    """Whether the loop should tune now: by its settings, at a milestone, and if the audit set can judge.

    Or one was begun, and killed.
    """
    chosen, found = campaign.settings.loop, records.tunings(campaign.folder)
    if chosen.tune == "never":
        return False
    if found and not found[-1].finished:
        return True
    rounds = [one for one in records.every(campaign.folder) if one.finished and one.gate]
    if not rounds or rounds[-1].gate is None or rounds[-1].gate.audit_votes < chosen.audit_votes:
        return False
    enough = max(chosen.tune_answers, GROWN * found[-1].answers if found else 0)
    return rounds[-1].answers >= enough


def run(
    campaign: Campaign,
    store: Store,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    report: Report = lambda stage, share, words: None,
    after: Callable[[str], None] = lambda step: None,
) -> Tuning:
    """Tune, or finish the tuning that was begun; return its record, with the verdict.

    ``after`` is told each step that is done. Raises GreenpeaError, and does nothing, where the audit set has fewer than
    ``loop.audit_votes`` votes, no round has computed embeddings yet, no vote is new since the last tuning, or another
    process tunes here now.
    """
    place = campaign.folder / records.TUNINGS
    place.mkdir(exist_ok=True)
    with alone(place / LOCK, f"another process tunes the encoder of {campaign.folder} now: let it finish"):
        encoder, found = campaign.encoder_in_use(report), records.tunings(campaign.folder)
        if found and not found[-1].finished and not _goes_on(found[-1], encoder, store):
            _end(found[-1], "the workflow or the encoder was changed while it was under way", clock())
            found = records.tunings(campaign.folder)
        begun = found[-1] if found and not found[-1].finished else _begin(campaign, store, encoder, found, clock())
        after("collected")
        return _Steps(campaign, store, begun, encoder, clock, report).finish(after)


def _goes_on(tuning: Tuning, encoder: KeptEncoder | TunedEncoder, store: Store) -> bool:
    return (tuning.before, tuning.workflow) == (encoder.fingerprint, store.workflows.active().number)


def _end(tuning: Tuning, why: str, now: datetime) -> None:
    """End a tuning that cannot go on."""
    replace(tuning, gate=Gate("failed", why), stages=dict(tuning.stages) | {"finished": now}).save()


def _begin(
    campaign: Campaign, store: Store, encoder: KeptEncoder | TunedEncoder, found: list[Tuning], now: datetime
) -> Tuning:
    chosen = campaign.settings
    Embeddings.open(campaign.folder, encoder.fingerprint)  # else there is nothing to compare with
    standing = store.standings.read(max(1, -(-store.standings.size() // chosen.loop.scored)))
    audited = audit_set(standing.audit, standing.votes.subject_ids, chosen)
    judges = int(standing.votes.total[audited].sum())
    if judges < chosen.loop.audit_votes:
        raise GreenpeaError(
            f"the audit set has {judges:,} votes and {chosen.loop.audit_votes:,} are needed to judge "
            f"(loop.audit_votes): a tuned encoder takes over only where it is shown to be better, so wait for more"
        )
    data = digest(standing.votes)
    if found and found[-1].data == data:
        raise GreenpeaError(
            f"no vote is new since tuning {found[-1].number}: asked again, the audit set would prove nothing more"
        )
    number = 1 + (found[-1].number if found else 0)
    total = standing.votes.total[~audited]
    tuning = Tuning(
        number=number,
        seed=chosen.learning.seed + number,
        begun_at=now,
        stages={"collected": now},
        settings=chosen.model_dump(mode="json"),
        workflow=store.workflows.active().number,
        base=campaign.encoder().fingerprint,
        before=encoder.fingerprint,
        data=data,
        answers=int(total.sum()),
        subjects=int((total > 0).sum()),
        folder=campaign.folder / records.TUNINGS / f"{number:04d}",
    )
    write(tuning.folder / records.VOTES, table(standing))
    tuning.save()
    return tuning


@dataclass
class _Steps:
    """A tuning under way."""

    campaign: Campaign
    store: Store
    tuning: Tuning
    before: KeptEncoder | TunedEncoder
    clock: Callable[[], datetime]
    report: Report

    def finish(self, after: Callable[[str], None]) -> Tuning:
        """Do what is not done yet, step by step; return the record. What cannot be done is told as the verdict."""
        for name in records.TUNED[1:]:
            if name in self.tuning.stages:
                continue
            try:
                changes = getattr(self, f"_{name}")()
            except GreenpeaError as error:
                changes, name = {"gate": Gate("failed", str(error))}, records.TUNED[-1]
            self.tuning = replace(self.tuning, **changes, stages=dict(self.tuning.stages) | {name: self.clock()})
            self.tuning.save()
            after(name)
            if self.tuning.finished:
                break
        return self.tuning

    # ---- what it works with ----------------------------------------------------------------------

    @cached_property
    def _collected(self) -> tuple[Votes, np.ndarray, np.ndarray]:
        """The votes; which of these are of the audit set, and which are of the reference set."""
        tree = self.store.workflows.active().workflow.tree
        votes, beside = read_votes(self.tuning.folder / records.VOTES, tree)
        pool = np.asarray(beside[POOL].to_numpy())
        audited = audit_set(pool, votes.subject_ids, self.campaign.settings)
        return votes, audited, pool & ~audited

    @property
    def votes(self) -> Votes:
        return self._collected[0]

    @cached_property
    def tuned(self) -> TunedEncoder:
        """The two encoders, once both are trained."""
        return TunedEncoder.load(self.tuning.folder, self.campaign.settings.split.salt)

    def start(self, half: int) -> KeptEncoder:
        """Return the encoder with which the one of a half begins: it has seen no votes of that half."""
        return self.before.members[half] if isinstance(self.before, TunedEncoder) else self.before

    def rows_of(self, subject_ids: np.ndarray) -> np.ndarray:
        """Return the campaign's rows of subjects, −1 where it has none."""
        place = {str(one): row for row, one in enumerate(self.campaign.subjects.subject_ids)}
        return np.array([place.get(str(one), -1) for one in subject_ids], dtype=np.int64)

    # ---- the steps -------------------------------------------------------------------------------

    def _trained(self) -> dict[str, Any]:
        for half in range(HALVES):
            if not (place_of(self.tuning.folder, half) / checkpoint.ENCODER_FACTS).is_file():
                checkpoint.save_encoder(self._train(half), place_of(self.tuning.folder, half))
        seen = tuple(len(one.learned_from) for one in self.tuned.members)
        return {"encoder": self.tuned.fingerprint, "learned_from": seen}

    def _train(self, half: int) -> KeptEncoder:
        """Train the encoder of one half on the votes of the other, audit subjects left out."""
        votes, audited, reference = self._collected
        other = half_of(votes.subject_ids, self.campaign.settings.split.salt) != half
        learned = np.flatnonzero(other & ~audited & (votes.total > 0) & (self.rows_of(votes.subject_ids) >= 0))
        rng = np.random.default_rng([self.tuning.seed, half])
        learned = np.sort(rng.permutation(learned)[:MOST])
        start, stage = self.start(half), f"encoder {half + 1} of {HALVES}"
        subjects = self.campaign.subjects.select(self.rows_of(votes.subject_ids[learned]))
        self.report(f"{stage}: images", 0.0, f"{len(subjects):,}")
        loaded = images.load(subjects, start.preparation, self.campaign.settings.catalogue.workers)
        some = learned[loaded.rows]
        return tune(
            start,
            loaded.images,
            votes.select(some),
            self.campaign.settings.learning.model_copy(update={"seed": self.tuning.seed}),
            reference[some],
            lambda name, share, words: self.report(f"{stage}: {name}", share, words),
        )

    def _judged(self) -> dict[str, Any]:
        """Judge heads on the tuned encoder against heads on the one before, by the audit set; same votes for both."""
        votes, audited, reference = self._collected
        earlier = Embeddings.open(self.campaign.folder, self.tuning.before)
        known = (votes.total > 0) & (earlier.rows_of(votes.subject_ids) >= 0)
        wanted = self.rows_of(votes.subject_ids[known])
        now = self.campaign.embeddings(self.report, self.tuned, wanted[wanted >= 0])
        known &= now.rows_of(votes.subject_ids) >= 0
        learned, judges = np.flatnonzero(known & ~audited), np.flatnonzero(known & audited)
        if seen := self.tuned.learned_from & set(map(str, votes.subject_ids[judges])):
            raise GreenpeaError(f"it has learned from {len(seen):,} audit subjects: site.audit_share was raised")
        new, old = (self._heard(one, learned, judges, reference) for one in (now, earlier))
        chosen = self.campaign.settings.loop
        verdict = gate.judge(
            new,
            old,
            votes.select(judges),
            margin=chosen.margin,
            superior=True,
            enough=chosen.audit_votes,
            rng=np.random.default_rng([self.tuning.seed, 2]),
        )
        # Votes may have been taken back since, or their images lost: without a judge nothing takes over.
        return {"gate": replace(verdict, outcome="kept") if verdict.outcome == "ungated" else verdict}

    def _heard(
        self, embeddings: Embeddings, learned: np.ndarray, judges: np.ndarray, reference: np.ndarray
    ) -> Posterior:
        """Return what heads on these embeddings say of the audit subjects."""

        def seen(rows: np.ndarray) -> np.ndarray:
            return embeddings.take(embeddings.rows_of(self.votes.subject_ids[rows]))

        how = fitted_as(self.campaign, embeddings)
        votes = self.votes.select(learned)
        heads = cross_fit(seen(learned), votes, **how, by_chance=reference[learned], report=self.report)
        return heads.posterior(seen(judges), self.votes.subject_ids[judges])

    def _embedded(self) -> dict[str, Any]:
        if self._better:
            self.campaign.embeddings(self.report, self.tuned)
        return {}

    @property
    def _better(self) -> bool:
        return self.tuning.gate is not None and self.tuning.gate.outcome == "promoted"

    def _finished(self) -> dict[str, Any]:
        if not self._better:  # what it made of the images is of no use any more
            place = Embeddings.open(self.campaign.folder, self.tuning.encoder).folder
            shutil.rmtree(place, ignore_errors=True)
        return {}

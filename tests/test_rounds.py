"""Rounds, on both databases: every step, killed after each, with volunteers voting all the while."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from greenpea import records, rounds
from greenpea.campaign import Campaign
from greenpea.embeddings import Embeddings
from greenpea.errors import GreenpeaError
from greenpea.heads import Heads
from greenpea.learning import crossfit
from greenpea.learning.crossfit import cross_fit
from greenpea.records import STAGES, Record
from greenpea.rounds import steps
from greenpea.store import Counted, Stream
from greenpea.subjects import in_audit
from greenpea.votes import Votes
from greenpea.workflow import Workflow
from round_hands import LENGTH, NOW, Opinions, make, opened, vote, workflow

ENCODER = "f" * 64
SUBJECTS = 90


@pytest.fixture(autouse=True)
def embeddings_without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the campaign's embeddings be those of `Opinions`: what they are made of is tested elsewhere."""
    monkeypatch.setattr(
        Campaign, "embeddings", lambda self, report=None: Embeddings.open(self.folder, ENCODER), raising=False
    )


def keep_embeddings(campaign: Campaign, opinions: Opinions) -> None:
    ids = [f"s{number:02d}" for number in range(len(opinions.embeddings))]
    Embeddings.create(campaign.folder, ENCODER, LENGTH).append(ids, opinions.embeddings)


@pytest.fixture
def world(tmp_path: Path, database: str | None):
    opinions = Opinions(SUBJECTS)
    campaign = make(tmp_path / "sky", SUBJECTS)
    keep_embeddings(campaign, opinions)
    store = opened(campaign, database)
    yield campaign, store, opinions
    store.close()


def run(campaign: Campaign, store, **how) -> Record | None:
    return rounds.run(campaign, store, clock=lambda: NOW, **how)


def test_a_round_learns_ranks_and_turns_the_queue(world) -> None:
    campaign, store, opinions = world
    vote(store, opinions, 60)
    record = run(campaign, store)
    assert record is not None
    assert record.finished
    assert set(record.stages) == set(STAGES)
    assert record.gate is not None
    assert record.gate.outcome in ("promoted", "ungated")
    assert record.store_round == store.rounds.active()
    heads = Heads.load(record.folder / records.HEADS)
    assert record.model == heads.fingerprint
    table = pq.read_table(record.folder / records.SCORES)
    audit = {one.subject_id for one in store.subjects.browse(limit=500)[0] if one.audit}
    ranked = set(table["subject_id"].to_pylist())
    assert audit
    assert not audit & ranked
    retired = {one.subject_id for one in store.subjects.browse(limit=500)[0] if one.retired_at}
    assert ranked == {f"s{number:02d}" for number in range(SUBJECTS)} - audit - retired
    probability = table["probability"].to_numpy()
    assert ((probability > 0) & (probability <= 1)).all()
    assert record.settings["loop"]["folds"] == 3
    assert record.data
    assert record.classifications == 600
    # The best ranked is handed out first, with the round's number and its probability.
    store.queue.options = replace(store.queue.options, weights={Stream.RANK: 1.0}, gold_first=0, gold_last=0)
    handed = store.queue.next(store.people.anonymous(NOW).id, 1, NOW)[0]
    assert handed.stream is Stream.RANK
    assert handed.round == record.store_round
    assert handed.subject.subject_id == table["subject_id"][0].as_py()
    assert handed.probability == pytest.approx(probability[0])


def test_the_audit_set_is_never_learned_from_and_never_retired_by_a_posterior(tmp_path: Path) -> None:
    opinions = Opinions(SUBJECTS)
    rules = [{"rule": "confident", "below": 0.5, "classifications": 1}]  # anybody's guess is enough
    campaign = make(tmp_path / "sky", SUBJECTS, workflow(rules=rules))
    keep_embeddings(campaign, opinions)
    store = opened(campaign)
    vote(store, opinions, 40)
    record = run(campaign, store)
    assert record is not None
    found = store.subjects.browse(limit=500)[0]
    by_posterior = [one for one in found if one.retired_at and (one.reason or "").startswith("confident")]
    assert len(by_posterior) == sum(record.retired.values()) > 20
    assert not any(one.audit for one in by_posterior)
    learned = Heads.load(record.folder / records.HEADS).facts
    voted = [one for one in found if one.classifications and not one.audit]
    assert learned["subjects"] == len(voted) == record.subjects
    assert record.saved == sum(20 - one.classifications for one in by_posterior)
    store.close()


@pytest.mark.parametrize("enough", [True, False])
def test_the_reference_set_tells_how_opinions_spread_before_anybody_retires(
    enough: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opinions = Opinions(SUBJECTS)
    rules = [{"rule": "confident", "below": 0.5, "classifications": 1}]
    settings = ["site.reference_share=0.2", f"loop.reference_votes={1 if enough else 10**6}"]
    campaign = make(tmp_path / "sky", SUBJECTS, workflow(rules=rules), settings)
    keep_embeddings(campaign, opinions)
    store = opened(campaign)
    vote(store, opinions, 40)
    fitted: list[tuple[np.ndarray, np.ndarray]] = []

    def fit(embeddings: np.ndarray, votes: Votes, *args: object, **kept: object) -> Heads:
        if kept["by_chance"] is not None:
            fitted.append((votes.subject_ids, np.asarray(kept["by_chance"])))
        return cross_fit(embeddings, votes, *args, **kept)

    monkeypatch.setattr(steps, "cross_fit", fit)
    record = run(campaign, store)
    assert record is not None
    found = store.subjects.browse(limit=500)[0]
    kept = {one.subject_id for one in found if one.audit}
    audit = {one for one in kept if in_audit(one, 0.15)}
    assert audit
    assert audit < kept
    [(learned, by_chance)] = fitted
    assert set(learned) == {one.subject_id for one in found if one.classifications} - audit  # learned from
    assert set(learned[by_chance]) == set(learned) & (kept - audit)
    ranked = set(pq.read_table(record.folder / records.SCORES)["subject_id"].to_pylist())
    assert not ranked & kept
    retired = {one.subject_id for one in found if one.retired_at and (one.reason or "").startswith("confident")}
    assert not retired & kept
    assert len(retired) > 20 if enough else not retired
    store.close()


def test_no_new_vote_no_round(world) -> None:
    campaign, store, opinions = world
    vote(store, opinions, 30)
    assert run(campaign, store) is not None
    assert run(campaign, store) is None
    vote(store, opinions, 1)
    assert run(campaign, store).number == 2


def test_without_votes_the_round_fails_aloud_and_the_queue_stays(world) -> None:
    campaign, store, _ = world
    record = run(campaign, store)
    assert record is not None
    assert record.finished
    assert record.gate is not None
    assert record.gate.outcome == "failed"
    assert store.rounds.active() is None
    assert store.queue.next(store.people.anonymous(NOW).id, 3, NOW)


def test_a_fit_that_diverges_leaves_the_incumbent_ranking(world, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign, store, opinions = world
    vote(store, opinions, 40)
    first = run(campaign, store)
    vote(store, opinions, 5)

    def diverge(*_: object, **__: object) -> None:
        raise GreenpeaError("the fit diverged: its likelihood is not a number")

    monkeypatch.setattr(steps, "cross_fit", diverge)
    second = run(campaign, store)
    assert second.gate.outcome == "failed"
    assert "not a number" in second.gate.why
    assert second.model == first.model
    assert second.ranked > 0
    assert second.store_round == store.rounds.active()


def test_a_worse_model_is_kept_out_and_the_queue_still_turns(world, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign, store, opinions = world
    vote(store, opinions, 80)
    first = run(campaign, store)
    vote(store, opinions, 10)
    fit = crossfit.cross_fit

    def blind(embeddings: np.ndarray, *rest: object, **how: object) -> Heads:
        return fit(np.random.default_rng(0).normal(size=embeddings.shape) * 10, *rest, **how)

    monkeypatch.setattr(steps, "cross_fit", blind)
    second = run(campaign, store)
    assert second.gate.outcome == "kept", second.gate
    assert second.model == first.model
    assert second.store_round == store.rounds.active() != first.store_round


def test_a_pool_that_has_run_dry_ranks_nobody(tmp_path: Path) -> None:
    opinions = Opinions(20)
    campaign = make(tmp_path / "sky", 20, workflow(limit=3))
    keep_embeddings(campaign, opinions)
    store = opened(campaign)
    vote(store, opinions, 30)
    assert not store.queue.next(store.people.anonymous(NOW).id, 3, NOW)
    record = run(campaign, store)
    assert record.finished
    assert record.ranked == 0
    store.close()


def test_a_question_that_nobody_answered_is_no_obstacle(tmp_path: Path) -> None:
    opinions = Opinions(SUBJECTS)
    opinions.disk = np.zeros(SUBJECTS)
    campaign = make(tmp_path / "sky", SUBJECTS)
    keep_embeddings(campaign, opinions)
    store = opened(campaign)
    vote(store, opinions, 40)
    record = run(campaign, store)
    assert record.gate.outcome in ("promoted", "ungated")
    assert record.ranked > 0
    store.close()


SCRIPT = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from greenpea import rounds
from greenpea.campaign import Campaign
from greenpea.embeddings import Embeddings
from greenpea.subjects import in_audit
from greenpea.votes import Votes
from greenpea.workflow import Workflow
from round_hands import NOW, opened
Campaign.embeddings = lambda self, report=None: Embeddings.open(self.folder, {encoder!r})
campaign = Campaign.open(Path(sys.argv[1]))
store = opened(campaign, {database!r})
if sys.argv[2] == "publishing":  # half of the ranks are there
    from greenpea.store import rounds as published
    published.BLOCK, write, written = 7, published._publish, []
    def publish(*a, **k):
        written.append(write(*a, **k))
        if len(written) > 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return written[-1]
    published._publish = publish
def after(step):
    if step == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)
rounds.run(campaign, store, clock=lambda: NOW, after=after)
"""


@pytest.mark.parametrize("step", [*STAGES[:-1], "publishing"])
def test_killed_after_any_step_the_next_start_finishes_as_it_would_have(
    world, database: str | None, tmp_path: Path, step: str
) -> None:
    campaign, store, opinions = world
    vote(store, opinions, 60)
    script = SCRIPT.format(tests=str(Path(__file__).parent), encoder=ENCODER, database=database)
    killed = subprocess.run(
        [sys.executable, "-c", script, str(campaign.folder), step], capture_output=True, text=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    half = records.every(campaign.folder)[-1]
    assert not half.finished
    assert store.queue.next(store.people.anonymous(NOW).id, 3, NOW)  # the queue is whole
    active = store.rounds.active()
    assert active is None or next(one for one in store.rounds.all() if one.id == active).subjects == half.ranked
    vote(store, opinions, 3)
    record = run(campaign, store)
    assert record.number == half.number
    assert record.finished
    assert record.data == half.data  # the votes it had collected, not those that came since
    assert store.rounds.active() == record.store_round
    ranked = pq.read_table(record.folder / records.SCORES).num_rows
    retired_since = ranked - store.rounds.all()[0].subjects
    assert 0 <= retired_since <= 30
    assert store.classifications.recount() == 0
    # Undisturbed, it would have been the same.
    untouched = Record(**vars(record) | {"number": record.number, "stages": {"collected": NOW}, "gate": None})
    folder = tmp_path / "again"
    folder.mkdir()
    (folder / records.VOTES).write_bytes((record.folder / records.VOTES).read_bytes())
    again = steps._Steps(campaign, store, replace(untouched, folder=folder), [], lambda: NOW, lambda *_: None)
    again.record = replace(again.record, **again._fitted())
    again.record = replace(again.record, **again._gated())
    again._scored()
    assert (folder / records.SCORES).read_bytes() == (record.folder / records.SCORES).read_bytes()


def test_volunteers_vote_all_the_while(world) -> None:
    campaign, store, opinions = world
    vote(store, opinions, 40)
    stop, faults = threading.Event(), []

    def keep_voting() -> None:
        mine = Opinions(SUBJECTS, seed=0)
        mine.rng = np.random.default_rng(99)
        try:
            while not stop.is_set():
                vote(store, mine, 1, each=5)
        except Exception as error:
            faults.append(error)

    thread = threading.Thread(target=keep_voting)
    thread.start()
    for _ in range(3):
        run(campaign, store)
    stop.set()
    thread.join()
    assert not faults
    assert store.classifications.recount() == 0
    kept = list(store.classifications.stream())
    assert len({(one.volunteer.id, one.subject) for one in kept if one.counted is Counted.YES}) == len(kept)
    assert any(one.stream is Stream.RANK for one in kept)


def test_a_round_is_gone_back_to_even_where_the_store_forgot_its_ranks(world) -> None:
    campaign, store, opinions = world
    for _ in range(3):
        vote(store, opinions, 25)
        run(campaign, store)
    first = records.every(campaign.folder)[0]
    store.rounds.prune(1)
    assert next(one for one in store.rounds.all() if one.id == first.store_round).subjects == 0
    rounds.roll_back(campaign, store, 1, NOW)
    assert store.rounds.active() == first.store_round
    assert next(one for one in store.rounds.all() if one.id == first.store_round).subjects > 0
    with pytest.raises(GreenpeaError, match="no finished round 9"):
        rounds.roll_back(campaign, store, 9, NOW)


def test_of_old_rounds_the_heads_are_forgotten_but_never_the_incumbents(world) -> None:
    campaign, store, opinions = world
    campaign = Campaign.open(campaign.folder, ["loop.kept=1"])
    for _ in range(4):
        vote(store, opinions, 20)
        last = run(campaign, store)
    found = records.every(campaign.folder)
    held = [one.number for one in found if (one.folder / records.HEADS).is_dir()]
    incumbent = records.newest_with_heads(found)
    assert incumbent is not None
    assert set(held) <= {last.number, incumbent.number}
    assert incumbent.number in held
    assert not any((one.folder / records.CHANCE).is_dir() for one in found[:-1])
    assert all((one.folder / records.SCORES).is_file() for one in found)


def test_without_an_audit_set_rounds_go_on_and_say_that_nobody_judges(tmp_path: Path) -> None:
    opinions = Opinions(SUBJECTS)
    campaign = make(tmp_path / "sky", SUBJECTS, settings=["site.audit_share=0"])
    keep_embeddings(campaign, opinions)
    store = opened(campaign)
    vote(store, opinions, 30)
    record = run(campaign, store)
    assert record.gate.outcome == "ungated"
    assert record.scores == ()
    assert record.ranked > 0
    store.close()


def test_a_round_under_way_when_the_workflow_changes_is_ended_and_another_begun(world) -> None:
    campaign, store, opinions = world
    vote(store, opinions, 30)

    class Stopped(Exception): ...

    def stop(step: str) -> None:
        if step == "fitted":
            raise Stopped

    with pytest.raises(Stopped):
        run(campaign, store, after=stop)
    changed = json.loads(workflow().to_json())
    changed["questions"][0]["answers"].append({"slug": "odd", "text": {"en": "odd"}})
    store.workflows.publish(Workflow.from_json(json.dumps(changed)), NOW)
    record = run(campaign, store)
    first, second = records.every(campaign.folder)
    assert first.gate.outcome == "failed"
    assert "workflow was changed" in first.gate.why
    assert record == second
    assert second.gate.outcome == "failed"  # nobody has voted on the new version yet
    assert store.rounds.active() is None


def test_each_rank_is_asked_a_few_times_and_then_the_next(world) -> None:
    campaign, store, opinions = world
    campaign = Campaign.open(campaign.folder, ["loop.votes=2"])
    vote(store, opinions, 30)
    record = run(campaign, store)
    store.queue.options = replace(store.queue.options, weights={Stream.RANK: 1.0}, gold_first=0, gold_last=0)
    order = pq.read_table(record.folder / records.SCORES)["subject_id"].to_pylist()
    handed = [store.queue.next(store.people.anonymous(NOW).id, 1, NOW)[0] for _ in range(6)]
    assert [one.subject.subject_id for one in handed] == [one for one in order[:3] for _ in range(2)]


def test_a_round_leaves_a_report_of_the_audit_set(tmp_path: Path) -> None:
    opinions = Opinions(SUBJECTS)
    campaign = make(tmp_path / "sky", SUBJECTS, settings=["loop.report=true"])
    keep_embeddings(campaign, opinions)
    store = opened(campaign)
    vote(store, opinions, 60)
    record = run(campaign, store)
    page = (record.folder / records.REPORT).read_text(encoding="utf-8")
    assert "sky, round 1" in page
    assert record.model in page
    assert "the audit set: subjects that no round learns from" in page
    for picture in (campaign.folder / "images").iterdir():
        picture.unlink()
    vote(store, opinions, 5)
    assert run(campaign, store).finished  # with nothing to show, a round goes on
    store.close()


def test_two_rounds_at_once_are_refused(world) -> None:
    campaign, store, opinions = world
    vote(store, opinions, 30)
    with steps._alone(campaign.folder), pytest.raises(GreenpeaError, match="another process"):
        run(campaign, store)


def test_of_a_large_pool_a_rotating_part_is_scored(tmp_path: Path) -> None:
    opinions = Opinions(SUBJECTS)
    campaign = make(tmp_path / "sky", SUBJECTS, settings=["loop.scored=20", "loop.ranked=5"])
    keep_embeddings(campaign, opinions)
    store = opened(campaign)
    seen: set[str] = set()
    for _ in range(5):
        vote(store, opinions, 1, each=6)
        record = run(campaign, store)
        assert "part" in record.scored
        part = set(pq.read_table(record.folder / records.VOTES)["subject_id"].to_pylist())
        assert len(part) < 20 + 6 * record.number + 5 + 20  # a fifth, those with votes, the last ranked, the audit set
        seen |= part
    assert len(seen) > 80
    store.close()


def test_the_loop_waits_for_votes_and_stops_when_told(world) -> None:
    campaign, store, opinions = world
    told: list[Record] = []
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        vote(store, opinions, 11)

    campaign = Campaign.open(campaign.folder, ["loop.classifications=100"])
    rounds.loop(campaign, store, told.append, stop=lambda: len(told) == 3, sleep=sleep, clock=lambda: NOW)
    assert [one.number for one in told] == [1, 2, 3]
    assert told[0].gate.outcome == "failed"  # nobody had voted yet
    assert len(waited) == 2


def test_records_are_read_back_as_they_were_written(world) -> None:
    campaign, store, opinions = world
    vote(store, opinions, 60)
    record = run(campaign, store)
    assert records.load(record.folder) == record
    (record.folder / records.FACTS).write_text(json.dumps({"number": 1}))
    with pytest.raises(GreenpeaError, match=r"round\.json is damaged"):
        records.every(campaign.folder)


def test_each_subject_is_judged_by_heads_that_never_saw_its_votes(world) -> None:
    """One subject's votes are turned round: what the heads say of it stays, what is known of it turns."""
    campaign, store, opinions = world
    vote(store, opinions, 60)
    record = run(campaign, store)
    made = steps._Steps(campaign, store, record, [], lambda: NOW, lambda *_: None)
    learned = np.flatnonzero(~made.column(steps.POOL) & (made.votes.total > 0))
    votes = made.votes.select(learned)
    row = int(np.argmin(votes.total))
    turned = votes.select(np.arange(len(votes)))
    turned.counts["shape"][row] = turned.counts["shape"][row][::-1]
    settled = made.campaign.settings.learning.model_copy(update={"recalibrate": False})
    how = {"folds": 3, "reserve": 0, "encoder": ENCODER}
    rows = made.embeddings.rows_of(votes.subject_ids)
    before, after = (crossfit.cross_fit(made.embeddings.take(rows), one, settled, **how) for one in (votes, turned))
    if before.facts["precision"] != after.facts["precision"] or before.facts["width"] != after.facts["width"]:
        pytest.skip("the shared choice of the prior turned with it")
    one = made.embeddings.take(rows[row : row + 1]), votes.subject_ids[row : row + 1]
    np.testing.assert_allclose(
        before.posterior(*one).parameters["shape"], after.posterior(*one).parameters["shape"], rtol=1e-4
    )
    others = np.delete(np.arange(len(votes)), row)
    apart = made.embeddings.take(rows[others]), votes.subject_ids[others]
    assert not np.allclose(
        before.posterior(*apart).parameters["shape"], after.posterior(*apart).parameters["shape"], rtol=1e-3
    )

"""Encoders trained on with the votes: who learns from whom, who judges, what takes over, what a kill leaves."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from greenpea import records, rounds
from greenpea.campaign import Campaign
from greenpea.cli import app
from greenpea.embeddings import place_of
from greenpea.errors import GreenpeaError
from greenpea.heads import Heads, half_of
from greenpea.images import Preparation
from greenpea.learning import checkpoint, encoders, tuned
from greenpea.learning.kept import KeptEncoder
from greenpea.learning.tuned import TunedEncoder
from greenpea.records import Record, Tuning
from greenpea.rounds import steps, tuning
from greenpea.store import Store
from greenpea.subjects import in_audit
from round_hands import NOW, Opinions, make, opened, vote

SUBJECTS, SIZE, AUDIT = 80, 32, 0.25
SETTINGS = (
    f"images.size={SIZE}", f"site.audit_share={AUDIT}", "site.audit=0.3", "loop.encoder=../base", "loop.folds=2",
    "loop.audit_votes=100", "learning.precision=32-true", "loop.tune_answers=300",
)  # fmt: skip


def encoder(seeing: bool) -> KeptEncoder:
    """A tiny encoder at random, which sees how bright an image is; or one that sees nothing, whatever it is shown."""
    torch.manual_seed(0)
    made = encoders.build("residual", 3, SIZE, 4).to(memory_format=torch.channels_last).eval()
    if not seeing:
        made.load_state_dict({name: value * 0 for name, value in made.state_dict().items()})
    return KeptEncoder(made, Preparation(size=SIZE, channels=3), "residual", 4, 3, "nowhere")


def opinions(seed: int = 0) -> Opinions:
    """The brighter the image, the likelier a disk."""
    found = Opinions(SUBJECTS, seed)
    found.disk = np.linspace(0.03, 0.97, SUBJECTS)[np.random.default_rng(1).permutation(SUBJECTS)]
    found.bar = 1 - found.disk
    return found


def begun(folder: Path, seeing: bool) -> Campaign:
    """A campaign with votes and one round, on an encoder that sees or does not."""
    checkpoint.save_encoder(encoder(seeing), folder / "base")
    campaign = make(folder / "sky", SUBJECTS, settings=SETTINGS)
    mine = opinions()
    for number, share in enumerate(mine.disk):
        noise = np.random.default_rng(number).integers(-20, 20, (SIZE, SIZE, 3))
        Image.fromarray((40 + 170 * share + noise).astype(np.uint8)).save(
            campaign.folder / "images" / f"s{number:02d}.png"
        )
    store = opened(campaign)
    vote(store, mine, 60)
    unjudged = Campaign.open(campaign.folder, ["loop.audit_votes=1000000"])  # a round that is promoted in any case
    assert rounds.run(unjudged, store, clock=lambda: NOW).gate.outcome == "ungated"
    store.close()
    return campaign


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    folders = {seeing: tmp_path_factory.mktemp("campaigns") for seeing in (True, False)}
    for seeing, folder in folders.items():
        begun(folder, seeing)
    return folders


@pytest.fixture(autouse=True)
def one_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuned, "EPOCHS", 1)


Open = Callable[..., tuple[Campaign, Store]]


@pytest.fixture
def world(prepared: dict[bool, Path], tmp_path: Path) -> Iterator[Open]:
    """Opens a copy of the campaign whose encoder sees, or does not."""
    stores = []

    def copy(seeing: bool = True, *overrides: str) -> tuple[Campaign, Store]:
        shutil.copytree(prepared[seeing], tmp_path / "copy")
        campaign = Campaign.open(tmp_path / "copy" / "sky", overrides)
        stores.append(opened(campaign))
        return campaign, stores[-1]

    yield copy
    for store in stores:
        store.close()


def becomes(seeing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let whatever is trained on become an encoder that sees, or does not."""
    train = tuning.tune

    def replaced(*what: object, **how: object) -> KeptEncoder:
        return replace(train(*what, **how), encoder=encoder(seeing).encoder)  # type: ignore[arg-type]

    monkeypatch.setattr(tuning, "tune", replaced)


def run_tuning(campaign: Campaign, store: Store, **how: object) -> Tuning:
    return rounds.tune(campaign, store, clock=lambda: NOW, **how)  # type: ignore[arg-type]


def run_round(campaign: Campaign, store: Store) -> Record | None:
    return rounds.run(campaign, store, clock=lambda: NOW)


# ---- who learns from whom ----------------------------------------------------------------------------


def test_neither_encoder_learns_from_the_half_it_looks_at_nor_from_the_audit_set(world: Open) -> None:
    campaign, store = world()
    found = run_tuning(campaign, store)
    assert found.finished
    ids = campaign.subjects.subject_ids
    audit = np.array([in_audit(one, AUDIT) for one in ids])
    cast = store.standings.read().votes
    voted = set(cast.subject_ids[cast.total > 0])
    pair = TunedEncoder.load(found.folder, "")
    for half, member in enumerate(pair.members):
        assert set(member.learned_from) == set(ids[~audit & (half_of(ids) == 1 - half)]) & voted
        kept = checkpoint.load_encoder(found.folder / f"encoder-{half}")  # it stands in its file
        assert kept.learned_from == member.learned_from
    assert found.learned_from == tuple(len(one.learned_from) for one in pair.members)
    assert pair.members[0].fingerprint != pair.members[1].fingerprint != encoder(True).fingerprint
    images = np.random.default_rng(0).integers(0, 256, (SUBJECTS, 3, SIZE, SIZE)).astype(np.uint8)
    seen = pair.embed(images, ids, "32-true")
    for half, member in enumerate(pair.members):
        mine = half_of(ids) == half
        np.testing.assert_array_equal(seen[mine], member.embed(images[mine], "32-true"))
    with pytest.raises(GreenpeaError, match=r"has learned from \d+ subjects of that half"):
        TunedEncoder(pair.members[::-1], "")


def test_a_second_tuning_goes_on_from_the_first_half_by_half(world: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign, store = world(False)
    becomes(True, monkeypatch)
    first = run_tuning(campaign, store)
    with pytest.raises(GreenpeaError, match="no vote is new since tuning 1"):
        run_tuning(campaign, store)
    assert run_round(campaign, store) is not None
    vote(store, opinions(), 5)
    second = run_tuning(campaign, store)
    assert second.before == first.encoder
    assert second.base == first.base == encoder(False).fingerprint
    assert second.gate is not None
    assert second.gate.outcome == "kept"  # it sees as much as the first, and no more
    assert TunedEncoder.load(second.folder, "").members[0].about["start"] == encoder(True).fingerprint
    assert records.in_use(campaign.folder) == first
    salted = Campaign.open(campaign.folder, ["split.salt=other"])
    assert salted.encoder_in_use().fingerprint == first.base  # of other halves it would have seen votes
    judged = Campaign.open(campaign.folder, ["site.audit_share=0.5"])
    assert judged.encoder_in_use().fingerprint == first.base


# ---- who takes over ----------------------------------------------------------------------------------


def test_one_that_is_worse_is_laid_aside_and_rounds_go_on_as_they_were(
    world: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign, store = world(True)
    before = campaign.encoder_in_use().fingerprint
    becomes(False, monkeypatch)
    found = run_tuning(campaign, store)
    assert found.finished
    assert not found.took_over
    assert found.gate is not None
    assert found.gate.outcome == "kept"
    assert found.gate.gain is not None
    assert found.gate.gain < 0
    assert not place_of(campaign.folder, found.encoder).exists()
    assert run_round(campaign, store) is None  # it is no reason for a round
    vote(store, opinions(1), 5)
    record = run_round(campaign, store)
    assert record is not None
    assert record.encoder == before
    assert record.gate is not None
    assert record.gate.outcome == "promoted"
    shown = CliRunner().invoke(app, ["rounds", str(campaign.folder)], env={"COLUMNS": "200"})
    assert "Tuning 1" in shown.output
    assert "laid aside" in shown.output


def test_one_that_is_better_takes_over_and_earlier_rounds_come_back(
    world: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign, store = world(False)
    becomes(True, monkeypatch)
    found = run_tuning(campaign, store)
    assert found.took_over
    assert found.gate is not None
    assert found.gate.low is not None
    assert found.gate.low > 0
    fitted: list[dict[str, object]] = []
    fit = steps.cross_fit

    def watched(*what: object, **how: object) -> Heads:
        fitted.append(how)
        return fit(*what, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(steps, "cross_fit", watched)
    record = run_round(campaign, store)  # without a new vote
    assert record is not None
    assert (record.number, record.tuning, record.encoder) == (2, 1, found.encoder)
    assert record.gate is not None
    assert record.gate.outcome == "promoted"
    assert "above -0.010" in record.gate.why  # it has shown once that it is better
    assert all(how["halves"] for how in fitted)
    assert fitted[0]["folds"] == 4
    assert Heads.load(record.folder / records.HEADS).other is not None
    assert record.overall is not None
    assert record.overall.gain is not None
    assert record.overall.gain > 0
    assert run_round(campaign, store) is None
    first = records.every(campaign.folder)[0]
    rounds.roll_back(campaign, store, 1, NOW)
    assert store.rounds.active() == first.store_round
    vote(store, opinions(1), 3)
    after = run_round(campaign, store)
    assert after is not None
    assert after.encoder == found.encoder


def test_without_votes_on_the_audit_set_it_says_so_and_does_nothing(world: Open) -> None:
    campaign, store = world(True, "loop.audit_votes=1000000", "loop.tune=milestones")
    with pytest.raises(GreenpeaError, match=r"the audit set has [\d,]+ votes and 1,000,000 are needed"):
        run_tuning(campaign, store)
    assert records.tunings(campaign.folder) == []
    assert not tuning.due(campaign)


# ---- killed ------------------------------------------------------------------------------------------

SCRIPT = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from greenpea import rounds
from greenpea.campaign import Campaign
from greenpea.learning import tuned
from greenpea.rounds import tuning
from round_hands import NOW, opened
tuned.EPOCHS, train, trained = 1, tuning.tune, []
def once(*what, **how):
    if trained:
        os.kill(os.getpid(), signal.SIGKILL)
    trained.append(1)
    return train(*what, **how)
tuning.tune = once
campaign = Campaign.open(Path(sys.argv[1]))
rounds.tune(campaign, opened(campaign), clock=lambda: NOW)
"""


def test_killed_anywhere_the_next_start_goes_on_and_nothing_takes_over_before(
    world: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign, store = world(False)
    script = [sys.executable, "-c", SCRIPT.format(tests=str(Path(__file__).parent)), str(campaign.folder)]
    killed = subprocess.run(script, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    half = records.tunings(campaign.folder)[-1]
    assert list(half.stages) == ["collected"]
    first = checkpoint.load_encoder(half.folder / "encoder-0")
    assert not (half.folder / "encoder-1").exists()

    class Stopped(Exception): ...

    def whole() -> None:
        assert records.in_use(campaign.folder) is None
        assert campaign.encoder_in_use().fingerprint == encoder(False).fingerprint
        assert store.queue.next(store.people.anonymous(NOW).id, 3, NOW)
        assert run_round(campaign, store) is None

    becomes(True, monkeypatch)
    for step in records.TUNED[1:-1]:
        whole()

        def stop(done: str, step: str = step) -> None:
            if done == step:
                raise Stopped

        with pytest.raises(Stopped):
            run_tuning(campaign, store, after=stop)
        assert list(records.tunings(campaign.folder)[-1].stages)[-1] == step
    whole()
    found = run_tuning(campaign, store)
    assert found.finished
    assert found.number == half.number
    assert found.data == half.data
    assert TunedEncoder.load(found.folder, "").members[0].fingerprint == first.fingerprint  # trained once


def test_one_that_cannot_go_on_is_ended_and_another_begun(world: Open) -> None:
    campaign, store = world(True)

    class Stopped(Exception): ...

    def stop(done: str) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        run_tuning(campaign, store, after=stop)
    checkpoint.save_encoder(encoder(False), campaign.folder.parent / "other")
    changed = Campaign.open(campaign.folder, ["loop.encoder=../other"])
    vote(store, opinions(1), 5)
    with pytest.raises(GreenpeaError, match="holds no embeddings"):  # a round comes first
        run_tuning(changed, store)
    assert run_round(changed, store) is not None
    found = run_tuning(changed, store)
    first, second = records.tunings(campaign.folder)
    assert first.gate is not None
    assert first.gate.outcome == "failed"
    assert found == second
    assert found.finished


# ---- when --------------------------------------------------------------------------------------------


def test_the_loop_tunes_when_answers_have_doubled_and_goes_on_at_once(
    world: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign, store = world(False)
    assert not tuning.due(campaign)  # 'never' is the default
    campaign = Campaign.open(campaign.folder, ["loop.tune=milestones"])
    assert tuning.due(campaign)
    assert not tuning.due(Campaign.open(campaign.folder, ["loop.tune=milestones", "loop.tune_answers=100000"]))
    becomes(True, monkeypatch)
    told: list[Record] = []
    verdicts: list[Tuning] = []

    def stop() -> bool:
        return len(told) == 1

    rounds.loop(campaign, store, told.append, stop=stop, clock=lambda: NOW, tuned=verdicts.append)
    assert [one.took_over for one in verdicts] == [True]
    assert told[0].encoder == verdicts[0].encoder
    assert not tuning.due(campaign)  # until there are twice the answers
    (verdicts[0].folder / records.TUNING).write_text("{}")
    with pytest.raises(GreenpeaError, match=r"tuning\.json is damaged"):
        records.tunings(campaign.folder)

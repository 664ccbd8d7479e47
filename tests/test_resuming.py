"""Trainings that are killed and go on, on one device and on two; and those that diverge."""

from __future__ import annotations

import errno
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from greenpea import creation
from greenpea.campaign import Campaign
from greenpea.errors import GreenpeaError
from greenpea.learning import resuming, training
from greenpea.learning.devices import Share
from greenpea.learning.resuming import Keep
from greenpea.learning.settings import Recipe

RECIPE = Recipe(epochs=6, learning_rate=0.05, patience=6, average=0.5)


class Points:
    """Batches in random order, like those of images: the same for one seed, others in each epoch."""

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(count)
        self.x = torch.randn(count, 5, generator=generator)
        self.y = self.x.sum(1, keepdim=True).tanh()
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self.x) // 16

    def __iter__(self):  # type: ignore[no-untyped-def]
        order = torch.randperm(len(self.x), generator=self.generator)
        for rows in order.split(16):
            yield self.x[rows] + 0.01 * torch.randn(16, 5, generator=self.generator), self.y[rows]


class Judges(Points):
    """Always the same."""

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(zip(self.x.split(16), self.y.split(16), strict=True))


def network() -> nn.Module:
    """With what makes resuming hard: dropout, batch normalisation, convolution-like memory."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 1))


def trained(keep: Keep | None = None, progress: training.Progress | None = None, devices: int = 1) -> nn.Module:
    module = network()
    torch.manual_seed(4)
    best, _ = training.fit(
        module,
        Points(64, seed=5),
        nn.functional.mse_loss,
        held_out=Judges(32, seed=0),
        recipe=RECIPE,
        fabric=training.make_fabric("32-true", devices=devices, accelerator="cpu"),
        progress=progress,
        keep=keep,
    )
    return best


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("at", range(RECIPE.epochs))
def test_a_training_goes_on_to_the_same_weights(at: int, tmp_path: Path) -> None:
    def stop(epoch: int, history: training.History) -> None:
        if epoch == at:  # before this epoch's state is written
            raise _Killed

    with pytest.raises(_Killed):
        trained(Keep(tmp_path, "it", every=0), stop)
    seen: list[int] = []
    again = trained(Keep(tmp_path, "it", every=0), lambda epoch, history: seen.append(epoch))
    assert seen == list(range(at, RECIPE.epochs))
    assert same(again, trained())


def test_a_finished_training_is_not_done_again(tmp_path: Path) -> None:
    seen: list[int] = []
    first = trained(Keep(tmp_path, "it"))
    assert same(trained(Keep(tmp_path, "it"), lambda epoch, history: seen.append(epoch)), first)
    assert seen == []


def test_killed_for_real(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_resuming import *\n"
        "kill = lambda epoch, history: epoch == 4 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "trained(Keep(Path(sys.argv[2]), 'it', every=0), kill)\n"
    )
    words = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path)]
    assert subprocess.run(words, check=False, env=os.environ).returncode == -signal.SIGKILL
    assert same(trained(Keep(tmp_path, "it", every=0)), trained())


def test_what_was_kept_of_another_training_is_not_gone_on_with(tmp_path: Path) -> None:
    trained(Keep(tmp_path, "another"))
    seen: list[int] = []
    trained(Keep(tmp_path, "it"), lambda epoch, history: seen.append(epoch))
    assert seen == list(range(RECIPE.epochs))


@pytest.mark.parametrize("content", [b"", b"cut short", None])
def test_a_damaged_state_is_not_believed(content: bytes | None, tmp_path: Path) -> None:
    trained(Keep(tmp_path, "it"))
    file = tmp_path / resuming.FILE
    file.write_bytes(file.read_bytes()[:-50] if content is None else content)
    assert Keep(tmp_path, "it").read() is None


def test_a_full_disk_while_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise resuming.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    trained(Keep(tmp_path, "earlier"))
    monkeypatch.setattr(resuming, "save_file", full)
    with pytest.raises(GreenpeaError, match="the disk is full: make room") as told:
        trained(Keep(tmp_path, "it", every=0))
    assert told.value.__cause__ is not None
    assert Keep(tmp_path, "earlier").read() is not None
    assert errno.ENOSPC == 28


def test_states_are_written_now_and_then(tmp_path: Path) -> None:
    keep = Keep(tmp_path, "it", every=3600)
    assert not keep.due
    trained(keep)
    found = keep.read()  # the last epoch's, in any case
    assert found is not None
    assert len(found[1]["history"]["train"]) == RECIPE.epochs


def test_divergence_says_where_and_what_to_try() -> None:
    class Exploding(Points):
        def __iter__(self):  # type: ignore[no-untyped-def]
            for number, (x, y) in enumerate(super().__iter__()):
                yield x, y * (float("nan") if number == 2 else 1)

    with pytest.raises(
        GreenpeaError, match=r"diverged in epoch 1: its loss is nan .* Lower learning.learning_rate.*017"
    ):
        training.fit(
            network(), Exploding(64, 1), nn.functional.mse_loss, held_out=Judges(32, 0), recipe=RECIPE,
            fabric=training.make_fabric("32-true", accelerator="cpu"),
        )  # fmt: skip


# ---- two devices -------------------------------------------------------------------------------------


def test_shares_are_even_and_complete() -> None:
    some = [(torch.arange(7)[:, None], torch.arange(7))]
    parts = [torch.cat([y for _, y in Share(some, rank, 2)]) for rank in range(2)]
    assert [len(part) for part in parts] == [3, 3]
    every = torch.cat([torch.cat([y for _, y in Share(some, rank, 2, even=False)]) for rank in range(2)])
    assert sorted(every.tolist()) == list(range(7))


class Watched(nn.Module):
    """A line that remembers, in buffers, how many rows it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(5, 1)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen += len(x)
        return self.line(x)


def test_two_devices_train_one_network(tmp_path: Path) -> None:
    results = {}
    for devices in (1, 2):
        torch.manual_seed(3)
        told: list[float] = []
        best, history = training.fit(
            Watched(),
            Points(64, seed=5),
            nn.functional.mse_loss,
            held_out=Judges(32, seed=0),
            recipe=RECIPE,
            fabric=training.make_fabric("32-true", devices=devices, accelerator="cpu"),
            progress=lambda epoch, history, told=told: told.append(history.held_out[-1]),  # type: ignore[misc]
            keep=Keep(tmp_path / str(devices), "it", every=0),
        )
        assert told == history.held_out
        results[devices] = best, history
    (one, alone), (two, together) = results[1], results[2]
    # Averaged gradients of halves are the whole's: what comes out differs by rounding only.
    torch.testing.assert_close(two.line.weight, one.line.weight, rtol=1e-4, atol=1e-5)
    assert together.held_out == pytest.approx(alone.held_out, rel=1e-4)
    assert together.train == pytest.approx(alone.train, rel=1e-4)
    assert float(two.seen) == float(one.seen) / 2


# ---- a campaign --------------------------------------------------------------------------------------


def test_a_campaigns_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = ("learning.epochs=3", "learning.width=4", "learning.precision=32-true", "learning.orientation=any")
    creation.simulate(tmp_path / "c", 90, votes=5, size=24, seed=2)
    monkeypatch.setattr("greenpea.campaign.Keep", functools.partial(Keep, every=0))

    def stop(stage: str, share: float, words: str) -> None:
        if stage == "training" and share > 0.5:
            raise _Killed

    with pytest.raises(_Killed):
        Campaign.open(tmp_path / "c", sets).train(report=stop)
    assert Campaign.open(tmp_path / "c").runs == []
    stages: list[str] = []
    _, model = Campaign.open(tmp_path / "c", sets).train(report=lambda stage, *_: stages.append(stage))
    assert stages[0] == "going on"
    assert stages.count("training") == 3  # its beginning, and the two epochs that were left
    assert not list((tmp_path / "c" / "runs").glob(".unfinished"))
    stages.clear()
    _, undisturbed = Campaign.open(tmp_path / "c", sets).train(report=lambda stage, *_: stages.append(stage))
    assert "going on" not in stages
    assert model.fingerprint() == undisturbed.fingerprint()


def test_an_ensemble_killed_in_its_second_network_goes_on_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = ("learning.uncertainty=ensemble", "learning.members=3", "learning.epochs=3", "learning.width=4")
    sets = (*sets, "learning.precision=32-true", "learning.orientation=any")
    creation.simulate(tmp_path / "c", 90, votes=5, size=24, seed=2)
    monkeypatch.setattr("greenpea.campaign.Keep", functools.partial(Keep, every=0))
    epochs = 0

    def stop(*_: object) -> None:
        nonlocal epochs
        epochs += 1
        if epochs > 5:  # of 9
            raise _Killed

    told = training.run
    monkeypatch.setattr(training, "run", lambda *words: told(*words[:6], stop, words[7]))
    with pytest.raises(_Killed):
        Campaign.open(tmp_path / "c", sets).train()
    kept = sorted((tmp_path / "c" / "runs" / ".unfinished").rglob(resuming.FILE))
    assert len(kept) == 2
    epochs = -10
    _, model = Campaign.open(tmp_path / "c", sets).train()
    assert epochs == -10 + 9 - 5
    monkeypatch.setattr(training, "run", told)
    _, undisturbed = Campaign.open(tmp_path / "c", sets).train()
    assert model.fingerprint() == undisturbed.fingerprint()


def test_of_two_trainings_at_once_the_second_is_refused(tmp_path: Path) -> None:
    creation.simulate(tmp_path / "c", 90, votes=5, size=24, seed=2)
    tried: list[str] = []

    def second(stage: str, share: float, words: str) -> None:
        if not tried:
            with pytest.raises(
                GreenpeaError, match=r"another process is training in .*c now: let it finish"
            ) as refused:
                Campaign.open(tmp_path / "c", ["learning.epochs=1"]).train()
            tried.append(str(refused.value))

    first = Campaign.open(tmp_path / "c", ["learning.epochs=2", "learning.width=4"])
    run, _ = first.train(report=second)
    assert tried
    assert first.runs == [run]


def test_a_campaign_on_a_read_only_disk_is_not_trained(disk: Callable[[str], Path]) -> None:
    folder = disk("size=10m") / "c"
    creation.simulate(folder, 30, votes=5, size=16, seed=2)
    disk("ro")
    with pytest.raises(GreenpeaError, match="c cannot be written, the disk is read-only: give a place"):
        Campaign.open(folder).train()

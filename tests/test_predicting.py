"""Prediction that streams: the same bytes however often it is killed; full disks told; embeddings for images."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from greenpea import creation, parts, runner
from greenpea.campaign import Campaign
from greenpea.errors import GreenpeaError
from greenpea.files import saving
from greenpea.packing import pack
from greenpea.parts import Unfinished
from greenpea.settings import Settings
from greenpea.subjects import SubjectSet

SMALL = ("catalogue.part=16", "learning.draws=6")
QUICK = ("learning.epochs=1", "learning.width=8", "learning.precision=32-true")
SUBJECTS = 150


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained campaign of simulated galaxies, two of whose images cannot be read."""
    folder = tmp_path_factory.mktemp("predicted") / "galaxies é"
    creation.simulate(folder, SUBJECTS, votes=6, size=24, seed=5)
    Campaign.open(folder, QUICK).train()
    for number in (3, 40):
        (folder / "images" / f"sim-{number:06d}.png").write_bytes(b"broken")
    return folder


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> bytes:
    """The catalogue that nothing came between."""
    out = folder / "undisturbed.parquet"
    Campaign.open(folder, SMALL).predict(out)
    return out.read_bytes()


def command(folder: Path, out: Path, *more: str) -> list[str]:
    sets = [word for one in SMALL for word in ("--set", one)]
    return [sys.executable, "-m", "greenpea", "predict", str(folder), "--out", str(out), *sets, *more]


def kill_when(found: Path, words: list[str]) -> bool:
    """Run a command and kill it once a file is there; return whether it was killed in time."""
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and not found.exists():
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    return process.returncode == -signal.SIGKILL


def test_killed_it_goes_on_to_the_same_bytes(folder: Path, undisturbed: bytes, tmp_path: Path) -> None:
    out = tmp_path / "c.parquet"
    assert kill_when(tmp_path / "c.parquet.unfinished" / "_part-00001.json", command(folder, out))
    assert not out.exists()
    done = Campaign.open(folder, SMALL).predict(out)
    assert out.read_bytes() == undisturbed
    assert done.subjects == SUBJECTS - 2
    assert [one.subject_id for one in done.unreadable] == ["sim-000003", "sim-000040"]
    assert "sim-000040" in (tmp_path / "c.unreadable.csv").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.parquet", "c.unreadable.csv"]


def test_killed_with_embeddings_it_goes_on_as_well(folder: Path, tmp_path: Path) -> None:
    out, kept = tmp_path / "parts", tmp_path / "kept"
    words = command(folder, out, "--embeddings", str(kept))
    assert kill_when(tmp_path / "parts.unfinished" / "_part-00002.json", words)
    campaign = Campaign.open(folder, SMALL)
    campaign.predict(out, embeddings_out=kept)
    (place,) = (kept / "embeddings").iterdir()
    assert np.fromfile(place / "embeddings.f16", np.float16).size == (SUBJECTS - 2) * 64
    campaign.predict(tmp_path / "again.parquet", embeddings_from=kept)
    assert pq.read_table(out).equals(pq.read_table(tmp_path / "again.parquet"))
    assert (tmp_path / "again.unreadable.csv").read_bytes() == (out / "_unreadable.csv").read_bytes()


def test_parts_are_the_same_rows_as_one_file(folder: Path, undisturbed: bytes, tmp_path: Path) -> None:
    done = Campaign.open(folder, SMALL).predict(tmp_path / "parts")
    assert sorted(path.name for path in tmp_path.glob("parts/part-*")) == [f"part-{i:05d}.parquet" for i in range(10)]
    whole = pq.read_table(folder / "undisturbed.parquet")
    assert pq.read_table(tmp_path / "parts").equals(whole)
    assert b"greenpea.model" in pq.read_schema(tmp_path / "parts" / "part-00003.parquet").metadata
    assert done.listed.read_text().count("\n") == 3
    assert not list(tmp_path.glob("parts/_part-*"))


def test_processes_give_what_threads_give(
    folder: Path, undisturbed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "FEW", 0)
    done = Campaign.open(folder, SMALL).predict(tmp_path / "c.parquet", draws_out=tmp_path / "d.parquet")
    assert (tmp_path / "c.parquet").read_bytes() == undisturbed
    assert pq.ParquetFile(tmp_path / "d.parquet").metadata.num_rows == done.subjects * 6 * 11


def test_the_parts_of_another_run_are_refused(folder: Path, undisturbed: bytes, tmp_path: Path) -> None:
    out = tmp_path / "c.parquet"
    with _stopped_after(2), pytest.raises(GreenpeaError):
        Campaign.open(folder, SMALL).predict(out)
    with pytest.raises(GreenpeaError, match=r"learning.draws 6 then, 7 now.*--anew"):
        Campaign.open(folder, ("catalogue.part=16", "learning.draws=7")).predict(out)
    Campaign.open(folder, ("catalogue.part=16", "learning.draws=7")).predict(out, anew=True)
    assert pq.read_schema(out).metadata[b"greenpea.draws"] == b"7"
    with _stopped_after(2), pytest.raises(GreenpeaError):
        Campaign.open(folder, SMALL).predict(out)
    Campaign.open(folder, (*SMALL, "catalogue.workers=1")).predict(out)  # how many work at it is no other run
    assert out.read_bytes() == undisturbed


@contextmanager
def _stopped_after(count: int, number: int = errno.ENOSPC) -> Iterator[None]:
    """Let so many files be written, and then no more."""
    written = 0

    def full(path: Path) -> None:
        nonlocal written
        written += 1
        if written > count:
            raise OSError(number, os.strerror(number))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(parts, "_onto_disk", full)
        yield


def test_a_full_disk_is_told_and_spoils_nothing(folder: Path, undisturbed: bytes, tmp_path: Path) -> None:
    out = tmp_path / "c.parquet"
    out.write_bytes(b"an earlier catalogue")
    for count in (0, 4, 9):
        with (
            _stopped_after(count),
            pytest.raises(GreenpeaError, match=r"c\.parquet cannot be written, the disk is full"),
        ):
            Campaign.open(folder, SMALL).predict(out)
        assert out.read_bytes() == b"an earlier catalogue"
    Campaign.open(folder, SMALL).predict(out)
    assert out.read_bytes() == undisturbed


def test_a_real_disk_full_and_read_only(folder: Path, undisturbed: bytes, disk: Callable[[str], Path]) -> None:
    """Room for some of the parts; then for all; and read-only in between."""
    out = disk(f"size={len(undisturbed) // 4096 * 4 + 300}k") / "c.parquet"
    with pytest.raises(GreenpeaError, match=r"c\.parquet cannot be written, the disk is full: make room"):
        Campaign.open(folder, SMALL).predict(out)
    done = sorted((out.parent / "c.parquet.unfinished").glob("_part-*.json"))
    assert done
    disk("size=20m,ro")
    with pytest.raises(GreenpeaError, match=r"c\.parquet cannot be written, the disk is read-only: give a place"):
        Campaign.open(folder, SMALL).predict(out)
    disk("rw")
    Campaign.open(folder, SMALL).predict(out)
    assert out.read_bytes() == undisturbed


def test_a_device_that_is_full(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(GreenpeaError, match="the disk is full: make room"), saving(tmp_path / "x"):
        Path("/dev/full").write_bytes(b"x" * 10)


def test_one_per_cent_unreadable_is_counted_and_listed_everywhere(tmp_path: Path) -> None:
    """From a table with votes by way of training to the catalogue, from files and from shards."""
    simulated = tmp_path / "Ü simulated"
    creation.simulate(simulated, 300, votes=6, size=24, seed=6)
    broken = [f"sim-{number:06d}" for number in (1, 123, 300)]
    for number, name in enumerate(broken):
        path = simulated / "images" / f"{name}.png"
        if number == 0:
            path.write_bytes(b"")
        elif number == 1:
            path.write_bytes(path.read_bytes()[:200])
        else:
            path.unlink()
    campaign = Campaign.open(simulated, (*QUICK, "learning.draws=3"))
    _, model = campaign.train()
    seen = [name for name in broken if campaign.roles[list(campaign.subjects.subject_ids).index(name)] != "test"]
    assert seen
    assert [name for name, _ in model.facts["unreadable"]] == seen
    pack(campaign.subjects, tmp_path / "shards")
    for subjects, name in ((None, "files"), (SubjectSet.open(tmp_path / "shards"), "shards")):
        done = campaign.predict(tmp_path / f"{name}.parquet", subjects)
        assert (done.subjects, [one.subject_id for one in done.unreadable]) == (297, broken)
        assert [line.split(",")[0].strip('"') for line in done.listed.read_text().splitlines()[1:]] == broken
    one, other = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("files", "shards"))
    assert one.equals(other)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs an operating system with users")
def test_a_folder_that_may_not_be_written_to(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)  # nobody: root may write anywhere
    try:
        with pytest.raises(GreenpeaError, match="may not be written to"), Unfinished.open(locked / "c.parquet", {}, 1):
            pass
    finally:
        os.seteuid(before)


def test_a_folder_of_other_things_is_left_alone(folder: Path) -> None:
    with pytest.raises(GreenpeaError, match="holds other things"):
        Campaign.open(folder, SMALL).predict(folder)
    assert Campaign.open(folder).runs
    assert not folder.with_name(f"{folder.name}.unfinished").exists()


def test_parts_replace_parts(folder: Path, tmp_path: Path) -> None:
    some = Campaign.open(folder, SMALL).subjects.select(np.arange(40))
    for count in (40, 20):
        Campaign.open(folder, SMALL).predict(tmp_path / "parts", some.select(np.arange(count)))
    assert len(list(tmp_path.glob("parts/part-*"))) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts"]


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "c.parquet"
    with (
        Unfinished.open(out, {}, 1),
        pytest.raises(GreenpeaError, match="another process is writing"),
        Unfinished.open(out, {}, 1),
    ):
        pass


def test_embeddings_of_another_model_or_of_nobody(folder: Path, tmp_path: Path) -> None:
    campaign = Campaign.open(folder, SMALL)
    with pytest.raises(GreenpeaError, match="holds no embeddings"):
        campaign.predict(tmp_path / "c.parquet", embeddings_from=tmp_path)
    some = campaign.subjects.select(np.arange(20))
    campaign.predict(tmp_path / "c.parquet", some, embeddings_out=tmp_path)
    done = campaign.predict(tmp_path / "c.parquet", embeddings_from=tmp_path)
    assert (done.subjects, len(done.unreadable)) == (19, SUBJECTS - 19)
    assert "predict from the images" in done.unreadable[-1].reason


def test_nobody_to_be_seen_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(folder / "images", tmp_path / "images"))
    for path in broken.iterdir():
        path.write_bytes(b"broken")
    with pytest.raises(GreenpeaError, match="none of the 150 images could be read; the first: "):
        Campaign.open(folder, SMALL).predict(tmp_path / "c.parquet", SubjectSet.from_folder(broken))
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_parts_are_of_whole_blocks() -> None:
    assert Settings.of({"catalogue": {"part": 3072}}).catalogue.part == 3072
    with pytest.raises(GreenpeaError, match=r"multiple of 1,024, such as 2048"):
        Settings.of({"catalogue": {"part": 3000}})

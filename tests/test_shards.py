"""Shards: packed and opened again, to the byte; interrupted, cut short, damaged, made by others. Nothing vanishes."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from greenpea import packing, shards
from greenpea.cli import app
from greenpea.errors import GreenpeaError
from greenpea.formats import Unreadable
from greenpea.images import Preparation, batches, load
from greenpea.packing import pack
from greenpea.subjects import SubjectSet

SHAPE = Preparation(size=8)
KINDS = pytest.mark.parametrize("kind", ["tar", "parquet"])


def picture(value: int, side: int = 24) -> bytes:
    rng = np.random.default_rng(value)
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (side, side, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty images, in folders and under names as people give them; one of them is broken."""
    base = tmp_path / "meine Bilder"
    for index in range(20):
        path = base / f"Ordner {index % 3}" / f"Galaxie Nº {index:02d} ☆.v2.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(index) if index != 7 else b"\x89PNG\r\n\x1a\nbroken")
    return base


def table_of(folder: Path, rows: int = 20) -> Path:
    """A table that names the images, with metadata; one file is missing, one row names none."""
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))[:rows]
    files[3], files[5] = "gone.png", ""
    columns = {
        "id": [f"g/{index} é" for index in range(rows)],
        "image": files,
        "ra": pa.array([None, *np.linspace(1, 2, rows - 1)], pa.float64()),
        "smooth_yes": list(range(rows)),
    }
    pq.write_table(pa.table(columns), folder / "t.parquet")
    return folder / "t.parquet"


def same(one: SubjectSet, other: SubjectSet) -> None:
    """Both have the same subjects, metadata, bytes, and images that cannot be had."""
    assert one.subject_ids.tolist() == other.subject_ids.tolist()
    assert one.metadata.to_pydict() == other.metadata.to_pydict()
    first, second = load(one, SHAPE), load(other, SHAPE)
    np.testing.assert_array_equal(first.images, second.images)
    assert first.unreadable == second.unreadable


# ---- packed and opened -------------------------------------------------------------------------------


@KINDS
def test_a_folder_packed_is_the_folder(folder: Path, tmp_path: Path, kind: str) -> None:
    subjects = SubjectSet.open(folder)
    done = pack(subjects, tmp_path / "out", kind, size=6)
    assert (done.subjects, done.shards, done.kept, done.missing) == (20, 4, 0, ())
    again = SubjectSet.open(tmp_path / "out")
    same(subjects, again)
    assert [again.source(row) for row in range(20)] == [subjects.source(row).read_bytes() for row in range(20)]
    assert pickle.loads(pickle.dumps(again)).source(19) == again.source(19)


@KINDS
def test_a_table_packed_keeps_metadata_and_what_is_missing(folder: Path, tmp_path: Path, kind: str) -> None:
    subjects = SubjectSet.open(table_of(folder))
    done = pack(subjects, tmp_path / "out", kind, size=6)
    assert done.missing == (("g/3 é", "file not found: gone.png"), ("g/5 é", "no image is named"))
    again = SubjectSet.open(tmp_path / "out")
    same(subjects, again)
    reasons = {bad.subject_id: bad.reason for bad in load(again, SHAPE).unreadable}
    assert reasons["g/3 é"] == "file not found: gone.png"
    assert reasons["g/5 é"] == "no image is named"
    assert len(reasons) == 3


@KINDS
def test_packed_subjects_pass_through_a_campaigns_folder(folder: Path, tmp_path: Path, kind: str) -> None:
    pack(SubjectSet.open(table_of(folder)), tmp_path / "out", kind, size=6)
    subjects = SubjectSet.open(tmp_path / "out")
    subjects.save(tmp_path)
    same(subjects, SubjectSet.load(tmp_path))
    some = SubjectSet.concatenate([subjects.select([19, 2]), SubjectSet.open(folder).select([0])])
    assert some.source(0) == subjects.source(19)
    assert some.source(2) == SubjectSet.open(folder).source(0)


@KINDS
def test_shards_packed_again_into_the_other_kind(folder: Path, tmp_path: Path, kind: str) -> None:
    first = pack(SubjectSet.open(table_of(folder)), tmp_path / "one", kind, size=6)
    other = "parquet" if kind == "tar" else "tar"
    second = pack(SubjectSet.open(first.out), tmp_path / "two", other, size=50)
    assert second.missing == first.missing
    same(SubjectSet.open(first.out), SubjectSet.open(second.out))


def test_read_in_order_and_at_random_alike(folder: Path, tmp_path: Path) -> None:
    for kind in ("tar", "parquet"):
        pack(SubjectSet.open(folder), tmp_path / kind, kind, size=3)
    tars, tables = SubjectSet.open(tmp_path / "tar"), SubjectSet.open(tmp_path / "parquet")
    order = np.random.default_rng(0).permutation(20)
    for shuffled in (tars.select(order), tables.select(order)):
        read = order[shuffled.reading_order()]
        for shard in range(7):
            at = np.flatnonzero(read // 3 == shard)
            np.testing.assert_array_equal(np.diff(at), 1)
            assert (np.diff(read[at]) > 0).all()
    assert [tars.select(order).source(row) for row in range(20)] == [tables.source(row) for row in order]
    loaded, streamed = load(tars, SHAPE), list(batches(tables, SHAPE, 7))
    np.testing.assert_array_equal(np.concatenate([images for _, images, _ in streamed]), loaded.images)


def test_others_can_read_the_shards(folder: Path, tmp_path: Path) -> None:
    subjects = SubjectSet.open(table_of(folder))
    pack(subjects, tmp_path / "tar", "tar", size=50)
    with tarfile.open(tmp_path / "tar" / "00000.tar") as tar:
        names = tar.getnames()
        assert names[:4] == ["000000000.json", "000000000.png", "000000001.json", "000000001.png"]
        about = json.load(tar.extractfile("000000001.json"))
        assert tar.extractfile("000000001.png").read() == subjects.source(1).read_bytes()
    assert about == {"subject_id": "g/1 é", "ra": 1.0, "smooth_yes": 1}
    pack(subjects, tmp_path / "parquet", "parquet", size=50)
    rows = pq.read_table(tmp_path / "parquet" / "00000.parquet").to_pylist()
    assert rows[1]["image"]["bytes"] == subjects.source(1).read_bytes()
    assert (rows[1]["subject_id"], rows[1]["ra"]) == ("g/1 é", 1.0)


# ---- interrupted -------------------------------------------------------------------------------------


@KINDS
def test_interrupted_it_goes_on_and_ends_with_the_same_bytes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    subjects = SubjectSet.open(folder)
    pack(subjects, tmp_path / "undisturbed", kind, size=6)
    seen: list[int] = []
    write_index = shards.write_index

    def killed(out: Path, number: int, *rest: object) -> None:
        seen.append(number)
        if number == 2:
            raise KeyboardInterrupt
        write_index(out, number, *rest)

    monkeypatch.setattr(packing.shards, "write_index", killed)
    with pytest.raises(KeyboardInterrupt):
        pack(subjects, tmp_path / "out", kind, size=6)
    with pytest.raises(GreenpeaError, match=r"not finished, 2 of 4 shards are missing.*greenpea pack"):
        SubjectSet.open(tmp_path / "out")
    monkeypatch.undo()
    assert pack(subjects, tmp_path / "out", kind, size=6).kept == 2
    assert seen == [0, 1, 2]
    names = sorted(path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*"))
    assert names == sorted(path.relative_to(tmp_path / "undisturbed") for path in (tmp_path / "undisturbed").rglob("*"))
    for name in names:
        if (tmp_path / "out" / name).is_file():
            assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes(), name


def test_other_subjects_are_not_mixed_in(folder: Path, tmp_path: Path) -> None:
    subjects = SubjectSet.open(folder)
    pack(subjects, tmp_path / "out", "tar", size=6)
    with pytest.raises(GreenpeaError, match=r"20 subjects in tar shards of 6.*parquet.*another folder"):
        pack(subjects, tmp_path / "out", "parquet", size=6)
    with pytest.raises(GreenpeaError, match=r"shard 0 holds other subjects.*another folder"):
        pack(subjects.select(np.arange(20)[::-1]), tmp_path / "out", "tar", size=6)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(GreenpeaError, match="not empty"):
        pack(subjects, tmp_path / "full")


@KINDS
def test_a_disk_that_is_full_or_read_only_is_told_and_loses_nothing(
    folder: Path, tmp_path: Path, disk: Callable[[str], Path], kind: str
) -> None:
    """On a real disk, without room for the third shard; given room, it ends with the same bytes."""
    subjects = SubjectSet.open(folder)
    pack(subjects, tmp_path / "undisturbed", kind, size=6)
    files = [path for path in (tmp_path / "undisturbed").rglob("*") if path.is_file()]
    needed = sum(path.stat().st_size for path in files)
    out = disk(f"size={needed * 3 // 5 // 4096 * 4}k") / "shards"
    with pytest.raises(GreenpeaError, match=r"shards cannot be written, the disk is full: make room, then run the sam"):
        pack(subjects, out, kind, size=6)
    assert not list(out.glob(".*"))
    disk("size=10m,ro")
    with pytest.raises(GreenpeaError, match="shards cannot be written, the disk is read-only: give a place"):
        pack(subjects, out, kind, size=6)
    disk("rw")
    assert pack(subjects, out, kind, size=6).kept >= 1
    for path in files:
        assert (out / path.relative_to(tmp_path / "undisturbed")).read_bytes() == path.read_bytes()


# ---- damaged -----------------------------------------------------------------------------------------


def cut(path: Path, share: float) -> None:
    with path.open("r+b") as file:
        file.truncate(int(share * path.stat().st_size))


@KINDS
def test_of_a_shard_cut_short_the_rest_is_used(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(shards, "GROUP_BYTES", 4000)  # two images in a row group
    subjects = SubjectSet.open(folder)
    whole = load(subjects, SHAPE)
    pack(subjects, tmp_path / "out", kind, size=10)
    cut(tmp_path / "out" / f"00001.{kind}", 0.5)
    loaded = load(SubjectSet.open(tmp_path / "out"), SHAPE)
    assert 10 < len(loaded) < 18
    assert len(loaded) + len(loaded.unreadable) == 20
    np.testing.assert_array_equal(loaded.images, whole.images[np.isin(whole.rows, loaded.rows)])
    lost = [bad.reason for bad in loaded.unreadable if "broken" not in bad.reason]
    assert set(lost) == {f"the shard 00001.{kind} is cut short: fetch or pack it again"}


@KINDS
def test_packing_again_mends_a_shard_cut_short_or_lost(folder: Path, tmp_path: Path, kind: str) -> None:
    subjects, out = SubjectSet.open(folder), tmp_path / "out"
    pack(subjects, out, kind, size=5)
    whole = {path.name: path.read_bytes() for path in out.glob(f"*.{kind}")}
    cut(out / f"00001.{kind}", 0.5)
    (out / f"00002.{kind}").unlink()
    assert pack(subjects, out, kind, size=5).kept == 2
    assert {path.name: path.read_bytes() for path in out.glob(f"*.{kind}")} == whole


@KINDS
def test_a_shard_that_is_gone_is_so_many_unreadable_images(folder: Path, tmp_path: Path, kind: str) -> None:
    pack(SubjectSet.open(folder), tmp_path / "out", kind, size=10)
    (tmp_path / "out" / f"00000.{kind}").unlink()
    loaded = load(SubjectSet.open(tmp_path / "out"), SHAPE)
    assert (len(loaded), len(loaded.unreadable)) == (10, 10)
    assert "not there" in loaded.unreadable[0].reason or "not found" in loaded.unreadable[0].reason


def test_a_damaged_image_in_a_tar_is_noticed(folder: Path, tmp_path: Path) -> None:
    pack(SubjectSet.open(folder), tmp_path / "out", "tar", size=20)
    subjects = SubjectSet.open(tmp_path / "out")
    at = subjects.locations["image_offset"][4].as_py() + 60
    with (tmp_path / "out" / "00000.tar").open("r+b") as file:
        file.seek(at)
        file.write(b"\xff\x00\xff")
    with pytest.raises(Unreadable, match="damaged here, or another"):
        subjects.source(4)
    assert subjects.source(5)


def test_a_damaged_manifest_says_so(folder: Path, tmp_path: Path) -> None:
    pack(SubjectSet.open(folder), tmp_path / "out")
    (tmp_path / "out" / "shards.json").write_text("{")
    with pytest.raises(GreenpeaError, match=r"shards\.json is damaged"):
        SubjectSet.open(tmp_path / "out")


# ---- made by others ----------------------------------------------------------------------------------


def tar_of(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def test_tars_without_an_index_are_looked_through(tmp_path: Path) -> None:
    long = "sehr/" + "ä" * 150 + "/M 51"
    tar_of(tmp_path / "d" / "a.tar", {f"{long}.png": picture(1), "x.png": picture(2), "x.cls": b"3"})
    tar_of(tmp_path / "d" / "b.tar", {"y.png": picture(3), "y.json": b'{"ra": 5.5, "box": [1]}', "z.png": b""})
    subjects = SubjectSet.open(tmp_path / "d")
    assert subjects.subject_ids.tolist() == [long, "x", "y", "z"]
    assert [subjects.source(row) for row in range(4)] == [picture(1), picture(2), picture(3), b""]
    assert subjects.metadata.to_pydict() == {"ra": [None, None, 5.5, None]}
    assert subjects.note.startswith("1 files in a.tar")
    assert SubjectSet.open(tmp_path / "d" / "b.tar").subject_ids.tolist() == ["y", "z"]


def test_tars_that_all_begin_with_zero_are_told_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        tar_of(tmp_path / f"{name}.tar", {"0.png": picture(1), "1.png": picture(2)})
    assert SubjectSet.open(tmp_path).subject_ids.tolist() == ["a/0", "a/1", "b/0", "b/1"]


def test_our_tars_tell_their_subjects_when_the_index_is_lost(folder: Path, tmp_path: Path) -> None:
    subjects = SubjectSet.open(table_of(folder))
    pack(subjects, tmp_path / "out", "tar", size=6)
    (tmp_path / "out" / "shards.json").unlink()
    again = SubjectSet.open(tmp_path / "out")
    there = [row for row in range(20) if row not in (3, 5)]
    assert again.subject_ids.tolist() == subjects.subject_ids[there].tolist()
    assert again.metadata.to_pydict() == subjects.select(there).metadata.to_pydict()


def test_a_tar_cut_short_without_an_index_says_so(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", {f"{index}.png": picture(index) for index in range(9)})
    each = 512 + 2048
    for size, known, used in ((6 * each, 6, 6), (5 * each + 700, 6, 5), (5 * each + 100, 5, 5)):
        with path.open("r+b") as file:
            file.truncate(size)
        subjects = SubjectSet.open(path)
        assert subjects.note == f"a.tar is cut short: of what followed {known} files nothing is known"
        loaded = load(subjects, SHAPE)
        assert (len(subjects), len(loaded)) == (known, used)
        reasons = [bad.reason for bad in loaded.unreadable]
        assert reasons == ["the shard a.tar is cut short: fetch or pack it again"] * (known - used)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tar.gz", b"\x1f\x8b....", "compressed tar.*unpack it"),
        ("a.tar", b"no tar at all" * 100, "cannot be read as a tar"),
        ("a.tar", bytes(1024), "no images"),
    ],
)
def test_tars_that_are_none(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(GreenpeaError, match=message):
        SubjectSet.open(tmp_path / name)


# ---- the command -------------------------------------------------------------------------------------


def test_the_command_packs_goes_on_and_says_what_is_missing(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards here"
    line = ["pack", str(table_of(folder)), "--out", str(out), "--size", "8", "--format", "parquet"]
    first = CliRunner().invoke(app, line)
    assert first.exit_code == 0, first.output
    said = " ".join(first.output.split())
    assert "2 images are missing; they stay" in said
    assert "g/3 é: file not found" in said
    assert "20 subjects are in 3 shards in" in said
    shards.index_of(out, 1).unlink()
    assert "3 shards, 2 of which were there already" in " ".join(CliRunner().invoke(app, line).output.split())
    done = CliRunner().invoke(app, ["init", str(tmp_path / "c"), "--tree", "binary", "--subjects", str(out)])
    assert done.exit_code == 0, done.output
    again = CliRunner().invoke(app, ["pack", str(tmp_path / "c"), "--out", str(tmp_path / "more")])
    assert again.exit_code == 0, again.output
    same(SubjectSet.open(out), SubjectSet.open(tmp_path / "more"))

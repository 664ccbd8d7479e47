"""Subject sets: from folders and tables as people have them, through a campaign's folder and back."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from greenpea.errors import GreenpeaError
from greenpea.subjects import SubjectSet


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def embed(path: Path, contents: list[bytes | None], row_group: int = 100, **columns: Any) -> Path:
    """A Parquet table as the Hugging Face datasets library lays it out."""
    image = [{"bytes": content, "path": f"{index}.jpg"} for index, content in enumerate(contents)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({**columns, "image": pa.array(image, kind)}), path, row_group_size=row_group)
    return path


# ---- folders -----------------------------------------------------------------------------------------


def test_folder_ids_are_paths_within_it_sorted(tmp_path: Path) -> None:
    touch(tmp_path, "b.png", "a.JPG", "Spiralen/M 51 – Whirlpool.v2.fits", "x/y/c.fits.gz", "x/y/d.npy", "x/y/e.jpeg")
    subjects = SubjectSet.from_folder(tmp_path)
    expected = ["Spiralen/M 51 – Whirlpool.v2", "a", "b", "x/y/c", "x/y/d", "x/y/e"]
    assert subjects.subject_ids.tolist() == expected
    assert subjects.source(0) == tmp_path.resolve() / "Spiralen" / "M 51 – Whirlpool.v2.fits"
    assert subjects.source(3).read_bytes() == b"x/y/c.fits.gz"
    assert subjects.metadata.num_columns == 0
    assert subjects.note == ""


def test_folder_passes_over_hidden_and_counts_other_files(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", ".b.png", ".cache/c.png", "votes.csv", "notes.txt")
    subjects = SubjectSet.from_folder(tmp_path)
    assert subjects.subject_ids.tolist() == ["a"]
    assert subjects.note.startswith("2 files that are not images")


def test_folder_refuses_two_files_with_one_id(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.png", "x/a.jpg", "a.png")
    with pytest.raises(GreenpeaError, match=r"x/a\.(png|jpg) and x/a\.(png|jpg).*'x/a'.*rename or remove"):
        SubjectSet.from_folder(tmp_path)


def test_folder_without_images_or_missing(tmp_path: Path) -> None:
    with pytest.raises(GreenpeaError, match=r"no images.*\.png"):
        SubjectSet.from_folder(touch(tmp_path, "votes.csv"))
    with pytest.raises(GreenpeaError, match="no folder"):
        SubjectSet.from_folder(tmp_path / "missing")


# ---- tables ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["image", "file", "filename", "File_Name", "file_loc", "path", "png_loc", "jpg_loc"])
def test_table_finds_the_usual_image_columns(tmp_path: Path, column: str) -> None:
    table = write(tmp_path / "t.csv", f"id,{column},ra\n007,im/a b.png,1.5\n008,./c.png,2.5\n")
    subjects = SubjectSet.from_table(table)
    assert subjects.subject_ids.tolist() == ["007", "008"]
    assert subjects.source(0) == tmp_path.resolve() / "im" / "a b.png"
    assert subjects.source(1) == tmp_path.resolve() / "c.png"
    assert subjects.metadata.to_pydict() == {"ra": [1.5, 2.5]}


def test_table_root_absolute_paths_and_named_columns(tmp_path: Path) -> None:
    table = write(tmp_path / "deep" / "t.csv", f"id,who,image,cutout\n1,x,n,a.png\n2,y,n,{tmp_path}/b.png\n3,z,n,\n")
    subjects = SubjectSet.from_table(table, id_column="who", image_column="cutout", root=tmp_path / "pictures")
    assert subjects.subject_ids.tolist() == ["x", "y", "z"]
    assert subjects.source(0) == tmp_path.resolve() / "pictures" / "a.png"
    assert subjects.source(1) == tmp_path / "b.png"
    assert subjects.source(2) == b""  # no image is named: unreadable when loaded, and not the folder itself
    assert subjects.metadata.column_names == ["id", "table_image"]


def test_gzipped_table_with_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress("\ufeffobjid,file\n8647474692505796828,é.png\n".encode()))
    subjects = SubjectSet.from_table(path)
    assert subjects.subject_ids.tolist() == ["8647474692505796828"]
    assert subjects.source(0) == tmp_path.resolve() / "é.png"


def test_without_an_id_column_the_file_names_are_the_ids_and_it_says_so(tmp_path: Path) -> None:
    subjects = SubjectSet.from_table(write(tmp_path / "t.csv", "file,label\nx/M 51.png,1\ny/b.v2.jpg,0\n"))
    assert subjects.subject_ids.tolist() == ["M 51", "b.v2"]
    assert "t.csv has no id column" in subjects.note
    assert subjects.metadata.column_names == ["label"]
    with pytest.raises(GreenpeaError, match=r"row 3.*'a'.*row 2"):
        SubjectSet.from_table(write(tmp_path / "u.csv", "file\nx/a.png\ny/a.png\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,file\n1,a.png\n2,b.png\n1,c.png\n", r"t\.csv, row 4.*'1'.*row 2"),
        ("id,file\n1,a.png\n,b.png\n", r"t\.csv, row 3.*'id' is blank"),
        ("id,file\n", r"t\.csv .*no rows"),
        ("id,ra\n1,2.0\n", r"t\.csv has no column of image paths.*Its columns: id, ra"),
        ("ra,dec\n1,2.0\n", r"t\.csv has no column of image paths"),
        ("id,file,sha256,file_size\n1,https://example.org/a.png,,x\n", r"t\.csv, column 'file_size' does not tell"),
    ],
)
def test_broken_tables_name_the_file_the_row_the_column(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(GreenpeaError, match=message):
        SubjectSet.from_table(write(tmp_path / "t.csv", text))


def test_embedding_table_without_rows(tmp_path: Path) -> None:
    with pytest.raises(GreenpeaError, match=r"t\.parquet .*no rows"):
        SubjectSet.from_table(embed(tmp_path / "t.parquet", [], id=pa.array([], pa.string())))


def test_wrong_column_names_are_refused_with_a_suggestion(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "galaxy,cutout,size\n1,a.png,3\n")
    with pytest.raises(GreenpeaError, match=r"no column 'galaxi' \(did you mean 'galaxy'"):
        SubjectSet.from_table(table, id_column="galaxi", image_column="cutout")
    with pytest.raises(GreenpeaError, match=r"no column 'cutouts' \(did you mean 'cutout'"):
        SubjectSet.from_table(table, image_column="cutouts")
    with pytest.raises(GreenpeaError, match="'size' holds int64"):
        SubjectSet.from_table(table, image_column="size")


def test_open_tells_folders_from_tables(tmp_path: Path) -> None:
    touch(tmp_path, "im/a.png")
    table = write(tmp_path / "t.csv", "id,file\nq,im/a.png\n")
    assert SubjectSet.open(tmp_path / "im").subject_ids.tolist() == ["a"]
    assert SubjectSet.open(str(table)).subject_ids.tolist() == ["q"]
    with pytest.raises(GreenpeaError, match="no columns: give the table"):
        SubjectSet.open(tmp_path / "im", id_column="id")
    with pytest.raises(GreenpeaError, match="there is no file"):
        SubjectSet.open(tmp_path / "missing.parquet")


# ---- embedded images ---------------------------------------------------------------------------------


def test_hugging_face_layout(tmp_path: Path) -> None:
    contents = [bytes([index]) * 5 for index in range(7)]
    table = embed(tmp_path / "t.parquet", contents, row_group=3, id=[f"s{i}" for i in range(7)], label=list("abcdefg"))
    subjects = SubjectSet.from_table(table)
    assert [subjects.source(index) for index in range(7)] == contents
    assert [subjects.source(np.int64(index)) for index in (6, 0, 3, 0)] == [contents[i] for i in (6, 0, 3, 0)]
    assert subjects.metadata.to_pydict() == {"label": list("abcdefg")}
    assert SubjectSet.from_table(table, image_column="image.bytes") == subjects


def test_embedded_without_ids_takes_the_names_beside_the_bytes(tmp_path: Path) -> None:
    subjects = SubjectSet.from_table(embed(tmp_path / "t.parquet", [b"x", b"y"]))
    assert subjects.subject_ids.tolist() == ["0", "1"]
    assert "no id column" in subjects.note


def test_where_embedded_bytes_are_null_the_path_counts(tmp_path: Path) -> None:
    table = embed(tmp_path / "t.parquet", [b"x", None, b"z"], row_group=2, id=["a", "b", "c"])
    subjects = SubjectSet.from_table(table)
    assert [subjects.source(index) for index in range(3)] == [b"x", tmp_path.resolve() / "1.jpg", b"z"]


@pytest.mark.parametrize("name", ["image", "image.bytes", "image_bytes", "picture"])
@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_plain_column_of_bytes(tmp_path: Path, name: str, kind: pa.DataType) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"id": [3, 1], name: pa.array([b"x", None], kind), "n": [1, 2]}), path)
    subjects = SubjectSet.from_table(path, image_column="picture" if name == "picture" else None)
    assert subjects.subject_ids.tolist() == ["3", "1"]
    assert [subjects.source(0), subjects.source(1)] == [b"x", b""]
    assert subjects.metadata.column_names == ["n"]


def test_paths_in_parquet_as_categories(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"id": ["a", "b"], "file": pa.array(["x.png", "y.png"]).dictionary_encode()}), path)
    assert SubjectSet.from_table(path).source(1) == tmp_path.resolve() / "y.png"


def test_a_table_that_changed_or_went_is_told_and_not_misread(tmp_path: Path) -> None:
    path = embed(tmp_path / "t.parquet", [b"x", b"y"], id=["a", "b"])
    subjects = SubjectSet.from_table(path)
    embed(path, [b"a much longer image", b"x"], id=["b", "a"])
    with pytest.raises(GreenpeaError, match="rewritten since the import"):
        subjects.source(0)
    path.unlink()
    with pytest.raises(GreenpeaError, match="not found"):
        subjects.source(0)


def test_reading_order_reads_each_row_group_once(tmp_path: Path) -> None:
    table = embed(tmp_path / "t.parquet", [bytes([i]) for i in range(10)], row_group=2, id=list("abcdefghij"))
    shuffled = SubjectSet.from_table(table).select(np.random.default_rng(0).permutation(10))
    order = shuffled.reading_order()
    assert [shuffled.source(index) for index in order] == [bytes([i]) for i in range(10)]
    assert len(shuffled._holders._groups) == 3  # of five row groups, the latest are kept


def test_a_folder_of_parquet_tables_is_one_set(tmp_path: Path) -> None:
    embed(tmp_path / "train-00000.parquet", [b"a", b"b"], id=["s0", "s1"], label=[0, 1])
    embed(tmp_path / "train-00001.parquet", [b"c", b"d"], id=["s2", "s3"], label=[2, 3], extra=["x", "y"])
    subjects = SubjectSet.open(tmp_path)
    assert subjects.subject_ids.tolist() == ["s0", "s1", "s2", "s3"]
    assert [subjects.source(index) for index in range(4)] == [b"a", b"b", b"c", b"d"]
    assert subjects.metadata.to_pydict() == {"label": [0, 1, 2, 3], "extra": [None, None, "x", "y"]}
    shuffled = subjects.select([3, 1, 2, 0])
    assert [shuffled.source(index) for index in shuffled.reading_order()] == [b"c", b"d", b"a", b"b"]
    subjects.save(tmp_path)
    assert SubjectSet.load(tmp_path) == subjects
    with pytest.raises(GreenpeaError, match="'s0' stands in more than one set"):
        SubjectSet.concatenate([subjects, subjects.select([2, 0])])
    with pytest.raises(GreenpeaError, match="cannot be joined"):
        SubjectSet.concatenate([subjects, SubjectSet.from_files(["q"], ["q"], metadata=pa.table({"label": ["text"]}))])


def test_sets_without_metadata_concatenate(tmp_path: Path) -> None:
    first = SubjectSet.from_folder(touch(tmp_path / "f", "a.png", "b.png", "x.txt"))
    second = SubjectSet.from_files(["c"], ["c.png"], tmp_path, pa.table({"n": [1]}))
    assert SubjectSet.concatenate([first, first.select([])]) == first
    both = SubjectSet.concatenate([first, second])
    assert both.metadata["n"].to_pylist() == [None, None, 1]
    assert both.source(2) == tmp_path.resolve() / "c.png"
    assert both.note == first.note


# ---- selecting, saving, loading ----------------------------------------------------------------------


def test_select_keeps_everything_together(tmp_path: Path) -> None:
    subjects = SubjectSet.from_table(write(tmp_path / "t.csv", "id,file,n\na,a.png,1\nb,b.png,2\nc,c.png,3\n"))
    some = subjects.select([2, 0])
    assert some.subject_ids.tolist() == ["c", "a"]
    assert [some.source(0).name, some.source(1).name] == ["c.png", "a.png"]
    assert some.metadata["n"].to_pylist() == [3, 1]
    assert subjects.select(np.array([False, True, False])).subject_ids.tolist() == ["b"]
    assert len(subjects.select([])) == 0
    assert len(SubjectSet.from_folder(touch(tmp_path / "f", "a.png", "b.png")).select([1])) == 1


def test_files_survive_a_round_trip_and_a_move(tmp_path: Path) -> None:
    campaign = tmp_path / "campaign one"
    text = f"id,file,n,empty\na,images/ü b.png,1,\nb,../else.png,2,\nc,{tmp_path}/far.png,,\nd,,4,\n"
    subjects = SubjectSet.from_table(write(campaign / "t.csv", text))
    path = subjects.save(campaign)
    assert path == campaign / "subjects.parquet"
    assert SubjectSet.load(campaign) == subjects
    stored = pq.read_table(path)
    assert stored.column_names == ["subject_id", "image", "n", "empty"]
    assert stored["image"].to_pylist()[0] == "images/ü b.png"
    assert Path(stored["image"].to_pylist()[2]).is_absolute()

    moved = campaign.rename(tmp_path / "moved")
    again = SubjectSet.load(moved)
    assert again.source(0) == moved.resolve() / "images" / "ü b.png"
    assert again.source(1).resolve() == tmp_path.resolve() / "else.png"
    assert again.source(2) == tmp_path / "far.png"
    assert again.source(3) == b""


def test_folder_note_and_lack_of_metadata_survive(tmp_path: Path) -> None:
    subjects = SubjectSet.from_folder(touch(tmp_path / "f", "a.png", "b.png", "notes.txt"))
    subjects.save(tmp_path / "campaign")
    again = SubjectSet.load(tmp_path / "campaign")
    assert again == subjects
    assert again.note == subjects.note != ""
    assert again.source(1) == (tmp_path / "f" / "b.png").resolve()


def test_embedded_images_are_stored_as_references(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(100_000)
    (tmp_path / "c").mkdir()
    table = embed(tmp_path / "c" / "t.parquet", [content, None], id=["a", "b"])
    subjects = SubjectSet.from_table(table).select([1, 0])
    path = subjects.save(tmp_path / "c")
    assert path.stat().st_size < 20_000
    assert pq.read_table(path)["image"].to_pylist() == ["1.jpg", "t.parquet"]
    again = SubjectSet.load((tmp_path / "c").rename(tmp_path / "d"))
    assert again.source(0) == tmp_path.resolve() / "d" / "1.jpg"
    assert again.source(1) == content


def test_load_refuses_what_is_not_ours(tmp_path: Path) -> None:
    with pytest.raises(GreenpeaError, match="import the subjects first"):
        SubjectSet.load(tmp_path)
    pq.write_table(pa.table({"subject_id": ["a"], "image": ["a.png"]}), tmp_path / "subjects.parquet")
    with pytest.raises(GreenpeaError, match="not written by this version"):
        SubjectSet.load(tmp_path)
    (tmp_path / "subjects.parquet").write_bytes(b"not Parquet")
    with pytest.raises(GreenpeaError, match="cannot be read"):
        SubjectSet.load(tmp_path)


def test_equality_sees_each_part(tmp_path: Path) -> None:
    def subjects(ids: str = "ab", n: int = 1, file: str = "x.png") -> SubjectSet:
        return SubjectSet.from_files(list(ids), [file, "y.png"], tmp_path, pa.table({"n": [n, 2]}))

    assert subjects() == subjects()
    assert subjects() != subjects(ids="ac")
    assert subjects() != subjects(n=3)
    assert subjects() != subjects(file="z.png")


def test_parts_must_fit_together() -> None:
    with pytest.raises(GreenpeaError, match="one of each per subject"):
        SubjectSet.from_files(["a", "b"], ["a.png"])
    with pytest.raises(GreenpeaError, match="'subject_id': rename"):
        SubjectSet.from_files(["a"], ["a.png"], metadata=pa.table({"subject_id": ["q"]}))


def test_travels_to_another_process(tmp_path: Path) -> None:
    subjects = SubjectSet.from_table(embed(tmp_path / "t.parquet", [b"x", b"y"], id=["a", "b"]))
    assert subjects.source(1) == b"y"
    assert pickle.loads(pickle.dumps(subjects)).source(1) == b"y"


@pytest.mark.data
@pytest.mark.parametrize(
    ("path", "count", "first"),
    [
        ("gz2/votes.csv", 300, "8647474692505796828"),
        ("efigi/attributes.csv", 3589, "PGC0000218"),
        ("rings/rings.csv", 377, "J001655.18-002739.1"),
        ("gz1/classes.csv", 3197, "588848901009637626"),
        ("cifar10h/test.parquet", 8000, None),
    ],
)
def test_real_tables(data_folder: Path, tmp_path: Path, path: str, count: int, first: str | None) -> None:
    subjects = SubjectSet.open(data_folder / path)
    assert len(subjects) == count
    assert first is None or subjects.subject_ids[0] == first
    assert subjects.note == ""
    source = subjects.source(count - 1)
    assert source[:2] == b"\xff\xd8" if isinstance(source, bytes) else source.is_file()
    subjects.save(tmp_path)
    assert SubjectSet.load(tmp_path).source(count - 1) == source

"""Tables in the formats people have: read to the same values, with every oddity survived or named."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import MaskedColumn, Table
from typer.testing import CliRunner

from greenpea.cli import app
from greenpea.errors import GreenpeaError
from greenpea.subjects import SubjectSet
from greenpea.tables import column_as_strings, read_table, refuse_duplicates
from greenpea.tree import DecisionTree
from greenpea.votes import read_votes

ROWS = 7


def some_table() -> Table:
    """Ids beyond 53 bits, words with blanks at the end and beyond ASCII, gaps, a vector of five, a spectrum."""
    return Table(
        {
            "objid": np.arange(ROWS, dtype=np.int64) + 8647474692505796828,
            "file": [f"Feld 1/é {index}.fits" for index in range(ROWS)],
            "note": ["x  ", "", "ü", "", "", "", "z"],
            "ra": MaskedColumn(np.linspace(1, 2, ROWS), unit="deg", mask=[True] + [False] * (ROWS - 1)),
            "z": np.array([0.5, np.nan, *range(2, ROWS)]),
            "good": np.arange(ROWS) % 2 == 0,
            "mag": np.arange(5 * ROWS, dtype=np.float32).reshape(ROWS, 5),
            "spectrum": np.zeros((ROWS, 40)),
            "answer_yes": np.arange(ROWS, dtype=np.int16),
            "answer_no": MaskedColumn(np.arange(ROWS, dtype=np.int32), mask=[False, True] + [False] * (ROWS - 2)),
        }
    )


@pytest.fixture(params=["t.fits", "t é.fits.gz", "t.vot", "t.xml", "binary2.vot"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / request.param
    found = some_table()
    if ".fits" in path.name:
        for name in ("file", "note"):  # bytes, as surveys write them: astropy itself writes ASCII only
            found[name] = np.char.encode(np.asarray(found[name]), "utf-8")
        found.write(tmp_path / "plain.fits", format="fits")
        data = (tmp_path / "plain.fits").read_bytes()
        path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    else:
        how = "binary2" if path.name.startswith("binary2") else "tabledata"
        found.write(path, format="votable", tabledata_format=how)
    return path


def test_subjects_and_votes_from_fits_and_votable(table: Path) -> None:
    subjects = SubjectSet.open(table)
    assert subjects.subject_ids.tolist() == [str(8647474692505796828 + index) for index in range(ROWS)]
    assert subjects.source(2) == table.parent.resolve() / "Feld 1" / "é 2.fits"
    assert subjects.note == f"columns of {table.name} that hold more than numbers or words are left out: spectrum"
    known = subjects.metadata.to_pydict()
    assert known["note"] == ["x", None, "ü", None, None, None, "z"]
    assert known["ra"][0] is None or np.isnan(known["ra"][0])  # FITS says NaN where a real number is missing
    assert known["ra"][1:] == np.linspace(1, 2, ROWS)[1:].tolist()
    assert known["good"][:2] == [True, False]
    assert [known[f"mag_{part}"][3] for part in range(1, 6)] == [15, 16, 17, 18, 19]
    votes = read_votes(table, DecisionTree.load("binary"))
    assert votes.counts["answer"][:, 0].tolist() == list(range(ROWS))
    assert votes.counts["answer"][:, 1].tolist() == [0, 0, 2, 3, 4, 5, 6]


def test_the_first_table_of_a_fits_counts(tmp_path: Path) -> None:
    image, first = fits.ImageHDU(np.zeros((3, 3))), fits.BinTableHDU(Table({"id": ["a"], "image": ["a.png"]}))
    fits.HDUList([fits.PrimaryHDU(), image, first, fits.BinTableHDU(Table({"q": [1]}))]).writeto(tmp_path / "t.fits")
    assert SubjectSet.open(tmp_path / "t.fits").subject_ids.tolist() == ["a"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.fits", b"SIMPLE  = no FITS", r"t\.fits cannot be read as a table"),
        ("t.vot", b"<VOTABLE><unfinished", r"t\.vot cannot be read as a table"),
        ("t.xml", b"", r"t\.xml cannot be read as a table"),
        ("t.docx", b"", r"tables are CSV .*Parquet .*FITS .*or VOTable"),
    ],
)
def test_what_is_no_table_says_so(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(GreenpeaError, match=message):
        read_table(tmp_path / name)


def test_a_fits_of_images_is_no_table(tmp_path: Path) -> None:
    fits.PrimaryHDU(np.zeros((3, 3))).writeto(tmp_path / "galaxy.fits")
    with pytest.raises(GreenpeaError, match="holds images and no table: give the folder"):
        SubjectSet.open(tmp_path / "galaxy.fits")


# ---- CSV ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_csv_in_any_usual_encoding(tmp_path: Path, encoding: str, zipped: bool) -> None:
    text = 'näme,id,"zwei\nZeilen"\n"a, b",001,"x\ny"\né,002,\n'.encode(encoding)
    path = tmp_path / ("t ü.csv.gz" if zipped else "t ü.csv")
    path.write_bytes(gzip.compress(text) if zipped else text)
    assert read_table(path).to_pydict() == {"näme": ["a, b", "é"], "id": ["001", "002"], "zwei\nZeilen": ["x\ny", None]}


def test_a_byte_that_is_not_utf8_far_behind_is_seen(tmp_path: Path) -> None:
    lines = [f"{index},x" for index in range(200_000)]
    (tmp_path / "t.csv").write_bytes(("id,name\n" + "\n".join(lines) + "\n").encode() + b"z,\xe9\n")
    table = read_table(tmp_path / "t.csv")
    assert table["name"].type == pa.string()
    assert table["name"][-1].as_py() == "é"


@pytest.mark.parametrize("content", ["", "\n\n", " \n"])
def test_an_empty_csv_says_so(tmp_path: Path, content: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(GreenpeaError, match=r"t\.csv (is empty|cannot be read)"):
        read_table(tmp_path / "t.csv")


# ---- identifiers -------------------------------------------------------------------------------------


def test_identifiers_as_text() -> None:
    def text(values: list[object], kind: pa.DataType | None = None) -> list[str]:
        return column_as_strings(pa.chunked_array([pa.array(values, kind)])).tolist()

    assert text([" a ", None, "é\u00a0"]) == ["a", "", "é"]
    assert text([1.0, 2.0]) == ["1", "2"]
    assert text([1.0, None]) == ["1", ""]
    assert text(["1.0", "20.0", ""]) == ["1", "20", ""]
    assert text(["1.0", "1.5"]) == ["1.0", "1.5"]
    assert text([8647474692505796828]) == ["8647474692505796828"]
    assert text([], pa.string()) == []


def test_duplicates_and_blanks_are_named() -> None:
    refuse_duplicates(np.array(["a", "b"], object), "id", "t")
    with pytest.raises(GreenpeaError, match=r"t, row 4: the id 'a' stood in row 2"):
        refuse_duplicates(np.array(["a", "b", "a"], object), "id", "t")
    with pytest.raises(GreenpeaError, match=r"t, row 3: column 'id' is blank"):
        refuse_duplicates(np.array(["a", ""], object), "id", "t")


def test_a_campaign_from_a_votable(tmp_path: Path) -> None:
    some_table().write(tmp_path / "t.vot", format="votable")
    (tmp_path / "Feld 1").mkdir()
    for index in range(ROWS):
        fits.PrimaryHDU(np.random.default_rng(index).normal(0, 1, (20, 20))).writeto(
            tmp_path / "Feld 1" / f"é {index}.fits"
        )
    line = ["init", str(tmp_path / "c"), "--tree", "binary", "--subjects", str(tmp_path / "t.vot")]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "7 subjects, 6 of them with" in said
    assert "left out: spectrum" in said
    assert pq.read_table(tmp_path / "c" / "subjects.parquet")["mag_2"].to_pylist()[0] == 1


def test_semicolons_part_cells_where_a_spreadsheet_wrote_them(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id;note;n\n01;a, b;2\n", encoding="utf-8")
    assert read_table(tmp_path / "t.csv").to_pydict() == {"id": ["01"], "note": ["a, b"], "n": [2]}

"""Catalogues in other formats: read back by astropy alone, they say the same numbers, units and meanings."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits, votable
from astropy.io.votable.ucd import check_ucd
from astropy.table import Table

from greenpea import catalogue, converting, selections
from greenpea.errors import GreenpeaError
from greenpea.tree import DecisionTree, shipped
from hands import galaxy_tree, random_posterior

SUBJECTS = 60
READERS = {
    ".fits": {"unit_parse_strict": "silent"},  # FITS has no nat: astropy would say so
    ".vot": {},
    ".ecsv": {"format": "ascii.ecsv"},
}


def own_columns(rows: int) -> pa.Table:
    """Columns as people bring them: units in their names, gaps, letters, lists."""
    some = pa.field("mag", pa.float64(), metadata={"unit": "mag", "description": "r", "ucd": "phot.mag;em.opt.R"})
    values = {
        "ra": pa.array(np.linspace(0, 300, rows)),
        "name": pa.array([None if i % 3 == 0 else f"gälaxy {i} 😀" for i in range(rows)]),
        "number": pa.array([None if i % 4 == 0 else i * 10**12 for i in range(rows)], pa.int64()),
        "seen": pa.array([i % 2 == 0 for i in range(rows)]),
        "flag": pa.array([None if i % 5 == 0 else i % 2 == 0 for i in range(rows)]),
        "small": pa.array([i % 200 for i in range(rows)], pa.uint8()),
        "list": pa.array([[1, 2] if i % 2 else None for i in range(rows)]),
    }
    fields = [pa.field(name, array.type) for name, array in values.items()]
    mag = pa.array([None if i == 7 else 18.5 + i for i in range(rows)], pa.float64())
    return pa.table([*values.values(), mag], schema=pa.schema([*fields, some]))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue in Parquet."""
    posterior = random_posterior(galaxy_tree(), 4, SUBJECTS, np.random.default_rng(1))
    path = tmp_path_factory.mktemp("catalogues") / "a catalogue.parquet"
    table = catalogue.table(posterior, own_columns(SUBJECTS), 40, 5, np.random.default_rng(0))
    writer = catalogue.Writer(path, catalogue.about(posterior.tree, 40) | {"greenpea.model": "a1b2"})
    writer.write(table)
    writer.close()
    return path


@pytest.fixture(scope="module", params=READERS)
def read(request: pytest.FixtureRequest, written: Path) -> Table:
    """The same, by astropy, from each of the formats that hold meanings; in several blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(converting, "ROWS", 23)
        out = converting.convert(written, written.with_suffix(request.param))
    table = Table.read(out, **READERS[request.param])
    table.convert_bytestring_to_unicode()
    return table


def test_astropy_reads_the_same_numbers(read: Table, written: Path) -> None:
    told = pq.read_table(written)
    assert read.colnames == told.column_names
    assert len(read) == SUBJECTS
    for field in told.schema:
        if pa.types.is_floating(field.type):
            expected = told[field.name].to_numpy()
            got = np.ma.filled(np.ma.asarray(read[field.name]).astype(expected.dtype), np.nan)
            np.testing.assert_array_equal(got, expected, err_msg=field.name)


def test_astropy_reads_the_same_texts_and_gaps(read: Table, written: Path) -> None:
    told = pq.read_table(written)
    for name in ("number", "flag", "small", "seen"):
        got = [None if value is np.ma.masked else int(value) for value in read[name]]
        assert got == [None if value is None else int(value) for value in told[name].to_pylist()], name
    for name in ("subject_id", "name"):
        got = ["" if value is np.ma.masked else str(value) for value in read[name]]
        assert got == [value or "" for value in told[name].to_pylist()], name
    assert [json.loads(str(value)) for value in read["list"][1::2]] == told["list"].to_pylist()[1::2]


def test_astropy_reads_the_same_units_and_meanings(read: Table, written: Path) -> None:
    for field in pq.read_schema(written):
        column, known = read[field.name], {key.decode(): value.decode() for key, value in field.metadata.items()}
        assert str(column.unit or "") == known["unit"].replace("1", ""), field.name
        assert " ".join(column.info.description.split()) == known["description"], field.name


def test_every_column_has_a_ucd_of_the_ivoa(written: Path) -> None:
    head = converting.convert(written, written.with_suffix(".fits"))
    header = fits.getheader(head, 1)
    fields = {
        field.name: field
        for field in votable.parse(converting.convert(written, written.with_suffix(".vot"))).get_first_table().fields
    }
    for number, field in enumerate(pq.read_schema(written), start=1):
        ucd = field.metadata[b"ucd"].decode()
        assert check_ucd(ucd, check_controlled_vocabulary=True), (field.name, ucd)
        assert header[f"TUCD{number}"] == ucd == fields[field.name].ucd
        assert header[f"TCOMM{number}"].isascii()
    assert header["TUCD1"] == "meta.id;meta.main"


def test_columns_named_as_astronomers_do_get_their_unit(written: Path) -> None:
    schema = pq.read_schema(written)
    assert schema.field("ra").metadata[b"unit"] == b"deg"
    assert b"by its name" in schema.field("ra").metadata[b"description"]
    assert schema.field("mag").metadata == {b"unit": b"mag", b"description": b"r", b"ucd": b"phot.mag;em.opt.R"}


def test_what_it_says_of_itself_is_in_every_file(read: Table, written: Path) -> None:
    about = converting.Catalogue.open(written).about
    assert set(about) == {"version", "tree", "selections", "model"}
    header = fits.getheader(converting.convert(written, written.with_suffix(".fits")))
    assert header["MODEL"] == "a1b2"
    assert DecisionTree.from_json(header["TREE"]) == galaxy_tree()
    infos = votable.parse(converting.convert(written, written.with_suffix(".vot"))).resources[0].infos
    assert {info.name: info.value for info in infos}["model"] == "a1b2"
    assert selections.from_json(header["SELECTIO"]) == selections.recommended(galaxy_tree(), 40)
    assert "Recommended for bar: where reach > 0.5" in " ".join(header["COMMENT"])


def test_parquet_is_read_as_a_votable_too(written: Path) -> None:
    """The Parquet file carries a VOTable's head (VOParquet)."""
    metadata = pq.read_schema(written).metadata
    assert metadata[b"IVOA.VOTable-Parquet.version"] == b"1.0"
    head = votable.parse(BytesIO(metadata[b"IVOA.VOTable-Parquet.content"])).get_first_table()
    assert [field.name for field in head.fields] == pq.read_schema(written).names
    assert {field.name: str(field.unit) for field in head.fields}["information"] == "nat"


def test_a_csv_has_its_meanings_beside_it(written: Path) -> None:
    out = converting.convert(written, written.with_suffix(".csv"))
    told, meanings = pq.read_table(written), Table.read(converting.columns_file(out), format="ascii.csv")
    table = Table.read(out, format="ascii.csv")
    assert table.colnames == told.column_names == list(meanings["name"])
    np.testing.assert_array_equal(np.asarray(table["bar_reach"], np.float32), told["bar_reach"].to_numpy())
    assert meanings[table.colnames.index("information")]["unit"] == "nat"


def test_parts_are_read_in_the_order_of_their_names(written: Path, tmp_path: Path) -> None:
    whole = pq.read_table(written)
    for number, start in enumerate(range(0, SUBJECTS, 25)):
        pq.write_table(whole.slice(start, 25), tmp_path / f"part-{number:03d}.parquet")
    table = Table.read(converting.convert(tmp_path, tmp_path / "joined.vot"))
    assert list(table["subject_id"]) == whole["subject_id"].to_pylist()


def test_an_empty_catalogue_is_a_table_without_rows(written: Path, tmp_path: Path) -> None:
    pq.write_table(pq.read_table(written).slice(0, 0), tmp_path / "none.parquet")
    for ending, how in READERS.items():
        table = Table.read(converting.convert(tmp_path / "none.parquet", tmp_path / f"none{ending}"), **how)
        assert len(table) == 0
        assert "bar_reach" in table.colnames


def test_what_is_wrong_is_said(written: Path, tmp_path: Path) -> None:
    with pytest.raises(GreenpeaError, match=r"converted to \.fits, \.vot, \.ecsv, \.csv"):
        converting.convert(written, tmp_path / "x.xlsx")
    with pytest.raises(GreenpeaError, match="no catalogue: make one with 'greenpea predict"):
        converting.convert(tmp_path / "none.parquet", tmp_path / "x.fits")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(GreenpeaError, match="no column subject_id"):
        converting.convert(tmp_path / "other.parquet", tmp_path / "x.fits")
    (tmp_path / "text.parquet").write_text("no")
    with pytest.raises(GreenpeaError, match="not a Parquet file"):
        converting.convert(tmp_path / "text.parquet", tmp_path / "x.fits")
    assert not (tmp_path / "x.fits").exists()


# ---- selections --------------------------------------------------------------------------------------


def test_selections_are_worked_out_from_the_tree() -> None:
    found = {one.name: one for one in selections.recommended(galaxy_tree(), 40)}
    assert found["bar"].words == "bar: where reach > 0.5 and at least 10 expected votes"
    assert found["bar"].sql == '"bar_reach" > 0.5 AND "bar_expected_votes" >= 10'
    assert "smooth" not in found  # everybody is asked the first question
    assert found["smooth_yes"].conditions == (("smooth_yes_p05", ">", 0.5),)
    assert "rare_ring" not in found  # any number of answers: none excludes another


def test_selections_name_columns_that_are_there(written: Path) -> None:
    names = set(pq.read_schema(written).names)
    for one in selections.recommended(galaxy_tree(), 40):
        assert {condition.column for condition in one.conditions} <= names


@pytest.mark.parametrize("name", shipped())
def test_every_question_of_a_shipped_tree_has_one(name: str) -> None:
    tree = DecisionTree.load(name)
    asked = {one.question for one in selections.recommended(tree, 40) if one.answer is None}
    assert asked == {*tree.slugs} - {tree.first}


def test_few_volunteers_do_not_shut_everything_out() -> None:
    (asked,) = (one for one in selections.recommended(galaxy_tree(), 7) if one.name == "bar")
    assert asked.conditions[1].value == 3


def test_pyarrow_and_the_selection_itself_choose_the_same_rows(written: Path) -> None:
    table = pq.read_table(written)
    for one in selections.from_json(converting.Catalogue.open(written).about["selections"]):
        mask = np.logical_and.reduce(
            [
                table[c.column].to_numpy() > c.value if c.operator == ">" else table[c.column].to_numpy() >= c.value
                for c in one.conditions
            ]
        )
        np.testing.assert_array_equal(one.of(table), mask)
        assert len(pq.read_table(written, filters=one.filters)) == mask.sum()

"""Votes: read from the tables people bring, refused where they cannot be, and given back unchanged."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenpea.errors import GreenpeaError
from greenpea.tables import read_table
from greenpea.tree import Answer, DecisionTree, Question
from greenpea.votes import Excess, Votes, find_columns, incomplete, read_votes
from strategies import fractions, trees, walk

GZ2 = DecisionTree.load("gz2")
DECALS = DecisionTree.load("gz-decals-5")

RING = DecisionTree.from_json(
    """{"name": "ring", "questions": [
      {"slug": "disk", "answers": [{"slug": "yes", "next": "rare"}, {"slug": "no"}]},
      {"slug": "rare", "kind": "multiple", "next": "odd", "answers": [{"slug": "ring"}, {"slug": "lens"}]},
      {"slug": "odd", "answers": [{"slug": "yes"}, {"slug": "no"}]}]}"""
)


def _csv(folder: Path, text: str, name: str = "votes.csv", encoding: str = "utf-8") -> Path:
    file = folder / name
    raw = text.encode(encoding)
    file.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return file


def _refused(file: Path, tree: DecisionTree, *expected: str) -> str:
    with pytest.raises(GreenpeaError) as caught:
        read_votes(file, tree)
    assert [words for words in expected if words not in str(caught.value)] == []
    return str(caught.value)


# ---- reading by pattern ----------------------------------------------------------------------------------


def test_galaxy_zoo_2_columns_are_found_by_slug(tmp_path: Path) -> None:
    file = _csv(
        tmp_path,
        "objid,t01_smooth_or_features_a02_features_or_disk_count,t01_smooth_or_features_a01_smooth_count,"
        "t01_smooth_or_features_a01_smooth_fraction,t01_smooth_or_features_a03_star_or_artifact_count,"
        "t02_edgeon_a05_no_count,t02_edgeon_a04_yes_count,t11_arms_number_a37_cant_tell_count\n"
        "587730774425665704,7,5,0.4,1,6,1,0\n587730774425665705,0,3,1.0,0,0,0,0\n",
    )
    votes = read_votes(file, GZ2)
    assert list(votes.subject_ids) == ["587730774425665704", "587730774425665705"]
    assert votes.counts["smooth-or-features"].tolist() == [[5, 7, 1], [3, 0, 0]]
    assert votes.counts["edgeon"].tolist() == [[1, 6], [0, 0]]
    assert votes.reached["smooth-or-features"].tolist() == [13, 3]
    assert votes.counts["arms-number"].shape == (2, 6)
    assert votes.total.tolist() == [20, 3]
    assert votes.excesses() == []


@pytest.mark.parametrize("prefix", ["", "decals_"])
@pytest.mark.parametrize("hyphen", ["-", "_"])
def test_decals_columns_are_found_with_prefix_and_underscores(prefix: str, hyphen: str, tmp_path: Path) -> None:
    header = [
        "smooth-or-featured_artifact",
        "smooth-or-featured_smooth",
        "smooth-or-featured_featured-or-disk",
        "smooth-or-featured_smooth_fraction",
        "smooth-or-featured_total-votes",
    ]
    columns = ",".join(prefix + name.replace("-", hyphen) for name in header)
    votes = read_votes(_csv(tmp_path, f"iauname,{columns}\nJ1,2,30,8,0.75,40\n"), DECALS)
    assert votes.counts["smooth-or-featured"].tolist() == [[30, 8, 2]]
    assert votes.reached["smooth-or-featured"].tolist() == [40]


def test_a_prefix_is_never_the_first_word_of_another_question() -> None:
    tree = DecisionTree.from_json(
        """{"name": "edges", "questions": [
          {"slug": "disk-edge", "answers": [{"slug": "yes", "next": "edge"}, {"slug": "no"}]},
          {"slug": "edge", "answers": [{"slug": "yes"}, {"slug": "no"}]}]}"""
    )
    found = find_columns(["disk_edge_yes", "disk_edge_no"], tree)
    assert found == {"disk-edge": {"yes": "disk_edge_yes", "no": "disk_edge_no"}, "edge": {}}


def test_the_underscore_tells_questions_apart() -> None:
    tree = DecisionTree.from_json(
        """{"name": "edges", "questions": [
          {"slug": "a-b", "answers": [{"slug": "c", "next": "a"}, {"slug": "d"}]},
          {"slug": "a", "answers": [{"slug": "b-c"}, {"slug": "b-d"}]}]}"""
    )
    found = find_columns(["a_b-c", "a_b-d", "a-b_c", "a-b_d"], tree)
    assert found == {"a-b": {"c": "a-b_c", "d": "a-b_d"}, "a": {"b-c": "a_b-c", "b-d": "a_b-d"}}
    assert find_columns(["a_b-c", "a_b-d"], tree)["a-b"] == {}


def test_two_surveys_in_one_table_are_not_guessed_between(tmp_path: Path) -> None:
    tree = DecisionTree.load("binary")
    assert find_columns(["one_answer_yes", "two_answer_yes"], tree) == {"answer": {}}


# ---- files as they are -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "encoding"),
    [("votes.csv", "utf-8"), ("votes.csv", "utf-8-sig"), ("votes.csv", "latin-1"), ("votes.csv.gz", "utf-8-sig")],
)
def test_encodings_and_gzip(name: str, encoding: str, tmp_path: Path) -> None:
    text = "subject_id,answer_yes,answer_no\nZoë,3,4\n007,1,0\n"
    votes = read_votes(_csv(tmp_path, text, name, encoding), DecisionTree.load("binary"))
    assert list(votes.subject_ids) == ["Zoë", "007"]
    assert votes.counts["answer"].tolist() == [[3, 4], [1, 0]]


def test_a_byte_order_mark_does_not_hide_that_the_first_column_identifies(tmp_path: Path) -> None:
    file = _csv(tmp_path, "objid,answer_yes,answer_no\n007,3,4\n", encoding="utf-8-sig")
    assert list(read_votes(file, DecisionTree.load("binary")).subject_ids) == ["007"]


def test_tab_separated_and_windows_lines(tmp_path: Path) -> None:
    file = _csv(tmp_path, "subject_id\tanswer_yes\tanswer_no\r\na\t3\t4\r\n", "votes.tsv")
    assert read_votes(file, DecisionTree.load("binary")).counts["answer"].tolist() == [[3, 4]]


def test_parquet_and_its_types(tmp_path: Path) -> None:
    file = tmp_path / "votes.parquet"
    table = {
        "id": pa.array([8647474690312307154, 8647474690312307155]),
        "answer_yes": pa.array([3.0, None]),
        "answer_no": pa.array([4, 5], pa.int16()),
    }
    pq.write_table(pa.table(table), file)
    votes = read_votes(file, DecisionTree.load("binary"))
    assert list(votes.subject_ids) == ["8647474690312307154", "8647474690312307155"]
    assert votes.counts["answer"].tolist() == [[3, 4], [0, 5]]
    assert votes.counts["answer"].dtype == np.int64


def test_an_unnamed_index_column_is_survived(tmp_path: Path) -> None:
    file = _csv(tmp_path, ",subject_id,answer_yes,answer_no\n0,a,3,4\n1,b,5,6\n")
    votes = read_votes(file, DecisionTree.load("binary"))
    assert list(votes.subject_ids) == ["a", "b"]
    assert votes.counts["answer"].tolist() == [[3, 4], [5, 6]]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("8647474690312307154", "8647474690312307154"),
        ("9999999999999999999", "9999999999999999999"),  # more than 63 bits hold
        ("0077", "0077"),
        ("20685190.0", "20685190"),
        (" a b ", "a b"),
    ],
)
@pytest.mark.parametrize("column", ["objid", "my_own"])
def test_identifiers_keep_every_digit(written: str, read: str, column: str, tmp_path: Path) -> None:
    file = _csv(tmp_path, f"{column},answer_yes,answer_no\n{written},3,4\n")
    votes = read_votes(file, DecisionTree.load("binary"), id_column="my_own" if column == "my_own" else None)
    assert list(votes.subject_ids) == [read]


def test_blank_cells_mean_nobody_was_asked_and_whole_floats_are_counts(tmp_path: Path) -> None:
    file = _csv(tmp_path, "id,answer_yes,answer_no\na,29.0,11.0\nb,,\nc,NaN,2\nd,nan,NA\n")
    votes = read_votes(file, DecisionTree.load("binary"))
    assert votes.counts["answer"].tolist() == [[29, 11], [0, 0], [0, 2], [0, 0]]
    assert votes.reached["answer"].tolist() == [40, 0, 2, 0]
    assert np.isnan(votes.fractions("answer")[[1, 3]]).all()
    assert votes.fractions("answer")[0].tolist() == [29 / 40, 11 / 40]


def test_a_table_without_rows(tmp_path: Path) -> None:
    votes = read_votes(_csv(tmp_path, "id,disk_yes,disk_no,rare_ring\n"), RING)
    assert len(votes) == 0
    assert votes.total.tolist() == []


# ---- mapping, weights, multiple ---------------------------------------------------------------------------


def test_an_explicit_mapping(tmp_path: Path) -> None:
    file = _csv(tmp_path, "galaxy,oui,non,answer_yes,answer_no\na,3,4,9,9\n")
    tree = DecisionTree.load("binary")
    votes = read_votes(file, tree, columns={"answer": {"yes": "oui", "no": "non"}})
    assert votes.counts["answer"].tolist() == [[3, 4]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"answre": {"yes": "oui"}}, r"no question 'answre' \(did you mean 'answer'"),
        ({"answer": {"yess": "oui"}}, r"question 'answer' has no answer 'yess' \(did you mean 'yes'"),
        ({"answer": {"yes": "ouis"}}, r"no column 'ouis' \(did you mean 'oui'"),
    ],
)
def test_a_mapping_is_checked(columns: dict[str, dict[str, str]], message: str, tmp_path: Path) -> None:
    file = _csv(tmp_path, "galaxy,oui,non\na,3,4\n")
    with pytest.raises(GreenpeaError, match=message):
        read_votes(file, DecisionTree.load("binary"), columns=columns)


def test_weights_are_kept_apart_from_counts(tmp_path: Path) -> None:
    file = _csv(
        tmp_path,
        "objid,t03_bar_a06_bar_count,t03_bar_a06_bar_weight,t03_bar_a07_no_bar_count,t03_bar_a07_no_bar_weight,"
        "t04_spiral_a08_spiral_count,t04_spiral_a08_spiral_weight,t04_spiral_a09_no_spiral_count\n"
        "1,4,3.25,6,,0,0,0\n",
    )
    votes = read_votes(file, GZ2)
    assert votes.counts["bar"].tolist() == [[4, 6]]
    assert votes.reached["bar"].tolist() == [10]
    assert votes.effective.keys() == {"bar"}, "half the weights are none"
    assert votes.effective["bar"].tolist() == [[3.25, 0.0]]


def test_reached_of_a_multiple_question_has_its_own_column(tmp_path: Path) -> None:
    file = _csv(tmp_path, "id,disk_yes,disk_no,rare_ring,rare_lens,rare_total-votes,odd_yes,odd_no\na,9,1,5,4,8,1,7\n")
    votes = read_votes(file, RING)
    assert votes.reached["rare"].tolist() == [8]
    assert votes.counts["rare"].tolist() == [[5, 4]]
    assert votes.fractions("rare").tolist() == [[5 / 8, 4 / 8]]
    assert votes.excesses() == []


def test_without_that_column_everybody_who_came_was_asked(tmp_path: Path) -> None:
    file = _csv(tmp_path, "id,disk_yes,disk_no,rare_ring,rare_lens\na,9,1,5,4\nb,3,1,4,0\n")
    backwards = DecisionTree(name="ring", first="disk", questions=RING.questions[::-1])
    for tree in (RING, backwards):
        assert read_votes(file, tree).reached["rare"].tolist() == [9, 4]  # b: at least who ticked "ring"


def test_an_answer_given_by_more_than_were_asked_is_refused(tmp_path: Path) -> None:
    file = _csv(tmp_path, "id,disk_yes,disk_no,rare_ring,rare_lens,rare_reached\na,9,1,5,4,8\nb,9,1,5,9,8\n")
    _refused(file, RING, "votes.csv, row 3 (subject 'b')", "'rare'", "than were asked (8)", "check the column")


# ---- excess ----------------------------------------------------------------------------------------------


def _odd(tmp_path: Path, disk_yes: int, odd: int) -> Path:
    return _csv(
        tmp_path,
        f"id,disk_yes,disk_no,rare_ring,rare_lens,odd_yes,odd_no\nz,50,0,0,0,0,0\na,{disk_yes},4,0,0,1,{odd - 1}\n",
    )


@pytest.mark.parametrize(("possible", "reached"), [(10, 11), (10, 13), (4, 7), (100, 110), (0, 3)])
def test_a_little_excess_is_kept_and_told(possible: int, reached: int, tmp_path: Path) -> None:
    votes = read_votes(_odd(tmp_path, possible, reached), RING)
    assert votes.excesses() == [Excess("a", 1, "odd", reached, possible)]
    assert votes.counts["odd"][1].tolist() == [1, reached - 1]
    assert not votes.excesses()[0].impossible


@pytest.mark.parametrize(("possible", "reached"), [(10, 14), (0, 4), (100, 111)])
def test_a_large_excess_is_refused_with_file_and_row(possible: int, reached: int, tmp_path: Path) -> None:
    message = _refused(
        _odd(tmp_path, possible, reached),
        RING,
        "votes.csv, row 3 (subject 'a')",
        f"{reached} volunteers answered 'odd'",
        f"only {possible} gave an answer",
        "'ring'",
        "correct or remove the row",
    )
    assert "more such places" not in message


def test_many_impossible_rows_are_counted(tmp_path: Path) -> None:
    file = _csv(
        tmp_path,
        "id,disk_yes,disk_no,rare_ring,rare_lens,odd_yes,odd_no\na,1,9,0,0,9,9\nb,1,9,0,0,9,9\nc,1,9,0,0,9,9\n",
    )
    _refused(file, RING, "row 2", "(2 more such places)")


def test_a_question_with_only_some_of_its_answers_is_left_out_and_named(tmp_path: Path) -> None:
    file = _csv(tmp_path, "id,disk_yes,disk_no,odd_yes\na,9,9,3\n")
    votes = read_votes(file, RING)
    assert votes.reached["disk"].tolist() == [18]
    assert votes.reached["odd"].tolist() == [0]
    assert incomplete(["disk_yes", "disk_no", "odd_yes"], RING) == {"odd": ("no",)}


def test_a_parent_that_was_not_recorded_is_not_held_against_its_child(tmp_path: Path) -> None:
    file = _csv(tmp_path, "id,odd_yes,odd_no\na,9,9\n")
    assert read_votes(file, RING).excesses() == []


# ---- refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("-1", ["-1: counts cannot be negative"]),
        ("2.5", ["2.5: counts are whole numbers", "_weight"]),
        ("many", ["'many' is not a number", "leave the cell blank"]),
        ("2024-01-01", ["is not a number"]),
        ("inf", ["inf: counts are whole numbers"]),
        ("1e300", ["1e+300: counts are whole numbers"]),
    ],
)
@pytest.mark.parametrize("neighbour", ["2", ""])
def test_what_is_no_count_is_refused_by_row_and_column(
    cell: str, words: list[str], neighbour: str, tmp_path: Path
) -> None:
    file = _csv(tmp_path, f"id,answer_yes,answer_no\na,1,{neighbour}\nb,1,{cell}\nc,1,{neighbour}\n")
    _refused(file, DecisionTree.load("binary"), "votes.csv, row 3, column 'answer_no'", *words)


def test_a_date_in_parquet_and_a_weight_that_is_text_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "votes.parquet"
    days = pa.array([None, 19000], pa.date32())
    pq.write_table(pa.table({"id": ["a", "b"], "answer_yes": days, "answer_no": [1, 2]}), file)
    _refused(file, DecisionTree.load("binary"), "row 2, column 'answer_yes'", "'2022-01-08' is not a number")
    weights = _csv(tmp_path, "id,answer_yes,answer_no,answer_yes_weight,answer_no_weight\na,1,2,heavy,2\n")
    _refused(weights, DecisionTree.load("binary"), "row 2, column 'answer_yes_weight'", "'heavy'")


def test_duplicate_and_blank_identifiers_are_refused(tmp_path: Path) -> None:
    tree = DecisionTree.load("binary")
    twice = _csv(tmp_path, "id,answer_yes,answer_no\na,1,2\nb,1,2\na,1,2\n")
    _refused(twice, tree, "votes.csv, row 4: the id 'a' stood in row 2 already", "remove or merge one")
    for blank in ("", "  ", "NA"):
        file = _csv(tmp_path, f"id,answer_yes,answer_no\na,1,2\n{blank},1,2\n")
        _refused(file, tree, "votes.csv, row 3: column 'id' is blank", "give the subject an id")


def test_a_table_without_votes_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    file = _csv(tmp_path, "id,smooth-or-featurd_smoth,ra\na,1,2\n")
    _refused(
        file,
        DECALS,
        "votes.csv has no vote counts for tree 'gz-decals-5'",
        "such as 'smooth-or-featured_smooth'",
        "did you mean 'smooth-or-featurd_smoth'?",
        "Rename the columns",
    )


def test_columns_of_identifiers_are_named_or_suggested(tmp_path: Path) -> None:
    file = _csv(tmp_path, "plate,answer_yes,answer_no\na,1,2\n")
    tree = DecisionTree.load("binary")
    _refused(file, tree, "votes.csv has no identifier column among subject_id", "Its columns: plate, answer_yes")
    assert list(read_votes(file, tree, id_column="plate").subject_ids) == ["a"]
    with pytest.raises(GreenpeaError, match=r"no column 'plat' \(did you mean 'plate'"):
        read_votes(file, tree, id_column="plat")


def test_files_that_are_no_tables_are_refused_by_name(tmp_path: Path) -> None:
    tree = DecisionTree.load("binary")
    with pytest.raises(GreenpeaError, match=r"no file .*votes\.csv; give a CSV, Parquet, FITS or VOTable table"):
        read_votes(tmp_path / "votes.csv", tree)
    _refused(_csv(tmp_path, "", "empty.csv"), tree, "empty.csv is empty")
    _refused(_csv(tmp_path, "a", "votes.xlsx"), tree, "votes.xlsx: tables are CSV", "Parquet")
    _refused(_csv(tmp_path, "id,id\n1,2\n"), tree, "the column 'id' more than once", "rename one")
    _refused(_csv(tmp_path, "id,answer_yes\n1,2\n3\n"), tree, "votes.csv cannot be read as a table")
    _refused(_csv(tmp_path, "no", "votes.parquet"), tree, "votes.parquet cannot be read as a table")
    whole = gzip.compress(b"id,answer_yes,answer_no\n" + b"a,1,2\n" * 999)
    for name, raw in (
        ("cut", whole[:-20]),
        ("changed", whole[:12] + b"\xff\xff\xff\xff" + whole[16:]),
        ("plain", b"id"),
    ):
        file = tmp_path / f"{name}.csv.gz"
        file.write_bytes(raw)
        _refused(file, tree, f"{name}.csv.gz cannot be read as a table")


# ---- the value -------------------------------------------------------------------------------------------


@st.composite
def _votes(draw: st.DrawFn) -> Votes:
    """Votes of volunteers who walked a random tree; weights on some of its questions."""
    tree = draw(trees(most=4))
    seed, subjects = draw(st.integers(0, 2**32 - 1)), draw(st.integers(0, 3))
    rng = np.random.default_rng(seed)
    votes = walk(tree, fractions(tree, seed, (subjects,)), draw(st.integers(0, 4)), rng)
    weighted = draw(st.sets(st.sampled_from(tree.slugs)))
    effective = {slug: votes.counts[slug] * rng.random(votes.counts[slug].shape) for slug in weighted}
    return Votes(tree, votes.subject_ids, votes.counts, votes.reached, effective)


@given(_votes())
def test_a_table_gives_back_equal_votes(votes: Votes) -> None:
    table = votes.to_table()
    again = Votes.from_table(table, votes.tree, table["subject_id"].to_pylist())
    assert again == votes
    assert again.excesses() == []


@given(_votes(), st.data())
def test_select_and_align(votes: Votes, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.sampled_from(range(len(votes))), unique=True) if len(votes) else st.just([]))
    chosen = votes.select(rows)
    assert list(chosen.subject_ids) == [f"subject-{row}" for row in rows]
    for slug in votes.tree.slugs:
        assert chosen.counts[slug].tolist() == [votes.counts[slug][row].tolist() for row in rows]
        assert chosen.reached[slug].tolist() == [votes.reached[slug][row] for row in rows]
    assert chosen.effective.keys() == votes.effective.keys()
    mask = np.isin(np.arange(len(votes)), rows)
    assert votes.select(mask) == votes.select(sorted(rows))

    wider = votes.align(["a stranger", *chosen.subject_ids])
    assert wider.subject_ids[0] == "a stranger"
    assert wider.total[0] == 0
    assert all(not array[0].any() for array in (*wider.counts.values(), *wider.effective.values()))
    assert wider.select(range(1, len(wider))) == chosen


def test_votes_differ_by_one_count() -> None:
    one, other = Votes.empty(RING, ["a"]), Votes.empty(RING, ["a"])
    assert one == other
    other.counts["odd"][0, 1] = 1
    assert one != other
    assert one != Votes.empty(RING, ["b"])
    weighted = [Votes(RING, one.subject_ids, one.counts, one.reached, {"odd": np.full((1, 2), w)}) for w in (0.5, 1.0)]
    assert weighted[0] != weighted[1]
    assert weighted[0] != one
    assert one != Votes.empty(DecisionTree.load("binary"), ["a"])
    assert one != "votes"


def test_arrays_of_another_shape_are_refused() -> None:
    votes = Votes.empty(RING, ["a", "b"])
    with pytest.raises(GreenpeaError, match=r"votes on 'odd' have shape \(2, 3\).*expected \(2, 2\)"):
        Votes(RING, votes.subject_ids, {**votes.counts, "odd": np.zeros((2, 3), np.int64)}, votes.reached)
    with pytest.raises(GreenpeaError, match="votes lack the question 'odd'"):
        Votes(RING, votes.subject_ids, {k: v for k, v in votes.counts.items() if k != "odd"}, votes.reached)


# ---- real data -------------------------------------------------------------------------------------------


@pytest.mark.data
def test_galaxy_zoo_2_votes_have_26_untidy_rows_and_none_refused(data_folder: Path) -> None:
    votes = read_votes(data_folder / "gz2" / "votes.csv", GZ2)
    assert len(votes) == 300
    assert len({excess.row for excess in votes.excesses()}) == 26
    assert all(excess.reached - excess.possible <= 2 for excess in votes.excesses())
    raw = read_table(data_folder / "gz2" / "votes.csv")
    assert votes.total.tolist() == raw["total_votes"].to_pylist()
    assert votes.reached["smooth-or-features"].tolist() == raw["total_classifications"].to_pylist()


@pytest.mark.data
def test_stripe_82_is_read_whole(data_folder: Path) -> None:
    file = data_folder / "votes" / "gz2-stripe82.csv.gz"
    votes = read_votes(file, GZ2)
    assert len(votes) == 19_645
    assert {len(subject) for subject in votes.subject_ids} <= {18, 19}
    assert votes.effective.keys() == set(GZ2.slugs)
    assert votes.total.tolist() == read_table(file)["total_votes"].to_pylist()


@pytest.mark.data
def test_decals_at_forty_votes(data_folder: Path) -> None:
    file = data_folder / "votes" / "gz-decals-40votes.csv.gz"
    votes = read_votes(file, DECALS)
    assert len(votes) == 7_062
    assert (
        votes.reached["smooth-or-featured"].tolist() == read_table(file)["smooth-or-featured_total-votes"].to_pylist()
    )
    assert votes.excesses() == []


@pytest.mark.data
def test_rings_have_votes_behind_a_prefix(data_folder: Path) -> None:
    file = data_folder / "rings" / "rings.csv"
    votes = read_votes(file, DECALS)
    written = read_table(file)["decals_smooth-or-featured_total-votes"].to_pylist()
    assert len(votes) == 377
    assert votes.reached["smooth-or-featured"].tolist() == [int(total or 0) for total in written]
    assert (votes.total > 0).sum() == sum(total is not None for total in written) > 30


@pytest.mark.data
def test_aggregated_zooniverse_votes_have_an_unnamed_index(data_folder: Path) -> None:
    votes = read_votes(data_folder / "zooniverse" / "galaxy-zoo-aggregated.csv", DECALS)
    assert votes.subject_ids[0] == "28484759"
    assert votes.counts["spiral-arm-count"][0].tolist() == [0, 1, 0, 0, 0, 0]


@pytest.mark.data
def test_cifar10h_as_a_tree_of_one_question(data_folder: Path) -> None:
    words = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    question = Question(slug="object", answers=tuple(Answer(slug=word) for word in words))
    votes = read_votes(data_folder / "cifar10h" / "test.parquet", DecisionTree(name="cifar10h", questions=(question,)))
    assert len(votes) == 8_000
    assert (votes.total.min(), votes.total.max()) == (47, 63)


def test_blank_cells_beside_counts_are_told(tmp_path: Path) -> None:
    file = _csv(tmp_path, "id,answer_yes,answer_no\na,,2\nb,3,\nc,,\nd,1,1\n")
    votes = read_votes(file, DecisionTree.load("binary"))
    assert votes.counts["answer"].tolist() == [[0, 2], [3, 0], [0, 0], [1, 1]]
    assert votes.note == "2 subjects have some cells of answer blank and others not: the blank are taken as 0"


def test_ids_that_a_spreadsheet_rounded_are_told_as_such(tmp_path: Path) -> None:
    file = _csv(tmp_path, "id,answer_yes,answer_no\n8.64747E+18,1,2\n8.64747E+18,3,1\n")
    _refused(file, DecisionTree.load("binary"), "rows 2 and 3: the id '8.64747E+18' was rounded", "'id'", "as text")

"""Votes from tables as people have them: fractions × totals, a row per reply; nothing is left out unsaid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from greenpea import vote_tables
from greenpea.cli import app
from greenpea.errors import GreenpeaError
from greenpea.tables import read_table
from greenpea.tree import DecisionTree
from greenpea.vote_tables import of_replies, of_subjects, read_votes
from greenpea.votes import Votes
from hands import galaxy_tree

TREE = galaxy_tree()
DECALS = DecisionTree.load("gz-decals-5")


def long(*rows: tuple[object, ...], names: str = "subject volunteer question answer") -> pa.Table:
    columns = zip(*rows, strict=True)
    return pa.table({name: list(column) for name, column in zip(names.split(), columns, strict=True)})


# ---- a row per reply ---------------------------------------------------------------------------------


def test_replies_are_counted_along_the_tree() -> None:
    votes = of_replies(
        long(
            ("a", "Ann", "smooth", "no"),
            ("a", "Ann", "bar", "yes"),
            ("a", "Ann", "merging", "no"),
            ("a", "Ann", "rare", "ring"),
            ("a", "Ann", "rare", "lens"),
            ("a", "Bo", "smooth", "yes"),
            ("a", "Bo", "merging", "yes"),
            ("a", "Bo", "rare", None),
            ("b", "Bo", "smooth", "artifact"),
        ),
        TREE,
    )
    assert votes.subject_ids.tolist() == ["a", "b"]
    assert votes.counts["smooth"].tolist() == [[1, 1, 0], [0, 0, 1]]
    assert votes.counts["bar"].tolist() == [[0, 1], [0, 0]]
    assert votes.counts["rare"].tolist() == [[1, 1], [0, 0]]
    assert votes.reached["rare"].tolist() == [2, 0]  # Bo chose none, and was asked
    assert votes.note == ""


def test_questions_and_answers_by_their_text_and_in_other_columns() -> None:
    first = DECALS[DECALS.first]
    rows = [("x", 1, first.label(), answer.label()) for answer in first.answers]
    votes = of_replies(long(*rows, names="ID user_name Task Value"), DECALS)
    assert votes.counts[first.slug].tolist() == [[1, 0, 0]]
    assert "2 replies of a volunteer to a question answered before are left out" in votes.note


def test_the_first_of_a_volunteers_replies_counts_and_it_is_said() -> None:
    votes = of_replies(
        long(
            ("a", "Ann", "smooth", "yes"),
            ("a", "Ann", "smooth", "no"),
            ("a", "Ann", "smooth", "yes"),
            ("b", "Ann", "smooth", "no"),
            ("a", "Bo", "rare", "ring"),
            ("a", "Bo", "rare", "ring"),
            ("a", "Bo", "smooth", "yes"),
            ("a", "Bo", "merging", "no"),
        ),
        TREE,
    )
    assert votes.counts["smooth"].tolist() == [[2, 0, 0], [0, 1, 0]]
    assert votes.counts["rare"].tolist() == [[1, 0], [0, 0]]
    assert "3 replies of a volunteer to a question answered before are left out" in votes.note
    assert "the first counts (1 gave another answer)" in votes.note


def test_nameless_volunteers_are_somebody_else_each_time() -> None:
    votes = of_replies(long(*[("a", name, "smooth", "yes") for name in (None, "", "Ann", "Ann")]), TREE)
    assert votes.counts["smooth"].tolist() == [[3, 0, 0]]
    assert "2 replies name no volunteer" in votes.note


def test_without_volunteers_every_row_counts_or_what_a_column_says() -> None:
    rows = [("a", "smooth", "yes"), ("a", "smooth", "yes"), ("a", "smooth", "no")]
    votes = of_replies(long(*rows, names="subject question answer"), TREE)
    assert votes.counts["smooth"].tolist() == [[2, 1, 0]]
    assert votes.note == "there is no column of volunteers: every row counts as a reply"
    counted = [(*row, count) for row, count in zip(rows, (3, 4, 5), strict=True)]
    votes = of_replies(long(*counted, names="subject question answer count"), TREE)
    assert votes.counts["smooth"].tolist() == [[7, 5, 0]]
    assert votes.note == ""


def test_what_the_tree_does_not_ask_is_left_out_and_said() -> None:
    votes = of_replies(
        long(("a", "Ann", "smooth", "yes"), ("a", "Ann", "smoth", "yes"), ("a", "Bo", "smooth", "")), TREE
    )
    assert "1 replies to 'smoth', which the tree does not ask, are left out (did you mean 'smooth'?" in votes.note
    assert "1 replies to smooth are blank and left out" in votes.note


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (long(("a", "A", "smooth", "yess")), r"t, row 2: question 'smooth' has no answer 'yess' .did you mean 'yes'"),
        (long(("a", "A", "shape", "round")), r"none of the questions \('shape'\) is one of tree 'small': smooth, bar"),
        (long(("a", "A", "smooth", "yes"), (None, "B", "smooth", "no")), r"t, row 3: column 'subject' is blank"),
        (long(("a", "rare", "ring"), names="subject question answer"), "'rare' is 'multiple'.*column of volunteers"),
        (
            long(*[("a", index, "bar", "yes") for index in range(9)], ("a", 1, "smooth", "yes")),
            r"t, subject 'a': 9 volunteers answered 'bar', but only 0 gave",
        ),
        (long(("a", "smooth", "yes", -1), names="subject question answer n"), r"row 2, column 'n': -1: counts cannot"),
    ],
)
def test_broken_replies_name_what_is_wrong(table: pa.Table, message: str) -> None:
    with pytest.raises(GreenpeaError, match=message):
        of_replies(table, TREE, where="t")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("XYZ"), st.sampled_from(["yes", "no"])), min_size=1))
def test_replies_agree_with_counting_by_hand(rows: list[tuple[str, str, str]]) -> None:
    tree = DecisionTree.load("binary")
    question = tree.first
    votes = of_replies(long(*[(subject, who, question, answer) for subject, who, answer in rows]), tree)
    first: dict[tuple[str, str], str] = {}
    for subject, who, answer in rows:
        first.setdefault((subject, who), answer)
    for row, subject in enumerate(votes.subject_ids):
        for place, answer in enumerate(tree[question].answer_slugs):
            expected = sum(key[0] == subject and given_ == answer for key, given_ in first.items())
            assert votes.counts[question][row, place] == expected


# ---- fractions × totals ------------------------------------------------------------------------------


def fractions(decimals: int | None = None, **columns: list[object]) -> pa.Table:
    """Forty subjects with random votes on the first question of GZ DECaLS, as fractions beside the total."""
    rng = np.random.default_rng(1)
    counts = rng.multinomial(40, [0.5, 0.4, 0.1], 40)
    shares = counts / 40 if decimals is None else np.round(counts / 40, decimals)
    answers = DECALS["smooth-or-featured"].answer_slugs
    found = {f"smooth-or-featured_{answer}_fraction": shares[:, place] for place, answer in enumerate(answers)}
    return pa.table({**found, "smooth-or-featured_total-votes": [40] * 40, "true": list(counts), **columns})


@pytest.mark.parametrize("decimals", [None, 3, 2])
def test_fractions_and_totals_give_the_counts_back(decimals: int | None) -> None:
    table = fractions(decimals)
    votes = of_subjects(table, DECALS, [str(row) for row in range(40)])
    np.testing.assert_array_equal(votes.counts["smooth-or-featured"], np.stack(table["true"].to_numpy()))
    assert votes.note == "votes are fractions × totals, rounded to whole votes: smooth-or-featured"


def test_fractions_that_are_no_votes_are_said_to_be_so() -> None:
    votes = of_subjects(fractions(1), DECALS, [str(row) for row in range(40)])
    assert "from a whole number" not in votes.note  # rounded to 0.1 of 40 they are wrong, and nobody can tell
    assert "places the rounded counts do not add up to the total; the counts are kept" in votes.note
    rng = np.random.default_rng(0)
    weighted = {f"smooth-or-featured_{answer}_fraction": rng.uniform(0, 0.3, 40) for answer in ("smooth", "artifact")}
    table = fractions()
    for name, values in weighted.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    note = of_subjects(table, DECALS, [str(row) for row in range(40)]).note
    assert "of 120 places fraction × total is more than 0.25 from a whole number, by up to 0.5" in note
    assert "weighted or debiased fractions are no votes" in note


def test_counts_go_before_fractions_and_totals_may_be_missing() -> None:
    answers = DECALS["smooth-or-featured"].answer_slugs
    counts = {f"smooth-or-featured_{answer}": [7] * 40 for answer in answers}
    votes = of_subjects(fractions(None, **counts), DECALS, [str(row) for row in range(40)])
    assert (votes.counts["smooth-or-featured"] == 7).all()
    assert votes.note == ""
    alone = {f"how-rounded_{answer}_fraction": [0.5] * 40 for answer in DECALS["how-rounded"].answer_slugs}
    note = of_subjects(fractions(None, **alone), DECALS, [str(row) for row in range(40)]).note
    assert "without a total are left out: how-rounded; add columns such as how-rounded_total-votes" in note


def test_fractions_out_of_range_name_row_and_column() -> None:
    table = fractions()
    name = "smooth-or-featured_smooth_fraction"
    percent = table.set_column(0, name, pa.array([0.5] * 39 + [55.0]))
    with pytest.raises(GreenpeaError, match=r"t, row 41, column 'smooth-or-featured_smooth_fraction': 55: .*by 100"):
        of_subjects(percent, DECALS, [str(row) for row in range(40)], where="t")


def test_an_export_of_zooniverse_is_sent_where_it_belongs(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("classification_id,user_name,annotations,subject_data,subject_ids\n1,x,[],{},3\n")
    with pytest.raises(GreenpeaError, match="greenpea import zooniverse"):
        read_votes(tmp_path / "c.csv", DECALS)


# ---- real tables -------------------------------------------------------------------------------------


@pytest.mark.data
def test_real_fractions_of_gz_decals_give_the_counts_back(data_folder: Path) -> None:
    path = data_folder / "votes" / "gz-decals-40votes.csv.gz"
    counted = read_votes(path, DECALS)
    table = read_table(path)
    answers = DECALS["smooth-or-featured"].answer_slugs
    table = table.drop_columns([f"smooth-or-featured_{answer}" for answer in answers])
    votes = of_subjects(table, DECALS, counted.subject_ids)
    np.testing.assert_array_equal(votes.counts["smooth-or-featured"], counted.counts["smooth-or-featured"])
    assert votes.note.startswith("votes are fractions × totals")
    assert "from a whole number" not in votes.note


@pytest.mark.data
def test_real_fractions_of_gz2_are_weighted_and_it_is_said(data_folder: Path) -> None:
    tree = DecisionTree.load("gz2")
    path = data_folder / "gz2" / "votes.csv"
    counted, table = read_votes(path, tree), read_table(path)
    totals = {f"t{number:02d}_{slug.replace('-', '_')}_total_count": counted.reached[slug]
              for number, slug in enumerate(tree.slugs, start=1)}  # fmt: skip
    names = [name for name in table.column_names if name.endswith("_count")]
    bare = table.drop_columns(names)
    for name, values in totals.items():
        bare = bare.append_column(name, pa.array(values))
    votes = of_subjects(bare, tree, counted.subject_ids)
    off = np.abs(votes.counts[tree.first] - counted.counts[tree.first])
    assert 0 < (off > 0).mean() < 0.5
    assert off.max() <= 2  # weighted by the volunteers' consistency (Willett et al. 2013)
    assert "from a whole number" in votes.note


@pytest.mark.data
def test_real_votes_as_replies_are_the_same_votes(data_folder: Path) -> None:
    counted = read_votes(data_folder / "votes" / "gz-decals-40votes.csv.gz", DECALS)
    rows = [
        (subject, "smooth-or-featured", answer, int(count))
        for subject, some in zip(counted.subject_ids, counted.counts["smooth-or-featured"], strict=True)
        for answer, count in zip(DECALS["smooth-or-featured"].answer_slugs, some, strict=True)
    ]
    votes = of_replies(long(*rows, names="subject_id question answer count"), DECALS)
    assert votes == counted


# ---- the command -------------------------------------------------------------------------------------


def test_the_command_says_aloud_what_was_assumed(tmp_path: Path) -> None:
    for index in range(3):
        Image.fromarray(np.full((20, 20), index, np.uint8)).save(tmp_path / f"s {index}.png")
    rows = [(f"s {index}", f"v{who}", "answer", "yes") for index in range(3) for who in range(4)]
    pq.write_table(long(*rows, *rows[:2]), tmp_path / "replies.parquet")
    line = ["init", str(tmp_path / "c"), "--tree", "binary", "--subjects", str(tmp_path)]
    (tmp_path / "pictures").mkdir()
    for index in range(3):
        (tmp_path / f"s {index}.png").rename(tmp_path / "pictures" / f"s {index}.png")
    line = [*line[:-1], str(tmp_path / "pictures"), "--votes", str(tmp_path / "replies.parquet")]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "3 subjects, 3 of them with 12 replies" in said
    assert "2 replies of a volunteer to a question answered before are left out" in said


def test_two_rows_of_the_same_key_are_found() -> None:
    keys = np.array([[1, 0, 1, 1], [2, 2, 2, 3]])
    assert vote_tables._repeated(keys).tolist() == [False, False, True, False]
    assert isinstance(Votes.empty(TREE, ["a"]).note, str)


def test_a_fraction_or_total_that_is_blank_is_told() -> None:
    columns = {"answer_yes_fraction": [0.5, None, 0.5], "answer_no_fraction": [0.5, 0.5, 0.5]}
    table = pa.table(columns | {"answer_total-votes": [4, 4, None]})
    votes = of_subjects(table, DecisionTree.load("binary"), ["a", "b", "c"])
    assert votes.counts["answer"].tolist() == [[2, 2], [0, 2], [0, 0]]
    assert "in 2 places some fractions or the total are blank: they are taken as 0" in votes.note


def test_a_negative_fraction_is_not_taken_for_a_percentage() -> None:
    columns = {"answer_yes_fraction": [-99.0], "answer_no_fraction": [0.5], "answer_total-votes": [4]}
    with pytest.raises(GreenpeaError, match=r"-99: fractions run from 0 to 1; leave the cell blank"):
        of_subjects(pa.table(columns), DecisionTree.load("binary"), ["a"])


def test_replies_under_other_names_are_not_taken_for_subjects_twice(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("galaxy,who,q,a\ng0,v0,answer,yes\ng0,v1,answer,no\n", encoding="utf-8")
    with pytest.raises(GreenpeaError, match=r"one reply a row: subject_id, volunteer, question, answer"):
        read_votes(tmp_path / "t.csv", DecisionTree.load("binary"))


def test_fractions_that_add_up_to_more_than_everybody_are_refused(tmp_path: Path) -> None:
    tree = DecisionTree.load("gz2")
    first = tree[tree.first]
    for shares, wrong in (((0.34, 0.34, 0.345), False), ((0.9, 0.9, 0.0), True)):
        row = {
            f"{first.slug}_{slug}_fraction": [0.2, share]
            for slug, share in zip(first.answer_slugs, shares, strict=True)
        }
        path = tmp_path / "t.csv"
        pacsv.write_csv(pa.table({"id": ["a", "b"], **row, f"{first.slug}_total-votes": [20, 20]}), path)
        if wrong:
            with pytest.raises(GreenpeaError, match=r"t\.csv, row 3: the fractions of '.*' add up to 1\.8 \(1 such"):
                read_votes(path, tree)
        else:
            assert read_votes(path, tree).total.sum() > 0


def test_rows_are_numbered_as_their_file_does(tmp_path: Path) -> None:
    """A CSV file's head is its first row; FITS and Parquet begin with the first subject."""
    table = pa.table({"id": ["a", "b"], "answer_yes": [1, -1], "answer_no": [1, 1]})
    tree = DecisionTree.load("binary")
    pacsv.write_csv(table, tmp_path / "t.csv")
    pq.write_table(table, tmp_path / "t.parquet")
    for name, row in (("t.csv", 3), ("t.parquet", 2)):
        with pytest.raises(GreenpeaError, match=rf"{name}, row {row}, column"):
            read_votes(tmp_path / name, tree)

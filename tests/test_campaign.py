"""A campaign through the real command line: from images to a catalogue and a report; and what goes wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from greenpea.campaign import Campaign, roles, shares
from greenpea.creation import create
from greenpea.errors import GreenpeaError
from greenpea.settings import Split

QUICK = ["--set", "learning.epochs=3", "--set", "learning.width=8", "--set", "learning.precision=32-true"]


def greenpea(*words: object, fails: bool = False) -> str:
    """Run the real command line in a process of its own; return what it printed, in one line."""
    command = [sys.executable, "-m", "greenpea", *map(str, words)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**_environment(), "COLUMNS": "200"}
    )
    said = done.stdout + done.stderr
    assert (done.returncode != 0) == fails, said
    assert "Traceback" not in said
    return " ".join(said.split())


def _environment() -> dict[str, str]:
    import os

    return dict(os.environ)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained campaign of simulated galaxies, made by the command line."""
    folder = tmp_path_factory.mktemp("campaigns") / "simulated galaxies é"
    greenpea("simulate", folder, "--subjects", 240, "--votes", 12, "--size", 32, "--seed", 3)
    greenpea("train", folder, *QUICK)
    return folder


@pytest.fixture
def fresh(simulated: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(simulated, tmp_path / "campaign"))


# ---- the way through ---------------------------------------------------------------------------------


def test_simulated_campaigns_hold_images_votes_and_the_truth(simulated: Path) -> None:
    campaign = Campaign.open(simulated)
    assert len(campaign.subjects) == len(campaign.votes) == 240
    assert (campaign.votes.reached["smooth-or-featured"] == 12).all()
    truth = pq.read_table(simulated / "truth.parquet")
    assert truth["subject_id"].to_pylist() == campaign.subjects.subject_ids.tolist()
    said = np.stack(
        [truth[f"smooth-or-featured_{a}"].to_numpy() for a in ("smooth", "featured-or-disk", "artifact")], 1
    )
    np.testing.assert_allclose(said.sum(1), 1, atol=1e-5)
    voted = campaign.votes.fractions("smooth-or-featured")
    assert np.corrcoef(said[:, 0], voted[:, 0])[0, 1] > 0.7
    with Image.open(simulated / "images" / "sim-000001.png") as image:
        assert image.size == (32, 32)
    assert "(simulated)" in greenpea("info", simulated)


def test_catalogue_says_what_its_columns_mean(simulated: Path, tmp_path: Path) -> None:
    said = greenpea("predict", simulated, "--out", tmp_path / "c.parquet", "--draws", tmp_path / "d.parquet")
    assert "The catalogue of 240 subjects" in said
    table = pq.read_table(tmp_path / "c.parquet")
    assert table.num_rows == 240
    for field in table.schema:
        assert field.metadata[b"description"], field.name
        assert b"unit" in field.metadata, field.name
    row = {name: table[name].to_numpy() for name in table.column_names if name != "subject_id"}
    fractions = [row[f"bar_{answer}_fraction"] for answer in ("no", "weak", "strong")]
    np.testing.assert_allclose(np.sum(fractions, 0), 1, atol=1e-5)
    assert (row["bar_no_p05"] <= row["bar_no_p50"]).all()
    assert (row["bar_no_p50"] <= row["bar_no_p95"]).all()
    np.testing.assert_allclose(row["bar_expected_votes"], 40 * row["bar_reach"], rtol=1e-5)
    np.testing.assert_allclose(row["smooth-or-featured_reach"], 1)
    assert ((row["information"] >= 0) & (row["information"] <= np.log(30) + 1e-5)).all()
    assert table.schema.field("information").metadata[b"unit"] == b"nat"
    assert (row["embedding_distance"] > 0).all()
    about = pq.read_schema(tmp_path / "c.parquet").metadata
    assert json.loads(about[b"greenpea.tree"])["name"] == "gz-decals-5"


def test_draws_are_a_long_table_that_reproduces_the_catalogue(simulated: Path, tmp_path: Path) -> None:
    greenpea("predict", simulated, "--out", tmp_path / "c.parquet", "--draws", tmp_path / "d.parquet")
    table = pq.read_table(tmp_path / "d.parquet")
    assert table.schema.field("subject_id").type == pa.string()
    assert table.schema.field("question").type == pa.string()
    assert table.schema.field("draw").type == pa.int32()
    assert table.schema.field("parameters").type == pa.list_(pa.float32())
    assert table.schema.metadata[b"likelihood"] == b"dirichlet-multinomial"
    answers = json.loads(table.schema.metadata[b"answers"])
    assert answers["bar"] == ["no", "weak", "strong"]
    assert table.num_rows == 240 * 30 * 11
    for question, parameters in zip(
        table["question"].to_pylist()[::97], table["parameters"].to_pylist()[::97], strict=True
    ):
        assert len(parameters) == len(answers[question])
    frame = table.filter(pc.equal(table["question"], "bar"))
    alpha = np.array(frame["parameters"].to_pylist()).reshape(240, 30, 3)
    means = (alpha / alpha.sum(-1, keepdims=True)).mean(1)
    catalogue = pq.read_table(tmp_path / "c.parquet")
    assert frame["subject_id"].to_pylist()[::30] == catalogue["subject_id"].to_pylist()
    np.testing.assert_allclose(means[:, 2], catalogue["bar_strong_fraction"].to_numpy(), atol=1e-5)


def test_evaluation_writes_a_report_and_figures(simulated: Path, tmp_path: Path) -> None:
    said = greenpea("evaluate", simulated, "--out", tmp_path / "r.html", "--json", tmp_path / "r.json")
    assert "test subjects" in said
    figures = json.loads((tmp_path / "r.json").read_text())
    test = int(np.isin(Campaign.open(simulated).roles, ("test", "audit")).sum())
    assert figures["overall"]["subjects"] == test > 20
    assert set(figures["overall"]["coverage"]) == {"50", "80", "90", "95"}
    assert figures["simulated"] is True
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "simulated" in page.lower()
    assert "<svg" in page


def test_cross_validation_judges_every_subject(simulated: Path, tmp_path: Path) -> None:
    greenpea("evaluate", simulated, "--folds", 2, "--out", tmp_path / "r.html", "--json", tmp_path / "r.json", *QUICK)
    assert json.loads((tmp_path / "r.json").read_text())["overall"]["subjects"] == 240


def test_subjects_outside_the_campaign_are_judged_and_those_trained_on_left_out(
    simulated: Path, tmp_path: Path
) -> None:
    campaign = Campaign.open(simulated)
    votes = campaign.votes.to_table()
    paths = pa.array([str(campaign.subjects.source(i)) for i in range(240)])
    seen = np.flatnonzero(campaign.roles != "test")[:5]
    renamed = [f"new-{i}" if i not in seen else str(campaign.subjects.subject_ids[i]) for i in range(40)]
    table = votes.slice(0, 40).set_column(0, "subject_id", pa.array(renamed)).append_column("image", paths[:40])
    pq.write_table(table, tmp_path / "other.parquet")
    said = greenpea("evaluate", simulated, "--subjects", tmp_path / "other.parquet", "--json", tmp_path / "r.json",
                    "--out", tmp_path / "r.html")  # fmt: skip
    inside = sum(i < 40 for i in seen)
    assert json.loads((tmp_path / "r.json").read_text())["overall"]["subjects"] == 40 - inside
    assert f"{inside} subjects with votes that the model had seen were left out" in said


def test_training_from_another_campaign_and_from_python(simulated: Path, tmp_path: Path) -> None:
    table = tmp_path / "rings.csv"
    ids = Campaign.open(simulated).subjects.subject_ids[:120]
    rows = [f"{subject},{simulated / 'images' / subject}.png,{i % 9},{8 - i % 9}" for i, subject in enumerate(ids)]
    table.write_text("id,image,answer_yes,answer_no\n" + "\n".join(rows) + "\n", encoding="utf-8")
    said = greenpea("init", tmp_path / "binary", "--tree", "binary", "--subjects", table)
    assert "120 subjects, 120 of them with 960 replies" in said
    assert "prepared at 32 × 32" in said
    width = ["--set", "learning.width=8", "--set", "learning.freeze=true"]
    greenpea("train", tmp_path / "binary", "--from", simulated, *width)
    campaign = Campaign.open(tmp_path / "binary")
    start = Campaign.open(simulated).model()
    for name, value in campaign.model().encoder.state_dict().items():
        assert (value == start.encoder.state_dict()[name]).all(), name
    assert campaign.model().facts["start"] == start.fingerprint()


def test_evaluation_heeds_what_the_model_has_seen_not_todays_settings(fresh: Path, tmp_path: Path) -> None:
    before = Campaign.open(fresh)
    unseen = 240 - len(before.model().learned_from)
    toml = fresh / "campaign.toml"
    toml.write_text(toml.read_text().replace("test = 0.15", "test = 0.6").replace("size = 32", "size = 48"))
    greenpea("evaluate", fresh, "--json", tmp_path / "r.json", "--out", tmp_path / "r.html")
    assert json.loads((tmp_path / "r.json").read_text())["overall"]["subjects"] == unseen
    judged = Campaign.open(fresh).evaluate()
    assert judged.loaded.images.shape[-1] == 32
    assert not set(judged.posterior.subject_ids) & set(before.model().learned_from)


def test_a_run_may_be_renamed(fresh: Path) -> None:
    (fresh / "runs" / "0001").rename(fresh / "runs" / "best")
    greenpea("train", fresh, *QUICK)
    assert {run.name for run in Campaign.open(fresh).runs} == {"best", "0001"}


def test_votes_in_a_table_of_their_own_beside_a_folder_of_images(tmp_path: Path) -> None:
    folder = _images(tmp_path / "i")
    votes = tmp_path / "v.csv"
    votes.write_text("iauname,answer_yes,answer_no\n" + "".join(f"g{i},{i},2\n" for i in range(14)))
    said = greenpea("init", tmp_path / "c", "--tree", "binary", "--subjects", folder, "--votes", votes,
                    "--id-column", "iauname")  # fmt: skip
    assert "12 subjects, 12 of them" in said
    assert "2 rows of votes are on subjects that are not here" in said


def test_an_explicit_mapping_of_columns(tmp_path: Path) -> None:
    from greenpea import create, read_votes
    from greenpea.tree import DecisionTree

    folder = _images(tmp_path / "i")
    votes = tmp_path / "v.csv"
    votes.write_text("id,seen,unseen\n" + "".join(f"g{i},{i},2\n" for i in range(12)))
    tree = DecisionTree.load("binary")
    cast = read_votes(votes, tree, columns={"answer": {"yes": "seen", "no": "unseen"}})
    campaign, imported = create(tmp_path / "c", tree, folder, cast)
    assert imported.votes == sum(range(12)) + 24
    assert campaign.votes == cast.align(campaign.subjects.subject_ids)


def test_two_runs_are_kept_and_the_newest_is_used(fresh: Path) -> None:
    greenpea("train", fresh, *QUICK, "--set", "learning.uncertainty=dropout", "--set", "learning.seed=5")
    campaign = Campaign.open(fresh)
    assert [run.name for run in campaign.runs] == ["0001", "0002"]
    assert campaign.model().settings.uncertainty == "dropout"
    assert campaign.model(campaign.runs[0]).settings.uncertainty == "laplace"


# ---- who is trained on -------------------------------------------------------------------------------


def test_roles_never_change_and_have_the_shares_asked_for() -> None:
    ids = np.array([f"galaxy {i}" for i in range(20_000)], dtype=object)
    role = roles(ids, Split(test=0.1, validation=0.2))
    assert (role == "test").mean() == pytest.approx(0.1, abs=0.01)
    assert (role == "validation").mean() == pytest.approx(0.2, abs=0.01)
    assert (roles(ids[::-1], Split(test=0.1, validation=0.2)) == role[::-1]).all()
    assert (roles(ids, Split(test=0.1, validation=0.2, salt="again")) != role).any()
    assert shares(["galaxy 0"])[0] == pytest.approx(0.6914741736348472)  # pinned: a subject's role must never change


# ---- bad input: one screen, the remedy, nothing half-written -----------------------------------------


def _table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "table.csv"
    path.write_text(text, encoding="utf-8")
    return path


def _images(folder: Path, count: int = 12, mode: str = "RGB") -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        shape = (24, 24, 3) if mode == "RGB" else (24, 24)
        Image.fromarray(rng.integers(0, 255, shape, np.uint8)).save(folder / f"g{i}.png")
    return folder


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,answer_yes,answer_no\na,1,2\n", ["has no", "image", "Its columns: id, answer_yes"]),
        ("id,image\na,x.png\na,y.png\n", ["row 3", "'a'", "row 2", "remove or merge"]),
        ("id,image\n", ["header but no rows"]),
        ("id,image,answer_yes,answer_no\na,x.png,-1,2\n", ["row 2", "'answer_yes'", "-1", "negative"]),
    ],
)
def test_bad_tables(text: str, words: list[str], tmp_path: Path) -> None:
    said = greenpea("init", tmp_path / "c", "--tree", "binary", "--subjects", _table(tmp_path, text), fails=True)
    assert all(word in said for word in words), said
    assert not (tmp_path / "c").exists()


def test_a_malformed_tree(tmp_path: Path) -> None:
    tree = tmp_path / "tree.json"
    tree.write_text(
        '{"name": "t", "questions": [{"slug": "q", "answers": [{"slug": "a", "next": "qq"}, {"slug": "b"}]}]}'
    )
    said = greenpea("init", tmp_path / "c", "--tree", tree, "--subjects", _images(tmp_path / "i"), fails=True)
    assert "'q' leads to 'qq', which does not exist" in said
    assert "no tree 'gz3' (did you mean 'gz2'?" in greenpea("tree", "show", "gz3", fails=True)


def test_a_question_with_some_of_its_columns_is_named(tmp_path: Path) -> None:
    _images(tmp_path / "i")
    text = "id,image,smooth-or-featured_smooth,smooth-or-featured_featured-or-disk,smooth-or-featured_artifact,bar_no\n"
    table = _table(tmp_path, text + "a,i/g0.png,4,1,0,1\n")
    said = greenpea("init", tmp_path / "c", "--tree", "gz-decals-5", "--subjects", table)
    assert "Question bar is left out: its answers weak, strong have no column" in said


def test_empty_votes_cannot_be_trained_on(tmp_path: Path) -> None:
    greenpea("init", tmp_path / "c", "--tree", "binary", "--subjects", _images(tmp_path / "i"))
    said = greenpea("train", tmp_path / "c", fails=True)
    assert "0 training and 0 validation subjects have votes" in said
    assert not (tmp_path / "c" / "runs").exists()


def test_unreadable_images_are_listed_and_skipped(fresh: Path, tmp_path: Path) -> None:
    broken = fresh / "images" / "sim-000002.png"
    broken.write_bytes(broken.read_bytes()[:60])
    (fresh / "images" / "sim-000003.png").unlink()
    said = greenpea("predict", fresh, "--out", tmp_path / "c.parquet")
    assert "2 images could not be read" in said
    assert "sim-000003: " in said
    assert "The catalogue of 238 subjects" in said
    listed = (tmp_path / "c.unreadable.csv").read_text()
    assert "sim-000002" in listed
    assert "sim-000003" in listed
    assert greenpea("train", fresh, *QUICK).count("could not be read") == 1


def test_images_without_a_single_pixel(fresh: Path, tmp_path: Path) -> None:
    nothing = tmp_path / "nan"
    nothing.mkdir()
    np.save(nothing / "a.npy", np.full((24, 24, 3), np.nan, np.float32))
    said = greenpea("predict", fresh, "--subjects", nothing, "--out", tmp_path / "c.parquet", fails=True)
    assert "none of the 1 images could be read" in said
    assert "NaN" in said
    assert not (tmp_path / "c.parquet").exists()


def test_mixed_channels(tmp_path: Path) -> None:
    folder = _images(tmp_path / "i")
    Image.fromarray(np.zeros((24, 24), np.uint8)).save(folder / "grey.png")
    rows = [f"{p.stem},i/{p.name},1,1" for p in sorted(folder.iterdir())]
    table = _table(tmp_path, "id,image,answer_yes,answer_no\n" + "\n".join(rows) + "\n")
    greenpea("init", tmp_path / "c", "--tree", "binary", "--subjects", table, "--set", "split.test=0")
    said = greenpea("train", tmp_path / "c", fails=True)
    assert "images.channels=3" in said
    assert "grey" in said


def test_a_truncated_checkpoint(fresh: Path, tmp_path: Path) -> None:
    numbers = fresh / "runs" / "0001" / "model.safetensors"
    numbers.write_bytes(numbers.read_bytes()[:1000])
    said = greenpea("predict", fresh, "--out", tmp_path / "c.parquet", fails=True)
    assert "is damaged" in said
    assert "train anew" in said
    assert not (tmp_path / "c.parquet").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["info", "nowhere"], "not a campaign"),
        (["train", "{c}", "--set", "learning.epoch=3"], "no setting 'learning.epoch' (did you mean 'learning.epochs'?"),
        (["train", "{c}", "--set", "learning.epochs=0"], "learning.epochs = 0"),
        (["train", "{c}", "--set", "learning.uncertainty=laplas"], "learning.uncertainty = 'laplas'"),
        (["train", "{c}", "--set", "images.size.big=3"], "'size' is a setting, not a section"),
        (["predict", "{c}", "--set", "learning.epochs=9"], "a trained model keeps its own"),
        (["evaluate", "{c}", "--folds", "2", "--votes", "v.csv"], "leave out --votes"),
        (["evaluate", "{c}", "--from", "{c}"], "--from goes with --folds"),
        (["evaluate", "{c}", "--folds", "2", "--from", "{c}"], "has learned from some of these subjects"),
        (["evaluate", "{c}", "--folds", "900"], "900 folds of 240 subjects"),
        (["train", "{c}", "--set", "epochs"], "write section.key=value"),
        (["predict", "{c}", "--out", "c.xlsx"], "written as .parquet, .fits"),
        (["predict", "{c}", "--model", "{c}"], "not a checkpoint"),
        (["simulate", "{c}"], "is not empty"),
        (["evaluate", "{c}", "--votes", "none.csv"], "there is no file"),
    ],
)
def test_wrong_words_get_the_right_ones(words: list[str], expected: str, simulated: Path) -> None:
    assert expected in greenpea(*(word.replace("{c}", str(simulated)) for word in words), fails=True)


def test_a_misspelt_setting_in_the_file(fresh: Path) -> None:
    toml = fresh / "campaign.toml"
    toml.write_text(toml.read_text().replace("[images]\nsize", "[images]\nsise"))
    assert "did you mean 'images.size'?" in greenpea("train", fresh, fails=True)
    toml.write_text("[images\n")
    assert "is not TOML" in greenpea("train", fresh, fails=True)


@pytest.mark.parametrize(
    "command",
    ["init", "simulate", "train", "predict", "evaluate", "info", "demo",
     "tree list", "tree show", "tree check", "tree import"],
)  # fmt: skip
def test_every_command_has_examples_in_its_help(command: str) -> None:
    said = greenpea(*command.split(), "--help")
    assert "Examples:" in said
    assert f"greenpea {command}" in said


def test_trees_on_the_command_line(tmp_path: Path) -> None:
    assert "gz-decals-5" in greenpea("tree", "list")
    assert "Is there any sign of a spiral arm pattern?" in greenpea("tree", "show", "gz2")
    assert "11 questions, 37 answers" in greenpea("tree", "check", "gz2")


def test_settings_come_back_from_their_own_file(simulated: Path) -> None:
    from greenpea.settings import Settings

    settings = Campaign.open(simulated).settings
    assert Settings.of(tomllib.loads(settings.to_toml())) == settings
    assert settings.images.size == 32


@pytest.mark.data
def test_real_galaxies_and_photographs_can_be_imported(data_folder: Path, tmp_path: Path) -> None:
    said = greenpea("init", tmp_path / "gz2", "--tree", "gz2", "--subjects", data_folder / "gz2" / "votes.csv")
    assert "300 subjects, 300 of them" in said
    assert "26 subjects have a few more votes" in said
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    tree = {"name": "cifar", "questions": [{"slug": "object", "answers": [{"slug": name} for name in classes]}]}
    (tmp_path / "tree.json").write_text(json.dumps(tree))
    table = data_folder / "cifar10h" / "test.parquet"
    said = greenpea("init", tmp_path / "cifar", "--tree", tmp_path / "tree.json", "--subjects", table)
    assert "8,000 subjects, 8,000 of them" in said
    assert "32 × 32" in said


def test_votes_on_none_of_the_subjects_are_refused_and_those_of_another_tree_are_told(tmp_path: Path) -> None:
    for name in "ab":
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / f"{name}.png")
    table = tmp_path / "t.csv"
    table.write_text(
        "id,image,smooth-or-features_smooth,smooth-or-features_features-or-disk,"
        "smooth-or-features_star-or-artifact\nx,a.png,1,2,0\ny,b.png,2,1,0\n"
    )
    with pytest.raises(GreenpeaError, match=r"none of the 2 subjects .*'x'.*is among the 2 .*'a'.*--id-column"):
        create(tmp_path / "c", "gz2", tmp_path, votes=table)
    assert not (tmp_path / "c").exists()
    _, imported = create(tmp_path / "d", "binary", table)
    assert imported.note == "its columns hold votes on the tree gz2, not on binary"


def test_columns_that_only_tell_of_votes_are_said_not_to_be_counts(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    for tree, column in (("gz2", "t01_smooth_or_features_a01_smooth_debiased"), ("binary", "answer_yes")):
        (tmp_path / "t.csv").write_text(f"id,image,{column}\nx,a.png,0.4\n")
        _, imported = create(tmp_path / tree, tree, tmp_path / "t.csv")
        assert imported.with_votes == 0
        assert f"columns about votes (1, such as '{column}'), but of no question every" in imported.note

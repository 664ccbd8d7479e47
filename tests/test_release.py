"""A release: what the folder holds, that its words follow its numbers, and what is refused before that."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from astropy.table import Table
from rich.text import Text
from typer.main import get_command
from typer.testing import CliRunner

from greenpea.campaign import Campaign
from greenpea.cli import app
from greenpea.creation import simulate
from greenpea.errors import GreenpeaError
from greenpea.learning import checkpoint
from greenpea.release import Released, published, release

TODAY = date(2026, 5, 1)
QUICK = ["learning.epochs=2", "learning.width=8", "learning.precision=32-true", "learning.draws=4"]
PUBLISHED = [
    'release.title="Rings | of <b>sky</b>"',
    'release.authors=["Doe, Jane", "The: Pea Team"]',
    'release.licence="CC-BY-4.0"',
    'release.doi="10.5281/zenodo.1"',
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A campaign of simulated galaxies with a model of seconds."""
    folder = tmp_path_factory.mktemp("releases") / "sky"
    simulate(folder, 150, 8, 24, 5)
    Campaign.open(folder, QUICK).train()
    return folder


@pytest.fixture(scope="module")
def campaign(trained: Path) -> Campaign:
    return Campaign.open(trained, [*QUICK, *PUBLISHED])


@pytest.fixture(scope="module")
def released(campaign: Campaign) -> Released:
    return release(campaign, campaign.folder.parent / "released", TODAY)


def test_everything_is_there_and_the_checksums_hold(released: Released) -> None:
    there = {str(path.relative_to(released.folder)) for path in released.folder.rglob("*") if path.is_file()}
    assert there == set(released.files)
    assert {"README.md", "data-card.md", "model-card.md", "catalogue.parquet", "catalogue.fits"} <= there
    assert {"checkpoint/model.safetensors", "figures/reliability.png", "evaluation.json", "report.html"} <= there
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=released.folder, capture_output=True, check=False)
    assert done.returncode == 0
    listed = (released.folder / "SHA256SUMS").read_text().splitlines()
    assert len(listed) == len(there) - 1


def test_both_catalogues_say_the_same(released: Released) -> None:
    told = pq.read_table(released.folder / "catalogue.parquet")
    table = Table.read(released.folder / "catalogue.fits", unit_parse_strict="silent")
    assert len(table) == len(told) == released.subjects == 150
    np.testing.assert_array_equal(table["bar_strong_p95"], told["bar_strong_p95"].to_numpy())


def test_the_checkpoint_is_the_one_that_made_it(released: Released) -> None:
    model = checkpoint.load(released.folder / "checkpoint")
    assert pq.read_schema(released.folder / "catalogue.parquet").metadata[b"greenpea.model"] == (
        model.fingerprint().encode()
    )
    assert model.fingerprint() in (released.folder / "model-card.md").read_text()


def test_the_cards_follow_the_numbers(released: Released) -> None:
    card = (released.folder / "model-card.md").read_text()
    scores = json.loads((released.folder / "evaluation.json").read_text())
    for slug, score in scores["questions"].items():
        (row,) = (line for line in card.splitlines() if line.startswith(f"| {slug} |"))
        assert f"| {score['subjects']:,} |" in row
        assert f"{score['gain']['value']:.3f}".replace("-", "−") in row
    for picture in re.findall(r"\]\((figures/.+?)\)", card):
        assert (released.folder / picture).is_file()
    assert "Simulated" in card
    assert "Simulated" in (released.folder / "README.md").read_text()


def test_names_are_not_markup(released: Released) -> None:
    for name in ("README.md", "data-card.md", "model-card.md"):
        first = (released.folder / name).read_text().splitlines()[0]
        assert r"Rings \| of &lt;b>sky&lt;/b>" in first


def test_the_citation_is_yaml_with_what_was_said(released: Released) -> None:
    told = yaml.safe_load((released.folder / "CITATION.cff").read_text())
    assert told["cff-version"] == "1.2.0"
    assert told["title"] == "Rings | of <b>sky</b>"
    assert told["authors"] == [{"family-names": "Doe", "given-names": "Jane"}, {"name": "The: Pea Team"}]
    assert (told["license"], told["doi"], told["date-released"]) == ("CC-BY-4.0", "10.5281/zenodo.1", TODAY)
    citation = pq.read_schema(released.folder / "catalogue.parquet").metadata[b"greenpea.citation"].decode()
    assert citation.startswith("Doe, Jane; The: Pea Team. Rings")


def _roles(released: Released) -> dict[str, tuple[str, bool]]:
    with (released.folder / "subjects.csv").open(newline="") as file:
        return {row["subject_id"]: (row["role"], row["learned_from"] == "true") for row in csv.DictReader(file)}


def test_judges_are_in_the_catalogue_and_their_votes_are_not(campaign: Campaign, released: Released) -> None:
    roles = _roles(released)
    assert set(roles) == set(campaign.subjects.subject_ids)
    judges = {subject for subject, (role, _) in roles.items() if role in ("test", "audit")}
    assert judges
    assert not any(learned for subject, (_, learned) in roles.items() if subject in judges)
    published = set(pq.read_table(released.folder / "votes.parquet")["subject_id"].to_pylist())
    assert published == set(roles) - judges
    card = (released.folder / "data-card.md").read_text()
    assert "Their votes are not in this folder" in card
    assert f"those of the\n{len(published)} training" in card


def test_votes_in_the_table_of_subjects_are_kept_back_too(trained: Path, campaign: Campaign, tmp_path: Path) -> None:
    first = f"{campaign.tree.first}_{campaign.tree[campaign.tree.first].answer_slugs[0]}"
    told = [first, f"{first}_fraction", f"decals_{first}_debiased", "t01_smooth_or_features_a01_smooth_weight"]
    folder = shutil.copytree(trained, tmp_path / "sky")
    table = pq.read_table(folder / "subjects.parquet")
    for name in [*told, "ra"]:
        table = table.append_column(name, pa.array(np.arange(len(table), dtype=np.float64)))
    pq.write_table(table, folder / "subjects.parquet")
    both = Campaign.open(folder, campaign.overrides)
    whole = both.predict(tmp_path / "whole.parquet").out
    for catalogue in (None, whole):
        done = release(both, tmp_path / f"out-{catalogue is None}", TODAY, catalogue=catalogue)
        published = pq.read_schema(done.folder / "catalogue.parquet")
        added = {*told, f"subject_{first}_fraction"} & set(pq.read_schema(whole).names)
        assert set(pq.read_schema(whole).names) - set(published.names) == added - {f"{first}_fraction"}
        assert "ra" in published.names
        assert f'name="{told[2]}"' not in published.metadata[b"IVOA.VOTable-Parquet.content"].decode()
        assert "whole.parquet" not in done.files
    open_ = release(_with_votes(both, "all"), tmp_path / "all", TODAY, catalogue=whole)
    assert pq.read_table(open_.folder / "catalogue.parquet").equals(pq.read_table(whole), check_metadata=True)


def _with_votes(campaign: Campaign, chosen: str) -> Campaign:
    return Campaign.open(campaign.folder, [*campaign.overrides, f"release.votes={chosen}"])


def test_all_votes_are_published_where_that_is_asked_for(
    campaign: Campaign, released: Released, tmp_path: Path
) -> None:
    catalogue = released.folder / "catalogue.parquet"
    done = release(_with_votes(campaign, "all"), tmp_path / "out", TODAY, catalogue=catalogue)
    assert "are in `votes.parquet`" in (done.folder / "data-card.md").read_text()
    assert len(pq.read_table(done.folder / "votes.parquet")) == 150
    # The catalogue was taken as it stood.
    assert pq.read_table(done.folder / "catalogue.parquet").equals(pq.read_table(catalogue))


def test_no_votes_are_published_where_none_shall_be(campaign: Campaign) -> None:
    seen = campaign.model().learned_from
    assert len(published(_with_votes(campaign, "none"), seen)) == 0
    assert len(published(campaign, seen)) == len(seen)


# ---- what is refused ---------------------------------------------------------------------------------


def test_all_that_is_missing_is_said_at_once(trained: Path, tmp_path: Path) -> None:
    empty = Path(shutil.copytree(trained, tmp_path / "empty", ignore=shutil.ignore_patterns("runs")))
    with pytest.raises(GreenpeaError) as told:
        release(Campaign.open(empty), tmp_path / "out", TODAY)
    for words in ("a title: write", "authors: write", "a licence: write", "a model: run 'greenpea train"):
        assert words in str(told.value)
    assert not (tmp_path / "out").exists()


def test_without_judges_nothing_is_published(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "sky"))
    known = json.loads((folder / "runs" / "0001" / "subjects.json").read_text())
    votes = pq.read_table(folder / "votes.parquet")
    pq.write_table(
        votes.filter(np.isin(votes["subject_id"].to_numpy(zero_copy_only=False), known)), folder / "votes.parquet"
    )
    with pytest.raises(GreenpeaError, match="never seen, to judge it by: 0 subjects have any"):
        release(Campaign.open(folder, PUBLISHED), tmp_path / "out", TODAY)


def test_another_models_catalogue_is_refused(campaign: Campaign, released: Released, tmp_path: Path) -> None:
    table = pq.read_table(released.folder / "catalogue.parquet")
    told = dict(table.schema.metadata) | {b"greenpea.model": b"f00d"}
    pq.write_table(table.replace_schema_metadata(told), tmp_path / "other.parquet")
    with pytest.raises(GreenpeaError, match="was made by the model f00d"):
        release(campaign, tmp_path / "out", TODAY, catalogue=tmp_path / "other.parquet")
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_left_alone(campaign: Campaign, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(GreenpeaError, match="not empty"):
        release(campaign, tmp_path, TODAY)
    assert (tmp_path / "letter.txt").read_text() == "mine"


def test_the_command_says_what_is_missing(trained: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["release", str(trained), "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, GreenpeaError)
    assert "authors" in str(done.exception)


def test_no_words_of_the_help_are_taken_for_markup() -> None:
    commands = [get_command(app)]
    for command in commands:
        commands += getattr(command, "commands", {}).values()
    for command in commands[1:]:
        assert Text.from_markup(command.help or "").plain == (command.help or "")

"""`greenpea compare` on a small simulated campaign, by the command line; what it keeps, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from greenpea import comparison
from greenpea.campaign import Campaign
from greenpea.cli import app
from greenpea.creation import simulate
from greenpea.errors import GreenpeaError

METHODS = "laplace,dropout,ensemble,variational"
SMALL = [
    "learning.epochs=3",
    "learning.width=4",
    "learning.draws=4",
    "learning.members=2",
    "learning.precision=32-true",
]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("compare") / "sky"
    simulate(folder, 120, 10, 24, 0)
    sets = [word for one in SMALL for word in ("--set", one)]
    result = CliRunner().invoke(app, ["compare", str(folder), "--methods", METHODS, *sets], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return folder, result.output


def test_one_table_one_page_and_the_figures(compared: tuple[Path, str]) -> None:
    folder, output = compared
    page = (folder / "comparison" / "comparison.html").read_text()
    figures = json.loads((folder / "comparison" / "comparison.json").read_text())
    assert list(figures["methods"]) == METHODS.split(",")
    assert figures["simulated"] is True
    assert "Simulated data." in page
    assert page.count("<svg") == 1 + 4
    passes = {name: figures["methods"][name]["encoder_passes"] for name in figures["methods"]}
    assert passes == {"laplace": 1, "dropout": 1, "ensemble": 2, "variational": 4}
    for name, found in figures["methods"].items():
        assert name in output
        assert found["overall"]["subjects"] == figures["subjects"]
        assert found["overall"]["coverage"]["90"] != 0
        assert found["learning_seconds"] > 0
        excess = found["overall"]["excess"]["value"]
        saved = figures["methods"]["laplace"]["overall"]["excess"]["value"] - excess
        assert found["saves_over_first"]["value"] == pytest.approx(saved, abs=1e-9)


def test_nothing_is_trained_twice(compared: tuple[Path, str]) -> None:
    folder, _ = compared
    kept = {path: path.stat().st_mtime_ns for path in (folder / "comparison" / "networks").rglob("model.json")}
    assert len(kept) == 2 + 4  # two networks, the second for the ensemble alone; and four methods
    stages: list[str] = []
    again = comparison.compare(
        Campaign.open(folder, SMALL), METHODS.split(","), report=lambda stage, share, words: stages.append(stage)
    )
    assert not any("training" in stage for stage in stages)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    figures = json.loads((folder / "comparison" / "comparison.json").read_text())
    for one in again.methods:
        assert figures["methods"][one.name]["overall"]["excess"]["value"] == one.score.excess.value
    new = Campaign.open(folder, [*SMALL, "learning.seed=5"])
    comparison.compare(new, ["dropout"], report=lambda stage, share, words: stages.append(stage))
    assert any("training" in stage for stage in stages)  # other settings


def test_what_cannot_be_compared_is_said(compared: tuple[Path, str]) -> None:
    folder, _ = compared
    with pytest.raises(GreenpeaError, match=r"no uncertainty method 'laplac' \(did you mean 'laplace'"):
        comparison.compare(Campaign.open(folder, SMALL), ["laplac"])
    with pytest.raises(GreenpeaError, match="name at least one"):
        comparison.compare(Campaign.open(folder, SMALL), [])
    with pytest.raises(GreenpeaError, match="choose one of laplace, dropout, bootstrap"):
        comparison.compare(Campaign.open(folder, [*SMALL, "learning.freeze=true"]), ["ensemble"])


@pytest.mark.parametrize("name", ["ensemble", "encoder-dropout"])
def test_a_campaign_trains_predicts_and_evaluates_with_any_method(
    name: str, compared: tuple[Path, str], tmp_path: Path
) -> None:
    folder, _ = compared
    campaign = Campaign.open(folder, [*SMALL, "learning.epochs=1", f"learning.uncertainty={name}"])
    run, model = campaign.train()
    found = {}
    for part in (30, 1024):
        out = tmp_path / f"{part}.parquet"
        blocks = Campaign.open(folder, [*SMALL, f"catalogue.part={part}"])
        assert blocks.predict(out, model=run).subjects == 120
        found[part] = pq.read_table(out)
    # In blocks of any size, by as many passes as it takes; information is simulated, in each block anew.
    same = [name for name in found[30].column_names if name.endswith("fraction") or "_doubt_" in name]
    assert "bar_doubt_weights" in same
    assert found[30].select(same).equals(found[1024].select(same))
    judged = campaign.evaluate(model=run)
    assert judged.posterior.draws == 4
    assert judged.model.fingerprint() == model.fingerprint()

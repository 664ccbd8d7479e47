"""Settings: one commented file, every misspelling met with what was meant, overrides that last."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from greenpea.cli import app
from greenpea.errors import GreenpeaError
from greenpea.settings import Settings, known_keys


def test_the_commented_file_reads_back_as_it_was(tmp_path: Path) -> None:
    chosen = ["images.extensions=['SCI', 2]", "fetching.timeout=3", "learning.epochs=7", "images.bands=[2, 0]"]
    settings = Settings().override(chosen)
    assert settings.images.extensions == ("SCI", 2)
    (tmp_path / "campaign.toml").write_text(settings.to_toml(), encoding="utf-8")
    assert Settings.load(tmp_path / "campaign.toml") == settings
    for key in known_keys():
        if "." in key:
            assert f"{key.partition('.')[2]} = " in settings.to_toml(), key


def test_every_setting_says_what_it_means() -> None:
    for line in Settings().to_toml().splitlines():
        assert not line or line.startswith(("[", "# The settings")) or line.lstrip("# ").partition("#")[2], line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[lerning]\nepochs = 5\n", "there is no setting 'lerning' (did you mean 'learning'?"),
        ("[learning]\nepoch = 5\n", "there is no setting 'learning.epoch' (did you mean 'learning.epochs'?"),
        ("[learning]\nsize = 5\n", "there is no setting 'learning.size' (did you mean 'images.size'?"),
        ("[fetching]\ntimout = 5\n", "there is no setting 'fetching.timout' (did you mean 'fetching.timeout'?"),
        ("[learning]\nepochs = 0\n", "learning.epochs = 0"),
        ("[images]\nsize = 'large'\n", "images.size = 'large'"),
        ("images = 3\n", "images = 3"),
        ("[images\n", "is not TOML"),
    ],
)
def test_a_mistake_names_the_file_the_key_and_the_remedy(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "campaign é.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(GreenpeaError) as caught:
        Settings.load(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs=5", "write section.key=value, such as learning.epochs=50 (did you mean 'learning.epochs'?"),
        ("learning.epochs", "write section.key=value"),
        ("learnin.epochs=5", "there is no setting 'learnin' (did you mean 'learning'?"),
        ("workers=5", "did you mean 'catalogue.workers'?"),
    ],
)
def test_an_override_that_is_none_says_what_was_meant(override: str, message: str) -> None:
    with pytest.raises(GreenpeaError) as caught:
        Settings().override([override])
    assert message in str(caught.value)


def test_overrides_of_a_new_campaign_stand_in_its_file(tmp_path: Path) -> None:
    line = ["simulate", str(tmp_path / "c"), "--subjects", "4", "--votes", "0", "--size", "16"]
    done = CliRunner().invoke(app, [*line, "--set", "learning.epochs=3", "--set", "catalogue.votes=12"])
    assert done.exit_code == 0, done.output
    settings = Settings.load(tmp_path / "c" / "campaign.toml")
    assert (settings.learning.epochs, settings.catalogue.votes, settings.images.size) == (3, 12, 16)


def test_text_that_looks_like_a_number_stays_text_and_faults_name_the_key_alone() -> None:
    assert Settings().override(["release.version=1.10", "release.title=2024"]).release.version == "1.10"
    assert Settings().override(['release.version="2"']).release.version == "2"
    with pytest.raises(GreenpeaError, match=r"^--set: learning.epochs = -3: Input should be greater"):
        Settings().override(["learning.epochs=-3"])
    with pytest.raises(GreenpeaError, match=r"release.authors = 'Doe, Jane': Input should be a list, such as"):
        Settings().override(["release.authors=Doe, Jane"])


def test_the_file_is_not_blamed_for_an_override_and_a_setting_is_named_once(tmp_path: Path) -> None:
    path = tmp_path / "campaign.toml"
    path.write_text("[learning]\nepochs = 7\n")
    assert Settings.load(path, ["learning.draws=5"]).learning.epochs == 7
    with pytest.raises(GreenpeaError, match=r"^--set: learning.epochs = 'many': Input .* integer.*; or .*'auto'$"):
        Settings.load(path, ["learning.epochs=many"])
    path.write_text("[learning]\nepochs = -1\n")
    with pytest.raises(GreenpeaError, match=r"campaign\.toml: learning.epochs = -1"):
        Settings.load(path)


def test_a_licence_is_one_of_spdx_and_a_doi_looks_like_one() -> None:
    mended = Settings().override(["release.licence=cc-by-4.0", "release.doi=https://doi.org/10.5281/zenodo.77"]).release
    assert (mended.licence, mended.doi) == ("CC-BY-4.0", "10.5281/zenodo.77")
    with pytest.raises(GreenpeaError, match=r"release.licence = 'CCBY': SPDX has no such licence: .*such as CC-BY-4.0"):
        Settings().override(["release.licence=CCBY"])
    with pytest.raises(GreenpeaError, match=r"release.doi = 'nonsense': a DOI looks like 10\."):
        Settings().override(["release.doi=nonsense"])

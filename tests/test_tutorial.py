"""The tutorial from top to bottom, its commands, its Python and what it shows; the examples of the guides."""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from PIL import Image

from greenpea.cli import app
from greenpea.settings import Settings

DOCS = Path(__file__).parent.parent / "docs"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)


def _blocks(page: str) -> list[tuple[str, str]]:
    """Return (language, text) of a page's fenced blocks, in order."""
    return BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))


def _run(line: str) -> str:
    """Run one line of the command line in this process, and return what it printed."""
    with redirect_stdout(io.StringIO()) as said:
        app(shlex.split(line.partition("#")[0])[1:], standalone_mode=False)
    return said.getvalue()


def _words(text: str) -> str:
    """Return text without what differs from machine to machine: numbers, their signs, and where lines end."""
    return " ".join(re.sub(r"[+-]?\d[\d,.]*", "#", text).split())


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[tuple[str, str]]]]:
    """The folder in which the tutorial was gone through, and (what the page shows, what was printed) on the way."""
    folder, compared = tmp_path_factory.mktemp("tutorial"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        names: dict[str, object] = {}
        said = ""
        for language, text in _blocks("tutorial.md"):
            if language == "console":
                said = "".join(_run(line) for line in text.splitlines() if line.startswith("greenpea "))
            elif language == "text":
                compared.append((text, said))
            elif language == "python":
                exec(compile(text, "docs/tutorial.md", "exec"), names)
        yield folder, compared


def test_the_tutorial_runs_and_ends_in_a_catalogue(done: tuple[Path, list[tuple[str, str]]]) -> None:
    folder, _ = done
    for name in ("catalogue.fits", "catalogue.parquet", "mine/report.html", "mine/runs/0001/model.json"):
        assert (folder / name).is_file(), name


def test_the_tutorial_shows_what_is_printed(done: tuple[Path, list[tuple[str, str]]]) -> None:
    _, compared = done
    assert len(compared) == 5
    for shown, said in compared:
        printed = _words(said)
        for line in shown.splitlines():
            assert _words(line) in printed, line


def test_the_examples_about_columns_run_on_it(
    done: tuple[Path, list[tuple[str, str]]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(done[0])
    for text in (text for language, text in _blocks("catalogue.md") if language == "python"):
        exec(compile(text, "docs/catalogue.md", "exec"), {})
        # What a comment behind a print says is what is printed.
        for told in re.findall(r"^print\(.*\)  # (.+)$", text, flags=re.MULTILINE):
            assert told in capsys.readouterr().out.splitlines() or told in text
    assert "nat" in capsys.readouterr().out


def test_the_page_of_columns_names_what_the_file_says(done: tuple[Path, list[tuple[str, str]]]) -> None:
    import pyarrow.parquet as pq

    from greenpea.converting import FORMATS, Catalogue

    said = (DOCS / "catalogue.md").read_text(encoding="utf-8")
    assert b"IVOA.VOTable-Parquet.content" in pq.read_schema(done[0] / "catalogue.parquet").metadata
    for key in Catalogue.open(done[0] / "catalogue.parquet").about:
        assert f"`{key}`" in said.partition("## What the file says of itself")[2], key
    for ending in FORMATS:
        assert f"| `{ending}` |" in said


def test_own_methods_run() -> None:
    names: dict[str, object] = {}
    for text in (text for language, text in _blocks("plug-points.md") if language == "python"):
        exec(compile(text, "docs/plug-points.md", "exec"), names)


def test_a_fits_file_is_drawn_as_volunteers_see_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    light = np.random.default_rng(0).gamma(2.0, 3.0, (150, 150)).astype(np.float32)
    fits.PrimaryHDU(light).writeto(tmp_path / "galaxy.fits")
    (code,) = (text for language, text in _blocks("how-to/fits.md") if language == "python")
    exec(compile(code, "docs/how-to/fits.md", "exec"), {})
    with Image.open(tmp_path / "galaxy.png") as picture:
        assert picture.size == (128, 128)


def test_the_settings_for_fits_are_settings() -> None:
    import tomllib

    (block,) = (text for language, text in _blocks("how-to/fits.md") if language == "toml")
    images = Settings.of(tomllib.loads(block)).images
    assert (images.extensions, images.bands) == (("G", "R", "Z"), (2, 1, 0))


def test_a_table_of_labels_is_read_as_votes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table of the guide for few labels, and the same with a galaxy that has none."""
    monkeypatch.chdir(tmp_path)
    (table,) = (text for language, text in _blocks("how-to/hundred-labels.md") if language == "csv")
    (tmp_path / "labels.csv").write_text(table + "g3,cutouts/g3.png,,\n")
    (tmp_path / "cutouts").mkdir()
    for number in (1, 2, 3):
        Image.new("RGB", (70, 70), (number * 50, 0, 0)).save(tmp_path / "cutouts" / f"g{number}.png")
    said = _run("greenpea init rings --tree binary --subjects labels.csv --set images.size=64")
    assert "3 subjects, 2 of them with 2 replies" in " ".join(said.split())

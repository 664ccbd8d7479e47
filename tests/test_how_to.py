"""The guides to images and votes: every command, example, setting and table in them, run."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from PIL import Image
from typer.testing import CliRunner

from greenpea.cli import app
from greenpea.settings import Settings

GUIDES = Path(__file__).parent.parent / "docs" / "how-to"
RNG = np.random.default_rng(0)


def blocks(page: str, language: str) -> list[str]:
    text = (GUIDES / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def run(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the page's commands and its Python in a folder, and return what the commands said."""
    monkeypatch.chdir(folder)
    said = ""
    for line in filter(None, "\n".join(blocks(page, "console")).splitlines()):
        done = CliRunner().invoke(app, shlex.split(line)[1:])
        assert done.exit_code == 0, f"{line}: {done.output} {done.exception}"
        said += f"{line}\n{' '.join(done.output.split())}\n"
    for code in blocks(page, "python"):
        exec(compile(code, page, "exec"), {})
    return said


def draw(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 255, (24, 24, 3), np.uint8)).save(path)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *values: object) -> None:
        """Nothing is said."""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A server of the files in the folder."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_the_guide_to_images(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GREENPEA_CACHE", str(tmp_path / "cache"))
    names = [f"Feld 1/Galaxie é {index}.png" for index in range(6)]
    for name in names:
        draw(tmp_path / "cutouts" / name)
    files = [f"cutouts/{name}" for name in names]
    Table({"id": names, "image": files, "ra": np.arange(6.0)}).write(tmp_path / "galaxies.vot", format="votable")
    for index in range(6):
        for band in "grz":
            fits.PrimaryHDU(RNG.normal(0, 1, (20, 20)).astype(np.float32)).writeto(tmp_path / f"{index}{band}.fits")
    rows = [f"{index}," + ",".join(f"{index}{band}.fits" for band in "grz") for index in range(6)]
    (tmp_path / "bands.csv").write_text("id,g_file,r_file,z_file\n" + "\n".join(rows) + "\n")
    rows = [f"{index},{address}/{index}g.fits" for index in range(6)]
    (tmp_path / "addresses.csv").write_text("id,url\n" + "\n".join(rows) + "\n")
    said = run("images.md", tmp_path, monkeypatch)
    assert said.count("6 subjects, without votes yet") == 5
    assert "6 subjects are in 1 shards" in said
    assert "(6, 3, 32, 32) () 0 missing pixels filled" in capsys.readouterr().out
    for block in blocks("images.md", "toml"):
        Settings.of(tomllib.loads(block))
    shown = tomllib.loads(blocks("images.md", "toml")[1])
    assert Settings.of(shown) == Settings()  # the page tells the defaults


def test_the_guide_to_votes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counts, fractions, replies = blocks("votes.md", "csv")
    for name, text in (("counts", counts), ("fractions", fractions), ("replies", replies)):
        (tmp_path / f"{name}.csv").write_text(text, encoding="utf-8")
    for subject in ("J1000+02", "J1001+02"):
        draw(tmp_path / f"{subject}.png")
        draw(tmp_path / "pictures" / f"{subject}.png")
    (tmp_path / "mine.csv").write_text("galaxy,is_spiral,is_not\na,3,1\n")
    said = run("votes.md", tmp_path, monkeypatch)
    assert said.count("2 subjects, 2 of them with 80 replies") == 2
    assert "Note: votes are fractions × totals, rounded to whole votes: smooth-or-featured" in said
    assert "2 subjects, 2 of them with 3 replies" in said
    assert "1 replies of a volunteer to a question answered before are left out" in said
    assert "[[3 1]]" in capsys.readouterr().out

"""What the documents say is true: examples run, files exist, commands are described."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command

from greenpea.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def _fenced(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the table of images and votes that the README's example reads."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    lines = ["id,image,answer_yes,answer_no"]
    for i in range(120):
        Image.fromarray(rng.integers(0, 255, (24, 24, 3), np.uint8)).save(tmp_path / f"{i}.png")
        lines.append(f"g{i},{i}.png,{i % 9},{8 - i % 9}")
    (tmp_path / "votes.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.mark.parametrize("index", range(len(_fenced(ROOT / "README.md", "python"))))
def test_readme_examples_run(index: int, workplace: Path) -> None:
    exec(compile(_fenced(ROOT / "README.md", "python")[index], f"README example {index + 1}", "exec"), {})
    if index == 0:
        assert (workplace / "catalogue.parquet").is_file()


def test_every_command_the_documents_name_exists() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    trees = commands["tree"].commands
    for page in PAGES:
        for word, second in re.findall(r"greenpea (\w+)(?: (\w+))?", "\n".join(_fenced(page, "console"))):
            assert word in commands, f"{page.name}: greenpea {word}"
            assert word != "tree" or second in trees, f"{page.name}: greenpea tree {second}"


def test_every_command_is_in_the_readme_or_the_changelog() -> None:
    said = (ROOT / "README.md").read_text() + (ROOT / "CHANGELOG.md").read_text()
    for name in get_command(app).commands:  # type: ignore[attr-defined]
        if name != "info":
            assert f"greenpea {name}" in said, name


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_architecture_names_every_room() -> None:
    said = (ROOT / "docs" / "architecture.md").read_text()
    for path in (ROOT / "src" / "greenpea").iterdir():
        if path.name.startswith("_") or path.name in {"py.typed", "errors.py", "files.py"}:
            continue
        assert path.name in said, path.name


def test_makefile_targets_the_readme_names_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", "\n".join(_fenced(ROOT / "README.md", "console")), flags=re.MULTILINE):
        assert f"\n{target}:" in makefile

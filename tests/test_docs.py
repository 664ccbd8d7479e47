"""What the documents say is true: examples run, files exist, commands, settings and variables are described."""

from __future__ import annotations

import ast
import importlib.util
import re
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import griffe
import numpy as np
import pytest
import yaml
from PIL import Image
from typer.main import get_command

from greenpea.cli import app
from greenpea.settings import Settings, Site
from site_hands import make_site, serving

ROOT = Path(__file__).parent.parent
FILES = {"trees", "templates"}  # folders without code: the line of what reads them names them
SITE = "http://localhost:8000"
DOCS = ROOT / "docs"
PAGES = [*(ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING")), *sorted(DOCS.rglob("*.md"))]


def _hooks() -> Any:
    """Return the module with which MkDocs makes pages of the code."""
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hooks = _hooks()
GENERATED = hooks.generated()


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


def _examples() -> list[str]:
    return [code for code in _fenced(ROOT / "README.md", "python") if SITE not in code]


@pytest.mark.parametrize("index", range(len(_examples())))
def test_readme_examples_run(index: int, workplace: Path) -> None:
    exec(compile(_examples()[index], f"README example {index + 1}", "exec"), {})
    if index == 0:
        assert (workplace / "catalogue.parquet").is_file()


def test_the_readmes_volunteer_classifies(tmp_path: Path) -> None:
    (code,) = (code for code in _fenced(ROOT / "README.md", "python") if SITE in code)
    application, store = make_site(tmp_path, subjects=12)
    with serving(application) as url:
        exec(compile(code.replace(SITE, url), "README, the client", "exec"), {})
    assert store.statistics.overview(datetime.now(UTC)).counted == 10
    store.close()


# ---- commands ----------------------------------------------------------------------------------------


def _commands(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every command with its words, such as "tree list"; groups as well."""
    for name, command in getattr(group, "commands", {}).items():
        yield before + name, command
        yield from _commands(command, f"{before}{name} ")


COMMANDS = dict(_commands(get_command(app)))
GROUPS = {words for words, command in COMMANDS.items() if hasattr(command, "commands")}


def _named_in(page: Path) -> Iterator[str]:
    """Yield what stands after `greenpea` on each line of the page's shell examples."""
    for line in "\n".join(_fenced(page, "console") + _fenced(page, "sh")).splitlines():
        if line.startswith("greenpea "):
            yield line.partition("#")[0].removeprefix("greenpea ").strip()


def test_every_command_the_documents_name_exists() -> None:
    for page in PAGES:
        for line in _named_in(page):
            words = line.split()
            assert words[0] in COMMANDS, f"{page.name}: greenpea {line}"
            assert words[0] not in GROUPS or " ".join(words[:2]) in COMMANDS, f"{page.name}: greenpea {line}"


def test_every_option_the_documents_name_exists() -> None:
    for page in PAGES:
        for line in _named_in(page):
            command = COMMANDS[" ".join(line.split()[: 2 if line.split()[0] in GROUPS else 1])]
            known = {option for parameter in command.params for option in parameter.opts}
            for option in re.findall(r"(?<=\s)--[a-z-]+", line):
                assert option in known, f"{page.name}: greenpea {line}"


def test_every_command_and_option_says_what_it_does() -> None:
    page = GENERATED["reference/commands.md"]
    for words, command in COMMANDS.items():
        assert command.help, words
        if words in GROUPS:
            continue
        assert f"## greenpea {words}\n" in page
        assert "Examples:" in command.help, words
        for parameter in command.params:
            assert parameter.help or parameter.hidden, f"{words}: {parameter.name}"


def test_every_command_is_in_the_readme_or_the_changelog() -> None:
    said = (ROOT / "README.md").read_text() + (ROOT / "CHANGELOG.md").read_text()
    for name in COMMANDS:
        if " " not in name and name != "info":
            assert f"greenpea {name}" in said, name


def test_every_command_of_a_group_is_described() -> None:
    said = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    # "greenpea people list|add" names both.
    pairs = re.findall(r"greenpea (\w+) (\w+(?:\|\w+)*)", said)
    named = {f"{group} {word}" for group, words in pairs for word in words.split("|")}
    for name in COMMANDS:
        if " " in name:
            assert name in named, name


# ---- settings and variables --------------------------------------------------------------------------


def test_the_settings_of_the_site_are_documented_with_their_defaults() -> None:
    (block,) = _fenced(ROOT / "docs" / "serving.md", "toml")
    shown = tomllib.loads(block)
    assert list(shown["site"]) == list(Site.model_fields)
    assert Settings.of(shown) == Settings()


@pytest.mark.parametrize("section", Settings.model_fields)
def test_every_setting_says_what_it_means(section: str) -> None:
    """The file that `init` writes and the reference are both made of these words."""
    page, told = GENERATED["reference/settings.md"], Settings.model_fields[section].annotation
    assert told.__doc__, section
    for key, field in told.model_fields.items():
        assert field.description, f"{section}.{key}"
        row = next(row for row in page.partition(f"## [{section}]")[2].splitlines() if row.startswith(f"| `{key}` |"))
        assert " ".join(field.description.split()).replace("|", "\\|") in row


def _variables(folder: str, ending: str) -> set[str]:
    texts = (path.read_text(encoding="utf-8") for path in (ROOT / folder).rglob(f"*.{ending}"))
    return {name for text in texts for name in re.findall(r"\bGREENPEA_[A-Z_]+", text)}


def test_every_environment_variable_is_documented() -> None:
    documented = _variables("docs", "md")
    assert _variables("src", "py") <= documented
    assert documented <= _variables("src", "py") | _variables("tests", "py")


# ---- files -------------------------------------------------------------------------------------------


def _links(page: Path) -> Iterator[tuple[Path, str]]:
    """Yield (file, anchor) of the links of a page that lead to the project's own files."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if not target.startswith("http"):
            path, _, anchor = target.partition("#")
            yield (page.parent / path if path else page), anchor


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as the usual hosts make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _made(path: Path) -> bool:
    """Whether MkDocs makes this page of the code."""
    path = path.resolve()
    return path.is_relative_to(DOCS) and str(path.relative_to(DOCS)) in GENERATED


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for path, anchor in _links(page):
            assert path.exists() or _made(path), f"{page.name}: {path}"
            assert not anchor or _made(path) or anchor in _anchors(path), f"{page.name}: {path.name}#{anchor}"


def _in_navigation() -> set[str]:
    class Loader(yaml.SafeLoader):
        """One that passes over what only MkDocs knows."""

    Loader.add_multi_constructor("", lambda loader, suffix, node: None)
    told = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)
    hooks.on_config(config := type("Config", (), {"nav": told["nav"]})())
    return set(_strings(config.nav))


def _strings(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
        return
    for part in tree.values() if isinstance(tree, dict) else tree:
        yield from _strings(part)


def test_every_page_is_in_the_navigation() -> None:
    """What is not in mkdocs.yml nobody finds; what is in it must be there."""
    written = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} | set(GENERATED)
    assert written - _in_navigation() == set(), "add these to nav in mkdocs.yml"
    assert _in_navigation() - written == set(), "these are in nav in mkdocs.yml and nowhere else"


def test_formulas_become_mathml() -> None:
    html = r'<p><span class="arithmatex">\(a &lt; \ln b\)</span></p><div class="arithmatex">\[\frac{1}{T}\]</div>'
    drawn = hooks.on_page_content(html)
    assert drawn.count("<math") == 2
    assert "<mfrac>" in drawn
    assert "&lt;" in drawn or "&#x0003C;" in drawn
    assert "arithmatex" not in drawn


def test_every_formula_of_the_mathematics_can_be_drawn() -> None:
    text = (DOCS / "mathematics.md").read_text(encoding="utf-8")
    formulas = re.findall(r"\$\$(.+?)\$\$|\$([^$]+?)\$", text, flags=re.DOTALL)
    assert len(formulas) > 60
    for block, inline in formulas:
        assert "\\" not in re.sub(r"<[^>]+>", "", hooks.to_mathml(block or inline)), block or inline


def _docstrings() -> Any:
    spec = importlib.util.spec_from_file_location("docstrings", DOCS / "docstrings.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_docstrings_are_read_as_markdown() -> None:
    module = _docstrings()
    text = "Families:\n\n===  ====\na    b\n===  ====\n1    | x\n2\n===  ====\n\n::\n\n    code\n"
    table = "| a | b |\n|---|---|\n| 1 | \\| x |\n| 2 |  |"
    assert table in module.to_markdown(text)
    assert "::" not in module.to_markdown(text)
    assert "\n    code" in module.to_markdown(text)
    headless = module.to_markdown("===  ====\na    b\n===  ====\n\nAnd so on.")
    assert "|  |  |\n|---|---|\n| a | b |" in headless
    assert headless.endswith("\nAnd so on.")


def test_the_reference_shows_the_fields_of_a_value() -> None:
    module = _docstrings()
    package = griffe.load("greenpea.tree", search_paths=[ROOT / "src"])
    module.Words().on_package(pkg=package)
    parent = package["Parent"]
    assert parent.docstring.value.endswith("```python\nquestion: Slug\nanswer: Slug | None\n```")
    assert not any("_Part" in str(base) for base in parent.bases)


def _plug_points() -> Iterator[str]:
    """Yield every Protocol of the package that others may implement."""
    for path in (ROOT / "src" / "greenpea").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "Protocol" for base in node.bases):
                yield node.name


def test_every_plug_point_is_documented() -> None:
    said = (DOCS / "plug-points.md").read_text(encoding="utf-8")
    for name in _plug_points():
        assert f"`{name}`" in said, f"docs/plug-points.md says nothing of the Protocol {name}"


def test_every_document_is_linked() -> None:
    linked = {path.resolve() for page in PAGES for path, _ in _links(page)}
    for page in (page for page in DOCS.rglob("*.md") if page.parent.name != "decisions"):
        assert page.resolve() in linked, page.name


def test_the_architecture_names_every_room() -> None:
    said = (ROOT / "docs" / "architecture.md").read_text()
    for path in (ROOT / "src" / "greenpea").iterdir():
        if path.name.startswith("_") or path.name in {"py.typed", "errors.py", "files.py"}:
            continue
        assert (f"  {path.name}/ " if path.is_dir() and path.name not in FILES else path.name) in said, path.name


def test_the_architecture_shows_the_layers_that_are_checked() -> None:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"][0]
    layers = [set(re.findall(r"greenpea\.(\w+)", layer)) for layer in told["layers"]]
    said = (ROOT / "docs" / "architecture.md").read_text().partition("## Layers")[2].partition("```")[2]
    lines = said.partition("```")[0].strip().splitlines()
    shown = [set(re.findall(r"\w+", line.partition("   ")[0])) for line in lines]
    assert shown == [layer for layer in layers if layer != {"__main__"}]


def test_makefile_targets_the_readme_names_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", "\n".join(_fenced(ROOT / "README.md", "console")), flags=re.MULTILINE):
        assert f"\n{target}:" in makefile

"""What MkDocs adds to the pages as they stand: pages made of the code, README as the first page, formulas as MathML.

The tests import this too: what is generated here is documented by construction.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

from latex2mathml.converter import convert as to_mathml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel
from typer.main import get_command

from greenpea import selections
from greenpea.cli import app
from greenpea.settings import Settings
from greenpea.tree import DecisionTree, shipped

ROOT = Path(__file__).parent.parent
# The rooms that are of use from Python, by what one wants of them.
ROOMS = {
    "Values": ("tree", "subjects", "votes", "posterior", "labels", "measurements", "workflow", "classifications"),
    "A campaign": ("campaign", "creation", "settings", "images", "catalogue", "selections", "converting"),
    "Judging and asking": (
        "calibration",
        "calibration.labels",
        "calibration.maps",
        "information",
        "acquisition",
        "combining",
        "retirement",
        "planning",
    ),
    "People": ("volunteers", "debiasing", "zooniverse", "client", "store"),
    "Learning": (
        "learning.model",
        "learning.arrays",
        "learning.encoders",
        "learning.uncertainty",
        "learning.training",
        "outputs",
        "heads",
    ),
    "Simulation": ("simulate", "rehearsal"),
}


# ---- MkDocs calls these ------------------------------------------------------------------------------


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the decisions and the rooms into the navigation, whichever there are."""
    for section in config.nav or []:
        for pages in section.values():
            for number, page in enumerate(pages if isinstance(pages, list) else []):
                if page == {"Decisions": "decisions/index.md"}:
                    numbered = [f"decisions/{path.name}" for path in decisions()]
                    pages[number] = {"Decisions": ["decisions/index.md", *numbered]}
                if page == {"Python": "reference/python.md"}:
                    rooms = [{room: f"reference/python/{room}.md"} for some in ROOMS.values() for room in some]
                    pages[number] = {"Python": ["reference/python.md", *rooms]}
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for name, text in generated().items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Make room: the first page has no neighbours, the comparison has a wide table."""
    page.meta["hide"] = {"index.md": ["navigation"], "compare.md": ["toc"]}.get(page.file.src_uri, [])
    return markdown


def on_page_content(html: str, **_: Any) -> str:
    """Turn formulas into MathML, which browsers draw by themselves; let wide tables scroll and pictures open."""
    html = re.sub(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', _formula, html, flags=re.DOTALL)
    html = re.sub(r"<thead>\s*<tr>(\s*<th[^>]*></th>)+\s*</tr>\s*</thead>", "", html)  # a head that says nothing
    html = re.sub(r'<img [^>]*\bsrc="([^"]+)"[^>]*>', r'<a href="\1">\g<0></a>', html)  # in full size, on a phone
    return html.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")


def _formula(found: re.Match[str]) -> str:
    kind, text = found[1], found[2].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    drawn = to_mathml(text.strip(), display="block" if kind == "div" else "inline")
    drawn = drawn.replace("<mi>ln</mi>", '<mi>ln</mi><mspace width="0.17em"/>')
    drawn = re.sub(r"<mi>(&#x0*393;|Γ)</mi>", '<mi mathvariant="normal">Γ</mi>', drawn)  # upright, as TeX has it
    return f'<div class="formula">{drawn}</div>' if kind == "div" else drawn


# ---- pages made of other files -----------------------------------------------------------------------


def generated() -> dict[str, str]:
    """Return every page that is not written by hand: its place in docs/, and its Markdown."""
    return {
        "index.md": from_root("README.md"),
        "changelog.md": from_root("CHANGELOG.md"),
        "contributing.md": from_root("CONTRIBUTING.md"),
        "decisions/index.md": decisions_page(),
        "reference/commands.md": commands_page(),
        "reference/settings.md": settings_page(),
        "reference/selections.md": selections_page(),
        "reference/python.md": rooms_page(),
        **{f"reference/python/{room}.md": room_page(room) for some in ROOMS.values() for room in some},
    }


def from_root(name: str) -> str:
    """Return a page of the project's folder, its links as seen from docs/."""
    text = (ROOT / name).read_text(encoding="utf-8")
    for target in ("CHANGELOG", "CONTRIBUTING"):
        text = text.replace(f"]({target}.md", f"]({target.lower()}.md")
    text = text.replace("](README.md", "](index.md").replace("](docs/decisions/)", "](decisions/index.md)")
    return re.sub(r"\[([^]]+)\]\(LICENSE\)", r"\1", text).replace("](docs/", "](")


def decisions() -> list[Path]:
    return sorted((ROOT / "docs" / "decisions").glob("0*.md"))


def decisions_page() -> str:
    lines = [f"- [{_heading(path)}]({path.name})" for path in decisions()]
    told = (
        "Choices that would be costly to undo, with their reasons. The design that some of them depart from is the "
        "plan from before the code; what is true now stands on the other pages."
    )
    return "\n".join(["# Decisions", "", told, "", *lines])


def _heading(path: Path) -> str:
    return path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


# ---- commands ----------------------------------------------------------------------------------------


def commands_page() -> str:
    """Return the reference of the command line, as typer has it."""
    lines = ["# Commands", "", "Everything `greenpea` does. `greenpea COMMAND --help` says the same in a terminal.", ""]
    lines += ["| | |", "|---|---|"]
    found = list(commands(get_command(app)))
    for words, command in found:
        anchor = f"greenpea-{words}".replace(" ", "-")
        lines.append(f"| [`greenpea {words}`](#{anchor}) | {_plain(command.help or '').partition(chr(10))[0]} |")
    for words, command in found:
        lines += ["", *_command(words, command)]
    return "\n".join(lines)


def commands(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every command with its words, such as "tree list"; no groups."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{before}{name} ")
        else:
            yield before + name, command


def _command(words: str, command: Any) -> Iterator[str]:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option" and not one.hidden]
    usage = " ".join(_word(one) if one.required else f"[{_word(one).strip('[]')}]" for one in arguments)
    told, _, examples = _plain(command.help or "").partition("Examples:")
    yield f"## greenpea {words}"
    yield f"\n```text\ngreenpea {words}{' ' + usage if usage else ''}{' [OPTIONS]' if options else ''}\n```\n"
    yield told.strip()
    if arguments or options:
        yield "\n| name | meaning | default |\n|---|---|---|"
    for one in arguments:
        yield f"| `{_word(one).strip('[]')}` | {_cell(one.help)} | {_default(one)} |"
    for one in options:
        yield f"| `{', '.join([*one.opts, *one.secondary_opts])}` | {_cell(one.help)} | {_default(one)} |"
    if examples.strip():
        lines = "\n".join(line.strip() for line in examples.strip().splitlines() if line.strip())
        yield f"\nFor example:\n\n```text\n{lines}\n```"


def _word(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _plain(text: str) -> str:
    """Return help without rich's marks."""
    return re.sub(r"\[/?(bold|dim|red|yellow)\]", "", text)


def _cell(text: str | None) -> str:
    return " ".join(_plain(text or "").split()).replace("|", "\\|")


def _default(parameter: Any) -> str:
    value = parameter.default
    if parameter.required:
        return "required"
    return "" if value in (None, False, "", (), []) or callable(value) else f"`{value}`"


# ---- settings ----------------------------------------------------------------------------------------


def settings_page() -> str:
    """Return the reference of campaign.toml, as pydantic has it."""
    lines = [
        "# Settings",
        "",
        "What stands in `campaign.toml`; every key may be left out. `greenpea init` writes the file with all of them "
        "and their meanings. A key that is not known is an error that names the nearest one. "
        "`--set section.key=value` overrides one for one command.",
    ]
    for name, section in sections().items():
        lines += ["", f"## [{name}]", "", " ".join((section.__doc__ or "").partition("\n\n")[0].split()), ""]
        lines += ["| key | default | meaning |", "|---|---|---|"]
        for key, field in section.model_fields.items():
            meaning = _cell(field.description)
            lines.append(
                f"| `{key}` | `{_toml(field.get_default())}` | {meaning}{_choices(field.annotation, meaning)} |"
            )
    return "\n".join(lines)


def sections() -> dict[str, type[BaseModel]]:
    return {name: field.annotation for name, field in Settings.model_fields.items()}  # type: ignore[misc]


def _toml(value: Any) -> str:
    return "none" if value is None else json.dumps(list(value) if isinstance(value, tuple) else value)


def _choices(annotation: Any, meaning: str) -> str:
    """Name the words a setting may be, where the meaning does not."""
    if str(get_origin(annotation)) != "typing.Literal":
        return ""
    left = [word for word in get_args(annotation) if str(word) not in meaning]
    return f" ({', '.join(f'`{word}`' for word in get_args(annotation))})" if left else ""


# ---- selections --------------------------------------------------------------------------------------


def selections_page() -> str:
    """Return what `selections.recommended` says of the trees that come along."""
    lines = [
        "# Recommended selections",
        "",
        "Worked out from each tree, for catalogues of 40 expected volunteers, by `greenpea.selections.recommended`; "
        "every catalogue has its own in its metadata "
        "([how to use them](../catalogue.md#which-rows-to-trust-for-which-question)).",
    ]
    for name in shipped():
        lines += ["", f"## {name}", "", "| for | rows |", "|---|---|"]
        for one in selections.recommended(DecisionTree.load(name), 40):
            lines.append(f"| {one.words.partition(':')[0]} | `{one.sql}` |")
    return "\n".join(lines)


# ---- Python ------------------------------------------------------------------------------------------


def rooms_page() -> str:
    lines = [
        "# From Python",
        "",
        "Every room works by itself, in a notebook, without a campaign. `import greenpea` gives `Campaign`, `create`, "
        "`DecisionTree`, `Posterior`, `Votes` and `read_votes`; the rest is imported from its room. Shapes stand in "
        'the types: `Float[np.ndarray, "draw subject answer"]` has three axes.',
    ]
    for title, rooms in ROOMS.items():
        lines += ["", f"## {title}", ""]
        lines += [f"- [`greenpea.{room}`](python/{room}.md): {_first_line(room)}" for room in rooms]
    return "\n".join(lines)


def room_page(room: str) -> str:
    return f"# {f'greenpea.{room}'.replace('.', '.<wbr>')}\n\n::: greenpea.{room}\n"  # names break at their dots


def _first_line(room: str) -> str:
    place = ROOT / "src" / "greenpea" / room.replace(".", "/")
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    line = file.read_text(encoding="utf-8").removeprefix('"""').partition("\n")[0]
    return line.rstrip('"')

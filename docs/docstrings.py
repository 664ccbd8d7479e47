"""What docstrings have in reStructuredText's way, said in Markdown's: plain tables, and blocks announced by ``::``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import griffe

RULE = re.compile(r"^=+( +=+)+ *$")


class Words(griffe.Extension):
    """Called by griffe, which reads the code for mkdocstrings, with everything it has found."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        for part in _parts(pkg):
            if part.docstring is not None:
                part.docstring.value = to_markdown(part.docstring.value)


def _parts(part: griffe.Object) -> Iterator[griffe.Object]:
    yield part
    for member in part.members.values():
        if not member.is_alias:
            yield from _parts(member)


def to_markdown(text: str) -> str:
    """Return a docstring with Markdown's tables; an indented block is code already, without its ``::``."""
    lines, out = text.splitlines(), []
    while lines:
        line = lines.pop(0)
        if RULE.match(line):
            rows: list[str] = []
            while lines and len([row for row in rows if RULE.match(row)]) < 2:
                rows.append(lines.pop(0))
            out += ["", *_table(line, rows), ""]
        elif line.strip() == "::":
            out.append("")
        else:
            out.append(f"{line[:-1]}" if line.endswith("::") else line)
    return "\n".join(out)


def _table(rule: str, rows: list[str]) -> Iterator[str]:
    starts = [found.start() for found in re.finditer(r"=+", rule)]
    edges = list(zip(starts, [*starts[1:], None], strict=True))
    head, *rest = [row for row in rows if not RULE.match(row)]
    yield f"| {' | '.join(_cells(head, edges))} |"
    yield "|" + "---|" * len(edges)
    for row in rest:
        yield f"| {' | '.join(_cells(row, edges))} |"


def _cells(row: str, edges: list[tuple[int, int | None]]) -> list[str]:
    return [row[start:end].strip().replace("|", "\\|") for start, end in edges]

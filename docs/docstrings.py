"""What docstrings have in reStructuredText's way, said in Markdown's: plain tables, and blocks announced by ``::``.

A value's class also gets its fields, with their types, and loses the private classes it is made of.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import griffe

RULE = re.compile(r"^=+( +=+)+ *$")
VALUES = {"NamedTuple", "BaseModel", "StrEnum"}


class Words(griffe.Extension):
    """Called by griffe, which reads the code for mkdocstrings, with everything it has found."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        for part in _parts(pkg):
            if part.docstring is not None:
                part.docstring.value = to_markdown(part.docstring.value)
            if isinstance(part, griffe.Class):
                _show_fields(part)


def _parts(part: griffe.Object) -> Iterator[griffe.Object]:
    yield part
    for member in part.members.values():
        if not member.is_alias:
            yield from _parts(member)


def _show_fields(part: griffe.Class) -> None:
    bases = [str(base).rpartition(".")[2] for base in part.bases]
    private = [base.startswith("_") for base in bases]
    part.bases = [base for base, hidden in zip(part.bases, private, strict=True) if not hidden]
    if part.docstring is not None and ("dataclass" in part.labels or any(private) or VALUES & set(bases)):
        lines = [line for name, one in part.members.items() if (line := _field(name, one))]
        part.docstring.value += "\n".join(["", "", "```python", *lines, "```"]) if lines else ""


def _field(name: str, one: Any) -> str:
    """Return a field as its class has it; nothing where it is private, a method, or described by itself."""
    if name.startswith("_") or name == "model_config" or not one.is_attribute:
        return ""
    if one.docstring or one.has_labels("property"):
        return ""
    value = "" if one.value is None else str(one.value)
    value = "…" if value.lower().startswith("field(") else value
    return name + (f": {one.annotation}" if one.annotation else "") + (f" = {value}" if value else "")


def to_markdown(text: str) -> str:
    """Return a docstring with Markdown's tables; an indented block is code already, without its ``::``."""
    lines, out = text.splitlines(), []
    while lines:
        line = lines.pop(0)
        if RULE.match(line):
            rows: list[str] = []
            while lines and lines[0].strip():
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
    headless = [bool(RULE.match(row)) for row in rows].index(True) == len(rows) - 1  # the only other rule ends it
    head, *rest = ["", *rows] if headless else rows
    rest = [row for row in rest if not RULE.match(row)]
    yield f"| {' | '.join(_cells(head, edges))} |"
    yield "|" + "---|" * len(edges)
    for row in rest:
        yield f"| {' | '.join(_cells(row, edges))} |"


def _cells(row: str, edges: list[tuple[int, int | None]]) -> list[str]:
    return [row[start:end].strip().replace("|", "\\|") for start, end in edges]

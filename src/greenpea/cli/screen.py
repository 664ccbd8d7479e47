"""What all commands show: one console, one bar per stage, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, such as learning.epochs=50. Repeatable."),
]
Report = Callable[[str, float, str], None]  # stage, share done, words
console = Console()


def plain(text: object) -> str:
    """Return text for rich to print as it is: a bracket in a file's name is not markup."""
    return escape(str(text))


def say_next(command: str, folder: Path) -> None:
    """Say what one would do next, ready to be pasted."""
    console.print(f"Next: [bold]greenpea {command} {plain(shlex.quote(str(folder)))}[/bold]", soft_wrap=True)


@contextmanager
def progress() -> Iterator[Report]:
    """Show one bar per stage, with a few words beside it."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[words]}"), console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, share: float, words: str) -> None:
            if stage not in tasks:
                for task in tasks.values():
                    bars.update(task, completed=1.0)
                tasks[stage] = bars.add_task(stage, total=1.0, words=words)
            bars.update(tasks[stage], completed=share, words=words)

        yield report
        for task in tasks.values():
            bars.update(task, completed=1.0)

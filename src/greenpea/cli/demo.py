"""The demonstration, to be watched; and the plan of a survey."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from greenpea.cli.screen import console, plain, progress
from greenpea.errors import GreenpeaError
from greenpea.files import replacing

if TYPE_CHECKING:  # torch takes seconds to import
    from greenpea.demo import Moment, Outcome, Site
    from greenpea.planning import Interval, Plan
    from greenpea.records import Record

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The campaign's folder.")]
THUMBNAILS, ACROSS = 4, 22  # galaxies shown in the terminal, and their width in characters
AROUND = 9  # lines of the screen beside pictures and rounds


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command()(demo)
    app.command()(plan)


# ---- the demonstration -------------------------------------------------------------------------------


def demo(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where the demonstration goes.")] = Path("demo"),
    subjects: Annotated[int, typer.Option(help="How many simulated galaxies.", min=60)] = 1200,
    port: Annotated[int, typer.Option(help="Where the site is opened, if the port is free.")] = 8000,
    serve: Annotated[
        bool | None,
        typer.Option("--serve/--no-serve", help="Leave the site open to look at. Default: where this is a terminal."),
    ] = None,
) -> None:
    """The whole loop in minutes: simulated volunteers vote at a real site while a network learns what to ask next.

    It ends with a report, and with the site open: classify a few galaxies yourself.

    Examples:

      greenpea demo

      greenpea demo somewhere --subjects 600 --no-serve
    """
    from greenpea import demo as show
    from greenpea import loop_report

    scale = show.Scale(subjects=subjects, classifications=16 * subjects)
    with progress() as report:
        campaign, site, store = show.stage(folder, scale, port, report)
    try:
        with _watching(folder) as told:
            show.play(campaign, store, site, scale, told)
        with console.status("Comparing with the simulated truth …"):
            outcome = show.judge(campaign, store, scale)
            page = loop_report.write(outcome, folder, campaign.tree, folder / "report.html")
        _show_outcome(outcome, page)
        invited = show.invitation(store, site.address)
        store.close()
        if console.is_terminal if serve is None else serve:
            _stay(site, invited)
    finally:
        site.stop()


def _show_outcome(outcome: Outcome, page: Path) -> None:
    from greenpea.loop_report import headline

    words = headline(outcome)
    console.print(f"\n[bold green]{plain(words['saved'])}[/bold green]")
    console.print(plain(words["accuracy"]))
    if words["learning"]:
        console.print(plain(words["learning"]))
    console.print("[bold]These galaxies and volunteers are simulated.[/bold]\n")
    console.print(f"The report is in [bold]{plain(page)}[/bold]: open it in a browser.", soft_wrap=True)


def _stay(site: Site, invited: str | None) -> None:
    console.print(f"The site is open: classify at [bold]{site.address}/[/bold]", soft_wrap=True)
    if invited:
        console.print(f"See what the team sees: make the owner's account at {plain(invited)}", soft_wrap=True)
    console.print("Ctrl-C ends it.")
    with contextlib.suppress(KeyboardInterrupt):
        site.wait()
    console.print("The site is closed.")


# ---- what is to be seen meanwhile --------------------------------------------------------------------


@contextmanager
def _watching(folder: Path) -> Iterator[_Screen]:
    """Show what happens: a live screen in a terminal, a line per round elsewhere."""
    screen = _Screen(folder)
    if not console.is_terminal:
        yield screen
        return
    with Live(screen.shown, console=console, refresh_per_second=4, transient=False) as live:
        screen.live = live
        yield screen


class _Screen:
    """Draws one moment after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.live: Live | None = None
        self.shown: RenderableType = Text("The first volunteers are on their way …")
        self.told = 0  # rounds told, where there is no live screen
        self.asked: tuple[int, RenderableType] = (-1, Text(""))

    def __call__(self, moment: Moment) -> None:
        if self.live is not None:
            self.shown = self.draw(moment)
            self.live.update(self.shown)
            return
        for record in moment.rounds[self.told :]:
            console.print(_said(record, moment), highlight=False, soft_wrap=True)
        self.told = len(moment.rounds)

    def draw(self, moment: Moment) -> RenderableType:
        """Return the screen: how far it is, what is asked next, and the rounds so far."""
        minutes, seconds = divmod(int(moment.seconds), 60)
        bars = Table.grid(padding=(0, 1))
        for words, done, total in (
            ("classifications", moment.classifications, moment.scale.classifications),
            ("galaxies done", moment.retired, moment.subjects),
        ):
            bar = ProgressBar(total=total, completed=min(done, total), width=34, complete_style="green")
            bars.add_row(words, bar, f"[bold]{done:,}[/bold] of {total:,}")
        now = Text.assemble(
            (f"{moment.volunteers:,} volunteers", "bold"), f" so far, {moment.rate:.0f} classifications a second, ",
            (f"{minutes}:{seconds:02d}", "bold"), f"   {moment.doing}",
        )  # fmt: skip
        parts: list[RenderableType] = [bars, now]
        if moment.rounds:
            room, pictures = console.size.height - AROUND, ACROSS // 2 + 2
            parts += [self._asked(moment.rounds)] if room > pictures else []
            parts.append(_rounds(moment, max(1, room - pictures)))
        title = f"simulated galaxies, simulated volunteers · {moment.address}"
        return Panel(Group(*parts), title=title, border_style="green")

    def _asked(self, rounds: Sequence[Record]) -> RenderableType:
        """Return the galaxies that would teach most, as small pictures; drawn anew after each round that ranks."""
        newest = next((one for one in reversed(rounds) if one.ranked >= THUMBNAILS), None)
        if newest is not None and newest.number != self.asked[0]:
            pictures = Table.grid(padding=(0, 1))
            pictures.add_row(*(_picture(self.folder / "images" / f"{one}.png", ACROSS) for one in _first(newest)))
            heading = Text("What the network would most like to be told about:", style="italic")
            self.asked = newest.number, Group(heading, pictures)
        return self.asked[1]


def _first(record: Record) -> list[str]:
    import pyarrow.parquet as pq

    from greenpea.records import SCORES

    table = pq.read_table(record.folder / SCORES, columns=["subject_id"])
    return [str(one) for one in table["subject_id"][:THUMBNAILS].to_pylist()]


def _picture(path: Path, across: int) -> Text:
    """Return a picture in characters: the upper half of each is one pixel, the lower another."""
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB").resize((across, 2 * (across // 2)), Image.Resampling.LANCZOS))
    text = Text(no_wrap=True)
    for upper, lower in zip(pixels[::2], pixels[1::2], strict=True):
        for above, below in zip(upper.tolist(), lower.tolist(), strict=True):
            text.append("▀", style=f"rgb({','.join(map(str, above))}) on rgb({','.join(map(str, below))})")
        text.append("\n")
    return text


def _rounds(moment: Moment, lines: int) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("round", "answers", "gain", "of random votes alone", "retired", "took"):
        table.add_column(name, justify="right", no_wrap=True)
    for record in moment.rounds[-lines:]:
        score = record.overall
        table.add_row(
            str(record.number),
            f"{record.answers:,}",
            f"[bold green]{_nats(score.gain if score else None)}[/bold green]",
            _nats(score.random_gain if score else None),
            f"{sum(record.retired.values()):,}",
            f"{_took(record):.0f} s",
        )
    return table


def _nats(gain: float | None) -> str:
    """Return nats per vote over not looking at the image."""
    return "–" if gain is None else f"{gain:.3f}"


def _took(record: Record) -> float:
    last: datetime = max(record.stages.values(), default=record.begun_at)
    return (last - record.begun_at).total_seconds()


def _said(record: Record, moment: Moment) -> str:
    score = record.overall
    judged = f"gain {score.gain:.3f} nats per vote over not looking, " if score and score.gain is not None else ""
    return (
        f"Round {record.number}: {record.classifications:,} classifications, {judged}"
        f"{sum(record.retired.values()):,} galaxies retired by it, {moment.retired:,} done; {_took(record):.0f} s"
    )


# ---- a survey's plan ---------------------------------------------------------------------------------


def plan(
    folder: Folder,
    volunteers: Annotated[
        str, typer.Option(metavar="N,N,…", help="New volunteers a week, to compare.")
    ] = "30,100,300,1000,3000",
    sample: Annotated[int, typer.Option(min=10, max=400, help="Subjects rehearsed.")] = 200,
    seed: Annotated[int, typer.Option(help="The same seed gives the same plan.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="The picture, PNG or SVG or PDF. Default: DIR/plan.png.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything as JSON too.")] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=NUMBER", help="Another assumption, such as length=35. Repeatable."),
    ] = None,
) -> None:
    """How many volunteers, how many weeks, for this survey?

    First the workflow is rehearsed on a sample of the subjects, with simulated volunteers, to learn how many
    classifications a subject takes under its retirement rules. Then the coming and going of volunteers is simulated,
    a hundred times for each number of new volunteers a week. Every assumption is listed with the answer, and can be
    changed: replace the guesses by what you know of your volunteers.

    What the network saves is known once rounds have retired subjects: try 'greenpea round DIR' after the first weeks,
    and plan again.

    Examples:

      greenpea plan galaxies

      greenpea plan galaxies --volunteers 200,2000 --set once=0.6 --set length=35

      greenpea plan galaxies --set launch=5000 --json plan.json
    """
    from greenpea import planning

    habits = planning.habits_of(sets or [])
    with progress() as report:
        made = planning.plan(folder, habits, _numbers(volunteers), sample, seed, report)
    _show_plan(made)
    path = plot or folder / "plan.png"
    with replacing(path) as temporary:
        planning.picture(made).savefig(temporary, format=path.suffix[1:] or "png", dpi=150)
    console.print(f"The picture is in [bold]{plain(path)}[/bold].", soft_wrap=True)
    if json_file is not None:
        with replacing(json_file) as temporary:
            temporary.write_text(json.dumps(made.to_json(), indent=2) + "\n", encoding="utf-8")


def _numbers(text: str) -> Sequence[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < one < math.inf for one in found):
        raise GreenpeaError(f"--volunteers {text!r}: give numbers above 0 with commas between, such as 100,300,1000")
    return sorted(set(found))


def _show_plan(made: Plan) -> None:
    from greenpea.planning import LEVEL, LONGEST, rounded

    console.print(f"[bold]{made.subjects:,} subjects[/bold], {made.done:,} classifications there already.")
    for name, need in {"By votes alone": made.votes_alone, "With the network": made.with_network}.items():
        if need is not None:
            size = f"{need.low:.1f}" if need.high - need.low < 0.05 else f"{need.low:.1f} to {need.high:.1f}"
            console.print(f"{name}, a subject takes [bold]{size}[/bold] classifications: {need.how}.", soft_wrap=True)
    if made.with_network is None:
        console.print(
            "How many with the network is not known yet: run 'greenpea round' once volunteers have voted, with a rule "
            "'settled' or 'confident' in the workflow, and plan again.",
            soft_wrap=True,
        )
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("new volunteers a week", justify="right")
    for name in made.outlooks:
        table.add_column(f"weeks, {name}", justify="right")
        table.add_column("volunteers in all", justify="right")
    for lines in zip(*made.outlooks.values(), strict=True):
        cells = [part for one in lines for part in (_range(one.weeks), rounded(one.volunteers.middle))]
        table.add_row(f"{lines[0].per_week:,.0f}", *cells)
    console.print(table)
    console.print(f"[dim]Weeks: {LEVEL:.0%} of the futures; – is beyond {LONGEST / 365.25:.0f} years.[/dim]\n")
    _show_assumptions(made)


def _range(weeks: Interval) -> str:
    from greenpea.planning import rounded

    low, high = rounded(weeks.low), rounded(weeks.high)
    return low if low == high else f"{low} to {high}"


def _show_assumptions(made: Plan) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), title="What this assumes", title_justify="left")
    for name in ("change it with", "value", "what it is"):
        table.add_column(name)
    for key, field in type(made.habits).model_fields.items():
        if key != "arrivals":  # it is what is compared
            table.add_row(f"--set {key}=…", f"{getattr(made.habits, key):g}", field.description or "")
    table.add_row("--volunteers …", "", "new volunteers a week; the rates are taken to be steady")
    table.add_row("--sample …", f"{made.sample:,}", "subjects rehearsed")
    table.add_row("workflow.json", "", "when a subject retires")
    console.print(table)
    console.print(f"Rehearsed volunteers answered from {plain(made.truth)}.", soft_wrap=True)
    console.print(
        "The numbers about people are guesses of the right kind (most come once, a few do most), not measurements: "
        "your own first weeks are better.",
        soft_wrap=True,
    )

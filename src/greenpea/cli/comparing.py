"""The command that sets uncertainty methods side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from greenpea.cli.screen import Sets, console, plain, progress

if TYPE_CHECKING:
    from greenpea.comparison import Comparison


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("compare")(compare_)


def compare_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The campaign's folder.")],
    methods: Annotated[
        str, typer.Option(help="Which, by comma: each is compared with the first.")
    ] = "laplace,dropout,ensemble,variational",
    start: Annotated[
        Path | None, typer.Option("--from", help="A checkpoint (or campaign) whose encoder all begin with.")
    ] = None,
    sets: Sets = None,
) -> None:
    """Train ways to doubt on the same votes and judge them on the same others: one table, one page.

    The methods are those of learning.uncertainty: laplace, dropout, bootstrap and variational-head doubt in the head,
    for one pass of the encoder; ensemble, variational and encoder-dropout in all of the network, for several. Networks
    are kept in DIR/comparison: nothing is trained twice, and what was killed goes on.

    Examples:

      greenpea compare galaxies --methods dropout,ensemble,variational,laplace

      greenpea compare galaxies --methods laplace,bootstrap --set learning.epochs=40
    """
    from greenpea.campaign import Campaign
    from greenpea.comparison import FIGURES, FOLDER, PAGE, compare, headline

    campaign = Campaign.open(folder, sets or [])
    with progress() as report:
        found = compare(campaign, [name.strip() for name in methods.split(",") if name.strip()], start, report)
    _show(found)
    console.print(plain(headline(found)))
    where = folder / FOLDER
    console.print(f"The page is [bold]{plain(where / PAGE)}[/bold], the figures are in {plain(where / FIGURES)}.")


def _show(found: Comparison) -> None:
    console.print(f"Judged by {found.how}: {found.subjects:,} subjects.")
    table = Table(box=None, padding=(0, 1, 0, 0))
    for name in ("method", "excess", "saves", "RMSE", "90 % hold", "before", "passes", "seconds"):
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    for index, one in enumerate(found.methods):
        half = (one.saves.high - one.saves.low) / 2
        table.add_row(
            one.name,
            f"{one.score.excess.value:.4f}",
            f"{one.saves.value:+.4f} ± {half:.4f}" if index else "",
            f"{one.score.rmse:.4f}",
            f"{one.score.coverage['90'] * 100:.1f}",
            f"{one.uncorrected.overall.coverage['90'] * 100:.1f}",
            str(one.encoder_passes),
            f"{one.learning_seconds + one.predicting_seconds:.1f}",
        )
    console.print(table)
    console.print(
        "[dim]excess: nats per vote above the floor; saves: over the first method, with its 95 % interval; 90 % hold: "
        "share of subjects whose votes fall in the sets that should hold 90 %, and before recalibration; passes of the "
        "encoder for a posterior.[/dim]"
    )

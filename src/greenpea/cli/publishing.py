"""The commands that publish: a catalogue in other formats, and the folder one would upload for a DOI."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from greenpea.cli.screen import console, plain, progress

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The campaign's folder.")]


def add_to(app: typer.Typer, export_app: typer.Typer) -> None:
    """Add these commands to the command line."""
    export_app.command("catalogue")(export_catalogue)


def export_catalogue(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A catalogue that 'greenpea predict' wrote.")],
    out: Annotated[Path, typer.Option(help="Where it goes: .fits, .vot, .ecsv or .csv.")],
) -> None:
    """Write a finished catalogue as FITS, VOTable, ECSV or CSV, with its units and meanings.

    A CSV cannot hold what its columns mean: they go into NAME.columns.csv beside it.

    Examples:

      greenpea export catalogue catalogue.parquet --out catalogue.fits

      greenpea export catalogue catalogue.parquet --out catalogue.vot
    """
    convert(file, out)


def convert(file: Path, out: Path) -> None:
    """Convert a catalogue and say where it is."""
    from greenpea import converting

    with progress() as report:
        converting.convert(file, out, lambda done, rows: report("writing", done / rows, f"{done:,} of {rows:,}"))
    console.print(f"As {out.suffix.lstrip('.').upper()}, it is in [bold]{plain(out)}[/bold].")
    if out.suffix.lower() == ".csv":
        console.print(f"What its columns mean is in [bold]{plain(converting.columns_file(out))}[/bold].")

"""The commands that publish: a catalogue in other formats, and the folder one would upload for a DOI."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from greenpea.cli.screen import Sets, console, plain, progress

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The campaign's folder.")]


def add_to(app: typer.Typer, export_app: typer.Typer) -> None:
    """Add these commands to the command line."""
    export_app.command("catalogue")(export_catalogue)
    app.command()(release)


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


def release(
    folder: Folder,
    out: Annotated[Path | None, typer.Option(help="A new folder. Default: DIR/release.")] = None,
    catalogue: Annotated[
        Path | None, typer.Option(help="A catalogue that the model has written already. Default: predict all subjects.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="A checkpoint. Default: the newest run.")] = None,
    sets: Sets = None,
) -> None:
    """Write the folder to upload for a DOI: catalogue, cards, calibration, checkpoint, citation, checksums.

    Title, authors and licence stand in campaign.toml, under release. Test and audit subjects are in the catalogue, and
    their votes are kept back unless release.votes says otherwise.

    Examples:

      greenpea release galaxies

      greenpea release galaxies --out galaxies-1.0 --catalogue catalogue.parquet --set release.version=1.0
    """
    from datetime import UTC, datetime

    from greenpea.campaign import Campaign
    from greenpea.release import release as write

    campaign = Campaign.open(folder, sets or [])
    with progress() as report:
        done = write(campaign, out or folder / "release", datetime.now(UTC).date(), catalogue, model, report)
    console.print(
        f"The release of {done.subjects:,} subjects, {len(done.files)} files, is in [bold]{plain(done.folder)}[/bold]. "
        f"Read its data-card.md and model-card.md before you upload it.",
        soft_wrap=True,
    )

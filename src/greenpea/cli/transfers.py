"""Commands that bring classifications in from elsewhere, and write them for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from greenpea.cli.screen import console, plain, progress
from greenpea.cli.site import Address, Folder, fill_store, filled_store, store_of, utc_now
from greenpea.errors import GreenpeaError

if TYPE_CHECKING:  # importing the web framework takes a second: only the commands that need it pay
    from greenpea.site.arrivals import Arrived, Described
    from greenpea.store import Version

import_app = typer.Typer(help="Bring in what was classified elsewhere.", no_args_is_help=True)
export_app = typer.Typer(help="Write what was classified here, for other programs.", no_args_is_help=True)
FROM_STORE = b"greenpea.store"  # marks a table of votes that was counted here
SHOWN = 8  # problems listed on the screen


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(import_app, name="import")
    app.add_typer(export_app, name="export")


@import_app.command("zooniverse")
def import_zooniverse(
    folder: Folder,
    classifications: Annotated[Path, typer.Argument(metavar="CSV", help="A classification export of Zooniverse.")],
    workflows: Annotated[Path, typer.Option(help="Workflow versions: JSON, or a workflows.csv export.")],
    subjects: Annotated[Path | None, typer.Option(help="A subject export, for what it says of the subjects.")] = None,
    workflow: Annotated[str | None, typer.Option(help="Use this workflow's id only.")] = None,
    database: Address = None,
) -> None:
    """Store the classifications of a Zooniverse project. Importing again stores nothing twice.

    Answers are read at the version of the workflow that they were given on. What cannot be used is written to
    DIR/imports with the reason; unsupported tasks are kept raw. With --subjects, the campaign's subjects get their
    metadata, and those it lacks are listed with the addresses of their images.

    Examples:

      greenpea import zooniverse galaxies classifications.csv --workflows workflows.csv --subjects subjects.csv
    """
    from greenpea.site.arrivals import take_classifications, take_subjects
    from greenpea.zooniverse import read_classifications, read_subjects, workflow_versions

    versions = workflow_versions(workflows, workflow=workflow)
    read_classifications(classifications, versions)  # wrong files are told before anything is written
    if subjects is not None:
        read_subjects(subjects)
    store = store_of(folder, database, new=True)
    fill_store(store, folder)
    if subjects is not None:
        _show_described(take_subjects(store, folder, subjects, utc_now()), subjects)
    with progress() as report:
        report("reading", 0.0, "")
        arrived = take_classifications(
            store, folder, classifications, versions, utc_now(), lambda done: report("reading", 0.0, f"{done:,} rows")
        )
    store.close()
    _show_arrived(arrived)


def _show_described(described: Described, export: Path) -> None:
    console.print(f"{plain(export)}: metadata of {described.known:,} of the campaign's subjects.", soft_wrap=True)
    if described.unknown:
        console.print(
            f"[yellow]{described.unknown:,} subjects are not in the campaign: {plain(described.listed)} lists them "
            f"with their images' addresses. Fetch the images and make the campaign of them.[/yellow]",
            soft_wrap=True,
        )
    if described.rows:
        console.print(
            f"[yellow]{described.rows:,} rows could not be used ({plain(described.first_fault)}).[/yellow]",
            soft_wrap=True,
        )


def _show_arrived(arrived: Arrived) -> None:
    result = arrived.report
    for line in arrived.lines:
        console.print(plain(line), soft_wrap=True)
    console.print(
        f"[bold]{result.stored:,} classifications stored and counted[/bold]; {result.again:,} were here already, "
        f"{result.repeated:,} repeat a volunteer's own, {result.gold:,} are on subjects with known answers.",
        soft_wrap=True,
    )
    for what, found in (
        ("are on subjects that the campaign has not", result.strangers),
        ("do not fit the active workflow", result.refused),
    ):
        if found:
            console.print(f"[yellow]{len(found):,} {what}: not stored.[/yellow]", soft_wrap=True)
            for uuid, why in found[:SHOWN]:
                console.print(f"  {plain(uuid)}: {plain(why)}", soft_wrap=True)
    if result.refused:
        console.print(
            "A campaign takes what was answered on its own tree: 'greenpea tree import' makes one of theirs.",
            soft_wrap=True,
        )
    if arrived.rows:
        console.print(
            f"[yellow]{arrived.rows:,} rows could not be used: {plain(arrived.unused)} holds them, with why.[/yellow]",
            soft_wrap=True,
        )
    if result.refused or result.strangers:
        console.print(f"[yellow]They are listed in {plain(arrived.refused)}.[/yellow]", soft_wrap=True)


@export_app.command("zooniverse")
def export_zooniverse(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="The folder to write into.")],
    database: Address = None,
) -> None:
    """Write classifications, subjects and workflows as Zooniverse's exports, for panoptes_aggregation and others.

    Examples:

      greenpea export zooniverse galaxies --out for-caesar
    """
    from greenpea.site.exchange import zooniverse_folder

    if out.exists() and not out.is_dir():
        raise GreenpeaError(f"{out} is a file: give the name of a folder")
    store = filled_store(folder, database)
    with progress() as report:
        written = zooniverse_folder(store, folder.resolve().name, out, report)
    store.close()
    for path, rows in written.items():
        console.print(f"  {plain(path)}: {rows:,} rows", soft_wrap=True)


@export_app.command("votes")
def export_votes(
    folder: Folder,
    out: Annotated[
        Path | None, typer.Option(help="A .parquet or .csv file. Default: DIR/votes.parquet, to train on.")
    ] = None,
    database: Address = None,
) -> None:
    """Write the counted votes per subject and answer; by default where 'greenpea train' looks for them.

    Examples:

      greenpea export votes galaxies

      greenpea export votes galaxies --out votes.csv
    """
    import pyarrow.csv as pa_csv
    import pyarrow.parquet as pq

    from greenpea.files import replacing

    path = out or folder / "votes.parquet"
    if path.suffix not in (".csv", ".parquet"):
        raise GreenpeaError(f"{path}: a table of votes is written as .parquet or .csv; give the file such a name")
    if out is None and path.is_file() and FROM_STORE not in (pq.read_schema(path).metadata or {}):
        raise GreenpeaError(
            f"{path} holds votes that came with the subjects, not from this site: move it away if these are to be "
            f"trained on instead, or give --out"
        )
    store = filled_store(folder, database)
    votes, active = store.classifications.votes(), store.workflows.active()
    store.close()
    table = votes.to_table()
    with replacing(path) as temporary:
        if path.suffix == ".csv":
            pa_csv.write_csv(table, temporary)
        else:
            pq.write_table(table.replace_schema_metadata((table.schema.metadata or {}) | {FROM_STORE: b"1"}), temporary)
    console.print(
        f"{int(votes.total.sum()):,} replies to questions about {len(votes):,} subjects are in "
        f"[bold]{plain(path)}[/bold].",
        soft_wrap=True,
    )
    if out is None:
        _follow_site(folder, active)


def _follow_site(folder: Path, active: Version) -> None:
    """Let the campaign's file say what the votes were cast on, where somebody published another on the site."""
    from greenpea.files import replacing
    from greenpea.workflow import Workflow

    path = folder / "workflow.json"
    if Workflow.load(path) == active.workflow:
        return
    older = path.with_name(f"workflow before {active.number}.json")
    older.write_bytes(path.read_bytes())
    with replacing(path) as temporary:
        temporary.write_text(active.workflow.to_json(), encoding="utf-8")
    console.print(
        f"{plain(path)} is now version {active.number}, as published on the site; the one before is in "
        f"{plain(older.name)}.",
        soft_wrap=True,
    )

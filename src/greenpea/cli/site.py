"""Commands around the site: serve it, keep its store safe, bring classifications in and out, look after people."""

from __future__ import annotations

import os
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from greenpea.cli.screen import console, plain, progress
from greenpea.errors import GreenpeaError

if TYPE_CHECKING:  # importing the web framework takes a second: only the commands that need it pay
    from greenpea.store import ImportReport, Role, Store
    from greenpea.zooniverse import ImportedWorkflow

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The campaign's folder.")]
Address = Annotated[
    str | None,
    typer.Option(
        "--database",
        metavar="URL",
        help="Where the store is, such as postgresql://user:password@host/name. "
        "Default: GREENPEA_DATABASE, else DIR/store.sqlite.",
    ),
]
import_app = typer.Typer(help="Bring in what was classified elsewhere.", no_args_is_help=True)
export_app = typer.Typer(help="Write what was classified here, for other programs.", no_args_is_help=True)
people_app = typer.Typer(help="Look after accounts: list, invite, give roles, reset passwords.", no_args_is_help=True)
SHOWN = 8  # problems listed on the screen


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(import_app, name="import")
    app.add_typer(export_app, name="export")
    app.add_typer(people_app, name="people")
    for command in (serve, backup, restore, upgrade, recount):
        app.command()(command)


def _now() -> datetime:
    return datetime.now(UTC)


def _store(folder: Path, database: str | None) -> Store:
    from greenpea.site.opening import open_store

    if not (folder / "campaign.toml").is_file():
        raise GreenpeaError(f"{folder} is not a campaign: make one with 'greenpea init' or 'greenpea simulate'")
    return open_store(folder, database)


# ---- serving -----------------------------------------------------------------------------------------


def serve(
    folder: Folder,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on.")] = 8000,
    database: Address = None,
    workers: Annotated[int, typer.Option(min=1, help="Server processes; more than one needs PostgreSQL.")] = 1,
    behind: Annotated[
        str, typer.Option("--behind", metavar="ADDRESSES", help="Proxies whose X-Forwarded headers are believed.")
    ] = "127.0.0.1",
    prefix: Annotated[str, typer.Option(help="The path under which a proxy shows the site, such as /galaxies.")] = "",
    quiet: Annotated[bool, typer.Option("--quiet", help="Log failed requests only.")] = False,
) -> None:
    """Open the campaign's web site: volunteers classify, the team watches and exports.

    Examples:

      greenpea serve galaxies

      greenpea serve survey --database postgresql://greenpea:secret@db/survey --workers 4 --host 0.0.0.0
    """
    import uvicorn

    from greenpea.settings import Settings
    from greenpea.site import mail
    from greenpea.site.opening import CAMPAIGN, DATABASE, QUIET, fill, secret_of

    mail.mailer(os.environ)
    secret_of(os.environ)
    store = _store(folder, database)
    if workers > 1 and store.database.kind == "sqlite":
        raise GreenpeaError("SQLite is written by one process: leave out --workers, or give a PostgreSQL --database")
    with progress() as report:
        filled = fill(store, folder, Settings.load(folder / "campaign.toml"), _now(), report)
    console.print(
        f"[bold]{plain(folder)}[/bold]: {filled.subjects:,} subjects ({filled.new:,} new, {filled.gold:,} with known "
        f"answers), workflow version {filled.version}, store on {store.database.kind}."
    )
    shown = f"http://{'localhost' if host in ('127.0.0.1', '0.0.0.0') else host}:{port}{prefix}"
    if not store.people.owners():
        _invite_owner(store, shown)
    store.close()
    console.print(f"Volunteers classify at [bold]{shown}/[/bold]; the team looks at {shown}/team. Ctrl-C ends it.")
    os.environ |= {CAMPAIGN: str(folder.absolute()), QUIET: "1" if quiet else "0"}
    if database:
        os.environ[DATABASE] = database
    uvicorn.run(
        "greenpea.site.opening:worker",
        factory=True,
        host=host,
        port=port,
        workers=workers,
        access_log=False,
        log_level="warning",
        forwarded_allow_ips=behind,
        root_path=prefix.rstrip("/"),
        server_header=False,
        timeout_graceful_shutdown=10,
    )


def _invite_owner(store: Store, address: str) -> None:
    from greenpea.store import Role

    token = store.people.invite(Role.OWNER, _now())
    console.print(
        f"[yellow]Nobody owns this campaign yet.[/yellow] Make the owner's account here, within a week:\n"
        f"  {address}/join/{token}",
        soft_wrap=True,
    )


# ---- keeping it safe ---------------------------------------------------------------------------------


def backup(
    folder: Folder,
    out: Annotated[Path | None, typer.Option(help="The file. Default: DIR/backups/<time>.zip.")] = None,
    database: Address = None,
) -> None:
    """Write the whole store to one file, while people go on classifying.

    Do not copy store.sqlite by hand: the newest votes are in another file beside it.

    Examples:

      greenpea backup galaxies --out /safe/place/galaxies.zip
    """
    from greenpea.store import backup as backups

    store, now = _store(folder, database), _now()
    path = out or folder / "backups" / f"{now:%Y%m%d-%H%M%S}.zip"
    with progress() as report:
        rows = backups.write(store.database, path, now, report)
    store.close()
    console.print(
        f"{rows['classifications']:,} classifications by {rows['volunteers']:,} volunteers on {rows['subjects']:,} "
        f"subjects are in [bold]{plain(path)}[/bold] ({path.stat().st_size / 2**20:.1f} MiB).",
        soft_wrap=True,
    )
    console.print(
        f"To bring it back: greenpea restore {plain(shlex.quote(str(folder)))} {plain(shlex.quote(str(path)))}",
        soft_wrap=True,
    )


def restore(
    folder: Folder,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What 'greenpea backup' wrote.")],
    database: Address = None,
) -> None:
    """Bring a backup back, into a new store; also from SQLite to PostgreSQL.

    Examples:

      greenpea restore galaxies galaxies.zip --database postgresql://greenpea:secret@db/galaxies
    """
    from greenpea.site.opening import DATABASE, STORE
    from greenpea.store import backup as backups
    from greenpea.store import url_of
    from greenpea.store.engine import Database

    opened = Database(url_of(database or os.environ.get(DATABASE) or folder / STORE))
    with progress() as report:
        rows = backups.read(opened, file, report)
    opened.close()
    differences = _store(folder, database).classifications.recount()
    console.print(
        f"{rows['classifications']:,} classifications by {rows['volunteers']:,} volunteers are back; a recount finds "
        f"{differences:,} differences."
    )


def upgrade(folder: Folder, database: Address = None) -> None:
    """Bring a store made by an older Greenpea up to date. Make a backup first.

    Examples:

      greenpea upgrade galaxies
    """
    from greenpea.site.opening import DATABASE, STORE
    from greenpea.store import migrations, url_of
    from greenpea.store.engine import Database

    opened = Database(url_of(database or os.environ.get(DATABASE) or folder / STORE))
    with opened.read() as connection:
        before = migrations.revision(connection)
    migrations.upgrade(opened)
    opened.close()
    console.print(f"The store is at revision {migrations.newest()} (it was at {before or 'none'}).")


def recount(folder: Folder, database: Address = None) -> None:
    """Count every classification anew and compare with the counters. There should be no difference.

    Examples:

      greenpea recount galaxies
    """
    store = _store(folder, database)
    differences = store.classifications.recount()
    store.close()
    console.print(f"{differences:,} counters differ from a recount of the raw classifications.")
    if differences:
        raise typer.Exit(1)


# ---- in and out --------------------------------------------------------------------------------------


@import_app.command("zooniverse")
def import_zooniverse(
    folder: Folder,
    classifications: Annotated[Path, typer.Argument(metavar="CSV", help="A classification export of Zooniverse.")],
    workflows: Annotated[Path, typer.Option(help="Workflow versions: JSON, or a workflows.csv export.")],
    workflow: Annotated[str | None, typer.Option(help="Use this workflow's id only.")] = None,
    database: Address = None,
) -> None:
    """Store the classifications of a Zooniverse project. Importing again stores nothing twice.

    Answers are read at the version of the workflow that they were given on. What cannot be used is written to
    CSV.unused.csv with the reason; unsupported tasks are kept raw.

    Examples:

      greenpea import zooniverse galaxies classifications.csv --workflows workflows.csv
    """
    from greenpea.zooniverse import keeping, read_classifications

    store = _store(folder, database)
    unused = classifications.with_suffix(".unused.csv")
    with keeping(unused) as sink, progress() as report:
        found = read_classifications(classifications, _versions(workflows, workflow), unused=sink)
        result = store.classifications.import_(found, _now(), lambda done: report("classifications", 0.5, f"{done:,}"))
    store.close()
    for line in found.report.summary():
        console.print(plain(line))
    _show_imported(result, unused, len(found.report.unused))


def _versions(path: Path, workflow: str | None) -> list[ImportedWorkflow]:
    from greenpea.zooniverse import workflow_versions

    return workflow_versions(path, workflow=workflow)


def _show_imported(result: ImportReport, unused: Path, rows: int) -> None:
    console.print(
        f"[bold]{result.stored:,} classifications stored and counted[/bold]; {result.again:,} were here already, "
        f"{result.repeated:,} repeat a volunteer's own, {result.gold:,} are on subjects with known answers."
    )
    for what, found in (
        ("are on subjects that the campaign has not", result.strangers),
        ("do not fit the active workflow", result.refused),
    ):
        if found:
            console.print(f"[yellow]{len(found):,} {what}: not stored.[/yellow]")
            for uuid, why in found[:SHOWN]:
                console.print(f"  {plain(uuid)}: {plain(why)}")
    if rows:
        console.print(f"[yellow]{rows:,} rows could not be used: {plain(unused)} holds them, with why.[/yellow]")


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

    store = _store(folder, database)
    with progress() as report:
        written = zooniverse_folder(store, folder.resolve().name, out, report)
    store.close()
    for path, rows in written.items():
        console.print(f"  {plain(path)}: {rows:,} rows")


@export_app.command("votes")
def export_votes(
    folder: Folder,
    out: Annotated[
        Path, typer.Option(help="A .parquet or .csv file. Default: DIR/votes.parquet, to train on.")
    ] = Path(),
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

    store = _store(folder, database)
    votes = store.classifications.votes()
    store.close()
    path = out or folder / "votes.parquet"
    with replacing(path) as temporary:
        if path.suffix == ".csv":
            pa_csv.write_csv(votes.to_table(), temporary)
        elif path.suffix == ".parquet":
            pq.write_table(votes.to_table(), temporary)
        else:
            raise GreenpeaError(f"{path}: tables of votes are written as .parquet or .csv")
    console.print(f"{int(votes.total.sum()):,} replies on {len(votes):,} subjects are in [bold]{plain(path)}[/bold].")


# ---- people ------------------------------------------------------------------------------------------


@people_app.command("list")
def people_list(folder: Folder, search: str = "", database: Address = None) -> None:
    """List accounts and the volunteers who classified most."""
    store = _store(folder, database)
    rows, _ = store.people.listing(search=search)
    store.close()
    table = Table("name", "role", "classifications", "agreement", "last seen", "")
    for row in rows:
        one = row.volunteer
        table.add_row(
            plain(one.shown),
            one.role.value,
            f"{row.classifications:,}",
            "–" if row.agreement is None else f"{row.agreement:.0%}",
            f"{row.last_at:%Y-%m-%d %H:%M}" if row.last_at else "–",
            "banned" if one.banned_at else "",
        )
    console.print(table)


@people_app.command("add")
def people_add(
    folder: Folder,
    name: str,
    role: Annotated[str, typer.Option(help="volunteer, moderator, scientist or owner.")] = "volunteer",
    password: Annotated[str, typer.Option(prompt=True, confirmation_prompt=True, hide_input=True)] = "",
    database: Address = None,
) -> None:
    """Make an account."""
    store = _store(folder, database)
    one = store.people.sign_up(name, password, _now(), role=_role(role))
    store.close()
    console.print(f"[bold]{plain(one.shown)}[/bold] is a {one.role.value}.")


@people_app.command("role")
def people_role(folder: Folder, name: str, role: str, database: Address = None) -> None:
    """Give an account a role: volunteer, moderator, scientist or owner."""
    store = _store(folder, database)
    store.people.set_role(_account(store, name), _role(role))
    store.close()
    console.print(f"[bold]{plain(name)}[/bold] is now {role}.")


@people_app.command("reset")
def people_reset(folder: Folder, name: str, database: Address = None) -> None:
    """Make a link with which somebody sets a new password, once, within a day."""
    store = _store(folder, database)
    token = store.people.reset_token(_account(store, name), _now())
    store.close()
    console.print(f"Give {plain(name)} the address of the site, followed by:\n  /reset/{token}", soft_wrap=True)


@people_app.command("invite")
def people_invite(folder: Folder, role: Annotated[str, typer.Option()] = "scientist", database: Address = None) -> None:
    """Make a link with which somebody joins with a role, once, within a week."""
    store = _store(folder, database)
    token = store.people.invite(_role(role), _now())
    store.close()
    console.print(f"Give them the address of the site, followed by:\n  /join/{token}", soft_wrap=True)


def _role(name: str) -> Role:
    from greenpea.errors import did_you_mean
    from greenpea.store import Role

    try:
        return Role(name.lower())
    except ValueError:
        raise GreenpeaError(
            f"there is no role {name!r}{did_you_mean(name, list(Role))}: choose {', '.join(Role)}"
        ) from None


def _account(store: Store, name: str) -> int:
    one = store.people.by_name(name)
    if one is None:
        raise GreenpeaError(f"there is no account {name!r}: see 'greenpea people list'")
    return one.id

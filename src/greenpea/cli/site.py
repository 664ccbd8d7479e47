"""Commands around the site: serve it, keep its store safe, look after people."""

from __future__ import annotations

import json
import os
import shlex
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from greenpea.cli.screen import Sets, console, plain, progress
from greenpea.errors import GreenpeaError

if TYPE_CHECKING:  # importing the web framework takes a second: only the commands that need it pay
    from greenpea.site.opening import Filled
    from greenpea.store import Role, Store
    from greenpea.store.engine import Database

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
Name = Annotated[str, typer.Argument(metavar="NAME", help="The account's name.")]
RoleName = Annotated[str, typer.Option(help="volunteer, moderator, scientist or owner.")]
people_app = typer.Typer(help="Look after accounts: list, invite, give roles, reset passwords.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(people_app, name="people")
    for command in (serve, backup, restore, upgrade, recount):
        app.command()(command)


def utc_now() -> datetime:
    return datetime.now(UTC)


def store_of(folder: Path, database: str | None, new: bool = False) -> Store:
    """Open a campaign's store; ``new``: also where there is none yet."""
    from greenpea.site.opening import open_store

    _refuse_other(folder)
    if not new:
        opened = _database(folder, database)
        found = _revision(opened)
        opened.close()
        if found is None:
            raise GreenpeaError(f"{folder} has no store yet: 'greenpea serve' makes it, or 'greenpea import'")
    return open_store(folder, database)


def filled_store(folder: Path, database: str | None) -> Store:
    """Open a campaign's store that has been filled with its workflow and subjects."""
    store = store_of(folder, database)
    if not store.workflows.all():
        raise GreenpeaError(f"the store of {folder} has no workflow yet: 'greenpea serve' brings it in")
    return store


def _refuse_other(folder: Path) -> None:
    if not (folder / "campaign.toml").is_file():
        raise GreenpeaError(
            f"{folder} is not a campaign: it has no campaign.toml. Make one with 'greenpea init' or "
            f"'greenpea simulate'; to restore a backup, copy the campaign's folder without its store.sqlite first"
        )


def _database(folder: Path, database: str | None) -> Database:
    """Return a campaign's database, whatever it holds."""
    from greenpea.site.opening import place_of
    from greenpea.store import url_of
    from greenpea.store.engine import Database

    _refuse_other(folder)
    return Database(url_of(place_of(folder, database)))


def _revision(opened: Database) -> str | None:
    """Return the revision of a store, None where there is none; to look at a file of SQLite would make it."""
    from greenpea.store import migrations

    place = opened.reader.url.database
    if opened.kind == "sqlite" and place and not Path(place).exists():
        return None
    return migrations.looked_at(opened)


def fill_store(store: Store, folder: Path) -> Filled:
    """Bring what the campaign's folder holds into its store, and say what a person should know of it."""
    from greenpea.site.opening import fill, settings_of

    with progress() as report:
        report("reading the campaign's folder", 0.0, "")
        filled = fill(store, folder, settings_of(folder), utc_now(), report)
    if filled.kept:
        console.print(
            f"[yellow]The workflow was published on the site since: version {filled.version} of there counts, not "
            f"{plain(folder / 'workflow.json')}.[/yellow]",
            soft_wrap=True,
        )
    if filled.missing:
        console.print(
            f"[yellow]{len(filled.missing):,} subjects have no image where their table says, such as "
            f"{plain(', '.join(filled.missing[:3]))}: volunteers would be told so. Put the files there.[/yellow]",
            soft_wrap=True,
        )
    if filled.unused_gold:
        console.print(
            f"[yellow]{filled.unused_gold:,} known answers in {plain(folder / 'gold.csv')} are not used: they came, or "
            f"were changed, after people could classify their subjects.[/yellow]",
            soft_wrap=True,
        )
    return filled


# ---- serving -----------------------------------------------------------------------------------------


def serve(
    folder: Folder,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")] = 8000,
    database: Address = None,
    workers: Annotated[int, typer.Option(min=1, help="Server processes; more than one needs PostgreSQL.")] = 1,
    behind: Annotated[
        str, typer.Option("--behind", metavar="ADDRESSES", help="Proxies whose X-Forwarded headers are believed.")
    ] = "127.0.0.1",
    prefix: Annotated[str, typer.Option(help="The path under which a proxy shows the site, such as /galaxies.")] = "",
    quiet: Annotated[bool, typer.Option("--quiet", help="Log failed requests only.")] = False,
    sets: Sets = None,
) -> None:
    """Open the campaign's web site: volunteers classify, the team watches and exports.

    Examples:

      greenpea serve galaxies

      greenpea serve galaxies --set site.lease_minutes=10 --set site.sign_up=false

      greenpea serve survey --database postgresql://greenpea:secret@db/survey --workers 4 --host 0.0.0.0
    """
    from greenpea.site import mail
    from greenpea.site.opening import CAMPAIGN, DATABASE, QUIET, SETS, secret_of

    mail.mailer(os.environ)
    secret_of(os.environ)
    os.environ[SETS] = json.dumps(sets or [])  # server processes read it too
    _refuse_taken(host, port)
    store = store_of(folder, database, new=True)
    if workers > 1 and store.database.kind == "sqlite":
        raise GreenpeaError("SQLite is written by one process: leave out --workers, or give a PostgreSQL --database")
    filled = fill_store(store, folder)
    console.print(
        f"[bold]{plain(folder)}[/bold]: {filled.subjects:,} subjects ({filled.new:,} new, {filled.gold:,} with known "
        f"answers), workflow version {filled.version}, store on {store.database.kind}.",
        soft_wrap=True,
    )
    near = "localhost" if host in ("127.0.0.1", "0.0.0.0", "::", "::1") else host
    shown = f"http://{near}:{port}{prefix.rstrip('/')}"
    if not store.people.owners():
        _invite_owner(store, shown)
    store.close()
    console.print(
        f"Volunteers classify at [bold]{shown}/[/bold]; the team looks at {shown}/team. Ctrl-C ends it.", soft_wrap=True
    )
    os.environ |= {CAMPAIGN: str(folder.absolute()), QUIET: "1" if quiet else "0"}
    if database:
        os.environ[DATABASE] = database
    _run(host, port, workers, behind, prefix)


def _run(host: str, port: int, workers: int, behind: str, prefix: str) -> None:
    import uvicorn

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


def _refuse_taken(host: str, port: int) -> None:
    """Raise GreenpeaError where a port cannot be listened on, before anything is written or promised."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except OSError as error:
            raise GreenpeaError(
                f"cannot listen on {host}, port {port} ({error.strerror or error}): choose another --port or --host"
            ) from error


def _invite_owner(store: Store, address: str) -> None:
    from greenpea.store import Role

    token = store.people.invite(Role.OWNER, utc_now())
    console.print(
        f"[yellow]Nobody owns this campaign yet.[/yellow] Make the owner's account here, within a week:\n"
        f"  {address}/join/{token}",
        soft_wrap=True,
    )


# ---- keeping it safe ---------------------------------------------------------------------------------


def backup(
    folder: Folder,
    out: Annotated[
        Path | None, typer.Option(help="The file, or a folder to put it into. Default: the folder DIR/backups.")
    ] = None,
    database: Address = None,
) -> None:
    """Write the whole store to one file, while people go on classifying.

    The files of the folder (settings, workflow, subjects, images) are not in it: copy them as any others. But do
    not copy store.sqlite by hand: the newest votes are in another file beside it. A backup holds what is secret
    as well (addresses, hashes of passwords): only you may read the file.

    Examples:

      greenpea backup galaxies --out /safe/place/galaxies.zip
    """
    from greenpea.store import backup as backups

    opened, now = _database(folder, database), utc_now()
    if _revision(opened) is None:
        raise GreenpeaError(f"{folder} has no store yet, so there is nothing to keep: 'greenpea serve' makes it")
    name = f"{folder.resolve().name}-{now:%Y%m%d-%H%M%S}.zip"
    path = folder / "backups" / name if out is None else out / name if out.is_dir() else out
    with progress() as report:
        rows = backups.write(opened, path, now, report)
    opened.close()
    console.print(
        f"{rows['classifications']:,} classifications by {rows['volunteers']:,} volunteers on {rows['subjects']:,} "
        f"subjects are in [bold]{plain(path)}[/bold] ({path.stat().st_size / 2**20:.1f} MiB).",
        soft_wrap=True,
    )
    console.print(
        f"To bring it back, where there is no store: greenpea restore {plain(shlex.quote(str(folder)))} "
        f"{plain(shlex.quote(str(path)))}",
        soft_wrap=True,
    )


def restore(
    folder: Folder,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What 'greenpea backup' wrote.")],
    database: Address = None,
) -> None:
    """Bring a backup back, into a new store; also from SQLite to PostgreSQL.

    DIR is the campaign's folder, or a copy of it without store.sqlite: a backup holds the store, not the images,
    settings and subjects.

    Examples:

      greenpea restore galaxies galaxies.zip --database postgresql://greenpea:secret@db/galaxies
    """
    from greenpea.store import backup as backups

    opened = _database(folder, database)
    with progress() as report:
        rows = backups.read(opened, file, report)
    opened.close()
    store = store_of(folder, database)
    differences = store.classifications.recount()
    store.close()
    console.print(
        f"{rows['classifications']:,} classifications by {rows['volunteers']:,} volunteers on {rows['subjects']:,} "
        f"subjects are back. {_recounted(differences)}",
        soft_wrap=True,
    )
    if differences:
        raise typer.Exit(1)


def upgrade(folder: Folder, database: Address = None) -> None:
    """Bring a store made by an older Greenpea up to date. Make a backup first.

    Examples:

      greenpea upgrade galaxies
    """
    from greenpea.store import migrations

    opened = _database(folder, database)
    before = migrations.upgrade(opened)
    opened.close()
    now = migrations.newest()
    if before == now:
        console.print(f"The store is at revision {now} already: nothing to do.")
    else:
        console.print(f"The store is at revision {now}; it was {f'at {before}' if before else 'empty'}.")


def recount(folder: Folder, database: Address = None) -> None:
    """Count every classification anew and compare with the counters. There should be no difference.

    Examples:

      greenpea recount galaxies
    """
    store = store_of(folder, database)
    differences = store.classifications.recount()
    store.close()
    console.print(_recounted(differences))
    if differences:
        raise typer.Exit(1)


def _recounted(differences: int) -> str:
    if not differences:
        return "Every counter equals a recount of the raw classifications."
    return (
        f"[red]{differences:,} counters differ from a recount of the raw classifications[/red]: this is a fault of "
        f"Greenpea. Make a backup and report it."
    )


# ---- people ------------------------------------------------------------------------------------------


@people_app.command("list")
def people_list(
    folder: Folder,
    search: Annotated[str, typer.Option(help="Part of a name.")] = "",
    database: Address = None,
) -> None:
    """List those who classified or signed up, the busiest first.

    Examples:

      greenpea people list galaxies --search ada
    """
    store = store_of(folder, database, new=True)
    rows, following = store.people.listing(search=search)
    store.close()
    if not rows:
        console.print("Nobody yet." if not search else f"Nobody whose name holds {plain(repr(search))}.")
        return
    table = Table("name", "role", "classifications", "agreement", "last seen (UTC)", "")
    for row in rows:
        one = row.volunteer
        table.add_row(
            plain(one.shown),
            one.role.value if not one.anonymous else "–",
            f"{row.classifications:,}",
            "–" if row.agreement is None else f"{row.agreement:.0%}",
            f"{row.last_at:%Y-%m-%d %H:%M}" if row.last_at else "–",
            "banned" if one.banned_at else "",
        )
    console.print(table)
    if following:
        console.print(
            f"The first {len(rows)} are shown: find others with --search, or on the site's page of volunteers."
        )


@people_app.command("add")
def people_add(
    folder: Folder,
    name: Name,
    role: RoleName = "volunteer",
    password: Annotated[
        str,
        typer.Option(
            prompt=True,
            confirmation_prompt=True,
            hide_input=True,
            help="10 characters or more; asked for if not given.",
        ),
    ] = "",
    database: Address = None,
) -> None:
    """Make an account.

    Examples:

      greenpea people add galaxies "Ada Lovelace" --role owner
    """
    chosen = _role(role)
    store = store_of(folder, database, new=True)
    one = store.people.sign_up(name, password, utc_now(), role=chosen)
    store.close()
    console.print(f"[bold]{plain(one.shown)}[/bold] has an account: {one.role.value}.")


@people_app.command("role")
def people_role(
    folder: Folder,
    name: Name,
    role: Annotated[str, typer.Argument(metavar="ROLE", help="volunteer, moderator, scientist or owner.")],
    database: Address = None,
) -> None:
    """Give an account a role.

    A moderator hides comments and bans; a scientist sees everything, edits the workflow and exports as well; an
    owner gives roles as well.

    Examples:

      greenpea people role galaxies "Ada Lovelace" scientist
    """
    chosen = _role(role)
    store = store_of(folder, database)
    store.people.set_role(_account(store, folder, name), chosen)
    store.close()
    console.print(f"[bold]{plain(name)}[/bold] is now {chosen.value}.")


@people_app.command("reset")
def people_reset(folder: Folder, name: Name, database: Address = None) -> None:
    """Make a link with which somebody sets a new password, once, within a day.

    Examples:

      greenpea people reset galaxies "Ada Lovelace"
    """
    store = store_of(folder, database)
    token = store.people.reset_token(_account(store, folder, name), utc_now())
    store.close()
    _show_link(f"Give this to {plain(name)}: a new password can be set with it, once, within a day.", f"/reset/{token}")


@people_app.command("invite")
def people_invite(folder: Folder, role: RoleName = "scientist", database: Address = None) -> None:
    """Make a link with which somebody joins with a role, once, within a week.

    Examples:

      greenpea people invite galaxies --role moderator
    """
    chosen = _role(role)
    store = store_of(folder, database, new=True)
    token = store.people.invite(chosen, utc_now())
    store.close()
    _show_link(f"Whoever opens this first can join as {chosen.value}, within a week.", f"/join/{token}")


def _show_link(words: str, path: str) -> None:
    site = os.environ.get("GREENPEA_URL", "").rstrip("/")
    where = "" if site else " Put the address of the site before it (GREENPEA_URL is not set)."
    console.print(f"{words}{where}\n  {plain(site + path)}", soft_wrap=True)


def _role(name: str) -> Role:
    from greenpea.errors import did_you_mean
    from greenpea.store import Role

    try:
        return Role(name.lower())
    except ValueError:
        roles = [role.value for role in Role]
        raise GreenpeaError(
            f"there is no role {name!r}: choose {', '.join(roles)}{did_you_mean(name.lower(), roles)}"
        ) from None


def _account(store: Store, folder: Path, name: str) -> int:
    one = store.people.by_name(name)
    if one is None:
        shown = shlex.quote(str(folder))
        raise GreenpeaError(f"there is no account {name!r}: 'greenpea people list {shown}' shows who has one")
    return one.id

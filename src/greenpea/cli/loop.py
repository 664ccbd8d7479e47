"""Commands of the loop: run a round, run them for ever, list them, go back to one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from greenpea.cli.screen import Sets, console, plain, progress, say_next
from greenpea.cli.site import Address, Folder, filled_store, utc_now

if TYPE_CHECKING:
    from greenpea.records import Record, Tuning

OUTCOMES = {
    "promoted": "promoted",
    "ungated": "promoted, ungated",
    "kept": "incumbent kept",
    "failed": "failed",
}


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command("round")(round_)
    app.command("loop")(loop_)
    app.command("rounds")(rounds_)
    app.command("tune")(tune)


def round_(folder: Folder, database: Address = None, sets: Sets = None) -> None:
    """Learn from the votes so far and turn the queue to the subjects that teach most. Killed, it goes on where it was.

    Collects the votes, fits heads on the cached embeddings, lets them take over only if the audit set's votes do not
    speak against them, ranks the open subjects, retires those of which enough is known (the rules 'confident' and
    'settled' of workflow.json), and keeps everything in DIR/rounds/.

    Examples:

      greenpea round galaxies

      greenpea round galaxies --set loop.votes=3
    """
    from greenpea import rounds
    from greenpea.campaign import Campaign

    campaign = Campaign.open(folder, sets or [])
    store = filled_store(folder, database)
    try:
        with progress() as report:
            record = rounds.run(campaign, store, report=report)
    finally:
        store.close()
    if record is None:
        console.print("No vote is new since the last round: the queue stays as it is.")
    else:
        _tell(record)


def loop_(folder: Folder, database: Address = None, sets: Sets = None) -> None:
    """Run rounds for ever, beside 'greenpea serve': after 200 new classifications, or 10 minutes. Ctrl-C ends it.

    Both numbers are settings (loop.classifications, loop.minutes). It takes the processor only when nobody else
    wants it, so that volunteers do not wait.

    Examples:

      greenpea loop galaxies

      greenpea loop galaxies --set loop.classifications=1000
    """
    from greenpea import rounds
    from greenpea.campaign import Campaign

    os.nice(10)
    campaign = Campaign.open(folder, sets or [])
    store = filled_store(folder, database)
    chosen = campaign.settings.loop
    console.print(
        f"Waiting for votes on [bold]{plain(folder)}[/bold]: a round after {chosen.classifications:,} new "
        f"classifications, or {chosen.minutes:g} minutes. Ctrl-C ends it; what is under way is finished next time.",
        soft_wrap=True,
    )
    try:
        rounds.loop(campaign, store, _tell, tuned=_tell_tuning)
    except KeyboardInterrupt:
        console.print("Ended.")
    finally:
        store.close()


def tune(folder: Folder, database: Address = None, sets: Sets = None) -> None:
    """Train the encoder on with the votes so far; if it is better, rounds look through it. Killed, it goes on.

    Two encoders are trained, each on the votes of one half of the subjects, and each subject is looked at by the one
    that has not seen its votes; the audit set teaches neither. Heads on both are then judged against heads on the
    encoder so far, by the audit set's votes: only if the 5 % bound of their gain is above 0 does the tuned encoder take
    over. Else it is laid aside. 'greenpea rounds DIR' shows every verdict. Rounds may go on meanwhile.

    It pays late: with thousands of votes, on images unlike those the encoder knows. With loop.tune = "milestones",
    'greenpea loop' does it whenever the answers have doubled.

    Examples:

      greenpea tune galaxies

      greenpea tune galaxies --set learning.accelerator=cpu
    """
    from greenpea import rounds
    from greenpea.campaign import Campaign

    campaign = Campaign.open(folder, sets or [])
    store = filled_store(folder, database)
    try:
        with progress() as report:
            found = rounds.tune(campaign, store, report=report)
    finally:
        store.close()
    _tell_tuning(found)
    if found.took_over:
        say_next("round", folder)


def rounds_(
    folder: Folder,
    rollback: Annotated[int | None, typer.Option(metavar="N", help="Let round N rank the queue again.")] = None,
    database: Address = None,
) -> None:
    """List the rounds of a campaign, or go back to one.

    Examples:

      greenpea rounds galaxies

      greenpea rounds galaxies --rollback 7
    """
    from greenpea import records

    if rollback is not None:
        _roll_back(folder, rollback, database)
        return
    _list(folder)
    for tuning in records.tunings(folder):
        _tell_tuning(tuning)


def _list(folder: Path) -> None:
    from greenpea import records

    found = records.every(folder)
    if not found:
        console.print(
            f"{plain(folder)} has had no round yet: 'greenpea round {plain(folder)}' runs one, 'greenpea loop' goes on."
        )
        return
    table = Table(box=None, pad_edge=False)
    for heading, justify in (
        ("round", "right"), ("begun", "left"), ("answers", "right"), ("outcome", "left"), ("gain", "right"),
        ("by chance", "right"), ("ranked", "right"), ("retired", "right"), ("model", "left"),
    ):  # fmt: skip
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for record in found:
        table.add_row(*_line(record))
    console.print(table)
    console.print(
        "gain: nats per vote of the audit set over not looking at the image, each vote as if it were the first, the "
        "larger the better; by chance: of heads that learned from the random stream alone. The excess is no measure "
        "over rounds: it sinks by itself as the audit set gains votes.",
        style="dim",
        soft_wrap=True,
    )


def _line(record: Record) -> list[str]:
    overall = record.overall
    outcome = OUTCOMES.get(record.gate.outcome, "") if record.gate else ""
    return [
        str(record.number),
        record.begun_at.astimezone().strftime("%Y-%m-%d %H:%M"),
        f"{record.answers:,}",
        outcome if record.finished else f"unfinished: {list(record.stages)[-1]}",
        _nats(overall.gain if overall else None),
        _nats(overall.random_gain if overall else None),
        f"{record.ranked:,}",
        f"{sum(record.retired.values()):,}",
        record.model[:8],
    ]


def _nats(gain: float | None) -> str:
    return "–" if gain is None else f"{gain:.3f}"


def _roll_back(folder: Path, number: int, database: str | None) -> None:
    from greenpea import rounds
    from greenpea.campaign import Campaign

    store = filled_store(folder, database)
    try:
        record = rounds.roll_back(Campaign.open(folder), store, number, utc_now())
    finally:
        store.close()
    console.print(
        f"Round {number} ranks the queue again (model {record.model[:8]}, {record.ranked:,} subjects), until the next "
        f"round takes over.",
        soft_wrap=True,
    )


def _tell_tuning(tuning: Tuning) -> None:
    """Say in a line what a tuning came to."""
    gate = tuning.gate
    if tuning.took_over:
        verdict = "the tuned encoder takes over"
    elif tuning.finished:
        verdict = "laid aside" if gate and gate.outcome == "kept" else "failed"
    else:
        verdict = f"unfinished: {list(tuning.stages)[-1]}; 'greenpea tune' goes on"
    became = f" → {tuning.encoder[:8]}" if tuning.encoder else ""
    console.print(
        f"[bold]Tuning {tuning.number}[/bold]: encoder {tuning.before[:8]}{became}, trained on with {tuning.answers:,} "
        f"answers on {tuning.subjects:,} subjects; {verdict}{f' ({plain(gate.why)})' if gate else ''}.",
        soft_wrap=True,
    )


def _tell(record: Record) -> None:
    """Say in a few lines what a round did."""
    gate, overall = record.gate, record.overall
    outcome = OUTCOMES.get(gate.outcome, "") if gate else ""
    console.print(
        f"[bold]Round {record.number}[/bold]: {record.answers:,} answers on {record.subjects:,} subjects; {outcome}"
        f"{f' ({plain(gate.why)})' if gate else ''}.",
        soft_wrap=True,
    )
    if overall and overall.gain is not None:
        by_chance = "" if overall.random_gain is None else f"; {overall.random_gain:.3f} from the random stream alone"
        console.print(
            f"  gain {overall.gain:.3f} nats per vote of the audit set over not looking at the image{by_chance}",
            soft_wrap=True,
        )
    retired = sum(record.retired.values())
    console.print(
        f"  {record.ranked:,} subjects ranked ({record.scored}), {retired:,} retired; "
        f"{record.saved:,} classifications saved so far",
        soft_wrap=True,
    )

"""The command line: parse, call one function, show. Nothing here knows science."""

from __future__ import annotations

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from greenpea.cli import comparing, demo, loop, publishing, site, transfers
from greenpea.cli.publishing import convert
from greenpea.cli.screen import Sets, console, plain, progress, say_next
from greenpea.errors import GreenpeaError

if TYPE_CHECKING:  # torch takes seconds to import: only the commands that learn or predict pay for it
    from greenpea.calibration import Evaluation
    from greenpea.campaign import Judged
    from greenpea.creation import Imported

app = typer.Typer(
    help="People and Bayesian networks classify images together: votes in, an honest posterior out.\n\n"
    "New here? Run [bold]greenpea demo[/bold]: the whole loop on simulated galaxies, in minutes.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)
tree_app = typer.Typer(help="Decision trees: list, draw, check, import.", no_args_is_help=True, rich_markup_mode="rich")
app.add_typer(tree_app, name="tree")
AFTER_TRAINING = ("learning.draws", "learning.seed", "learning.precision", "learning.accelerator")

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The campaign's folder.")]
TreeName = Annotated[
    str, typer.Argument(metavar="NAME", help="A shipped tree's name, or a JSON file: a tree or a workflow.")
]


class PackFormat(StrEnum):
    """What `pack` writes."""

    tar = "tar"
    parquet = "parquet"


def main() -> None:
    """Run the command line; bad input ends in words that say what to do, not in a traceback."""
    try:
        app()
    except GreenpeaError as error:
        Console(stderr=True).print(f"[bold red]Error:[/bold red] {plain(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)


# ---- making a campaign -------------------------------------------------------------------------------


@app.command()
def init(
    folder: Folder,
    tree: Annotated[str, typer.Option(help="A shipped tree (see 'greenpea tree list') or a JSON file.")],
    subjects: Annotated[Path, typer.Option(help="A folder of images, a table that lists them, or shards.")],
    votes: Annotated[
        Path | None, typer.Option(help="A table of votes. Default: the table of subjects, if it has any.")
    ] = None,
    id_column: Annotated[str | None, typer.Option(help="The column that identifies subjects.")] = None,
    image_column: Annotated[str | None, typer.Option(help="The column with the images or their paths.")] = None,
    sets: Sets = None,
) -> None:
    """Make a campaign from your own images and, if you have them, votes.

    Examples:

      greenpea init galaxies --tree gz2 --subjects votes.csv

      greenpea init survey --tree gz-decals-5 --subjects images/ --votes counts.parquet --id-column iauname

      greenpea init sky --tree binary --subjects cutouts/ --set images.size=96 --set images.stretch=asinh
    """
    from greenpea.creation import create

    with progress() as report:
        report("reading subjects and votes", 0.0, "")
        campaign, imported = create(folder, tree, subjects, votes, id_column, image_column, sets or [])
    _show_import(folder, imported)
    size = campaign.settings.images.size
    console.print(f"Images are prepared at {size} × {size} pixels; settings are in {plain(folder / 'campaign.toml')}.")
    if not imported.with_votes:
        console.print(
            f"The questions and the site's title are in {plain(folder / 'workflow.json')}: edit it first.",
            soft_wrap=True,
        )
    say_next("train" if imported.with_votes else "serve", folder)


def _show_import(folder: Path, imported: Imported) -> None:
    console.print(
        f"[bold]{plain(folder)}[/bold]: {imported.subjects:,} subjects, "
        + (
            f"{imported.with_votes:,} of them with {imported.votes:,} replies of volunteers."
            if imported.votes
            else "without votes yet."
        )
    )
    if imported.note:
        console.print(f"Note: {plain(imported.note)}")
    if imported.strangers:
        console.print(
            f"[yellow]{imported.strangers:,} rows of votes are on subjects that are not here: left out.[/yellow]"
        )
    if imported.excesses:
        console.print(
            f"[yellow]{imported.excesses:,} subjects have a few more votes at a question than at the answers that lead "
            f"to it; kept as they are (real tables are like this).[/yellow]"
        )
    for question, answers in imported.incomplete.items():
        console.print(
            f"[yellow]Question {question} is left out: its answers {', '.join(answers)} have no column.[/yellow] "
            f"If that is meant, give a mapping of columns in Python."
        )
    if imported.with_votes and imported.unasked:
        console.print(f"Without any votes: {', '.join(imported.unasked)}.")


@app.command()
def simulate(
    folder: Folder,
    subjects: Annotated[int, typer.Option(help="How many galaxies.", min=1)] = 3000,
    votes: Annotated[int, typer.Option(help="Volunteers per galaxy.", min=0)] = 40,
    size: Annotated[int, typer.Option(help="Pixels a side.", min=16, max=512)] = 64,
    seed: Annotated[int, typer.Option(help="The same seed gives the same galaxies and votes.")] = 0,
    sets: Sets = None,
) -> None:
    """Make a campaign of simulated galaxies, classified by simulated volunteers.

    Every galaxy's true answers are kept in truth.parquet, so that what a network says can be checked.

    Examples:

      greenpea simulate demo

      greenpea simulate big --subjects 20000 --votes 10 --seed 7
    """
    from greenpea.creation import simulate as make

    with progress() as report:
        _, imported = make(folder, subjects, votes, size, seed, report, sets or [])
    _show_import(folder, imported)
    console.print(f"The images are in {plain(folder / 'images')}, the truth in {plain(folder / 'truth.parquet')}.")
    say_next("train" if imported.votes else "serve", folder)


@app.command()
def pack(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of images, a table, or a campaign.")],
    out: Annotated[Path, typer.Option(help="The folder where the shards go.")],
    kind: Annotated[
        PackFormat, typer.Option("--format", help="tar, as WebDataset reads them, or parquet with embedded images.")
    ] = PackFormat.tar,
    size: Annotated[int, typer.Option(help="Images in a shard.", min=1)] = 10_000,
    id_column: Annotated[str | None, typer.Option(help="The column that identifies subjects.")] = None,
    image_column: Annotated[str | None, typer.Option(help="The column with the images or their paths.")] = None,
) -> None:
    """Pack images into few large files, where millions of small ones would hurt. Interrupted, run it again: it goes on.

    Images are kept as they are, with the table's other columns; the shards then stand for the folder or table.

    Examples:

      greenpea pack images/ --out shards

      greenpea pack galaxies.csv --out shards --format parquet --size 50000
    """
    from greenpea.campaign import SETTINGS
    from greenpea.packing import pack as write
    from greenpea.subjects import SubjectSet

    if (source / SETTINGS).is_file():
        subjects = SubjectSet.load(source)
    else:
        subjects = SubjectSet.open(source, id_column, image_column)
    with progress() as report:
        done = write(subjects, out, kind.value, size, report)
    _show_unreadable([list(one) for one in done.missing], "are missing; they stay and will be listed as unreadable")
    again = f", {done.kept:,} of which were there already" if done.kept else ""
    console.print(
        f"{done.subjects:,} subjects are in {done.shards:,} shards{again} in [bold]{plain(done.out)}[/bold] "
        f"({done.bytes / 2**20:,.1f} MiB)."
    )
    console.print(
        f"Next: [bold]greenpea init NAME --tree TREE --subjects {plain(shlex.quote(str(out)))}[/bold]", soft_wrap=True
    )


# ---- learning ----------------------------------------------------------------------------------------


@app.command()
def train(
    folder: Folder,
    start: Annotated[
        Path | None,
        typer.Option("--from", help="A checkpoint (or campaign) whose encoder to begin with, any tree."),
    ] = None,
    sets: Sets = None,
) -> None:
    """Train a Bayesian network on the votes of the training subjects.

    A share of the subjects, chosen by a hash of their id (split.test), is never trained on: 'greenpea evaluate'
    judges the network by them.

    Examples:

      greenpea train galaxies

      greenpea train galaxies --set learning.encoder=timm:resnet18 --set learning.epochs=40

      greenpea train galaxies --from other-campaign
    """
    from greenpea.campaign import Campaign

    campaign = Campaign.open(folder, sets or [])
    with progress() as report:
        run, model = campaign.train(start, report)
    told = model.facts["subjects"]
    console.print(
        f"Trained on {told['training']:,} subjects, stopped by {told['validation']:,} others; images have "
        f"{'an up' if model.facts['orientation'] == 'upright' else 'no up: every rotation was used'}."
    )
    _show_unreadable(model.facts["unreadable"])
    lost = len(model.facts["unreadable"])
    if lost > MANY_LOST * (lost + told["training"] + told["validation"]):
        console.print(
            "[yellow]That is more than a tenth of them all. Where a server or a disk was away, train again when it is "
            "back.[/yellow]",
            soft_wrap=True,
        )
    console.print(f"The model is in [bold]{plain(run)}[/bold].")
    say_next("evaluate", folder)
    say_next("predict", folder)


MANY_LOST = 0.1  # share of the images to learn from that could not be read, above which something is wrong


def _show_unreadable(unreadable: list[list[str]], what: str = "could not be read and were left out") -> None:
    if not unreadable:
        return
    console.print(f"[yellow]{len(unreadable):,} images {what}:[/yellow]")
    for subject, reason in unreadable[:5]:
        console.print(f"  {plain(subject)}: {plain(reason)}", highlight=False)
    if len(unreadable) > 5:
        console.print(f"  … and {len(unreadable) - 5:,} more")


@app.command()
def predict(
    folder: Folder,
    out: Annotated[
        Path,
        typer.Option(help="Where the catalogue goes: .parquet, .fits, .vot, .ecsv or .csv, or a folder for parts."),
    ] = Path("catalogue.parquet"),
    subjects: Annotated[Path | None, typer.Option(help="Other subjects: a folder of images or a table.")] = None,
    draws: Annotated[Path | None, typer.Option(help="Also write every draw, as a long Parquet table.")] = None,
    id_column: Annotated[str | None, typer.Option(help="The column that identifies those subjects.")] = None,
    image_column: Annotated[str | None, typer.Option(help="The column with their images or paths.")] = None,
    model: Annotated[Path | None, typer.Option(help="A checkpoint. Default: the newest run.")] = None,
    embeddings: Annotated[
        Path | None, typer.Option(help="A folder in which the images' embeddings are kept as well.")
    ] = None,
    from_embeddings: Annotated[
        Path | None, typer.Option(help="Take the embeddings kept in this folder, and no images.")
    ] = None,
    anew: Annotated[bool, typer.Option("--anew", help="Throw away what an interrupted run has done.")] = False,
    sets: Sets = None,
) -> None:
    """Predict the volunteers' votes on every subject: a catalogue with honest error bars.

    Per answer the expected share of votes with its 5, 50 and 95 % quantiles; per question reach and expected
    votes; what more votes would teach; the distance from the training subjects. Column metadata says what is what.
    Another format than Parquet is written from the Parquet file of the same name, which stays.
    Interrupted, however it was, the same command goes on where it stopped.

    Examples:

      greenpea predict galaxies --out catalogue.parquet

      greenpea predict galaxies --out catalogue.fits

      greenpea predict galaxies --subjects new_images/ --out new.parquet --draws draws.parquet

      greenpea predict galaxies --out parts/ --embeddings kept/

      greenpea predict galaxies --out again.parquet --from-embeddings kept/
    """
    from greenpea.campaign import Campaign
    from greenpea.converting import check_name
    from greenpea.subjects import SubjectSet

    _refuse_training_settings(sets)
    if out.suffix:
        check_name(out)
    campaign = Campaign.open(folder, sets or [])
    others = SubjectSet.open(subjects, id_column, image_column) if subjects else None
    with progress() as report:
        done = campaign.predict(
            out.with_suffix(".parquet") if out.suffix else out,
            others,
            draws,
            model,
            report,
            embeddings_out=embeddings,
            embeddings_from=from_embeddings,
            anew=anew,
        )
    _show_unreadable([[one.subject_id, one.reason] for one in done.unreadable])
    if done.unreadable:
        console.print(f"All of them are listed in {plain(done.listed)}.")
    console.print(f"The catalogue of {done.subjects:,} subjects is in [bold]{plain(done.out)}[/bold].")
    if out != done.out:
        convert(done.out, out)
    if draws:
        console.print(f"The draws are in [bold]{plain(draws)}[/bold].")


@app.command()
def evaluate(
    folder: Folder,
    votes: Annotated[Path | None, typer.Option(help="Newer votes to judge by. Default: the campaign's own.")] = None,
    subjects: Annotated[
        Path | None, typer.Option(help="Subjects outside the campaign, whose table may hold the votes too.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The report. Default: DIR/report.html.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures as JSON too.")] = None,
    folds: Annotated[int | None, typer.Option(help="Cross-validate: train so many times anew.", min=2)] = None,
    start: Annotated[Path | None, typer.Option("--from", help="With --folds: a checkpoint to begin with.")] = None,
    id_column: Annotated[str | None, typer.Option(help="The column that identifies subjects.")] = None,
    image_column: Annotated[str | None, typer.Option(help="The column with the images or their paths.")] = None,
    model: Annotated[Path | None, typer.Option(help="A checkpoint. Default: the newest run.")] = None,
    sets: Sets = None,
) -> None:
    """Say how far to believe the network, on votes it never saw: a table here, and a report to open.

    Examples:

      greenpea evaluate galaxies

      greenpea evaluate galaxies --subjects held_out.csv --out held_out.html --json held_out.json

      greenpea evaluate galaxies --folds 5
    """
    from greenpea.campaign import Campaign, write_report

    if folds is None and start:
        raise GreenpeaError("--from goes with --folds: without it a trained model is judged, name it with --model")
    if folds is not None and (votes or subjects or model):
        raise GreenpeaError(
            "--folds trains anew on the campaign's own votes: leave out --votes, --subjects and --model"
        )
    if folds is None:
        _refuse_training_settings(sets)
    campaign = Campaign.open(folder, sets or [])
    with progress() as report:
        if folds is None:
            judged = campaign.evaluate(votes, subjects, model, report, id_column, image_column)
        else:
            judged = campaign.cross_validate(folds, start, report)
        report("report", 0.0, "")
        page = write_report(campaign, judged, out or folder / "report.html", json_file)
    _show_scores(judged)
    console.print(f"The report is in [bold]{plain(page)}[/bold].")


def _show_scores(judged: Judged) -> None:
    evaluation = judged.evaluation
    console.print(f"Judged by {judged.how}.")
    if judged.left_out:
        console.print(f"{judged.left_out:,} subjects with votes that the model had seen were left out.")
    table = Table(box=None, padding=(0, 1, 0, 0))  # nothing but one space between columns: it fits in 80
    for name in ("question", "subjects", "excess", "constant", "gain", "RMSE", "90 % hold"):
        table.add_column(name, justify="left" if name == "question" else "right", no_wrap=True)
    for score in evaluation.scores:
        table.add_row(
            score.question,
            f"{score.subjects:,}",
            f"{score.excess.value:.3f}",
            f"{score.constant_excess:.3f}",
            f"{score.gain.value:+.3f} ± {(score.gain.high - score.gain.low) / 2:.3f}",
            f"{score.rmse:.3f}",
            f"{score.coverage['90'] * 100:.1f} ± {score.coverage_error['90'] * 100:.1f}",
            style="bold" if score.question == "overall" else None,
        )
    console.print(table)
    console.print(
        "[dim]excess: nats per vote above the floor (0 is perfect); constant: of a predictor that sees no image; gain: "
        "what the network saves over it, with its 95 % interval; 90 % hold: share of subjects whose votes fall in "
        "the sets that should hold 90 %.[/dim]"
    )
    console.print(_verdict(evaluation))


def _verdict(evaluation: Evaluation) -> str:
    gain = evaluation.overall.gain
    if gain.low > 0:
        return f"The images help: {gain.value:.3f} nats per vote better than not looking, with 95 % certainty."
    if gain.high < 0:
        return "[yellow]The network is worse than not looking at the images: do not use it.[/yellow]"
    return "[yellow]Not shown to be better than not looking at the images: more votes are needed.[/yellow]"


def _refuse_training_settings(sets: list[str] | None) -> None:
    """Refuse overrides that could change nothing once a model is trained."""
    for one in sets or []:
        key = one.partition("=")[0].strip()
        if key.startswith(("images.", "learning.", "split.")) and key not in AFTER_TRAINING:
            raise GreenpeaError(
                f"--set {key}: a trained model keeps its own, so train again to change it; here count only "
                f"catalogue.* and {', '.join(AFTER_TRAINING)}"
            )


# ---- looking around ----------------------------------------------------------------------------------


@app.command()
def info(
    folder: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="A campaign's folder.")] = None,
) -> None:
    """Say what is in a campaign, or, without one, which Greenpea this is.

    Examples:

      greenpea info

      greenpea info galaxies
    """
    from greenpea.learning.checkpoint import versions

    if folder is None:
        for name, number in versions().items():
            console.print(f"{name} {number}")
        return
    from greenpea.campaign import Campaign

    campaign = Campaign.open(folder)
    table = Table(show_header=False, box=None)
    for key, value in campaign.summary().items():
        table.add_row(f"[bold]{key}[/bold]", plain(value))
    console.print(table)


# ---- trees -------------------------------------------------------------------------------------------


@tree_app.command("list")
def tree_list() -> None:
    """List the decision trees that come with Greenpea.

    Examples:

      greenpea tree list
    """
    from greenpea.tree import DecisionTree, shipped

    for name in shipped():
        tree = DecisionTree.load(name)
        answers = sum(len(question.answers) for question in tree.questions)
        console.print(
            f"[bold]{name:12}[/bold] {tree.title.get('en', '')}: {len(tree.questions)} questions, {answers} answers"
        )


@tree_app.command("show")
def tree_show(name: TreeName, language: Annotated[str, typer.Option(help="The language of the texts.")] = "en") -> None:
    """Draw a decision tree in the terminal.

    Examples:

      greenpea tree show gz2

      greenpea tree show galaxies/workflow.json
    """
    from greenpea.tree_drawing import draw
    from greenpea.workflow import Workflow

    console.print(draw(Workflow.load(name).tree, language))


@tree_app.command("check")
def tree_check(name: TreeName) -> None:
    """Check a decision tree: every next exists, every question can be reached, none leads to itself.

    Examples:

      greenpea tree check my-tree.json
    """
    from greenpea.workflow import Workflow

    tree = Workflow.load(name).tree
    answers = sum(len(question.answers) for question in tree.questions)
    console.print(f"{name} is in order: {len(tree.questions)} questions, {answers} answers.")


@tree_app.command("import")
def tree_import(
    file: Annotated[
        Path, typer.Argument(help="A Panoptes workflow: JSON of a version, a list of them, or the CSV export.")
    ],
    workflow: Annotated[str | None, typer.Option(help="Which workflow, by its number. Default: the last.")] = None,
    version: Annotated[str | None, typer.Option(help="Which version, such as 66.345. Default: the last.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where the tree goes. Default: shown here.")] = None,
) -> None:
    """Turn a Zooniverse (Panoptes) workflow into a decision tree; say what cannot be reached or kept.

    Examples:

      greenpea tree import workflow_versions.json --version 66.345 --out galaxy-zoo.json
    """
    from greenpea.files import replacing
    from greenpea.zooniverse import workflow_versions

    chosen = workflow_versions(file, workflow=workflow, version=version)[-1]
    errors = Console(stderr=True)
    for left in (*chosen.unreachable, *chosen.skipped):
        errors.print(f"[yellow]Left out: {plain(f'{left.task} ({left.text}): {left.reason}')}[/yellow]")
    if out is None:
        print(chosen.tree.to_json(), end="")
        return
    with replacing(out) as temporary:
        temporary.write_text(chosen.tree.to_json(), encoding="utf-8")
    console.print(f"Version {chosen.version} is in [bold]{plain(out)}[/bold]: greenpea tree show {out}")


transfers.add_to(app)
site.add_to(app)
publishing.add_to(app, transfers.export_app)
comparing.add_to(app)
loop.add_to(app)
demo.add_to(app)

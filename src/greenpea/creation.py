"""Making a campaign: from people's own images and votes, or from simulated ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from greenpea import images
from greenpea import simulate as simulation
from greenpea.campaign import SETTINGS, TRUTH, VOTES, WORKFLOW, Campaign
from greenpea.errors import GreenpeaError
from greenpea.files import replacing
from greenpea.learning.model import Report, silent
from greenpea.settings import Settings
from greenpea.simulate.guide import GUIDE, TUTORIAL
from greenpea.subjects import SubjectSet
from greenpea.tables import column_names
from greenpea.tree import DecisionTree, shipped
from greenpea.vote_tables import holds_votes, read_votes, votes_in
from greenpea.votes import Votes, about_votes, incomplete
from greenpea.workflow import Workflow

LARGEST_DEFAULT = 64  # pixels a side, unless the settings ask for more


@dataclass(frozen=True)
class Imported:
    """What `create` found: for the one who reads the screen."""

    subjects: int
    with_votes: int
    votes: int
    strangers: int  # subjects in the table of votes that are not in the subject set
    excesses: int  # subjects where a question has more votes than its parent answers
    unasked: tuple[str, ...]  # questions without a single vote
    incomplete: dict[str, tuple[str, ...]]  # left out: question → the answers that have no column
    note: str


def create(
    folder: str | Path,
    tree: str | Path | DecisionTree | Workflow,
    subjects: str | Path | SubjectSet,
    votes: str | Path | Votes | None = None,
    id_column: str | None = None,
    image_column: str | None = None,
    overrides: Iterable[str] = (),
) -> tuple[Campaign, Imported]:
    """Make a campaign's folder from subjects and, if there are any yet, votes.

    ``tree`` is a shipped tree's name or a JSON file, of a tree alone or of a whole workflow; ``subjects`` a folder
    of images or a table; ``votes`` a table of counts, by default the table of subjects itself where it has such
    columns, or votes already read (`read_votes` takes a mapping of columns). Nothing is written unless everything
    is in order; raises GreenpeaError otherwise.
    """
    folder = Path(folder)
    refuse_existing(folder)
    workflow = _workflow(tree)
    tree = workflow.tree
    path = subjects if isinstance(subjects, str | Path) else None
    # A folder has no columns: the id column is then that of the votes.
    own_id = None if path and Path(path).is_dir() else id_column
    settings = Settings().override(overrides)
    subject_set = subjects if isinstance(subjects, SubjectSet) else SubjectSet.open(subjects, own_id, image_column)
    subject_set = subject_set.fetching(settings.fetching)
    found = _votes(tree, path, votes, id_column, subject_set)
    _refuse_strangers(found, subject_set)
    if not any(key.startswith("images.size") for key in overrides):
        size = min(LARGEST_DEFAULT, images.native_size(subject_set, settings.images.extensions))
        settings = settings.override([f"images.size={size}"])
    with replacing(folder) as temporary:
        temporary.mkdir()
        write(temporary, workflow, subject_set, found, settings)
    columns = subject_set.metadata.column_names if votes is None else _columns(votes)
    return Campaign.open(folder), _imported(subject_set, tree, found, columns)


def _columns(votes: str | Path | Votes) -> Sequence[str]:
    return () if isinstance(votes, Votes) else column_names(votes)


def refuse_existing(folder: Path) -> None:
    """Raise GreenpeaError where ``folder`` already holds something."""
    if not folder.name:
        raise GreenpeaError("a campaign is a folder of its own: give it a name, such as galaxies")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise GreenpeaError(f"{folder} is not empty: choose a new folder, or remove that one first")


def _workflow(tree: str | Path | DecisionTree | Workflow) -> Workflow:
    if isinstance(tree, Workflow):
        return tree
    return Workflow(tree=tree) if isinstance(tree, DecisionTree) else Workflow.load(tree)


def write(folder: Path, workflow: Workflow, subjects: SubjectSet, votes: Votes | None, settings: Settings) -> None:
    """Write the files of a new campaign into an existing, empty folder."""
    (folder / SETTINGS).write_text(settings.to_toml(), encoding="utf-8")
    (folder / WORKFLOW).write_text(workflow.to_json(), encoding="utf-8")
    subjects.save(folder)
    if votes is not None:
        pq.write_table(votes.to_table(), folder / VOTES)


def _votes(
    tree: DecisionTree,
    table: str | Path | None,
    votes: str | Path | Votes | None,
    id_column: str | None,
    subjects: SubjectSet,
) -> Votes | None:
    if isinstance(votes, Votes):
        return votes
    if votes is not None:
        return read_votes(votes, tree, id_column)
    return None if table is None else votes_in(table, tree, subjects)


def _refuse_strangers(votes: Votes | None, subjects: SubjectSet) -> None:
    """Raise GreenpeaError where there are votes, and none of them is on one of these subjects."""
    if votes is None or not len(votes) or set(votes.subject_ids) & set(subjects.subject_ids):
        return
    raise GreenpeaError(
        f"none of the {len(votes):,} subjects with votes (such as {votes.subject_ids[0]!r}) is among the "
        f"{len(subjects):,} subjects (such as {subjects.subject_ids[0]!r}): both need the same ids; name the column "
        f"with --id-column, or rename the subjects"
    )


def _why_none(tree: DecisionTree, names: Sequence[str]) -> str:
    """Return why a table that seems to hold votes gave none: they are of another tree, or no counts; or ""."""
    fitting = [] if holds_votes(names, tree) else [n for n in shipped() if holds_votes(names, DecisionTree.load(n))]
    if fitting:
        return f"its columns hold votes on the tree {' or '.join(fitting)}, not on {tree.name}"
    told = about_votes(names, tree)
    return (
        f"it has columns about votes ({len(told)}, such as {told[0]!r}), but of no question every answer's count, nor "
        f"every fraction beside a total"
        if told
        else ""
    )


def _imported(subjects: SubjectSet, tree: DecisionTree, votes: Votes | None, columns: Sequence[str] = ()) -> Imported:
    if votes is None:
        note = "; ".join(filter(None, (subjects.note, _why_none(tree, columns))))
        return Imported(len(subjects), 0, 0, 0, 0, tree.slugs, {}, note)
    known = set(subjects.subject_ids)
    aligned = votes.align(subjects.subject_ids)
    return Imported(
        subjects=len(subjects),
        with_votes=int((aligned.total > 0).sum()),
        votes=int(aligned.total.sum()),
        strangers=sum(subject not in known for subject in votes.subject_ids),
        excesses=len({excess.row for excess in votes.excesses()}),
        unasked=tuple(slug for slug in tree.slugs if not votes.reached[slug].any()),
        # A question without all its counts may have come from fractions.
        incomplete={slug: rest for slug, rest in incomplete(columns, tree).items() if not votes.reached[slug].any()},
        note="; ".join(filter(None, (subjects.note, votes.note))),
    )


def simulate(
    folder: str | Path,
    count: int,
    votes: int,
    size: int,
    seed: int,
    report: Report = silent,
    overrides: Iterable[str] = (),
) -> tuple[Campaign, Imported]:
    """Make a campaign of simulated galaxies, classified by simulated volunteers; the truth is kept beside it."""
    folder = Path(folder)
    refuse_existing(folder)
    tree = DecisionTree.load("gz-decals-5")
    report("simulating galaxies", 0.0, "")
    some = simulation.galaxies(count, seed, size)
    report("simulating volunteers", 0.0, "")
    crowd = simulation.volunteers(max(200, 2 * votes), seed)
    # With no votes there is no table of votes: the site's take its place.
    cast = simulation.classify(some.truth, tree, votes, crowd, seed, some.subject_ids) if votes else None
    with replacing(folder) as temporary:
        (temporary / "images").mkdir(parents=True)
        for index, (subject, image) in enumerate(zip(some.subject_ids, some.images, strict=True)):
            Image.fromarray(image).save(temporary / "images" / f"{subject}.png")
            if index % 64 == 0:
                report("writing images", index / count, f"{index:,} of {count:,}")
        subjects = SubjectSet.from_folder(temporary / "images")
        pq.write_table(_truth_table(some, simulation.expected_fractions(some.truth, tree, crowd)), temporary / TRUTH)
        settings = Settings().override([f"images.size={size}", *overrides])
        write(temporary, Workflow(tree=tree, tutorial=TUTORIAL, guide=GUIDE), subjects, cast, settings)
    campaign = Campaign.open(folder)
    return campaign, _imported(campaign.subjects, tree, cast)


def _truth_table(some: simulation.Galaxies, expected: dict[str, np.ndarray]) -> pa.Table:
    """Return, per subject, the fractions that infinitely many of these volunteers would give, and the physics."""
    tree = DecisionTree.load("gz-decals-5")
    columns = {"subject_id": pa.array(some.subject_ids, pa.string())}
    for question in tree.questions:
        for index, answer in enumerate(question.answer_slugs):
            columns[f"{question.slug}_{answer}"] = pa.array(expected[question.slug][:, index], pa.float32())
    return pa.table(columns | {name: pa.array(np.asarray(values)) for name, values in some.properties.items()})

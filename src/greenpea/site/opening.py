"""Opening a campaign's site: the store is filled from the campaign's folder, then served.

::

    DIR/campaign.toml       settings; the section [site] is read here
        workflow.json       published as it is, where it has changed
        subjects.parquet    added, where they are new
        gold.csv            optional: subjects with known answers, a column per question
        store.sqlite        made here, unless a database is given by its URL
"""

from __future__ import annotations

import gc
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from sqlalchemy import select

from greenpea.errors import GreenpeaError, did_you_mean
from greenpea.settings import Settings
from greenpea.settings import Site as Chosen
from greenpea.site.app import create_app
from greenpea.store import NewSubject, QueueOptions, Store, Stream, Version
from greenpea.store.schema import subjects as stored
from greenpea.subjects import RESERVED, SubjectSet
from greenpea.tables import column_as_strings, find_id_column, read_table, refuse_duplicates
from greenpea.tree import DecisionTree, Question
from greenpea.workflow import Workflow

STORE, GOLD = "store.sqlite", "gold.csv"
MORE_IMAGES = 9  # columns image_2 to image_9 of the subjects' table hold further images
DATABASE, CAMPAIGN, SETS = "GREENPEA_DATABASE", "GREENPEA_CAMPAIGN", "GREENPEA_SETS"
GROUP, QUIET = "GREENPEA_GROUP_COMMIT", "GREENPEA_QUIET"


@dataclass(frozen=True)
class Filled:
    """What `fill` did."""

    subjects: int  # in the store
    new: int
    gold: int  # in gold.csv
    unused_gold: int  # of them: they came, or changed, after their subjects were in the store
    version: str
    published: bool  # whether the workflow was new or changed
    kept: bool  # whether the site's workflow is another than the file's, since somebody published it there
    missing: tuple[str, ...]  # of the new subjects: those whose image is not where it should be


def place_of(folder: Path, database: str | None = None) -> str | Path:
    """Return where a campaign's store is: ``database``, else what the environment names, else DIR/store.sqlite."""
    return database or os.environ.get(DATABASE) or folder / STORE


def settings_of(folder: Path) -> Settings:
    """Return a campaign's settings, with what the environment overrides: a JSON list of ``section.key=value``."""
    return Settings.load(folder / "campaign.toml").override(json.loads(os.environ.get(SETS) or "[]"))


def open_store(folder: Path, database: str | None = None, settings: Settings | None = None) -> Store:
    """Open a campaign's store (`place_of`); a new one is set up."""
    settings = settings or settings_of(folder)
    group = os.environ.get(GROUP, "1") != "0"
    return Store.open(place_of(folder, database), group=group, options=options_of(settings.site))


def options_of(chosen: Chosen) -> QueueOptions:
    """Return how the queue mixes its streams, from the settings."""
    return QueueOptions(
        weights={Stream.RANK: chosen.rank, Stream.RANDOM: chosen.random, Stream.AUDIT: chosen.audit},
        gold_first=chosen.gold_first,
        gold_last=chosen.gold_last,
        gold_decay=chosen.gold_decay,
        lease=timedelta(minutes=chosen.lease_minutes),
    )


def fill(
    store: Store,
    folder: Path,
    settings: Settings,
    now: datetime,
    report: Callable[[str, float, str], None] | None = None,
) -> Filled:
    """Bring workflow and subjects of a campaign's folder into its store; what is there already stays.

    A workflow that was published on the site since is newer than the file and is kept: the file counts only when
    it has changed since it was last read. Raises GreenpeaError naming the file at fault.
    """
    path = folder / "workflow.json"
    if not path.is_file():
        raise GreenpeaError(f"there is no {path}: put the campaign's decision tree there")
    workflow = Workflow.load(path)
    published = _is_news(workflow, store.workflows.all())
    if published:
        store.workflows.publish(workflow, now)
    active = store.workflows.active()
    subjects = SubjectSet.load(folder)
    gold = read_gold(folder / GOLD, active.workflow.tree)
    strangers = sorted(set(gold) - set(subjects.subject_ids))
    if strangers:
        raise GreenpeaError(
            f"{folder / GOLD}: the campaign has no subject {strangers[0]!r}"
            f"{did_you_mean(strangers[0], subjects.subject_ids)}"
        )
    known = _known_ids(store)
    rows = [row for row, subject_id in enumerate(subjects.subject_ids) if subject_id not in known]
    new = 0
    if rows:
        told = None if report is None else lambda done: report("adding subjects", done / len(rows), f"{done:,}")
        new = store.subjects.add(_new_subjects(subjects, rows, gold), now, settings.site.whole_share, told)
    return Filled(
        subjects=store.subjects.count(),
        new=new,
        gold=len(gold),
        unused_gold=sum(not _is_stored(store, subject_id, gold[subject_id]) for subject_id in known & gold.keys()),
        version=active.number,
        published=published,
        kept=active.workflow != workflow,
        missing=tuple(str(subjects.subject_ids[row]) for row in rows if _is_missing(subjects.place(row))),
    )


def _is_missing(place: Path | None) -> bool:
    return place is not None and not place.is_file()


def _is_news(workflow: Workflow, versions: Sequence[Version]) -> bool:
    """Whether the file has changed since it was last read; ``versions`` newest first.

    What has no author came from the file. A version published on the site since may have been copied into it.
    """
    for version in versions:
        if version.workflow == workflow:
            return False
        if version.author is None:
            return True
    return True


def _known_ids(store: Store) -> set[str]:
    with store.database.read() as connection:
        return set(connection.execute(select(stored.c.subject_id)).scalars())


def _is_stored(store: Store, subject_id: str, gold: dict[str, list[str]]) -> bool:
    subject = store.subjects.get(subject_id)
    return subject is not None and subject.gold == gold


def _new_subjects(
    subjects: SubjectSet, rows: Sequence[int], gold: dict[str, dict[str, list[str]]]
) -> Iterator[NewSubject]:
    names = [name for name in subjects.metadata.column_names if name not in RESERVED]
    columns = {name: [_plain(value) for value in subjects.metadata[name].to_pylist()] for name in names}
    extra = [name for number in range(2, MORE_IMAGES + 1) if (name := f"image_{number}") in columns]
    for row in rows:
        subject_id = str(subjects.subject_ids[row])
        yield NewSubject(
            subject_id=subject_id,
            images=("", *(str(columns[name][row]) for name in extra if columns[name][row])),
            metadata={name: values[row] for name, values in columns.items() if name not in extra},
            gold=gold.get(subject_id),
        )


def _plain(value: Any) -> Any:
    """Return a table's value as JSON has it: what is not a number is null, what has no form there is text."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value) if not isinstance(value, bytes) else f"{len(value)} bytes"


def read_gold(path: Path, tree: DecisionTree) -> dict[str, dict[str, list[str]]]:
    """Read known answers: a column of subject ids, and one per question with the answer's slug.

    A blank cell: not known. Several answers to a question that is ``multiple`` are parted by spaces; where none of
    them is right there is nothing to write, and nothing is judged. No file: {}.
    Raises GreenpeaError naming file, row and column.
    """
    if not path.is_file():
        return {}
    table = read_table(path, text_columns=tree.slugs)
    column = find_id_column(table.column_names, None, str(path))
    ids = column_as_strings(table[column])
    refuse_duplicates(ids, column, str(path))
    others = [name for name in table.column_names if name != column]
    for name in others:
        if name not in tree:
            raise GreenpeaError(f"{path}, column {name!r}: no such question{did_you_mean(name, tree.slugs)}")
    cells = {name: column_as_strings(table[name]) for name in others}
    gold: dict[str, dict[str, list[str]]] = {}
    for row, subject in enumerate(ids):
        answers = {name: _answers(tree[name], values[row]) for name, values in cells.items() if values[row]}
        for name, given in answers.items():
            try:
                for answer in given:
                    tree[name].answer(answer)
            except GreenpeaError as error:
                raise GreenpeaError(f"{path}, row {row + 2}, column {name!r}: {error}") from error
        if answers:
            gold[str(subject)] = answers
    return gold


def _answers(question: Question, cell: str) -> list[str]:
    return list(dict.fromkeys(cell.split())) if question.kind == "multiple" else [cell]


def worker() -> FastAPI:
    """Return the site as a server's worker process makes it: where everything is stands in the environment."""
    folder = Path(os.environ[CAMPAIGN])
    settings = settings_of(folder)
    quiet = os.environ.get(QUIET) == "1"
    app = create_app(open_store(folder, None, settings), folder, settings, secret_of(os.environ), quiet=quiet)
    # What is there by now stays until the end: looking through it for garbage would hold everybody up, again and again.
    gc.collect()
    gc.freeze()
    return app


def secret_of(environment: Any) -> bytes | None:
    """Return the secret that signs cookies, from GREENPEA_SECRET; None: the one in the store."""
    secret = environment.get("GREENPEA_SECRET", "")
    if secret and len(secret) < 32:
        raise GreenpeaError("GREENPEA_SECRET is too short to be one: give it 32 characters or more, at random")
    return secret.encode() or None

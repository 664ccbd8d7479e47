"""A campaign: a folder with settings, workflow, subjects, votes, runs. Everything the command line does, as values.

::

    DIR/campaign.toml       the settings, commented
        workflow.json       the decision tree
        subjects.parquet    who is classified, and where the images are
        votes.parquet       counts per subject and answer
        runs/0001/          one checkpoint a training
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from PIL import Image

from greenpea import catalogue, images, information
from greenpea import report as reports
from greenpea import simulate as simulation
from greenpea.calibration import Evaluation, constant, evaluate
from greenpea.errors import GreenpeaError
from greenpea.files import replacing, sha256
from greenpea.learning import checkpoint
from greenpea.learning.model import Model, Report, learn, silent
from greenpea.learning.prediction import embed
from greenpea.posterior import Posterior
from greenpea.settings import Settings, Split
from greenpea.subjects import SubjectSet
from greenpea.tables import read_table
from greenpea.tree import DecisionTree
from greenpea.votes import Votes, find_columns, incomplete, read_votes

SETTINGS, WORKFLOW, VOTES, RUNS, TRUTH = "campaign.toml", "workflow.json", "votes.parquet", "runs", "truth.parquet"
BLOCK = 1024  # subjects predicted at a time
ROLES = ("training", "validation", "test")
LARGEST_DEFAULT = 64  # pixels a side, unless the settings ask for more


# ---- who is trained on -------------------------------------------------------------------------------


def shares(subject_ids: Iterable[str], salt: str = "") -> np.ndarray:
    """Return a number in [0, 1) per subject: a hash of its id, the same for ever."""
    digests = (hashlib.sha256(f"{salt}:{subject}".encode()).digest() for subject in subject_ids)
    return np.array([int.from_bytes(digest[:8], "big") / 2**64 for digest in digests])


def roles(subject_ids: np.ndarray, split: Split) -> np.ndarray:
    """Return "test", "validation" or "training" per subject."""
    share = shares(subject_ids, split.salt)
    edges = [share < split.test, share < split.test + split.validation]
    return np.select(edges, ["test", "validation"], "training").astype(object)


# ---- what the steps return ---------------------------------------------------------------------------


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


@dataclass(frozen=True)
class Predicted:
    """What `predict` wrote."""

    out: Path
    subjects: int
    unreadable: tuple[images.UnreadableSubject, ...]


@dataclass(frozen=True, eq=False)
class Judged:
    """An evaluation with what a report needs to show for it."""

    evaluation: Evaluation
    posterior: Posterior
    votes: Votes
    subjects: SubjectSet
    loaded: images.Loaded
    how: str  # which votes these are, in words
    left_out: int  # subjects with votes that the model had seen
    model: Model  # with --folds, the last of them


@dataclass(frozen=True, eq=False)
class Campaign:
    """A campaign's folder, opened; what it holds is read when it is asked for."""

    folder: Path
    overrides: tuple[str, ...] = ()

    @classmethod
    def open(cls, folder: str | Path, overrides: Iterable[str] = ()) -> Campaign:
        """Open a campaign. Raises GreenpeaError where ``folder`` is not one."""
        folder = Path(folder)
        if not (folder / SETTINGS).is_file():
            raise GreenpeaError(
                f"{folder} is not a campaign: it has no {SETTINGS}. Make one with "
                f"'greenpea init {folder} --tree TREE --subjects SUBJECTS', or try 'greenpea simulate {folder}'"
            )
        return cls(folder, tuple(overrides))

    @cached_property
    def settings(self) -> Settings:
        return Settings.load(self.folder / SETTINGS, self.overrides)

    @cached_property
    def tree(self) -> DecisionTree:
        return DecisionTree.load(self.folder / WORKFLOW)

    @cached_property
    def subjects(self) -> SubjectSet:
        return SubjectSet.load(self.folder)

    @cached_property
    def votes(self) -> Votes:
        """The votes, aligned with the subjects; nobody asked where the campaign has none."""
        if not (self.folder / VOTES).is_file():
            return Votes.empty(self.tree, list(self.subjects.subject_ids))
        return read_votes(self.folder / VOTES, self.tree).align(self.subjects.subject_ids)

    @cached_property
    def roles(self) -> np.ndarray:
        """Per subject: "training", "validation" or "test"."""
        return roles(self.subjects.subject_ids, self.settings.split)

    @property
    def simulated(self) -> bool:
        """Whether `simulate` made it."""
        return (self.folder / TRUTH).is_file()

    def summary(self) -> dict[str, str]:
        """Return what there is, in words, for people."""
        voted = int((self.votes.total > 0).sum())
        counts = {role: int(((self.roles == role) & (self.votes.total > 0)).sum()) for role in ROLES}
        split = ", ".join(f"{count:,} {role}" for role, count in counts.items())
        lines = {
            "folder": str(self.folder) + (" (simulated)" if self.simulated else ""),
            "tree": f"{self.tree.name}, version {self.tree.version}: {len(self.tree.questions)} questions",
            "subjects": f"{len(self.subjects):,}, {voted:,} with votes ({split})",
            "votes": f"{int(self.votes.total.sum()):,} replies",
            "images": f"prepared at {self.settings.images.size} pixels, stretch {self.settings.images.stretch}",
        }
        for run in self.runs:
            facts = checkpoint.facts(run)
            lines[f"run {run.name}"] = (
                f"{facts['settings']['encoder']}, {facts['settings']['uncertainty']}, "
                f"{facts['facts']['subjects']['training']:,} training subjects, model {facts['fingerprint'][:12]}"
            )
        return lines

    # ---- models ------------------------------------------------------------------------------------

    @property
    def runs(self) -> list[Path]:
        """The folders of all trained models, oldest first."""
        return sorted(path.parent for path in (self.folder / RUNS).glob(f"*/{checkpoint.FACTS}"))

    def model(self, folder: str | Path | None = None) -> Model:
        """Return the newest trained model, or the one in ``folder``."""
        if folder is None:
            if not self.runs:
                raise GreenpeaError(f"{self.folder} has no trained model yet: run 'greenpea train {self.folder}' first")
            folder = self.runs[-1]
        model = checkpoint.load(folder)
        if model.layout.tree != self.tree:
            raise GreenpeaError(f"the model in {folder} was trained on another tree: train anew")
        return model

    def train(self, start: str | Path | None = None, report: Report = silent) -> tuple[Path, Model]:
        """Train on the votes of the training subjects; return the new run's folder and the model.

        ``start`` is a checkpoint whose encoder to begin with, whatever its tree.
        """
        first = None if start is None else starting_model(start)
        rows = np.flatnonzero((self.votes.total > 0) & (self.roles != "test"))
        model = self._learn(rows, self.roles[rows] == "validation", first, report)
        facts = {
            "start": first.fingerprint() if first else None,
            "data": self._hashes(),
            "split": self.settings.split.model_dump(),
        }
        model.facts.update(facts)
        number = int(self.runs[-1].name) + 1 if self.runs else 1
        return checkpoint.save(model, self.folder / RUNS / f"{number:04d}"), model

    def _hashes(self) -> dict[str, str]:
        names = (WORKFLOW, "subjects.parquet", VOTES)
        return {name: sha256(self.folder / name) for name in names if (self.folder / name).is_file()}

    def _load(self, subjects: SubjectSet, report: Report) -> images.Loaded:
        workers = self.settings.catalogue.workers

        def progress(done: int) -> None:
            if done % 64 == 0 or done == len(subjects):
                report("images", done / len(subjects), f"{done:,} of {len(subjects):,}")

        return images.load(subjects, self.settings.images, workers, progress)

    def _learn(self, rows: np.ndarray, validation: np.ndarray, start: Model | None, report: Report) -> Model:
        loaded = self._load(self.subjects.select(rows), report)
        model = learn(
            loaded.images,
            self.votes.select(rows[loaded.rows]),
            validation[loaded.rows],
            self.settings.images,
            self.settings.learning,
            start,
            report,
        )
        model.facts["unreadable"] = [[one.subject_id, one.reason] for one in loaded.unreadable]
        return model

    # ---- predictions -------------------------------------------------------------------------------

    def predict(
        self,
        out: str | Path,
        subjects: SubjectSet | None = None,
        draws_out: str | Path | None = None,
        model: str | Path | None = None,
        report: Report = silent,
    ) -> Predicted:
        """Write the catalogue of ``subjects`` (default: the campaign's own) as Parquet, in blocks.

        ``draws_out`` adds the long table of draws, for up to 100,000 subjects. Unreadable images are listed in
        ``OUT.unreadable.csv``. Memory does not grow with the number of subjects.
        """
        subjects = self.subjects if subjects is None else subjects
        chosen = self.model(model)
        out = Path(out)
        if out.suffix != ".parquet":
            raise GreenpeaError(f"{out}: the catalogue is a Parquet table; give a name ending in .parquet")
        if draws_out is not None and len(subjects) > catalogue.MOST_DRAWN:
            raise GreenpeaError(
                f"the long table of draws is for up to {catalogue.MOST_DRAWN:,} subjects, these are {len(subjects):,}: "
                f"leave out --draws, or predict a part"
            )
        unreadable: list[images.UnreadableSubject] = []
        with ExitStack() as stack:
            main = _Sink(stack.enter_context(replacing(out)), self._about(chosen))
            long = _Sink(stack.enter_context(replacing(Path(draws_out))), {}) if draws_out is not None else None
            for table, posterior in self._blocks(subjects, chosen, unreadable, report):
                main.write(table)
                for part in catalogue.draws_tables(posterior) if long else ():
                    long.write(part)  # type: ignore[union-attr]
            if not main.rows:
                raise GreenpeaError(
                    f"none of the {len(subjects)} images could be read; the first: {unreadable[0].reason}"
                )
            main.close()
            if long:
                long.close()
        _list_unreadable(unreadable, out)
        return Predicted(out, main.rows, tuple(unreadable))

    def _about(self, model: Model) -> dict[str, str]:
        return {
            "greenpea.model": model.fingerprint(),
            "greenpea.tree": self.tree.to_json(),
            "greenpea.settings": self.settings.model_dump_json(),
            "greenpea.draws": str(model.settings.draws),
        }

    def _blocks(
        self, subjects: SubjectSet, model: Model, unreadable: list[images.UnreadableSubject], report: Report
    ) -> Iterator[tuple[pa.Table, Posterior]]:
        weights = model.draw()
        chosen = self.settings.catalogue
        done = 0
        report("predicting", 0.0, f"0 of {len(subjects):,}")
        for rows, block, failed in images.batches(subjects, model.preparation, BLOCK, chosen.workers):
            unreadable += failed
            if len(rows):
                some = subjects.select(rows)
                posterior = self._posterior(model, block, some.subject_ids, weights)
                rng = np.random.default_rng([model.settings.seed, int(rows[0])])
                yield (
                    catalogue.table(posterior, some.metadata, chosen.votes, chosen.information_votes, rng),
                    posterior,
                )
            done += len(rows) + len(failed)
            report("predicting", done / len(subjects), f"{done:,} of {len(subjects):,}")

    def _posterior(self, model: Model, block: np.ndarray, subject_ids: np.ndarray, weights: object) -> Posterior:
        if block.shape[1] != model.channels:
            raise GreenpeaError(
                f"these images have {block.shape[1]} channels, the model was trained on {model.channels}: "
                f"predict images of the same kind"
            )
        embeddings = embed(model.encoder, block, model.settings.precision, model.settings.accelerator)
        return model.posterior(embeddings, subject_ids, weights)  # type: ignore[arg-type]

    # ---- evaluation --------------------------------------------------------------------------------

    def evaluate(
        self,
        votes: str | Path | None = None,
        subjects: str | Path | None = None,
        model: str | Path | None = None,
        report: Report = silent,
    ) -> Judged:
        """Judge the newest model, or the one in ``model``, on votes it never saw.

        By default those of the campaign's test subjects. ``votes`` is a table of newer votes; ``subjects`` a folder
        or table of subjects outside the campaign, whose votes stand in it or in ``votes``. Subjects that the model
        was trained on are left out.
        """
        judge = self.model(model)
        others = self.subjects if subjects is None else SubjectSet.open(subjects)
        cast, how = self._votes_to_judge_by(votes, subjects, others)
        voted = cast.total > 0
        seen = self.subjects.subject_ids[(self.votes.total > 0) & (self.roles != "test")]
        rows = np.flatnonzero(voted & ~np.isin(others.subject_ids.astype(str), seen.astype(str)))
        if not len(rows):
            raise GreenpeaError(
                "no subject outside of training has votes: raise split.test and train again, "
                "or use --folds 5 to judge every subject by a model that left it out"
            )
        loaded = self._load(others.select(rows), report)
        rows = rows[loaded.rows]
        report("judging", 0.0, "")
        posterior = self._posterior(judge, loaded.images, others.subject_ids[rows], judge.draw())
        known = np.flatnonzero((self.votes.total > 0) & (self.roles != "test"))
        baseline = constant(self.votes.select(known), others.subject_ids[rows])
        left_out = int(voted.sum()) - len(rows) - len(loaded.unreadable)
        return self._judge(posterior, cast.select(rows), baseline, others.select(rows), loaded, how, left_out, judge)

    def _votes_to_judge_by(
        self, votes: str | Path | None, subjects: str | Path | None, others: SubjectSet
    ) -> tuple[Votes, str]:
        if votes is not None:
            return read_votes(votes, self.tree).align(others.subject_ids), f"the votes in {Path(votes).name}"
        if subjects is not None:
            found = _find_votes(self.tree, subjects, None, None, others)
            if found is None:
                raise GreenpeaError(f"{subjects} holds no votes on this tree: give their table with --votes")
            return found, f"the votes in {Path(subjects).name}"
        return self.votes, "the test subjects, kept from training by a hash of their id"

    def cross_validate(self, folds: int = 5, start: str | Path | None = None, report: Report = silent) -> Judged:
        """Train ``folds`` times, each leaving out another part, and judge every subject by the model that did."""
        first = None if start is None else starting_model(start)
        rows = np.flatnonzero(self.votes.total > 0)
        fold = _folds(self.subjects.subject_ids[rows], folds, self.settings.split)
        loaded = self._load(self.subjects.select(rows), report)
        rows, fold = rows[loaded.rows], fold[loaded.rows]
        votes, ids = self.votes.select(rows), self.subjects.subject_ids[rows]
        share = shares(ids, f"validation {self.settings.split.salt}")
        parts, baselines, order = [], [], []
        for number in range(folds):
            inside, outside = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            told = _numbered(report, number, folds)
            validation = share[inside] < self.settings.split.validation
            prepared = (self.settings.images, self.settings.learning, first, told)
            model = learn(loaded.images[inside], votes.select(inside), validation, *prepared)
            parts.append(model.predict(loaded.images[outside], ids[outside]))
            baselines.append(constant(votes.select(inside), ids[outside]))
            order.append(outside)
        every = np.concatenate(order)
        how = f"every subject, each judged by the one of {folds} models that left it out"
        shown = replace(loaded, images=loaded.images[every], rows=loaded.rows[every], filled=loaded.filled[every])
        joined = Posterior.concatenate(parts), votes.select(every), Posterior.concatenate(baselines)
        return self._judge(*joined, self.subjects.select(rows[every]), shown, how, 0, model)

    def _judge(
        self,
        posterior: Posterior,
        votes: Votes,
        baseline: Posterior,
        subjects: SubjectSet,
        loaded: images.Loaded,
        how: str,
        left_out: int,
        model: Model,
    ) -> Judged:
        rng = np.random.default_rng(self.settings.learning.seed)
        evaluation = evaluate(posterior, votes, baseline, rng)
        return Judged(evaluation, posterior, votes, subjects, loaded, how, left_out, model)


def starting_model(place: str | Path) -> Model:
    """Return the model of a checkpoint's folder, or the newest of a campaign's."""
    if (Path(place) / SETTINGS).is_file():
        return Campaign.open(place).model()
    return checkpoint.load(place)


def write_report(campaign: Campaign, judged: Judged, out: str | Path, json_file: str | Path | None = None) -> Path:
    """Write the report of an evaluation as HTML and, where wanted, its figures as JSON."""
    model, chosen = judged.model, campaign.settings.catalogue
    rng = np.random.default_rng(campaign.settings.learning.seed)
    learned = information.of_tree(judged.posterior, chosen.information_votes, rng)
    facts = model.facts | {
        "fingerprint": model.fingerprint(),
        "settings": model.settings.model_dump(mode="json"),
        "images": model.preparation.model_dump(mode="json"),
        "recalibration": {
            "sharpness": dict(model.recalibration.sharpness),
            "shift": dict(model.recalibration.shift),
        },
        "versions": checkpoint.versions(),
    }
    page = reports.write(
        judged,
        Path(out),
        judged.loaded.images,
        campaign.folder.resolve().name,
        facts,
        vars(model.history) if model.history.train else None,
        learned,
        chosen.information_votes,
        campaign.simulated,
        [(one.subject_id, one.reason) for one in judged.loaded.unreadable],
    )
    if json_file is not None:
        about = {"how": judged.how, "fingerprint": model.fingerprint(), "simulated": campaign.simulated}
        with replacing(Path(json_file)) as temporary:
            temporary.write_text(json.dumps(reports.to_json(judged.evaluation, **about), indent=2), encoding="utf-8")
    return page


def _folds(subject_ids: np.ndarray, folds: int, split: Split) -> np.ndarray:
    """Return equal parts, by the order of the subjects' hashes."""
    out = np.empty(len(subject_ids), np.int64)
    out[np.argsort(shares(subject_ids, f"folds {split.salt}"))] = (
        np.arange(len(subject_ids)) * folds // len(subject_ids)
    )
    return out


def _numbered(report: Report, number: int, folds: int) -> Report:
    return lambda stage, share, words: report(f"fold {number + 1} of {folds}: {stage}", share, words)


class _Sink:
    """A Parquet file that grows table by table; its schema is the first table's."""

    def __init__(self, path: Path, about: dict[str, str]) -> None:
        self.path, self.about, self.rows = path, about, 0
        self.writer: pq.ParquetWriter | None = None

    def write(self, table: pa.Table) -> None:
        if self.writer is None:
            metadata = dict(table.schema.metadata or {}) | self.about
            self.schema = table.schema.with_metadata(metadata)
            self.writer = pq.ParquetWriter(self.path, self.schema, compression="zstd")
        self.writer.write_table(table.replace_schema_metadata(self.schema.metadata))
        self.rows += len(table)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def _list_unreadable(unreadable: list[images.UnreadableSubject], out: Path) -> None:
    path = out.with_suffix(".unreadable.csv")
    if not unreadable:
        path.unlink(missing_ok=True)
        return
    table = pa.table({"subject_id": [u.subject_id for u in unreadable], "reason": [u.reason for u in unreadable]})
    with replacing(path) as temporary:
        pa_csv.write_csv(table, temporary)


# ---- making one --------------------------------------------------------------------------------------


def create(
    folder: str | Path,
    tree: str | Path | DecisionTree,
    subjects: str | Path | SubjectSet,
    votes: str | Path | None = None,
    id_column: str | None = None,
    image_column: str | None = None,
    overrides: Iterable[str] = (),
) -> tuple[Campaign, Imported]:
    """Make a campaign's folder from subjects and, if there are any yet, votes.

    ``tree`` is a shipped tree's name or a JSON file; ``subjects`` a folder of images or a table; ``votes`` a
    table of counts, by default the table of subjects itself where it has such columns. Nothing is written
    unless everything is in order; raises GreenpeaError otherwise.
    """
    folder = Path(folder)
    refuse_existing(folder)
    tree = tree if isinstance(tree, DecisionTree) else DecisionTree.load(tree)
    path = subjects if isinstance(subjects, str | Path) else None
    subject_set = subjects if isinstance(subjects, SubjectSet) else SubjectSet.open(subjects, id_column, image_column)
    found = _find_votes(tree, path, votes, id_column, subject_set)
    settings = Settings().override(overrides)
    if not any(key.startswith("images.size") for key in overrides):
        size = min(LARGEST_DEFAULT, images.native_size(subject_set))
        settings = settings.override([f"images.size={size}"])
    with replacing(folder) as temporary:
        temporary.mkdir()
        write(temporary, tree, subject_set, found, settings)
    columns = subject_set.metadata.column_names if votes is None else read_table(votes).column_names
    return Campaign.open(folder), _imported(subject_set, tree, found, columns)


def refuse_existing(folder: Path) -> None:
    """Raise GreenpeaError where ``folder`` already holds something."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise GreenpeaError(f"{folder} is not empty: choose a new folder, or remove that one first")


def write(folder: Path, tree: DecisionTree, subjects: SubjectSet, votes: Votes | None, settings: Settings) -> None:
    """Write the files of a new campaign into an existing, empty folder."""
    (folder / SETTINGS).write_text(settings.to_toml(), encoding="utf-8")
    (folder / WORKFLOW).write_text(tree.to_json(), encoding="utf-8")
    subjects.save(folder)
    if votes is not None:
        pq.write_table(votes.to_table(), folder / VOTES)


def _find_votes(
    tree: DecisionTree,
    table: str | Path | None,
    votes: str | Path | None,
    id_column: str | None,
    subjects: SubjectSet,
) -> Votes | None:
    if votes is not None:
        return read_votes(votes, tree, id_column)
    if table is None or Path(table).is_dir():
        return None
    if not any(find_columns(subjects.metadata.column_names, tree).values()):
        return None
    # The metadata has the rows of the table in their order: no second reading, and the ids already found.
    return Votes.from_table(subjects.metadata, tree, subjects.subject_ids, where=Path(table).name)


def _imported(
    subjects: SubjectSet, tree: DecisionTree, votes: Votes | None, columns: Sequence[str] = ()
) -> Imported:
    if votes is None:
        return Imported(len(subjects), 0, 0, 0, 0, tree.slugs, {}, subjects.note)
    known = set(subjects.subject_ids)
    aligned = votes.align(subjects.subject_ids)
    return Imported(
        subjects=len(subjects),
        with_votes=int((aligned.total > 0).sum()),
        votes=int(aligned.total.sum()),
        strangers=sum(subject not in known for subject in votes.subject_ids),
        excesses=len({excess.row for excess in votes.excesses()}),
        unasked=tuple(slug for slug in tree.slugs if not votes.reached[slug].any()),
        incomplete=incomplete(columns, tree),
        note=subjects.note,
    )


def simulate(
    folder: str | Path, count: int, votes: int, size: int, seed: int, report: Report = silent
) -> tuple[Campaign, Imported]:
    """Make a campaign of simulated galaxies, classified by simulated volunteers; the truth is kept beside it."""
    folder = Path(folder)
    refuse_existing(folder)
    tree = DecisionTree.load("gz-decals-5")
    report("simulating galaxies", 0.0, "")
    some = simulation.galaxies(count, seed, size)
    report("simulating volunteers", 0.0, "")
    crowd = simulation.volunteers(max(200, 2 * votes), seed)
    cast = simulation.classify(some.truth, tree, votes, crowd, seed)
    cast = replace(cast, subject_ids=some.subject_ids)
    with replacing(folder) as temporary:
        (temporary / "images").mkdir(parents=True)
        for index, (subject, image) in enumerate(zip(some.subject_ids, some.images, strict=True)):
            Image.fromarray(image).save(temporary / "images" / f"{subject}.png")
            if index % 64 == 0:
                report("writing images", index / count, f"{index:,} of {count:,}")
        subjects = SubjectSet.from_folder(temporary / "images")
        pq.write_table(_truth_table(some, simulation.expected_fractions(some.truth, tree, crowd)), temporary / TRUTH)
        settings = Settings().override([f"images.size={size}"])
        write(temporary, tree, subjects, cast, settings)
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

"""A campaign: a folder with settings, workflow, subjects, votes, runs. Everything the command line does, as values.

::

    DIR/campaign.toml       the settings, commented
        workflow.json       the decision tree, when to retire, what volunteers are told
        subjects.parquet    who is classified, and where the images are
        votes.parquet       counts per subject and answer
        runs/0001/          one checkpoint a training
        encoder/            the encoder whose embeddings the rounds learn from
        embeddings/         what it makes of every image, computed once
        tunings/0001/       it trained on with the campaign's votes, and whether that took over (`records`)
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from greenpea import catalogue, images, information, predicting, records
from greenpea import report as reports
from greenpea.calibration import Evaluation, constant, evaluate
from greenpea.embeddings import FACTS as EMBEDDED
from greenpea.embeddings import Embeddings
from greenpea.errors import GreenpeaError
from greenpea.files import alone, replacing, saving, sha256
from greenpea.learning import checkpoint, selfsupervised
from greenpea.learning.kept import SHIPPED, KeptEncoder, encoder_of
from greenpea.learning.model import Draws, Model, Report, learn, silent
from greenpea.learning.resuming import Keep
from greenpea.learning.tuned import TunedEncoder
from greenpea.parts import UNREADABLE
from greenpea.posterior import Posterior
from greenpea.settings import Settings, Split
from greenpea.subjects import SubjectSet, in_audit
from greenpea.tree import DecisionTree
from greenpea.vote_tables import read_votes as read_any_votes
from greenpea.vote_tables import votes_in
from greenpea.votes import Votes, read_votes
from greenpea.workflow import Workflow

SETTINGS, WORKFLOW, VOTES, RUNS, TRUTH = "campaign.toml", "workflow.json", "votes.parquet", "runs", "truth.parquet"
ENCODER = "encoder"
UNFINISHED = ".unfinished"  # within RUNS: the training under way
BLOCK = 1024  # subjects predicted at a time
ROLES = ("training", "validation", "test", "audit")


# ---- who is trained on -------------------------------------------------------------------------------


def shares(subject_ids: Iterable[str], salt: str = "") -> np.ndarray:
    """Return a number in [0, 1) per subject: a hash of its id, the same for ever."""
    digests = (hashlib.sha256(f"{salt}:{subject}".encode()).digest() for subject in subject_ids)
    return np.array([int.from_bytes(digest[:8], "big") / 2**64 for digest in digests])


def roles(subject_ids: np.ndarray, split: Split, audit: float = 0.0) -> np.ndarray:
    """Return "audit", "test", "validation" or "training" per subject; ``audit`` is the audit set's share."""
    share = shares(subject_ids, split.salt)
    audited = np.array([in_audit(str(subject), audit) for subject in subject_ids], dtype=bool)
    edges = [audited, share < split.test, share < split.test + split.validation]
    return np.select(edges, ["audit", "test", "validation"], "training").astype(object)


# ---- what the steps return ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Predicted:
    """What `predict` wrote."""

    out: Path
    subjects: int
    unreadable: tuple[images.UnreadableSubject, ...]

    @property
    def listed(self) -> Path:
        """The table of those that could not be read, where there are any."""
        return self.out.with_suffix(".unreadable.csv") if self.out.suffix else self.out / UNREADABLE


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
        return Workflow.load(self.folder / WORKFLOW).tree

    @cached_property
    def subjects(self) -> SubjectSet:
        return SubjectSet.load(self.folder).fetching(self.settings.fetching)

    @cached_property
    def votes(self) -> Votes:
        """The votes, aligned with the subjects; nobody asked where the campaign has none."""
        if not (self.folder / VOTES).is_file():
            return Votes.empty(self.tree, list(self.subjects.subject_ids))
        return read_votes(self.folder / VOTES, self.tree).align(self.subjects.subject_ids)

    @cached_property
    def roles(self) -> np.ndarray:
        """Per subject: "training", "validation", "test" or "audit"; the last two are never learned from."""
        return roles(self.subjects.subject_ids, self.settings.split, self.settings.site.audit_share)

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
        found = [path.parent for path in (self.folder / RUNS).glob(f"*/{checkpoint.FACTS}")]
        return sorted(found, key=lambda run: (run.stat().st_mtime, run.name))

    def model(self, folder: str | Path | None = None) -> Model:
        """Return the newest trained model, or the one in ``folder``."""
        if folder is None:
            if not self.runs:
                raise GreenpeaError(f"{self.folder} has no trained model yet: run 'greenpea train {self.folder}' first")
            folder = self.runs[-1]
        model = checkpoint.load(folder)
        if model.layout.tree.structure != self.tree.structure:
            raise GreenpeaError(f"the model in {folder} was trained on another tree: train anew")
        return model

    def train(self, start: str | Path | None = None, report: Report = silent) -> tuple[Path, Model]:
        """Train on the votes of the training subjects; return the new run's folder and the model.

        ``start`` is a checkpoint whose encoder to begin with, whatever its tree. A training of the same settings, data
        and versions that was killed goes on, to the same weights. One training at a time in a campaign.
        """
        with ExitStack() as stack:
            with saving(self.folder):
                another = f"another process is training in {self.folder} now: let it finish"
                stack.enter_context(alone(self.folder / ".training", another))
            return self._train(start, report)

    def _train(self, start: str | Path | None, report: Report) -> tuple[Path, Model]:
        first = None if start is None else starting_model(start)
        rows = np.flatnonzero((self.votes.total > 0) & np.isin(self.roles, ("training", "validation")))
        number = 1 + max((int(run.name) for run in self.runs if run.name.isdigit()), default=0)
        keep = self._keep(rows, first)
        if keep.begun:
            report("going on", 1.0, "from where this training was stopped")
        model = self._learn(rows, self.roles[rows] == "validation", first, report, keep)
        facts = {
            "start": first.fingerprint() if first else None,
            "data": self._hashes(),
            "split": self.settings.split.model_dump(),
            "campaign": self.settings.model_dump(mode="json"),  # all of them, as they were for this run
        }
        model.facts.update(facts)
        run = checkpoint.save(model, self.folder / RUNS / f"{number:04d}")
        shutil.rmtree(keep.folder, ignore_errors=True)
        return run, model

    def _keep(self, rows: np.ndarray, start: Model | None) -> Keep:
        """Return where the training under way is kept, and what it is: all that decides its weights."""
        what = {
            "settings": self.settings.learning.model_dump(mode="json"),
            "images": self.settings.images.model_dump(mode="json"),
            "split": self.settings.split.model_dump(),
            "data": self._hashes(),
            "rows": hashlib.sha256(rows.tobytes()).hexdigest(),
            "start": start.fingerprint() if start else None,
            "versions": checkpoint.versions(),
        }
        return Keep(self.folder / RUNS / UNFINISHED, hashlib.sha256(json.dumps(what).encode()).hexdigest())

    def _hashes(self) -> dict[str, str]:
        names = (WORKFLOW, "subjects.parquet", VOTES)
        return {name: sha256(self.folder / name) for name in names if (self.folder / name).is_file()}

    def _load(
        self, subjects: SubjectSet, report: Report, preparation: images.Preparation | None = None
    ) -> images.Loaded:
        workers = self.settings.catalogue.workers

        def progress(done: int) -> None:
            if done % 64 == 0 or done == len(subjects):
                report("images", done / len(subjects), f"{done:,} of {len(subjects):,}")

        loaded = images.load(subjects, preparation or self.settings.images, workers, progress)
        if len(subjects) and not len(loaded):
            first = loaded.unreadable[0]
            raise GreenpeaError(
                f"none of the {len(subjects)} images could be read; the first, of {first.subject_id!r}: {first.reason}"
            )
        return loaded

    def _learn(
        self, rows: np.ndarray, validation: np.ndarray, start: Model | None, report: Report, keep: Keep
    ) -> Model:
        loaded = self._load(self.subjects.select(rows), report)
        model = learn(
            loaded.images,
            self.votes.select(rows[loaded.rows]),
            validation[loaded.rows],
            self.settings.images,
            self.settings.learning,
            start,
            report,
            keep=keep,
        )
        model.facts["unreadable"] = [[one.subject_id, one.reason] for one in loaded.unreadable]
        return model

    # ---- embeddings --------------------------------------------------------------------------------

    def encoder(self, report: Report = silent) -> KeptEncoder:
        """Return the encoder whose embeddings the rounds learn from, as ``loop.encoder`` says.

        Made the first time and kept in `ENCODER`; made anew when that setting, or how images are prepared, changes.
        Raises GreenpeaError where it does not suit the images, or has seen votes of this campaign.
        """
        chosen = self.settings
        wanted = {"encoder": chosen.loop.encoder, "images": chosen.images.model_dump(mode="json")}
        folder = self.folder / ENCODER
        if (folder / checkpoint.ENCODER_FACTS).is_file():
            kept = checkpoint.load_encoder(folder)
            if kept.about.get("made_for") == wanted:
                return kept
        made = self._make_encoder(chosen.loop.encoder, report)
        checkpoint.save_encoder(replace(made, about={**made.about, "made_for": wanted}), folder)
        return checkpoint.load_encoder(folder)

    def _make_encoder(self, name: str, report: Report) -> KeptEncoder:
        if name == "shipped":
            return self._shipped(report)
        if name == "self":
            return self._self_supervised(report)
        found = self._encoder_of(self.folder / name)
        if seen := set(found.learned_from) & set(self.subjects.subject_ids):
            raise GreenpeaError(
                f"loop.encoder = {name!r}: that encoder has learned from votes on {len(seen):,} subjects of this "
                f"campaign, and no head on it could be judged by them: choose 'shipped', 'self', or one trained on "
                f"other subjects"
            )
        return found

    def _encoder_of(self, folder: Path) -> KeptEncoder:
        """Return the encoder of a checkpoint, an encoder's folder, or a campaign: its newest run, else its own."""
        if (folder / SETTINGS).is_file():
            other = Campaign.open(folder)
            return encoder_of(other.model()) if other.runs else checkpoint.load_encoder(folder / ENCODER)
        if (folder / checkpoint.ENCODER_FACTS).is_file():
            return checkpoint.load_encoder(folder)
        if not folder.is_dir():
            raise GreenpeaError(
                f"loop.encoder: {folder} is no folder; write 'shipped', 'self', or the folder of a checkpoint or "
                f"campaign (as seen from this campaign's)"
            )
        return encoder_of(checkpoint.load(folder))

    def _shipped(self, report: Report) -> KeptEncoder:
        shipped = checkpoint.load_encoder(SHIPPED)
        channels = self._channels()
        if channels not in (1, shipped.channels):
            raise GreenpeaError(
                f"the images have {channels} channels and the shipped encoder takes {shipped.channels}: choose them "
                f"with images.bands, or set loop.encoder to 'self', which learns from the images as they are"
            )
        if channels == 1:
            report("encoder", 1.0, "grey images are repeated in three channels for the shipped encoder")
        update = {"size": shipped.preparation.size, "channels": shipped.channels}
        return shipped.prepared(self.settings.images.model_copy(update=update))

    def _channels(self) -> int:
        """Return how many channels the first image that can be read has, prepared as the settings say."""
        for rows, block, _ in images.batches(self.subjects, self.settings.images, 16, self.settings.catalogue.workers):
            if len(rows):
                return int(block.shape[1])
        raise GreenpeaError(f"none of the {len(self.subjects)} images could be read: 'greenpea info' names the folder")

    def _self_supervised(self, report: Report) -> KeptEncoder:
        rows = np.sort(np.random.default_rng(self.settings.learning.seed).permutation(len(self.subjects)))
        loaded = self._load(self.subjects.select(np.sort(rows[: selfsupervised.MOST])), report)
        shipped = checkpoint.load_encoder(SHIPPED)
        start = shipped if shipped.channels == loaded.images.shape[1] else None
        return selfsupervised.learn(loaded.images, self.settings.images, self.settings.learning, start, report)

    def encoder_in_use(self, report: Report = silent) -> KeptEncoder | TunedEncoder:
        """Return the encoder that rounds look through: the newest tuned one that took over, else `encoder`.

        After a change of ``loop.encoder``, of the halves, or of who is in the audit set, a tuned one is used no more.
        """
        base, tuning, chosen = self.encoder(report), records.in_use(self.folder), self.settings
        if tuning is None or tuning.base != base.fingerprint or tuning.settings["split"]["salt"] != chosen.split.salt:
            return base
        if tuning.settings["site"]["audit_share"] < chosen.site.audit_share:  # it has seen votes of today's judges
            return base
        return TunedEncoder.load(tuning.folder, chosen.split.salt)

    def embeddings(
        self,
        report: Report = silent,
        encoder: KeptEncoder | TunedEncoder | None = None,
        rows: np.ndarray | None = None,
    ) -> Embeddings:
        """Return the embeddings of all subjects, or of ``rows`` at least; what is missing is computed first.

        ``encoder`` is by default the one in use.

        In blocks, each of which counts once it is on the disk: killed anywhere, the next call goes on. Images that
        could not be read are asked again only when one of them has changed. One process at a time.
        """
        kept = encoder or self.encoder_in_use(report)
        found = Embeddings.create(self.folder, kept.fingerprint, kept.length)
        if self._mended(found):
            found = found.forget_unreadable()
        ids = self.subjects.subject_ids
        wanted = np.arange(len(ids)) if rows is None else rows
        known = (found.rows_of(ids[wanted]) >= 0) | np.isin(ids[wanted].astype(str), list(found.unreadable))
        missing = wanted[~known]
        some, chosen, done = self.subjects.select(missing), self.settings, 0
        where = chosen.learning.precision, chosen.learning.accelerator
        for read, block, failed in images.batches(some, kept.preparation, BLOCK, chosen.catalogue.workers):
            report("embeddings", done / len(missing), f"{done:,} of {len(missing):,} images")
            values, those = np.zeros((0, kept.length), np.float32), some.subject_ids[read]
            if len(read):
                if isinstance(kept, TunedEncoder):
                    values = kept.embed(block, those, *where)
                else:
                    values = kept.embed(block, *where)
            found = found.append(those, values, [(one.subject_id, one.reason) for one in failed])
            done += len(read) + len(failed)
        if len(missing):
            report("embeddings", 1.0, f"{done:,} of {len(missing):,} images")
        return found

    def _mended(self, found: Embeddings) -> bool:
        """Whether the file of an unreadable image has changed since."""
        if not found.unreadable:
            return False
        rows = np.flatnonzero(np.isin(self.subjects.subject_ids.astype(str), list(found.unreadable)))
        return self.subjects.select(rows).changed_since((found.folder / EMBEDDED).stat().st_mtime)

    # ---- predictions -------------------------------------------------------------------------------

    def predict(
        self,
        out: str | Path,
        subjects: SubjectSet | None = None,
        draws_out: str | Path | None = None,
        model: str | Path | None = None,
        report: Report = silent,
        *,
        embeddings_out: str | Path | None = None,
        embeddings_from: str | Path | None = None,
        anew: bool = False,
    ) -> Predicted:
        """Write the catalogue of ``subjects``, by default the campaign's own: a ``.parquet`` file or a folder of parts.

        ``draws_out`` adds the long table of draws, for up to 100,000 subjects. ``embeddings_out`` is a folder in which
        the embeddings are kept as well (`Embeddings`), ``embeddings_from`` one whose embeddings are taken in place of
        images: the same catalogue, bytes and all, where model and subjects are the same. Unreadable images are listed
        in ``OUT.unreadable.csv``, or in the folder.

        Killed anywhere, the same call goes on, to the same bytes (`parts`); ``anew`` throws away what was done.
        Memory does not grow with the number of subjects, but for their own table.
        """
        subjects = self.subjects if subjects is None else subjects
        chosen, out = self.model(model), Path(out)
        kept_out, kept_from = (None if place is None else Path(place) for place in (embeddings_out, embeddings_from))
        _check_places(out, draws_out, len(subjects))
        drawn = self._draw(chosen)
        eye = predicting.Eye(
            chosen, drawn, self.settings.learning, lambda block, ids: self._posterior(chosen, block, ids, drawn)
        )
        shown = self.settings.catalogue
        source = (
            predicting.of_images(subjects, eye, kept_out, shown)
            if kept_from is None
            else predicting.of_embeddings(subjects, eye, kept_from, shown)
        )
        prediction = predicting.Prediction(
            subjects, source, shown, chosen.settings.seed, draws_out is not None, self._about(chosen)
        )
        job = self._job(chosen, subjects, draws_out, kept_out, kept_from)
        draws = None if draws_out is None else Path(draws_out)
        return Predicted(out, *predicting.write(prediction, out, job, draws, report, anew))

    def _about(self, model: Model) -> dict[str, str]:
        return catalogue.about(self.tree, self.settings.catalogue.votes) | {
            "greenpea.model": model.fingerprint(),
            "greenpea.settings": self._settings(),
            "greenpea.citation": self.settings.release.citation(),
            "greenpea.draws": str(self.settings.learning.draws),
            "greenpea.recalibration": json.dumps(asdict(model.recalibration)),
        }

    def _settings(self) -> str:
        """Return the settings as JSON, without what only says how fast it goes."""
        return self.settings.model_dump_json(exclude={"catalogue": {"workers"}})

    def _job(self, model: Model, subjects: SubjectSet, *places: str | Path | None) -> dict[str, Any]:
        """Return all that decides the bytes of a catalogue."""
        learning, shown = self.settings.learning, self.settings.catalogue
        return {
            "model": model.fingerprint(),
            "subjects": subjects.digest(),
            **{f"learning.{name}": getattr(learning, name) for name in ("draws", "seed", "precision", "accelerator")},
            **{
                f"catalogue.{name}": getattr(shown, name)
                for name in ("votes", "information_votes", "doubt_votes", "part")
            },
            **dict(zip(("draws", "embeddings", "from"), (place and str(place) for place in places), strict=True)),
            "settings": hashlib.sha256(self._settings().encode()).hexdigest(),
            **{f"version of {name}": number for name, number in checkpoint.versions().items()},
        }

    def _draw(self, model: Model) -> Draws:
        """Return as many draws, and of the seed, as the settings say today."""
        return model.draw(self.settings.learning.draws, self.settings.learning.seed)

    def _posterior(self, model: Model, block: np.ndarray, subject_ids: np.ndarray, drawn: Draws) -> Posterior:
        if block.shape[1] != model.channels:
            raise GreenpeaError(
                f"these images have {block.shape[1]} channels, the model was trained on {model.channels}: "
                f"predict images of the same kind"
            )
        where = self.settings.learning  # where and how fast to compute is this machine's, not the training's
        return model.posterior_of(block, subject_ids, drawn, where)

    # ---- evaluation --------------------------------------------------------------------------------

    def evaluate(
        self,
        votes: str | Path | None = None,
        subjects: str | Path | None = None,
        model: str | Path | None = None,
        report: Report = silent,
        id_column: str | None = None,
        image_column: str | None = None,
    ) -> Judged:
        """Judge the newest model, or the one in ``model``, on votes it never saw.

        By default those of the campaign's test subjects. ``votes`` is a table of newer votes; ``subjects`` a folder
        or table of subjects outside the campaign, whose votes stand in it or in ``votes``. Subjects that the model,
        or the one it started from, has learned from are left out, as the checkpoint lists them.
        """
        judge = self.model(model)
        others = self.subjects if subjects is None else SubjectSet.open(subjects, id_column, image_column)
        cast, how = self._votes_to_judge_by(votes, subjects, others, id_column)
        voted = cast.total > 0
        seen = set(judge.learned_from)
        known = np.array([subject in seen for subject in others.subject_ids], dtype=bool)
        rows = np.flatnonzero(voted & ~known)
        if not len(rows):
            raise GreenpeaError(
                "no subject outside of training has votes: raise split.test and train again, "
                "or use --folds 5 to judge every subject by a model that left it out"
            )
        loaded = self._load(others.select(rows), report, judge.preparation)
        rows = rows[loaded.rows]
        report("judging", 0.0, "")
        posterior = self._posterior(judge, loaded.images, others.subject_ids[rows], self._draw(judge))
        learned = np.array([subject in seen for subject in self.subjects.subject_ids], dtype=bool)
        baseline = constant(self.votes.select(learned), others.subject_ids[rows])
        left_out = int(voted.sum()) - len(rows) - len(loaded.unreadable)
        return self._judge(posterior, cast.select(rows), baseline, others.select(rows), loaded, how, left_out, judge)

    def _votes_to_judge_by(
        self, votes: str | Path | None, subjects: str | Path | None, others: SubjectSet, id_column: str | None
    ) -> tuple[Votes, str]:
        if votes is not None:
            return read_any_votes(votes, self.tree, id_column).align(
                others.subject_ids
            ), f"the votes in {Path(votes).name}"
        if subjects is not None:
            found = votes_in(subjects, self.tree, others)
            if found is None:
                raise GreenpeaError(f"{subjects} holds no votes on this tree: give their table with --votes")
            return found, f"the votes in {Path(subjects).name}"
        return self.votes, "the test subjects and the audit set, kept from training by a hash of their id"

    def cross_validate(self, folds: int = 5, start: str | Path | None = None, report: Report = silent) -> Judged:
        """Train ``folds`` times, each leaving out another part, and judge every subject by the model that did."""
        first = None if start is None else starting_model(start)
        rows = np.flatnonzero(self.votes.total > 0)
        if not 2 <= folds <= len(rows):
            raise GreenpeaError(f"{folds} folds of {len(rows)} subjects with votes: choose from 2 to that many")
        if first and set(first.learned_from) & set(self.subjects.subject_ids[rows]):
            raise GreenpeaError(
                "the starting model has learned from some of these subjects, so no fold would be unseen: "
                "start from a model of other subjects, or from none"
            )
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
        about = {
            "how": judged.how,
            "fingerprint": model.fingerprint(),
            "simulated": campaign.simulated,
            "settings": campaign.settings.model_dump(mode="json"),
        }
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


def _check_places(out: Path, draws_out: str | Path | None, subjects: int) -> None:
    if out.suffix not in ("", ".parquet"):
        raise GreenpeaError(
            f"{out}: the catalogue is a Parquet table; give a name ending in .parquet, or a folder's name for its parts"
        )
    if draws_out is not None and not out.suffix:
        raise GreenpeaError(f"{out}: the draws go with a catalogue in one file; give it a name ending in .parquet")
    if draws_out is not None and subjects > catalogue.MOST_DRAWN:
        raise GreenpeaError(
            f"the long table of draws is for up to {catalogue.MOST_DRAWN:,} subjects, these are {subjects:,}: "
            f"leave out --draws, or predict a part"
        )

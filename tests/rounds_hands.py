"""Rounds made up on the spot, as they leave them on disk: for tests of the pages that read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from greenpea.calibration import Recalibration
from greenpea.embeddings import Embeddings
from greenpea.heads import Heads
from greenpea.outputs import Geometry, Layout
from greenpea.posterior import Posterior
from greenpea.records import HEADS, ROUNDS, SCORES, STAGES, Gate, Outcome, Record, Score
from greenpea.tree import DecisionTree

BEGUN = datetime(2026, 3, 1, 12, tzinfo=UTC)
LEVELS = {"0.5": 0.48, "0.8": 0.78, "0.9": 0.885, "0.95": 0.94}


def made_up(folder: Path, number: int, outcome: Outcome | None = "promoted", **more: Any) -> Record:
    """Write one round of a campaign: later ones have learned more and saved more.

    ``outcome`` None: not finished. ``stages`` may name those that are done.
    """
    begun = BEGUN + number * timedelta(minutes=10)
    done = more.pop("stages", STAGES if outcome else STAGES[:2])
    values: dict[str, Any] = {
        "number": number,
        "seed": number,
        "begun_at": begun,
        "stages": {stage: begun + timedelta(seconds=4 * i) for i, stage in enumerate(done, 1)},
        "settings": {"votes": 5},
        "workflow": "1.0",
        "encoder": "e" * 64,
        "model": f"{number:064x}",
        "data": "d" * 64,
        "classifications": 200 * number,
        "answers": 900 * number,
        "random_answers": 180 * number,
        "subjects": 50 * number,
        "gate": _gate(outcome, number) if outcome else None,
        "scores": _scores(number) if outcome in ("promoted", "ungated", "kept") else (),
        "scored": "the whole pool",
        "ranked": 100 if outcome in ("promoted", "ungated", "kept") else 0,
        "saturated": 0.02,
        "store_round": None,
        "streams": {"compared": 0, "differences": []},
        "retired": {"confident": 3 * number, "count": 1} if number > 2 else {},
        "saved": 60 * max(number - 2, 0),
        "spent": 100 * max(number - 2, 0),
    }
    record = Record(**(values | more), folder=folder / ROUNDS / f"{number:04d}")
    record.save()
    return record


def _gate(outcome: Outcome, number: int) -> Gate:
    why = {
        "promoted": "the gain's 5 % bound lies above the margin",
        "ungated": "the audit set has too few votes to judge",
        "kept": "the new heads may lose more than the margin allows",
        "failed": "the fit diverged",
        "idle": "no new votes",
    }[outcome]
    compared = outcome in ("promoted", "kept")
    gain = 0.05 / number if outcome == "promoted" else -0.02
    return Gate(outcome, why, 120 * number, 40, gain if compared else None, gain - 0.006 if compared else None)


def _scores(number: int) -> tuple[Score, ...]:
    def score(question: str | None, votes: int, factor: float) -> Score:
        excess = factor * (0.18 + 0.5 * np.exp(-number / 3))
        random = factor * (0.18 + 0.5 * np.exp(-number / 25))
        rising = {level: held + min(number, 8) / 400 for level, held in LEVELS.items()}
        gain, by_chance = (float(factor * 0.3 * -np.expm1(-number / pace)) for pace in (3, 25))
        return Score(question, votes * number, float(excess), 0.66 * factor, rising, float(random), gain, by_chance)

    return score(None, 120, 1.0), score("smooth-or-featured", 60, 0.8), score("bar", 20, 1.3)


def write_scores(record: Record, subject_ids: Sequence[str], scores: Sequence[float]) -> None:
    """Write a round's `SCORES`, in the order of the scores."""
    order = np.argsort(scores)[::-1]
    table = pa.table(
        {
            "subject_id": [subject_ids[i] for i in order],
            "rank": np.arange(len(order)),
            "score": np.asarray(scores, np.float64)[order],
            "probability": np.linspace(0.9, 0.001, len(order)),
            "effective_draws": np.linspace(30.0, 8.0, len(order)),
        }
    )
    pq.write_table(table, record.folder / SCORES)


def believing(tree: DecisionTree, subject_id: str, seed: int = 0, draws: int = 30, spread: float = 0.35) -> Posterior:
    """Return a posterior of one subject, made up: concentrations that differ between draws by ``spread``."""
    rng = np.random.default_rng(seed)
    families, parameters = {}, {}
    for question in tree.questions:
        shape = (1, len(question.answers)) + ((2,) if question.kind == "multiple" else ())
        families[question.slug] = "beta-binomial" if question.kind == "multiple" else "dirichlet-multinomial"
        log_alpha = rng.normal(0.5, 1.2, (1, *shape)) + rng.normal(0, spread, (draws, *shape))
        parameters[question.slug] = 3 * np.exp(log_alpha)
    return Posterior(tree, np.array([subject_id]), families, parameters)


def write_heads(
    folder: Path, record: Record, tree: DecisionTree, subject_ids: Sequence[str], draws: int = 12, reserve: int = 24
) -> tuple[Record, Heads, Embeddings]:
    """Write made-up heads of a round, and the embeddings of some subjects; return them with the changed record."""
    rng, layout, length = np.random.default_rng(0), Layout(tree), 5
    vectors = rng.normal(size=(len(subject_ids), length)).astype(np.float16)
    weights = rng.normal(0, 0.6, (3, draws + reserve, length + 1, layout.outputs)).astype(np.float32)
    geometry = Geometry(np.zeros(length, np.float32), np.eye(length, dtype=np.float32), 1.0)
    recalibration = Recalibration.identity(tree)
    heads = Heads(layout, weights, weights.mean(axis=1), draws, "", recalibration, geometry, record.encoder)
    heads.save(record.folder / HEADS)
    kept = Embeddings.create(folder, record.encoder, length).append(list(subject_ids), vectors)
    record = replace(record, model=heads.fingerprint)
    record.save()
    return record, heads, kept

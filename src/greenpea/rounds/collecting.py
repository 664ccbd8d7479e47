"""What rounds and tunings begin with: the votes of one state of the store, kept in a folder; how heads are fitted."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from greenpea import records
from greenpea.campaign import Campaign
from greenpea.embeddings import Embeddings
from greenpea.files import replacing
from greenpea.heads import HALVES
from greenpea.settings import Settings
from greenpea.store import Standing
from greenpea.subjects import in_audit
from greenpea.tables import column_as_strings
from greenpea.tree import DecisionTree
from greenpea.votes import Votes

POOL, CLASSIFICATIONS, RETIRED = "_audit", "_classifications", "_retired"  # columns beside the votes


def digest(votes: Votes) -> str:
    """Return the SHA-256 of who has which votes; subjects without any do not matter."""
    asked = votes.select(np.flatnonzero(votes.total > 0))
    digest = hashlib.sha256("\n".join(map(str, asked.subject_ids)).encode())
    for slug in asked.tree.slugs:
        digest.update(slug.encode() + asked.counts[slug].tobytes() + asked.reached[slug].tobytes())
    return digest.hexdigest()


def audit_set(kept: np.ndarray, subject_ids: np.ndarray, settings: Settings) -> np.ndarray:
    """Return which of the subjects ``kept`` to the full limit are the audit set; the others are the reference set."""
    share = settings.site.audit_share
    found = kept.copy()
    found[kept] = [in_audit(str(one), share) for one in subject_ids[kept]]
    return found


def table(standing: Standing) -> pa.Table:
    """Return where subjects stand as a table that `read_votes` reads again."""
    found = standing.votes.to_table()
    for name, values in (
        (POOL, standing.audit),
        (CLASSIFICATIONS, standing.classifications),
        (RETIRED, standing.retired),
    ):
        found = found.append_column(name, pa.array(values))
    return found


def write(path: Path, table: pa.Table) -> None:
    """Write a table, whole or not at all."""
    with replacing(path) as temporary:
        pq.write_table(table, temporary)


def read_votes(path: Path, tree: DecisionTree) -> tuple[Votes, pa.Table]:
    """Return the votes that `table` put down, and the table for what stands beside them."""
    found = pq.read_table(path)
    votes = Votes.empty(tree, list(column_as_strings(found["subject_id"])))
    for question in tree.questions:
        votes.reached[question.slug][:] = found[f"{question.slug}_reached"].to_numpy()
        for index, answer in enumerate(question.answer_slugs):
            votes.counts[question.slug][:, index] = found[f"{question.slug}_{answer}"].to_numpy()
    return votes, found


def fitted_as(
    campaign: Campaign, embeddings: Embeddings, folds: int | None = None, reserve: int | None = None
) -> dict[str, Any]:
    """Return the arguments of `cross_fit` for heads on these embeddings, as the campaign's settings say.

    On a tuned encoder each half has as many folds as all subjects have otherwise.
    """
    chosen = campaign.settings
    halves = records.tuned(campaign.folder, embeddings.encoder)
    return {
        "settings": chosen.learning.model_copy(update={"draws": chosen.loop.draws}),
        "folds": (folds or chosen.loop.folds) * (HALVES if halves else 1),
        "halves": halves,
        "salt": chosen.split.salt,
        "reserve": chosen.loop.reserve if reserve is None else reserve,
        "encoder": embeddings.encoder,
    }

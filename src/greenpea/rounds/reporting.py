"""A round's report: how far to believe its heads, shown on the audit set. The same page as `greenpea evaluate`'s."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from greenpea import images, information, report
from greenpea.calibration import Evaluation
from greenpea.heads import Heads
from greenpea.images import Preparation
from greenpea.posterior import Posterior
from greenpea.records import Record
from greenpea.subjects import SubjectSet
from greenpea.votes import Votes


@dataclass(frozen=True, eq=False)
class Audited:
    """The evaluation of heads on the audit set, with what its report shows."""

    evaluation: Evaluation
    posterior: Posterior
    votes: Votes
    left_out: int = 0
    how: str = "the audit set: subjects that no round learns from"


def write(
    audited: Audited,
    out: Path,
    record: Record,
    heads: Heads,
    subjects: SubjectSet,
    preparation: Preparation,
    votes: int,
    simulated: bool,
) -> Path | None:
    """Write the report of a round to ``out``; ``subjects`` are all of the campaign's. Loads the audit set's images.

    None where none of these can be read any more: there is nothing to show.
    """
    place = {subject: row for row, subject in enumerate(subjects.subject_ids)}
    rows = np.array([place[subject] for subject in audited.votes.subject_ids])
    loaded = images.load(subjects.select(rows), preparation, 2)
    if not len(loaded):
        return None
    posterior = audited.posterior.select(loaded.rows)
    shown = Audited(audited.evaluation, posterior, audited.votes.select(loaded.rows))
    learned = information.of_tree(posterior, votes, np.random.default_rng(record.seed))
    return report.write(
        shown,
        out,
        loaded.images,
        f"{subjects_folder(out)}, round {record.number}",
        _facts(record, heads),
        information=learned,
        information_votes=votes,
        simulated=simulated,
        unreadable=[(one.subject_id, one.reason) for one in loaded.unreadable],
    )


def subjects_folder(out: Path) -> str:
    """Return the campaign's name: DIR of DIR/rounds/0001/report.html."""
    return out.resolve().parents[2].name


def _facts(record: Record, heads: Heads) -> dict[str, Any]:
    return {
        "round": record.number,
        "outcome": record.gate.outcome if record.gate else "",
        "why": record.gate.why if record.gate else "",
        "heads": heads.fingerprint,
        "encoder": record.encoder,
        "votes learned from": record.data,
        "fit": dict(heads.facts),
        "settings": dict(record.settings),
    }

"""What rounds and tunings leave behind: a folder each, read without torch by the site, the command line, and the next.

::

    DIR/rounds/0001/round.json      everything but the arrays: settings, seed, hashes, verdict, scores
                    votes.parquet   the votes it learned from, audit subjects apart
                    heads/          the cross-fitted heads (`greenpea.heads`)
                    chance/         heads that learned from the random stream alone, to compare with
                    report.html     how far to believe the heads, on the audit set
                    scores.parquet  subject_id, rank, score, probability, effective_draws; best first
        tunings/0001/tuning.json    an encoder trained on with the votes: from what, on what, and whether it took over
                     votes.parquet  the votes it learned from
                     encoder-0/ -1/ the two encoders, with the list of whose votes each has seen (`learning.tuned`)
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from greenpea.errors import GreenpeaError
from greenpea.files import replacing

ROUNDS, FACTS, VOTES, HEADS, SCORES = "rounds", "round.json", "votes.parquet", "heads", "scores.parquet"
CHANCE, REPORT = "chance", "report.html"
STAGES = ("collected", "fitted", "gated", "scored", "published", "retired", "judged", "finished")
TUNINGS, TUNING = "tunings", "tuning.json"
TUNED = ("collected", "trained", "judged", "embedded", "finished")
Outcome = Literal["promoted", "ungated", "kept", "failed", "idle"]


@dataclass(frozen=True)
class Gate:
    """Whether new heads take over, judged on the audit set's votes.

    ``gain`` is the mean gain in nats per vote over the incumbent and ``low`` its one-sided 5 % bound; both None
    where there was nothing to compare with. "kept": the incumbent stays. "failed": the fit gave no heads.
    "idle": there was nothing new to learn from.
    """

    outcome: Outcome
    why: str
    audit_votes: int = 0
    audit_subjects: int = 0
    gain: float | None = None
    low: float | None = None


@dataclass(frozen=True)
class Score:
    """How the heads predict the audit set's votes. ``question`` is None for all of them together.

    The excess is of all votes of a subject together, and says nothing from round to round: the floor sinks as the
    audit set gains votes. ``gain`` does compare (`rounds.comparing.one_by_one`): each vote as if it were a subject's
    first, in nats per vote over the predictor that sees no image; 0 is not looking, larger is better.
    """

    question: str | None
    votes: int
    excess: float  # nats per vote above each subject's own fractions
    constant_excess: float  # of the predictor that sees no image
    coverage: Mapping[str, float]  # "0.5", "0.8", "0.9", "0.95": share in the joint highest-density set
    random_excess: float | None = None  # of heads fitted on the votes of the random stream alone
    gain: float | None = None
    random_gain: float | None = None  # of heads fitted on the votes of the random stream alone


@dataclass(frozen=True)
class Record:
    """One round. Values are as they stood when it ended; ``stages`` says when each step was done."""

    number: int
    seed: int
    begun_at: datetime
    stages: Mapping[str, datetime]
    settings: Mapping[str, Any]
    workflow: str  # its version, such as "1.0"
    encoder: str = ""  # its fingerprint
    tuning: int = 0  # the newest tuning that had taken over when it began; 0: none
    model: str = ""  # the fingerprint of the heads that ranked
    data: str = ""  # SHA-256 of the votes learned from
    classifications: int = 0  # counted, at the active version
    answers: int = 0  # votes the heads learned from, all questions together
    random_answers: int = 0  # of them, cast on subjects chosen at random
    subjects: int = 0  # with votes, audit subjects not
    gate: Gate | None = None
    scores: tuple[Score, ...] = ()
    scored: str = ""  # which part of the pool, in words
    ranked: int = 0
    saturated: float = 0.0  # share of scored subjects whose information exceeds 90 % of ln T
    store_round: int | None = None  # the number under which the store keeps the ranks
    retired: Mapping[str, int] = field(default_factory=dict)  # by this round: reason → subjects
    saved: int = 0  # classifications that retired subjects did not need, so far, of their full limit
    spent: int = 0  # classifications that the same subjects had
    streams: Mapping[str, Any] = field(default_factory=dict)  # do people answer alike in each? (`rounds.streams`)
    folder: Path = Path()

    @property
    def finished(self) -> bool:
        return "finished" in self.stages

    @property
    def overall(self) -> Score | None:
        """The score over all questions together."""
        return next((score for score in self.scores if score.question is None), None)

    def save(self) -> None:
        """Write `FACTS`, whole or not at all."""
        _save(self, FACTS)


@dataclass(frozen=True)
class Tuning:
    """An encoder trained on with the campaign's votes, and the verdict: does it take over from the one before?

    ``gate.gain`` is of heads on the tuned encoder over heads on the one before, both fitted on the same votes.
    """

    number: int
    seed: int
    begun_at: datetime
    stages: Mapping[str, datetime]
    settings: Mapping[str, Any]
    workflow: str
    base: str  # the fingerprint of the encoder that loop.encoder names
    before: str  # of the one that it began with, and is compared with: that, or the tuned one in use
    data: str  # SHA-256 of the votes
    answers: int  # on subjects outside the audit set
    subjects: int
    encoder: str = ""  # the fingerprint of both encoders together
    learned_from: tuple[int, ...] = ()  # subjects whose votes each of the two has seen
    gate: Gate | None = None
    folder: Path = Path()

    @property
    def finished(self) -> bool:
        return "finished" in self.stages

    @property
    def took_over(self) -> bool:
        """Whether rounds look through this encoder, until another takes over."""
        return self.finished and self.gate is not None and self.gate.outcome == "promoted"

    def save(self) -> None:
        """Write `TUNING`, whole or not at all."""
        _save(self, TUNING)


def _save(record: Record | Tuning, name: str) -> None:
    values = {one.name: getattr(record, one.name) for one in dataclasses.fields(record) if one.name != "folder"}
    record.folder.mkdir(parents=True, exist_ok=True)
    with replacing(record.folder / name) as temporary:
        temporary.write_text(json.dumps(values, indent=2, ensure_ascii=False, default=_plain) + "\n", "utf-8")


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else dataclasses.asdict(value)


def load(folder: Path) -> Record:
    """Read one round. Raises GreenpeaError naming the file where it is damaged."""
    path = folder / FACTS
    try:
        values = _values(path)
        values["scores"] = tuple(Score(**score) for score in values["scores"])
        return Record(**values, folder=folder)
    except FileNotFoundError as error:
        raise GreenpeaError(f"{folder} is not a round: it has no {FACTS}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise GreenpeaError(f"{path} is damaged ({error}): move the folder away, and run the round again") from error


def _values(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    values["begun_at"] = datetime.fromisoformat(values["begun_at"])
    values["stages"] = {name: datetime.fromisoformat(at) for name, at in values["stages"].items()}
    values["gate"] = Gate(**values["gate"]) if values["gate"] else None
    return values


def every(folder: Path) -> list[Record]:
    """Return a campaign's rounds, oldest first, the unfinished one included."""
    found = (folder / ROUNDS).glob(f"[0-9]*/{FACTS}")
    return sorted((load(path.parent) for path in found), key=lambda record: record.number)


def newest_with_heads(records: list[Record]) -> Record | None:
    """Return the newest finished round whose heads were promoted, or None."""
    promoted = [one for one in records if one.finished and one.gate and one.gate.outcome in ("promoted", "ungated")]
    return promoted[-1] if promoted else None


# ---- tunings -----------------------------------------------------------------------------------------


def load_tuning(folder: Path) -> Tuning:
    """Read one tuning. Raises GreenpeaError naming the file where it is damaged."""
    path = folder / TUNING
    try:
        values = _values(path)
        values["learned_from"] = tuple(values["learned_from"])
        return Tuning(**values, folder=folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise GreenpeaError(f"{path} is damaged ({error}): move the folder away; rounds go on without it") from error


def tunings(folder: Path) -> list[Tuning]:
    """Return a campaign's tunings, oldest first, the unfinished one included."""
    found = (folder / TUNINGS).glob(f"[0-9]*/{TUNING}")
    return sorted((load_tuning(path.parent) for path in found), key=lambda tuning: tuning.number)


def in_use(folder: Path) -> Tuning | None:
    """Return the newest tuning that has taken over, or None."""
    return next((one for one in reversed(tunings(folder)) if one.took_over), None)


def tuned(folder: Path, encoder: str) -> bool:
    """Whether embeddings are those of a tuned encoder, with two halves, and not of one that has seen no vote."""
    return any(one.encoder == encoder for one in tunings(folder))

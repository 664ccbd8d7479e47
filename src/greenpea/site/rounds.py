"""The rounds a campaign's folder holds, as pages need them, and why a subject was asked.

A site may be open for months while rounds come every minute: a round's file is read again only when it has changed,
and one that is damaged is told, and passed over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from greenpea.errors import GreenpeaError
from greenpea.records import FACTS, ROUNDS, SCORES, Record, load
from greenpea.store import Stored, Stream

KEPT = 8192  # rounds in memory; one takes some kilobytes
ASKED = {
    Stream.RANK: "Asked because the network learns much from answers to it.",
    Stream.RANDOM: "Chosen at random.",
    Stream.AUDIT: "Chosen at random, for the set that judges the network.",
    Stream.GOLD: "For practice: its answer was known.",
    Stream.IMPORT: "Classified elsewhere, and brought here.",
    Stream.DIRECT: "You opened it by its address.",
}


@dataclass(frozen=True)
class Rounds:
    """A campaign's rounds, oldest first, and what is wrong with those that cannot be read."""

    records: tuple[Record, ...]
    faults: tuple[str, ...] = ()

    @property
    def newest_scored(self) -> Record | None:
        """The newest finished round that left the scores of the pool."""
        finished = (one for one in reversed(self.records) if one.finished)
        return next((one for one in finished if (one.folder / SCORES).is_file()), None)

    def by_store_round(self, number: int | None) -> Record | None:
        """Return the round whose ranks the store keeps under a number; the newest where several ranked by them."""
        found = (one for one in reversed(self.records) if number is not None and one.store_round == number)
        return next(found, None)


def rounds_of(folder: Path) -> Rounds:
    """Return the rounds of a campaign's folder, the unfinished one included."""
    found = [_found(path) for path in sorted((folder / ROUNDS).glob(f"[0-9]*/{FACTS}"))]
    records = sorted((one for one in found if isinstance(one, Record)), key=lambda record: record.number)
    return Rounds(tuple(records), tuple(one for one in found if isinstance(one, str)))


def _found(path: Path) -> Record | str:
    try:
        about = path.stat()
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    return _read(path, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=KEPT)
def _read(path: Path, changed: int, size: int) -> Record | str:
    """Return a round, or what is wrong with it; read again when it has changed."""
    try:
        return load(path.parent)
    except GreenpeaError as error:
        return str(error)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"


# ---- why it was asked --------------------------------------------------------------------------------


def chance(probability: float) -> tuple[str, dict[str, str]]:
    """Return a probability in words, as a text with {named} places and what stands in them: 12 %, 1 in 3,200."""
    if probability >= 0.01:
        return "{percent} %", {"percent": f"{math.floor(100 * probability + 0.5):d}"}
    return "1 in {number}", {"number": f"{1 / max(probability, 1e-12):,.0f}"}


def numbers_of(folder: Path, classifications: Iterable[Stored]) -> dict[int, int]:
    """Return the number in the store → the round's own, for the rounds these were chosen in and that are known."""
    wanted = {one.round for one in classifications} - {None}
    if not wanted:
        return {}
    return {one.store_round: one.number for one in rounds_of(folder).records if one.store_round in wanted}  # type: ignore[misc]


def asked(one: Stored, number: int | None, t: Callable[..., str]) -> str:
    """Return why a volunteer was shown what they have classified: how it was chosen, never what was predicted."""
    parts = [t(ASKED[one.stream])]
    if number is not None:
        parts.append(t("Round {number}.", number=number))
    if one.probability is not None:
        text, places = chance(one.probability)
        parts.append(t("Chance of being chosen: {chance}.", chance=t(text, **places)))
    return " ".join(parts)

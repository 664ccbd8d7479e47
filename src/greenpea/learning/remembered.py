"""Networks trained once and kept: what methods share, and what a killed comparison goes on with."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from greenpea.images import Preparation
from greenpea.learning import checkpoint
from greenpea.learning.model import Model, Network, Report, learn, shared, silent
from greenpea.learning.settings import Learning
from greenpea.votes import Votes


def remembered(
    folder: Path,
    images: np.ndarray,
    votes: Votes,
    validation: np.ndarray,
    preparation: Preparation,
    start: Model | None = None,
    report: Report = silent,
) -> Network:
    """Return a function of settings: the model learned from these images and votes, which ``folder`` keeps.

    The same settings on the same data are trained once, whoever asks and whenever. What a model cost is in its facts,
    as ``seconds``. Methods that can share a network do so (`model.shared`).
    """
    data = _digest(images, votes, validation, preparation, start)

    def network(settings: Learning) -> Model:
        place = folder / hashlib.sha256(f"{data}:{settings.model_dump_json()}".encode()).hexdigest()[:16]
        if (place / checkpoint.FACTS).is_file():
            return checkpoint.load(place)
        clock = _Clock()

        def part(wanted: Learning) -> Model:
            return clock.off(lambda: network(wanted))

        trains = settings == shared(settings)  # else it may be made of networks that do
        model = learn(images, votes, validation, preparation, settings, start, report, None if trains else part)
        model.facts["seconds"] = clock.seconds
        checkpoint.save(model, place)
        return model

    return network


class _Clock:
    """Seconds of one's own work, and of the networks that it stands on: as long as these took when they were made."""

    def __init__(self) -> None:
        self.since, self.others = time.monotonic(), 0.0

    def off(self, work: Callable[[], Model]) -> Model:
        """Do others' work, and count what they say that it took."""
        started = time.monotonic()
        made = work()
        self.others += made.facts["seconds"] - (time.monotonic() - started)
        return made

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.since + self.others


def _digest(
    images: np.ndarray, votes: Votes, validation: np.ndarray, preparation: Preparation, start: Model | None
) -> str:
    """Return a name of all that is learned from."""
    digest = hashlib.sha256(preparation.model_dump_json().encode() + votes.tree.to_json().encode())
    digest.update(start.fingerprint().encode() if start else b"")
    for values in (images, validation, *votes.counts.values(), *votes.reached.values()):
        digest.update(f"{values.shape}{values.dtype}".encode() + np.ascontiguousarray(values).tobytes())
    digest.update("\n".join(map(str, votes.subject_ids)).encode())
    return digest.hexdigest()

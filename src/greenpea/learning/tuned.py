"""A tuned encoder: two of them, so that no subject is looked at by one that has learned from its votes.

Subjects fall into two halves (`heads.half_of`). Each half is embedded by an encoder that has been trained on, from the
encoder the campaign had, with the votes of the other half alone. What heads make of such embeddings may be combined
with a subject's own votes, and its concentration is that of images whose votes the encoder has not seen
(the same in two steps as `learning.crossfit` for heads; Chernozhukov+2018).

::

    FOLDER/encoder-0/   embeds half 0, has learned from half 1 (`checkpoint`, with the list of whose votes it saw)
           encoder-1/   embeds half 1, has learned from half 0
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from greenpea.calibration import Recalibration
from greenpea.errors import GreenpeaError
from greenpea.heads import HALVES, half_of
from greenpea.images import Preparation
from greenpea.learning import checkpoint
from greenpea.learning.kept import KeptEncoder, encoder_of
from greenpea.learning.model import Model, Report, learn, silent
from greenpea.learning.settings import Learning
from greenpea.outputs import Geometry, Layout
from greenpea.tree import DecisionTree
from greenpea.votes import Votes

EPOCHS, LEARNING_RATE = 12, 5e-4  # few and low: it begins with an encoder that sees something already
KEPT_ASIDE = 5  # one in so many says when to stop


@dataclass(frozen=True, eq=False)
class TunedEncoder:
    """The two encoders. One fingerprint, one folder of embeddings, for both."""

    members: tuple[KeptEncoder, ...]  # by half
    salt: str  # of the halves

    def __post_init__(self) -> None:
        for half, member in enumerate(self.members):
            seen = np.array(member.learned_from, dtype=object)
            if (own := seen[half_of(seen, self.salt) == half]).size:
                raise GreenpeaError(
                    f"the encoder of half {half} has learned from {len(own):,} subjects of that half, the first "
                    f"{own[0]!r}: split.salt was changed, or it is of another campaign; tune anew"
                )

    @classmethod
    def load(cls, folder: Path, salt: str) -> TunedEncoder:
        """Read both from a folder. Raises GreenpeaError where one is damaged, or has learned from its own half."""
        return cls(tuple(checkpoint.load_encoder(place_of(folder, half)) for half in range(HALVES)), salt)

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of both encoders' and of the halves' salt: the same embeddings of the same images."""
        return hashlib.sha256(":".join([*(one.fingerprint for one in self.members), self.salt]).encode()).hexdigest()

    @property
    def length(self) -> int:
        """How many numbers an embedding has."""
        return self.members[0].length

    @property
    def preparation(self) -> Preparation:
        """How images are prepared for both."""
        return self.members[0].preparation

    @cached_property
    def learned_from(self) -> frozenset[str]:
        """The subjects whose votes one of them has seen."""
        return frozenset(subject for one in self.members for subject in one.learned_from)

    def embed(
        self, images: np.ndarray, subject_ids: np.ndarray, precision: str = "auto", accelerator: str = "auto"
    ) -> np.ndarray:
        """Return embeddings [subject, embedding] of prepared images, each by the encoder of its subject's half."""
        half = half_of(subject_ids, self.salt)
        found = np.empty((len(images), self.length), np.float32)
        for number, member in enumerate(self.members):
            if (some := np.flatnonzero(half == number)).size:
                found[some] = member.embed(images[some], precision, accelerator)
        return found


def place_of(folder: Path, half: int) -> Path:
    """Return where the encoder of a half is kept."""
    return folder / f"encoder-{half}"


def tune(
    start: KeptEncoder,
    images: np.ndarray,  # [subject, channel, y, x]
    votes: Votes,
    settings: Learning,
    by_chance: Iterable[bool] = (),
    report: Report = silent,
) -> KeptEncoder:
    """Return ``start``, trained on with the votes of these subjects, whose prepared images these are.

    ``settings`` gives the likelihood, how images are varied, where to compute and the seed. A fifth of the subjects is
    kept from the gradients and says when to stop: those ``by_chance`` first, since the others do not stand for all.
    What has been seen is in ``learned_from``, that fifth included. Raises GreenpeaError where there are too few.
    """
    recipe = settings.model_copy(
        update={
            "encoder": start.name,
            "width": start.width,
            "epochs": EPOCHS,
            "learning_rate": LEARNING_RATE,
            "uncertainty": "laplace",
            "pretrained": False,
            "freeze": False,
            "recalibrate": False,
        }
    )
    model = learn(
        images,
        votes,
        _aside(len(votes), np.array(list(by_chance), dtype=bool), settings.seed),
        start.preparation,
        recipe,
        _as_model(start, recipe, votes.tree),
        report,
    )
    about = {"epochs": EPOCHS, "learning_rate": LEARNING_RATE, "seed": settings.seed, "start": start.fingerprint}
    answers = f"{int(votes.total.sum()):,} answers on {len(votes):,} subjects of the campaign"
    return replace(encoder_of(model), origin=f"trained on with {answers}; begun with {start.origin}", about=about)


def _aside(count: int, by_chance: np.ndarray, seed: int) -> np.ndarray:
    order = np.random.default_rng(seed).permutation(count)
    if by_chance.size:
        order = order[np.argsort(~by_chance[order], kind="stable")]
    return np.isin(np.arange(count), order[: -(-count // KEPT_ASIDE)])


def _as_model(start: KeptEncoder, settings: Learning, tree: DecisionTree) -> Model:
    """Return an encoder as a training begins with: a model of which only the encoder is looked at."""
    length = start.length
    return Model(
        encoder=start.encoder,
        layout=Layout(tree, settings.likelihood),
        preparation=start.preparation,
        settings=settings,
        channels=start.channels,
        state=None,
        geometry=Geometry(np.zeros(length), np.eye(length), 1.0),
        recalibration=Recalibration.identity(tree),
        learned_from=start.learned_from,
    )

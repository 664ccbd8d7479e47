"""An encoder with all it takes to use it again: how images are prepared for it, and whose votes it has seen."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from greenpea.errors import GreenpeaError
from greenpea.images import Preparation
from greenpea.learning.encoders import Encoder
from greenpea.learning.model import Model
from greenpea.learning.prediction import embed
from greenpea.learning.uncertainty.layers import plain

SHIPPED = Path(__file__).parent.parent / "encoders" / "galaxies-64"


@dataclass(frozen=True, eq=False)
class KeptEncoder:
    """An encoder out of training. ``learned_from`` are the subjects whose votes it, or its start, has seen."""

    encoder: Encoder
    preparation: Preparation
    name: str  # as in learning.encoder
    width: int
    channels: int
    origin: str  # where it comes from, in words
    learned_from: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of its numbers and of how images are prepared: the same embeddings of the same images."""
        digest = hashlib.sha256(self.preparation.model_dump_json().encode())
        for name, value in sorted(self.tensors().items()):
            digest.update(
                name.encode() + str(value.dtype).encode() + value.reshape(-1).view(torch.uint8).numpy().tobytes()
            )
        return digest.hexdigest()

    @property
    def length(self) -> int:
        """How many numbers an embedding has."""
        return self.encoder.embedding_size

    def tensors(self) -> dict[str, Tensor]:
        """Return its numbers by name."""
        return {name: value.detach().cpu().contiguous() for name, value in self.encoder.state_dict().items()}

    def embed(self, images: np.ndarray, precision: str = "auto", accelerator: str = "auto") -> np.ndarray:
        """Return the embeddings [subject, embedding] of images prepared for it [subject, channel, y, x].

        Raises GreenpeaError where they have another number of channels.
        """
        if images.shape[1] != self.channels:
            raise GreenpeaError(
                f"these images have {images.shape[1]} channels and the encoder takes {self.channels}: choose them with "
                f"images.bands, or set loop.encoder to 'self', which learns from the images as they are"
            )
        return embed(self.encoder, images, precision, accelerator).numpy()

    def prepared(self, preparation: Preparation) -> KeptEncoder:
        """Return it for images prepared in another way."""
        return replace(self, preparation=preparation)


def encoder_of(model: Model) -> KeptEncoder:
    """Return a model's encoder, without its doubt."""
    return KeptEncoder(
        encoder=plain(model.encoder),
        preparation=model.preparation,
        name=model.settings.encoder,
        width=model.settings.width,
        channels=model.channels,
        origin=f"the model {model.fingerprint()[:12]}, trained on votes",
        learned_from=model.learned_from,
    )

"""Prediction: images → embeddings, once; everything else is a product with the head's draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from greenpea.learning.batches import to_unit
from greenpea.learning.training import make_fabric
from greenpea.learning.uncertainty.layers import Drawn, apply

if TYPE_CHECKING:
    from greenpea.learning.model import Model
    from greenpea.posterior import Posterior

# The network always sees this many images at a time, the last batch filled up: the arithmetic, and so the last bit
# of every result, does not depend on how callers batch.
MICRO_BATCH = 64


def in_blocks(work: Callable[[Tensor], Tensor], rows: Tensor) -> Iterator[Tensor]:
    """Yield ``work`` on `MICRO_BATCH` rows at a time; the last block is filled up with zeros, and cut again."""
    for at in range(0, len(rows), MICRO_BATCH):
        block = rows[at : at + MICRO_BATCH]
        missing = MICRO_BATCH - len(block)
        full = torch.cat([block, block.new_zeros(missing, *block.shape[1:])]) if missing else block
        yield work(full)[: len(block)]


def embed(
    encoder: nn.Module,
    images: np.ndarray,
    precision: str = "auto",
    accelerator: str = "auto",
    rows: np.ndarray | None = None,
    tensors: Callable[[], Drawn] = dict,
) -> Tensor:
    """Return the embeddings [subject, embedding], float32, of prepared images [subject, channel, y, x], or of ``rows``.

    ``tensors`` gives what of the encoder is replaced for this pass (`uncertainty.layers.Drawn`), by default nothing.
    Gathers one block of images at a time.
    """
    fabric = make_fabric(precision, accelerator=accelerator)
    network = fabric.to_device(encoder.eval())
    drawn = {name: fabric.to_device(value) for name, value in tensors().items()}

    def work(block: Tensor) -> Tensor:
        chosen = fabric.to_device(to_unit(torch.from_numpy(images[block.numpy()])))
        with torch.inference_mode(), fabric.autocast():
            return apply(network, drawn, chosen).float().cpu()

    rows = np.arange(len(images)) if rows is None else rows
    parts = list(in_blocks(work, torch.from_numpy(rows)))
    network.cpu()
    return torch.cat(parts).clone() if parts else torch.zeros(0, int(encoder.embedding_size))  # type: ignore[arg-type]


def as_kept(embeddings: np.ndarray) -> np.ndarray:
    """Return embeddings as they come back where they are kept in half precision."""
    return embeddings.astype(np.float16).astype(np.float32)


def from_embeddings(model: Model, embeddings: np.ndarray, subject_ids: np.ndarray, drawn: Any) -> Posterior:
    """Return the posterior of subjects whose embeddings by the model's encoder are known, for draws (`Model.draw`)."""
    return model.posterior(torch.from_numpy(np.ascontiguousarray(embeddings)), subject_ids, drawn)

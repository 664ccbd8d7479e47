"""Prediction: images → embeddings, once; everything else is a product with the head's draws."""

from __future__ import annotations

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from greenpea.learning.batches import to_unit
from greenpea.learning.training import make_fabric

# The network always sees this many images at a time, the last batch filled up with zeros: the arithmetic, and
# so the last bit of every result, does not depend on how callers batch.
MICRO_BATCH = 64


@torch.inference_mode()
def embed(encoder: nn.Module, images: np.ndarray, precision: str = "auto", accelerator: str = "auto") -> Tensor:
    """Return the embeddings [subject, embedding], float32, of prepared images [subject, channel, y, x]."""
    fabric = make_fabric(precision, accelerator=accelerator)
    network = fabric.to_device(encoder.eval())
    parts = [_embed_block(network, images[at : at + MICRO_BATCH], fabric) for at in range(0, len(images), MICRO_BATCH)]
    network.cpu()
    if not parts:
        return torch.zeros(0, int(encoder.embedding_size))  # type: ignore[arg-type]
    return torch.cat(parts).clone()


def _embed_block(network: nn.Module, images: np.ndarray, fabric: Fabric) -> Tensor:
    block = to_unit(torch.from_numpy(images))
    missing = MICRO_BATCH - len(block)
    if missing:
        block = torch.cat([block, torch.zeros(missing, *block.shape[1:])])
        block = block.contiguous(memory_format=torch.channels_last)
    with fabric.autocast():
        out = network(fabric.to_device(block))
    return out[: len(images)].float().cpu()

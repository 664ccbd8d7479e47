"""Sources of doubt about the weights, one published method a file, the same skeleton in each.

==============================  =====================================================================================
``COST``, ``MISSING``           in words: what it takes; what is missing where all draws are the same
``encoder_passes``              settings, draws → how often the encoder runs over an image
``prepare``, ``prepare_head``   an ordinary encoder, an ordinary head → the one to train
``objective``                   the loss to train with
``State``                       what is kept beside the encoder
``candidates``                  what was learned → States to choose among, by how they predict votes kept aside
``draw``                        State, number → one set of weights of the head
``passes``                      encoder, State → the passes of the encoder, and which draws each serves
``tensors``, ``restore``        State ↔ checkpoint
==============================  =====================================================================================

A draw is one set of weights, the same for every subject, batch and worker. A new method is a file here and a line in
`METHODS` and in `learning.settings.Method`.
"""

from __future__ import annotations

from types import ModuleType

from greenpea.errors import GreenpeaError, did_you_mean
from greenpea.learning.uncertainty import (
    bootstrap,
    dropout,
    encoder_dropout,
    ensemble,
    laplace,
    variational_head,
    variational_network,
)

METHODS: dict[str, ModuleType] = {
    "laplace": laplace,
    "dropout": dropout,
    "bootstrap": bootstrap,
    "variational-head": variational_head,
    "ensemble": ensemble,
    "encoder-dropout": encoder_dropout,
    "variational": variational_network,
}


def method(name: str) -> ModuleType:
    """Return a method's module by name. Raises GreenpeaError naming the ones there are."""
    if name not in METHODS:
        raise GreenpeaError(
            f"no uncertainty method {name!r}{did_you_mean(name, METHODS)}; there are {', '.join(METHODS)}"
        )
    return METHODS[name]

"""Sources of doubt about the head's weights, one published method a file, the same skeleton in each.

``State`` (what is kept), ``candidates`` (a head and the votes it learned from → States to choose among, by how they
predict votes kept aside), ``draw`` (State → one set of weights), ``tensors`` and ``restore`` (State ↔ checkpoint).
A draw is one set of weights, the same for every subject, batch and worker.
"""

from __future__ import annotations

from types import ModuleType

from greenpea.errors import GreenpeaError, did_you_mean
from greenpea.learning.uncertainty import dropout, laplace

METHODS: dict[str, ModuleType] = {"laplace": laplace, "dropout": dropout}


def method(name: str) -> ModuleType:
    """Return a method's module by name. Raises GreenpeaError naming the ones there are."""
    if name not in METHODS:
        raise GreenpeaError(
            f"no uncertainty method {name!r}{did_you_mean(name, METHODS)}; there are {', '.join(METHODS)}"
        )
    return METHODS[name]

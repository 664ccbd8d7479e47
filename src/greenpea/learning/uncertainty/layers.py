"""Layers that doubt, put in the place of a network's own: what variational inference and dropout have in common.

A network with such layers is an ordinary module. One draw of it is the module with some of its tensors replaced, by
name, for one call: the same tensors for every image.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from greenpea.errors import GreenpeaError

Weighted = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
Drawn = Mapping[str, Tensor]  # tensors of a network by name: what one draw replaces


class Doubting(nn.Module):
    """A layer that stands for one of `WEIGHTED`, and knows how to become it again."""

    def plain(self) -> nn.Module:
        """Return the ordinary layer that is the middle of all draws."""
        raise NotImplementedError


def replaced(network: nn.Module, kinds: tuple[type[nn.Module], ...], change: Callable[[Any], nn.Module]) -> nn.Module:
    """Return a copy of ``network`` in which every module of these kinds is what ``change`` makes of it."""
    changed = copy.deepcopy(network)
    if isinstance(changed, kinds):
        return change(changed)
    for parent in list(changed.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, kinds):
                setattr(parent, name, change(child))
    return changed


def plain(network: nn.Module) -> nn.Module:
    """Return a copy of ``network`` of ordinary layers only: a network without doubt."""
    return replaced(network, (Doubting,), lambda layer: layer.plain())


def doubting(network: nn.Module, kind: type[Any], missing: str) -> list[tuple[str, Any]]:
    """Return the layers of a kind with their names. Raises GreenpeaError, saying ``missing``, where there is none."""
    found = [(name, module) for name, module in network.named_modules() if isinstance(module, kind)]
    if not found:
        raise GreenpeaError(f"all draws of this network would be the same: {missing}")
    return found


def apply(network: nn.Module, drawn: Drawn, inputs: Tensor) -> Tensor:
    """Return what one draw of ``network``, in evaluation mode, says of ``inputs``: one pass."""
    if not drawn:
        return network.eval()(inputs)
    return torch.func.functional_call(network.eval(), dict(drawn), (inputs,))


def prefixed(drawn: Iterable[tuple[str, Tensor]], name: str) -> dict[str, Tensor]:
    """Return tensors under the names that they have in a network which holds theirs as ``name``."""
    return {f"{name}.{key}" if name else key: value for key, value in drawn}

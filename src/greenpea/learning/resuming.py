"""A training that survives a kill: its whole state in one file, after an epoch, from which it goes on to the same end.

One ``training.safetensors``: the network, its running average, the best so far, the optimiser's moments, and the random
numbers of every process, of the loss and of the batches; in its header, as JSON, the history, the schedule, and what
the training is of. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from greenpea.files import saving

FILE = "training.safetensors"
EVERY = 10.0  # seconds between two files, so that short epochs are not slowed down


@dataclass
class Keep:
    """Where a training is kept: ``what`` is all that decides its weights; kept of another, it is begun anew."""

    folder: Path
    what: str
    every: float = EVERY
    saved: float = field(default_factory=time.monotonic)

    def part(self, name: str) -> Keep:
        """Return where one of several trainings is kept."""
        return Keep(self.folder / name, f"{self.what} {name}", self.every)

    @property
    def due(self) -> bool:
        """Whether it is time to write again."""
        return time.monotonic() - self.saved >= self.every

    @property
    def begun(self) -> bool:
        """Whether a state of this training, or of a part of it, was written before."""
        return any(_about(path).get("what", "").startswith(self.what) for path in self.folder.rglob(FILE))

    def write(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Write the state, whole or not at all. Raises GreenpeaError where the disk is full or read-only."""
        path = self.folder / FILE
        with saving(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".new")
            numbers = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
            save_file(numbers, temporary, {"what": self.what, "facts": json.dumps(facts)})
            temporary.replace(path)
        self.saved = time.monotonic()

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the state that was written last, or None where there is none of this training."""
        try:
            with safe_open(self.folder / FILE, "pt") as file:
                about = file.metadata() or {}
                if about.get("what") != self.what:
                    return None
                return {name: file.get_tensor(name) for name in file.keys()}, json.loads(about["facts"])  # noqa: SIM118
        except (FileNotFoundError, SafetensorError, KeyError, ValueError):
            return None


def _about(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (FileNotFoundError, SafetensorError):
        return {}


# ---- what a state consists of ------------------------------------------------------------------------


def prefixed(name: str, module: nn.Module) -> dict[str, Tensor]:
    """Return a module's numbers, their names with another before them."""
    return {f"{name}.{key}": value for key, value in module.state_dict().items()}


def put_back(name: str, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a module the numbers that `prefixed` took from it."""
    prefix = f"{name}."
    module.load_state_dict({key.removeprefix(prefix): tensors[key] for key in tensors if key.startswith(prefix)})


def moments(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Return an optimiser's tensors by name, and its groups."""
    state = optimizer.state_dict()
    found = {f"optimizer.{row}.{key}": value for row, some in state["state"].items() for key, value in some.items()}
    return found, state["param_groups"]


def put_moments_back(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], groups: list[dict[str, Any]]
) -> None:
    """Give an optimiser what `moments` took from it, in the memory layout of its parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, row, key = name.split(".")
            like = parameters[int(row)]
            fits = value.shape == like.shape
            state.setdefault(int(row), {})[key] = torch.empty_like(like).copy_(value) if fits else value
    optimizer.load_state_dict({"state": state, "param_groups": groups})

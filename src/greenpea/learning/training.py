"""Training: `fit(module, batches, loss)`. It knows nothing of votes, so that any module can use it."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from greenpea.errors import GreenpeaError
from greenpea.learning.settings import Recipe

Batch = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass
class History:
    """What happened, epoch by epoch: losses in the units of the loss, and seconds since the start."""

    train: list[float] = field(default_factory=list)
    held_out: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    best_epoch: int = -1


class Average:
    """A running average of a module's weights and buffers; it is what is judged and kept."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.decay, self.steps = decay, 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 9.0))  # young averages forget faster
        for mine, theirs in zip(self.module.state_dict().values(), module.state_dict().values(), strict=True):
            if mine.is_floating_point():
                mine.lerp_(theirs, 1 - decay)
            else:
                mine.copy_(theirs)


def make_fabric(precision: str = "auto", devices: int | str = 1, accelerator: str = "auto") -> Fabric:
    """Return the Fabric to train with; ``auto`` precision is bf16 where the processor multiplies it natively."""
    if accelerator == "auto":  # likelihoods are in float64, which Apple's GPUs do not have
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise GreenpeaError(
            "learning.accelerator is 'cuda', but torch finds no such GPU here: set it to 'cpu' or 'auto'"
        )
    if precision == "auto":
        precision = "bf16-mixed" if _fast_bf16() else "32-true"
    fabric_log = logging.getLogger("lightning_fabric")
    before = fabric_log.level
    fabric_log.setLevel(logging.WARNING)  # it announces its precision every time, in the middle of progress bars
    try:
        return Fabric(accelerator=accelerator, devices=devices, precision=precision)
    finally:
        fabric_log.setLevel(before)


def _fast_bf16() -> bool:
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def schedule(recipe: Recipe, steps: int) -> Callable[[int], float]:
    """Return the learning-rate factor by step: a linear warm-up, then half a cosine to 0."""
    warm = max(1, round(recipe.warm_up * steps))

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, steps - warm))))

    return factor


def fit(
    module: nn.Module,
    batches: Iterable[Batch],
    loss: Loss,
    *,
    held_out: Iterable[Batch],
    recipe: Recipe,
    fabric: Fabric,
    progress: Callable[[int, History], None] | None = None,
) -> tuple[nn.Module, History]:
    """Minimise ``loss(module(inputs), targets)`` and return the module best on ``held_out``, with the history.

    ``batches`` is iterated once per epoch, and has a length. AdamW, cosine with warm-up, gradient clipping, a
    running average of the weights, early stopping on the held-out loss. Costs one pass and one backward pass
    an epoch over ``batches``, and one pass over ``held_out``.
    """
    optimizer = torch.optim.AdamW(_groups(module, recipe), lr=recipe.learning_rate)
    steps = recipe.epochs * len(batches)  # type: ignore[arg-type]
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule(recipe, steps))
    module, optimizer = fabric.setup(module, optimizer)
    average = Average(module.module, recipe.average)
    best, history, started = copy.deepcopy(average.module), History(), time.monotonic()
    for epoch in range(recipe.epochs):
        history.train.append(_epoch(module, batches, loss, optimizer, scheduler, average, recipe, fabric))
        history.held_out.append(mean_loss(average.module, held_out, loss, fabric))
        history.seconds.append(time.monotonic() - started)
        if history.held_out[-1] <= min(history.held_out):
            best, history.best_epoch = copy.deepcopy(average.module), epoch
        if progress:
            progress(epoch, history)
        if epoch - history.best_epoch >= recipe.patience:
            break
    if history.best_epoch < 0:
        raise GreenpeaError("the training diverged (its loss is not a number): lower learning.learning_rate")
    return best, history


def _groups(module: nn.Module, recipe: Recipe) -> list[dict[str, object]]:
    """Weight decay for matrices and kernels only, not for biases and norms."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _epoch(
    module: nn.Module,
    batches: Iterable[Batch],
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    average: Average,
    recipe: Recipe,
    fabric: Fabric,
) -> float:
    module.train()
    total, count = 0.0, 0
    for inputs, targets in _on_device(batches, fabric):
        value = loss(module(inputs), targets)
        optimizer.zero_grad(set_to_none=True)
        fabric.backward(value)
        fabric.clip_gradients(module, optimizer, max_norm=recipe.clip, error_if_nonfinite=False)
        optimizer.step()
        scheduler.step()
        average.update(module.module)  # type: ignore[arg-type]
        total, count = total + value.item() * len(inputs), count + len(inputs)
    return total / max(1, count)


@torch.inference_mode()
def mean_loss(module: nn.Module, batches: Iterable[Batch], loss: Loss, fabric: Fabric) -> float:
    """Return the mean loss over all items of ``batches``, in evaluation mode."""
    module.eval()
    total, count = 0.0, 0
    with fabric.autocast():
        for inputs, targets in _on_device(batches, fabric):
            total, count = total + loss(module(inputs), targets).item() * len(inputs), count + len(inputs)
    return total / max(1, count)


def _on_device(batches: Iterable[Batch], fabric: Fabric) -> Iterator[Batch]:
    for inputs, targets in batches:
        yield fabric.to_device(inputs), fabric.to_device(targets)

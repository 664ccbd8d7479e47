"""Training: `fit(module, batches, loss)`. It knows nothing of votes, so that any module can use it."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn

from greenpea.errors import GreenpeaError
from greenpea.learning import devices, resuming
from greenpea.learning.resuming import Keep
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


Progress = Callable[[int, History], None]  # epoch, what happened until then


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


def make_fabric(precision: str = "auto", devices: int = 1, accelerator: str = "auto") -> Fabric:
    """Return the Fabric to train with; ``auto`` precision is bf16 where the processor multiplies it natively.

    Several ``devices`` are GPUs, or else processes that share this one's processor.
    """
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
        strategy = DDPStrategy(start_method="spawn") if devices > 1 else "auto"
        return Fabric(accelerator=accelerator, devices=devices, precision=precision, strategy=strategy)
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
    progress: Progress | None = None,
    keep: Keep | None = None,
) -> tuple[nn.Module, History]:
    """Minimise ``loss(module(inputs), targets)`` and return the module best on ``held_out``, with the history.

    ``batches`` is iterated once per epoch, and has a length. AdamW, cosine with warm-up, gradient clipping, a
    running average of the weights, early stopping on the held-out loss. Costs one pass and one backward pass
    an epoch over ``batches``, and one pass over ``held_out``.

    With ``keep`` the state is written after epochs, and a training that was killed goes on to the weights that it would
    have come to; ``batches`` then draws from an attribute ``generator``, if from any. With several devices every one
    sees its share of each batch (`devices`). Raises GreenpeaError where the loss is no number any more.
    """
    if fabric.world_size > 1:
        return devices.fit(module, batches, loss, held_out, recipe, fabric, progress, keep)
    return run(fabric, module, batches, loss, held_out, recipe, progress, keep)


def run(
    fabric: Fabric,
    module: nn.Module,
    batches: Iterable[Batch],
    loss: Loss,
    held_out: Iterable[Batch],
    recipe: Recipe,
    progress: Progress | None,
    keep: Keep | None,
) -> tuple[nn.Module, History]:
    """Do what `fit` does, as one of the processes that ``fabric`` knows of."""
    training = _Training(fabric, module, batches, loss, held_out, recipe)
    history = training.history
    if keep:
        training.restore(keep)
    before, started = history.seconds[-1] if history.seconds else 0.0, time.monotonic()
    while not training.over:
        epoch = len(history.train)
        history.train.append(training.epoch())
        history.held_out.append(training.judge())
        history.seconds.append(before + time.monotonic() - started)
        if history.held_out[-1] <= min(history.held_out):
            training.best, history.best_epoch = copy.deepcopy(training.average.module), epoch
        if progress and fabric.global_rank == 0:
            progress(epoch, history)
        if keep and fabric.broadcast(keep.due or training.over):
            training.save(keep)
    return training.best, history


class _Training:
    """A training under way: everything that changes from epoch to epoch."""

    def __init__(
        self,
        fabric: Fabric,
        module: nn.Module,
        batches: Iterable[Batch],
        loss: Loss,
        held_out: Iterable[Batch],
        recipe: Recipe,
    ) -> None:
        optimizer = torch.optim.AdamW(_groups(module, recipe), lr=recipe.learning_rate)
        steps = recipe.epochs * len(batches)  # type: ignore[arg-type]
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule(recipe, steps))
        self.module, self.optimizer = fabric.setup(module, optimizer)
        self.fabric, self.recipe, self.loss = fabric, recipe, loss
        self.batches, self.held_out = batches, held_out
        self.average = Average(self.module.module, recipe.average)
        self.best, self.history = copy.deepcopy(self.average.module), History()

    @property
    def over(self) -> bool:
        """Whether all epochs are done, or too many of them brought nothing."""
        done = len(self.history.train)
        return done >= self.recipe.epochs or done - 1 - self.history.best_epoch >= self.recipe.patience

    def epoch(self) -> float:
        """Go once over the batches; return their mean loss."""
        self.module.train()
        total, count = 0.0, 0
        for inputs, targets in _on_device(self.batches, self.fabric):
            value = self.loss(self.module(inputs), targets)
            self._refuse_divergence(value.item())
            self.optimizer.zero_grad(set_to_none=True)
            self.fabric.backward(value)
            self.fabric.clip_gradients(self.module, self.optimizer, max_norm=self.recipe.clip, error_if_nonfinite=False)
            self.optimizer.step()
            self.scheduler.step()
            self.average.update(self.module.module)
            total, count = total + value.item() * len(inputs), count + len(inputs)
        devices.share_buffers(self.fabric, self.average.module)
        return devices.mean(self.fabric, total, count)

    def judge(self) -> float:
        """Return the running average's mean loss on what is held out."""
        value = devices.mean(self.fabric, *_summed(self.average.module, self.held_out, self.loss, self.fabric))
        self._refuse_divergence(value)
        return value

    def _refuse_divergence(self, value: float) -> None:
        if math.isfinite(value):
            return
        rate, peak = self.scheduler.get_last_lr()[0], self.recipe.learning_rate
        raise GreenpeaError(
            f"the training diverged in epoch {1 + len(self.history.held_out)}: its loss is {value} at a learning rate "
            f"of {rate:.2g}. Lower learning.learning_rate, such as to {peak / 3:.2g}; if that does not help, set "
            f"learning.precision to '32-true', and look for images that are mostly blank"
        )

    def save(self, keep: Keep) -> None:
        """Write all that it takes to go on."""
        tensors, groups = resuming.moments(self.optimizer)
        for name, one in self._modules().items():
            tensors |= resuming.prefixed(name, one)
        for rank, state in enumerate(devices.gathered(self.fabric, torch.get_rng_state())):
            tensors[f"random.{rank}"] = state
        if self.fabric.device.type == "cuda":
            for rank, state in enumerate(devices.gathered(self.fabric, torch.cuda.get_rng_state())):
                tensors[f"random.cuda.{rank}"] = state
        if generator := getattr(self.batches, "generator", None):
            tensors["random.batches"] = generator.get_state()
        if self.fabric.global_rank == 0:
            keep.write(tensors, self._facts(groups))

    def _modules(self) -> dict[str, nn.Module]:
        return {"module": self.module.module, "average": self.average.module, "best": self.best}

    def _facts(self, groups: list[dict[str, Any]]) -> dict[str, Any]:
        schedule = {key: value for key, value in self.scheduler.state_dict().items() if key != "lr_lambdas"}
        scaler = self.fabric.strategy.precision.state_dict()
        return {
            "history": vars(self.history),
            "steps": self.average.steps,
            "groups": groups,
            "schedule": schedule,
            "scaler": scaler,
        }

    def restore(self, keep: Keep) -> None:
        """Go on from what was kept, if anything was."""
        if (found := keep.read()) is None:
            return
        tensors, facts = found
        for name, one in self._modules().items():
            resuming.put_back(name, one, tensors)
        resuming.put_moments_back(self.optimizer, tensors, facts["groups"])
        self.scheduler.load_state_dict(facts["schedule"] | {"lr_lambdas": [None]})
        self.fabric.strategy.precision.load_state_dict(facts["scaler"])
        self.average.steps = facts["steps"]
        vars(self.history).update(facts["history"])
        torch.set_rng_state(tensors[f"random.{self.fabric.global_rank}"])
        if self.fabric.device.type == "cuda":
            torch.cuda.set_rng_state(tensors[f"random.cuda.{self.fabric.global_rank}"])
        if "random.batches" in tensors:
            self.batches.generator.set_state(tensors["random.batches"])  # type: ignore[attr-defined]


def _groups(module: nn.Module, recipe: Recipe) -> list[dict[str, object]]:
    """Weight decay for matrices and kernels only, not for biases and norms."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]


def mean_loss(module: nn.Module, batches: Iterable[Batch], loss: Loss, fabric: Fabric) -> float:
    """Return the mean loss over all items of ``batches``, in evaluation mode."""
    total, count = _summed(module, batches, loss, fabric)
    return total / max(1, count)


@torch.inference_mode()
def _summed(module: nn.Module, batches: Iterable[Batch], loss: Loss, fabric: Fabric) -> tuple[float, int]:
    module.eval()
    total, count = 0.0, 0
    with fabric.autocast():
        for inputs, targets in _on_device(batches, fabric):
            total, count = total + loss(module(inputs), targets).item() * len(inputs), count + len(inputs)
    return total, count


def _on_device(batches: Iterable[Batch], fabric: Fabric) -> Iterator[Batch]:
    for inputs, targets in batches:
        yield fabric.to_device(inputs), fabric.to_device(targets)

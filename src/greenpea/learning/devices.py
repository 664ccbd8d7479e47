"""Several devices train one network: each sees its share of every batch, and their gradients are averaged (DDP).

A process per device, begun by Fabric. They agree on everything: the same weights, the same history, the same end. Batch
normalisation looks at each device's own share; what it has seen on the first is what is kept.
"""

from __future__ import annotations

import copy
import os
import pickle
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.multiprocessing
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessRaisedException

from greenpea.errors import GreenpeaError
from greenpea.learning import resuming
from greenpea.learning.resuming import Keep
from greenpea.learning.settings import Recipe

if TYPE_CHECKING:
    from greenpea.learning.training import Batch, History, Loss, Progress


def fit(
    module: nn.Module,
    batches: Iterable[Batch],
    loss: Loss,
    held_out: Iterable[Batch],
    recipe: Recipe,
    fabric: Fabric,
    progress: Progress | None,
    keep: Keep | None,
) -> tuple[nn.Module, History]:
    """Do what `training.fit` does, in a process per device of ``fabric``; the result comes back through a file."""
    from greenpea.learning.training import History

    with tempfile.TemporaryDirectory() as temporary:
        keep = keep or Keep(Path(temporary), "this", every=float("inf"))
        # Through a file of our own: tensors handed over as arguments are shared by descriptors, which may run out.
        work = Path(temporary) / "work"
        work.write_bytes(pickle.dumps((module, batches, loss, held_out, recipe, keep, int(torch.randint(2**31, ())))))
        told = torch.multiprocessing.get_context("spawn").SimpleQueue()
        listener = threading.Thread(target=_listen, args=(told, progress), daemon=True)
        listener.start()
        try:
            fabric.launch(_one_of_them, work, told)
        except ProcessRaisedException as error:
            raise GreenpeaError(_words(str(error))) from error
        finally:
            told.put(None)
            listener.join()
        found = keep.read()
    if found is None:
        raise GreenpeaError("the training left no result: run it again, or with learning.devices=1")
    best = copy.deepcopy(module).cpu()
    resuming.put_back("best", best, found[0])
    return best.eval(), History(**found[1]["history"])


def _listen(told: Any, progress: Progress | None) -> None:
    while (news := told.get()) is not None:
        if progress:
            progress(*news)


def _words(text: str) -> str:
    """Return the last line of a process's traceback: our own words, without the error's name before them."""
    last = text.strip().splitlines()[-1]
    return last.partition("GreenpeaError: ")[2] or f"a process that trained ended: {last}"


def _one_of_them(fabric: Fabric, work: Path, told: Any) -> None:
    """Train as one of the processes."""
    from greenpea.learning import training

    module, batches, loss, held_out, recipe, keep, seed = pickle.loads(work.read_bytes())
    rank, ranks = fabric.global_rank, fabric.world_size
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks))
    torch.manual_seed(seed + rank)
    mine = batches.share(rank, ranks) if hasattr(batches, "share") else Share(batches, rank, ranks)
    judged = Share(held_out, rank, ranks, even=False)
    training.run(fabric, module, mine, loss, judged, recipe, lambda *news: told.put(news), keep)
    fabric.barrier()
    if torch.distributed.is_initialized():  # a process that ends with its connections open may be aborted by them
        torch.distributed.destroy_process_group()


class Share:
    """A process's rows of every batch; ``even``: all have as many, and what is left over is passed by."""

    def __init__(self, batches: Iterable[Batch], rank: int, ranks: int, even: bool = True) -> None:
        self.batches, self.rank, self.ranks, self.even = batches, rank, ranks, even

    @property
    def generator(self) -> torch.Generator | None:
        """What the batches draw from, if they do."""
        return getattr(self.batches, "generator", None)

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Batch]:
        for inputs, targets in self.batches:
            whole = len(inputs) // self.ranks * self.ranks if self.even else len(inputs)
            mine = slice(self.rank, whole, self.ranks)
            if len(inputs[mine]):
                yield inputs[mine], targets[mine]


# ---- what they tell each other -----------------------------------------------------------------------


def mean(fabric: Fabric, total: float, count: int) -> float:
    """Return the mean over what all processes have summed up."""
    both = torch.tensor([total, float(count)], dtype=torch.float64, device=fabric.device)
    if fabric.world_size > 1:
        both = fabric.all_reduce(both, reduce_op="sum")
    return float(both[0] / max(1.0, float(both[1])))


def share_buffers(fabric: Fabric, module: nn.Module) -> None:
    """Give all processes the first one's buffers: what its batch normalisation has seen."""
    if fabric.world_size > 1:
        for value in module.buffers():
            torch.distributed.broadcast(value, 0)


def gathered(fabric: Fabric, state: Tensor) -> list[Tensor]:
    """Return every process's state, in order."""
    if fabric.world_size == 1:
        return [state]
    found = fabric.all_gather(state.to(fabric.device))
    return [one.cpu() for one in found]

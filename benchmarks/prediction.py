"""From JPEG files on disk to a written catalogue with 30 draws: the rate, its stages, and the memory it takes.

    python benchmarks/prediction.py [--images 6000] [--encoders residual timm:resnet18] [--memory 10000 100000]

64-pixel JPEGs of *simulated* galaxies (512 different ones, linked under as many names as are wanted), the full Galaxy
Zoo DECaLS tree (34 answers), a model trained for a moment: speed hardly depends on how well. Each stage runs alone over
as many images: decoding (in as many processes), the network with its head, describing and writing (in as many
processes). ``overhead`` is the time of all together over the sum of the three. The naive way decodes, predicts and
writes one batch after another in one process. Memory is the peak of each process at two numbers of images, measured in
processes of their own; the images lie in shards there.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common import declare_torchvision, finish
from greenpea import catalogue, creation, describing, images, predicting, simulate
from greenpea.campaign import Campaign
from greenpea.learning.model import Model
from greenpea.packing import pack
from greenpea.parts import Unfinished
from greenpea.posterior import Posterior
from greenpea.runner import Processes
from greenpea.subjects import SubjectSet

DIFFERENT, SIZE, BATCH = 512, 64, 256
QUICK = ("learning.epochs=2", "learning.orientation=any")


def campaign_of(folder: Path, encoder: str) -> Campaign:
    """Return a campaign with a model of this encoder, made once."""
    place = folder / encoder.replace(":", "-")
    if not place.exists():
        creation.simulate(place, 600, votes=20, size=SIZE, seed=1)
        Campaign.open(place, (*QUICK, f"learning.encoder={encoder}")).train()
    return Campaign.open(place)


def files_of(folder: Path, count: int) -> SubjectSet:
    """Return subjects whose images are JPEG files: few different ones under many names."""
    different, place = folder / "different", folder / f"files-{count}"
    if not different.exists():
        different.mkdir()
        for number, image in enumerate(simulate.galaxies(DIFFERENT, 5, SIZE).images):
            Image.fromarray(image).save(different / f"{number}.jpg", quality=92)
    if not place.exists():
        for number in range(count):
            inside = place / f"{number // 1000:04d}"
            inside.mkdir(parents=True, exist_ok=True)
            os.link(different / f"{number % DIFFERENT}.jpg", inside / f"{number:07d}.jpg")
    return SubjectSet.from_folder(place)


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


# ---- stages --------------------------------------------------------------------------------------------


def all_together(campaign: Campaign, subjects: SubjectSet, folder: Path) -> float:
    return timed(lambda: campaign.predict(folder / "catalogue.parquet", subjects, anew=True))


def decoding(model: Model, subjects: SubjectSet, workers: int) -> float:
    def work() -> None:
        for _ in images.batches(subjects, model.preparation, predicting.BLOCK, workers):
            pass

    return timed(work)


def posteriors(campaign: Campaign, model: Model, block: np.ndarray, count: int) -> Iterator[Posterior]:
    drawn = campaign._draw(model)
    for at in range(0, count, len(block)):
        some = block[: count - at]
        yield campaign._posterior(model, some, np.array([f"s{at + i}" for i in range(len(some))], dtype=object), drawn)


def network(campaign: Campaign, model: Model, block: np.ndarray, count: int) -> float:
    def work() -> None:
        for _ in posteriors(campaign, model, block, count):
            pass

    return timed(work)


def writing(campaign: Campaign, model: Model, block: np.ndarray, subjects: SubjectSet, folder: Path) -> float:
    chosen = campaign.settings.catalogue
    known = next(posteriors(campaign, model, block, len(block)))

    def tasks() -> Iterator[Any]:
        for at in range(0, len(subjects), len(block)):
            rows = np.arange(at, min(at + len(block), len(subjects)))
            yield describing.Block(at, rows, known.select(np.arange(len(rows))), ()), subjects.select(rows).metadata

    def work() -> None:
        parts = -(-len(subjects) // chosen.part)
        with Processes(chosen.workers) as runner, Unfinished.open(folder / "w.parquet", {}, parts, True) as unfinished:
            found = list(runner.map(partial(describing.describe, chosen, 0, False), tasks(), chosen.workers))
            each = chosen.part // predicting.BLOCK
            for part in range(parts):
                unfinished.add(part, describing.joined(found[part * each : (part + 1) * each]), [], {})
            unfinished.join()

    return timed(work)


def naive(campaign: Campaign, model: Model, subjects: SubjectSet, folder: Path) -> float:
    """Decode, predict and write one batch after another, in this process."""
    chosen, drawn = campaign.settings.catalogue, campaign._draw(model)

    def work() -> None:
        writer = catalogue.Writer(folder / "naive.parquet", {})
        for at in range(0, len(subjects), BATCH):
            some = subjects.select(np.arange(at, min(at + BATCH, len(subjects))))
            block = np.stack([found[0] for found in images._prepare_some(model.preparation, some)])
            posterior = campaign._posterior(model, block, some.subject_ids, drawn)
            rng = np.random.default_rng(at)
            told = (chosen.votes, chosen.information_votes, rng)
            writer.write(catalogue.table(posterior, some.metadata, *told, doubt_votes=chosen.doubt_votes))
        writer.close()

    return timed(work)


def stages(folder: Path, encoder: str, count: int) -> dict[str, Any]:
    campaign, subjects = campaign_of(folder, encoder), files_of(folder, count)
    model, workers = campaign.model(), campaign.settings.catalogue.workers
    block = next(
        iter(images.batches(subjects.select(np.arange(predicting.BLOCK)), model.preparation, predicting.BLOCK))
    )[1]
    list(posteriors(campaign, model, block, len(block)))  # a warm-up
    seconds = {
        "decoding": decoding(model, subjects, workers),
        "network": network(campaign, model, block, count),
        "writing": writing(campaign, model, block, subjects, folder),
        "all": all_together(campaign, subjects, folder),
    }
    few = subjects.select(np.arange(min(count, 2048)))
    one_by_one = naive(campaign, model, few, folder) * count / len(few)
    return {
        "images_per_second": {name: count / value for name, value in seconds.items()},
        "overhead": seconds["all"] / (seconds["decoding"] + seconds["network"] + seconds["writing"]),
        "speedup_over_naive": one_by_one / seconds["all"],
        "naive_images_per_second": count / one_by_one,
    }


def sources(folder: Path, count: int) -> dict[str, float]:
    """Return images a second from files, tar shards and Parquet shards, with the default encoder."""
    campaign, subjects, found = campaign_of(folder, "residual"), files_of(folder, count), {}
    for kind in ("files", "tar", "parquet"):
        if kind != "files":
            pack(subjects, folder / f"{kind}-{count}", kind)
        some = subjects if kind == "files" else SubjectSet.open(folder / f"{kind}-{count}")
        found[kind] = count / all_together(campaign, some, folder)
        print(kind, found[kind], file=sys.stderr)
    return found


# ---- memory --------------------------------------------------------------------------------------------


def peak(folder: Path, count: int) -> None:
    """Predict so many images and print the peaks of memory: what a process of its own does."""
    shards = folder / f"memory-{count}"
    if not shards.exists():
        pack(files_of(folder, count), shards)
    campaign = campaign_of(folder, "residual")
    seconds = all_together(campaign, SubjectSet.open(shards), folder)
    who = {"main": resource.RUSAGE_SELF, "largest_beside": resource.RUSAGE_CHILDREN}
    mib = {name: resource.getrusage(one).ru_maxrss / 1024 for name, one in who.items()}
    print(json.dumps(mib | {"images_per_second": count / seconds}))


def memory(folder: Path, counts: list[int]) -> dict[str, Any]:
    found = {}
    for count in counts:
        words = [sys.executable, __file__, "--folder", str(folder), "--peak", str(count)]
        for _ in range(2):  # the first packs the images, which takes memory of its own
            done = subprocess.run(words, check=True, capture_output=True, text=True)
        found[str(count)] = json.loads(done.stdout.splitlines()[-1])
        print(count, found[str(count)], file=sys.stderr)
    main = [one["main"] for one in found.values()]
    return {"peak_mib": found, "grows_by": main[-1] / main[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--encoders", nargs="*", default=["residual", "timm:resnet18"])
    parser.add_argument("--memory", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--folder", type=Path, help="where images and models are kept; default: nowhere")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if chosen.peak:
            return peak(folder, chosen.peak)
        figures: dict[str, Any] = {"benchmark": "prediction", "images": chosen.images, "draws": 30, "workers": 2}
        declare_torchvision()
        for encoder in chosen.encoders:
            figures[encoder] = stages(folder, encoder, chosen.images)
            print(encoder, figures[encoder], file=sys.stderr)
        figures["sources_images_per_second"] = sources(folder, chosen.images)
        if chosen.memory:
            figures |= memory(folder, chosen.memory)
        return finish(figures)


if __name__ == "__main__":
    main()

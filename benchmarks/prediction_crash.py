"""kill -9 at ten random moments of a prediction and of a training: does it end as if nothing had been?

    python benchmarks/prediction_crash.py [--images 20000] [--kills 10] [--subjects 1500] [--epochs 40]

The prediction is of 64-pixel JPEGs of *simulated* galaxies, once undisturbed and once killed, with every process that
it started, at random moments and begun again with the same command until it is done: as one file, and as parts with
embeddings. The training is of a campaign of *simulated* galaxies, in the same way. Compared are the bytes of the
catalogue, of every part and of the embeddings, and every number of the model. ``different`` should be 0.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import finish
from greenpea import creation
from greenpea.campaign import RUNS, UNFINISHED
from greenpea.learning import checkpoint
from prediction import campaign_of, files_of


def run(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start the command line in a group of its own, so that all of it can be killed at once."""
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "greenpea", *words], stdout=file, stderr=file, start_new_session=True
        )


def undisturbed(words: list[str], log: Path) -> float:
    started = time.perf_counter()
    if run(words, log).wait():
        raise RuntimeError(log.read_text())
    return time.perf_counter() - started


def disturbed(words: list[str], log: Path, kills: int, latest: float, rng: random.Random) -> int:
    """Run until it is done, killed after up to ``latest`` seconds again and again; return how often it was."""
    killed = 0
    while True:
        process = run(words, log)
        try:
            code = process.wait(rng.uniform(0.2, 1) * latest if killed < kills else None)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
            print(f"killed {killed} times", file=sys.stderr, flush=True)
            continue
        if code:
            raise RuntimeError(log.read_text()[-2000:])
        return killed


def digests(place: Path) -> dict[str, str]:
    """Return the digest of a file, or of every file of a folder that holds results."""
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    names = {file: file.name if place.is_file() else str(file.relative_to(place)) for file in files}
    told = ("_job.json",)  # says where embeddings were to go, which differs here
    return {names[file]: hashlib.sha256(file.read_bytes()).hexdigest() for file in files if names[file] not in told}


def prediction(folder: Path, images: int, kills: int, rng: random.Random) -> dict[str, Any]:
    campaign, subjects = campaign_of(folder, "residual"), files_of(folder, images)
    place = Path(str(subjects.source(0))).parent.parent
    base = ["predict", str(campaign.folder), "--subjects", str(place), "--set", "catalogue.part=1024"]
    log, different, killed = folder / "predict.log", 0, 0
    for kind, more in (("file.parquet", False), ("parts", True)):
        outs = [folder / f"{way}-{kind}" for way in ("undisturbed", "disturbed")]
        kept = [folder / f"{way}-kept" for way in ("undisturbed", "disturbed")]
        words = [[*base, "--out", str(out)] for out in outs]
        if more:
            words = [[*some, "--embeddings", str(where)] for some, where in zip(words, kept, strict=True)]
        takes = undisturbed(words[0], log)
        killed += disturbed(words[1], log, kills // 2, takes / 2, rng)
        one, other = (list(digests(out).values()) for out in outs)
        different += one != other
        if more:
            different += digests(kept[0]) != digests(kept[1])
    return {"images": images, "killed": killed, "different": int(different), "seconds_undisturbed": takes}


def training(folder: Path, subjects: int, epochs: int, kills: int, rng: random.Random) -> dict[str, Any]:
    prints, killed, takes = [], 0, 0.0
    for way in ("undisturbed", "disturbed"):
        place = folder / f"trained-{way}"
        creation.simulate(place, subjects, votes=10, size=32, seed=2)
        words = ["train", str(place), "--set", f"learning.epochs={epochs}", "--set", "learning.orientation=any"]
        if way == "undisturbed":
            takes = undisturbed(words, folder / "train.log")
        else:
            killed = disturbed(words, folder / "train.log", kills, takes / 6, rng)
        prints.append(checkpoint.facts(place / RUNS / "0001")["fingerprint"])
        left = (place / RUNS / UNFINISHED).exists()
    return {"killed": killed, "different": int(prints[0] != prints[1]), "left_over": left, "seconds_undisturbed": takes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--subjects", type=int, default=1500)
    parser.add_argument("--epochs", type=int, default=40)
    chosen = parser.parse_args()
    rng = random.Random(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        found = {
            "prediction": prediction(folder, chosen.images, chosen.kills, rng),
            "training": training(folder, chosen.subjects, chosen.epochs, chosen.kills, rng),
        }
    finish({"benchmark": "prediction_crash", **found, "different": sum(one["different"] for one in found.values())})


if __name__ == "__main__":
    main()

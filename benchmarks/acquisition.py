"""Acquisition: how fast subjects are scored, in what memory, and against enumeration, baal and batchbald_redux.

    python benchmarks/acquisition.py [--subjects 20000] [--stream 100000 1000000]

``subjects_per_second`` scores `acquisition.information(votes=5)`, per expected answer, over the whole GZ DECaLS tree
(11 questions, 41 answers) with 30 draws: information and division included, the posterior already there.
``prediction`` does the same for `acquisition.prediction`, aimed at 400 targets, by the number of draws; and, over two
sets of draws from the same heads, how alike it orders the subjects (Spearman's ρ: what the draws' number costs).
``peak_mib`` is the most memory of a process that streams so many subjects through it and through `acquisition.top`,
in blocks of 4,096; the same block of posterior comes again under new names, so that its making is not what is timed.
``speedup_over_enumeration`` is in how many times less time the estimate comes than the exact value, at the default
of one simulation per draw: of ten votes on three questions together (smooth or featured, edge-on, bar: 3,003 joint
outcomes), and of forty on one question of three answers (861). The headline is the smaller. That the values are the
same within the stated error is told by ``mean_z``, the difference of the means over all subjects in units of its
error, and ``z_spread``, that of (estimate − exact) / error at 3,000 simulations, which should be about 1 or less.
The peers are timed where they are importable, in turn with ours. To have them without touching torch:

    pip install --no-deps --target peers baal batchbald_redux toma blackhc.project psutil tqdm torchmetrics \\
        lightning-utilities structlog prettytable wcwidth
    PYTHONPATH=peers python benchmarks/acquisition.py

BatchBALD chooses 10 of 1,000 (30 draws, 3 classes), both at the same number of simulated joint answers; the batches'
information is judged apart, by one estimate for both.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from scipy.special import entr, softmax
from scipy.stats import spearmanr

from common import finish
from greenpea import acquisition, information, outputs
from greenpea.outputs import Layout
from greenpea.posterior import Posterior
from greenpea.tree import DecisionTree

DRAWS, VOTES, BLOCK, KEEP = 30, 5, 4096, 1000
POOL, BATCH, SAMPLES = 1000, 10, 4096  # BatchBALD's
TARGETS, LENGTH, MANY = 400, 64, (30, 60, 100, 200)  # prediction's; numbers in an embedding; numbers of draws
OPEN: list[torch.library.Library] = []  # what is declared lasts as long as these are kept


def made_up(subjects: int, seed: int, draws: int = DRAWS) -> Posterior:
    """Return a posterior on the GZ DECaLS tree: concentrations of 20 in all, draws apart by 0.5 in the logarithm."""
    tree, rng = DecisionTree.load("gz-decals-5"), np.random.default_rng(seed)
    families, parameters = {}, {}
    for question in tree.questions:
        multiple = question.kind == "multiple"
        shape = (subjects, len(question.answers), *((2,) if multiple else ()))
        logs = rng.normal(0, 1.5, (1, *shape)) + rng.normal(0, 0.5, (draws, *shape))
        shares = np.exp(logs) / np.exp(logs).sum(axis=-1, keepdims=True)
        families[question.slug] = "beta-binomial" if multiple else "dirichlet-multinomial"
        parameters[question.slug] = (20 * shares).astype(np.float32)
    return Posterior(tree, np.array([f"s{i}" for i in range(subjects)], dtype=object), families, parameters)


def seconds(*works: Callable[[], object], repeats: int = 5) -> list[float]:
    """Return the median seconds of each, after a warm-up, taking turns so that a busy machine is busy for all."""
    taken: list[list[float]] = [[] for _ in works]
    for turn in range(repeats + 1):
        for work, times in zip(works, taken, strict=True):
            started = time.perf_counter()
            work()
            if turn:
                times.append(time.perf_counter() - started)
    return [statistics.median(times) for times in taken]


# ---- prediction ----------------------------------------------------------------------------------------


def drawn(subjects: int, draws: int, seed: int) -> Posterior:
    """Return what linear heads say of always the same subjects; ``seed`` is of the draws."""
    layout, same = Layout(DecisionTree.load("gz-decals-5")), np.random.default_rng(0)
    embeddings = same.standard_t(5, (subjects, LENGTH)).astype(np.float32)
    mean = same.normal(0, 0.1, (LENGTH + 1, layout.outputs))
    # In some directions of the embedding, and of some questions, much is known, of others little.
    doubt = np.exp(same.normal(-3, 0.7, mean.shape))
    weights = mean + doubt * np.random.default_rng([1, seed]).normal(size=(draws, *mean.shape))
    ids = np.array([f"s{i}" for i in range(subjects)], dtype=object)
    return outputs.posterior(layout, outputs.apply(weights.astype(np.float32), embeddings), ids)


def predicted(draws: int, subjects: int = 2000) -> dict[str, float]:
    """Time `acquisition.prediction`, and compare the order it gives with that of other draws."""
    scores, taken = [], 0.0
    for seed in (0, 1):
        pool = drawn(subjects, draws, seed)
        score = acquisition.prediction(pool.select(np.arange(TARGETS)))
        scores.append(score(pool, np.random.default_rng(0)))
        (taken,) = seconds(lambda pool=pool, score=score: score(pool, np.random.default_rng(0)), repeats=3)
    return {"subjects_per_second": subjects / taken, "spearman": float(spearmanr(*scores).statistic)}


# ---- memory --------------------------------------------------------------------------------------------


def stream(subjects: int) -> None:
    """Score a pool in blocks, keep the best, and print the process's peak memory and pace."""
    block, score, rng = made_up(BLOCK, 0), acquisition.information(VOTES), np.random.default_rng(1)

    def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, subjects, BLOCK):
            some = block.select(np.arange(min(BLOCK, subjects - start)))
            yield np.arange(start, start + len(some)), score(some, rng)

    before = peak_mib()
    started, worked = time.perf_counter(), time.process_time()
    ranked = acquisition.top(blocks(), KEEP, rng)
    taken, worked = time.perf_counter() - started, time.process_time() - worked
    found = {
        "pool": ranked.pool,
        "peak_mib": peak_mib(),
        "before_mib": before,  # of it, Python, the libraries and the block
        "subjects_per_second": subjects / taken,
        "subjects_per_processor_second": subjects / worked,
    }
    print(json.dumps(found))


def peak_mib() -> float:
    """Return the most memory that this process has held so far."""
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)


def streamed(subjects: int) -> dict[str, float]:
    """Run `stream` in a process of its own."""
    command = [sys.executable, __file__, "--worker", str(subjects)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"{subjects:,} streamed: {figures}", flush=True)
    return figures


# ---- enumeration ---------------------------------------------------------------------------------------


def three_questions(posterior: Posterior, votes: int) -> np.ndarray:
    """Return the exact information of votes on three questions together, listing who of them ends where."""
    ends = information.count_vectors(votes, 6)[:, None]  # smooth, artifact, edge-on, no bar, weak bar, strong bar
    smooth, artifact, edge_on, bars = ends[..., 0], ends[..., 1], ends[..., 2], ends[..., 3:]
    face_on = bars.sum(axis=-1)
    asked = {
        "smooth-or-featured": {"smooth": smooth, "featured-or-disk": edge_on + face_on, "artifact": artifact},
        "disk-edge-on": {"yes": edge_on, "no": face_on},
        "bar": {"no": bars[..., 0], "weak": bars[..., 1], "strong": bars[..., 2]},
    }
    out = np.empty(len(posterior))
    for start in range(0, len(posterior), 16):
        rows = slice(start, start + 16)
        part = posterior.select(np.arange(len(posterior))[rows])
        log_p = np.zeros((DRAWS, len(ends), len(part)))
        for slug, given in asked.items():
            counts = np.stack([given[answer] for answer in part.tree[slug].answer_slugs], axis=-1)
            log_p += part.log_likelihood(slug, counts, counts.sum(axis=-1))
        out[rows] = information.mutual_information(np.moveaxis(log_p, 1, -1), part.log_weights)
    return out


def against(
    exact: Callable[[Posterior], np.ndarray], posterior: Posterior, votes: int, questions: list[str]
) -> dict[str, float]:
    """Compare the estimate with the exact value: times and agreement."""
    found: dict[str, Any] = {}

    def enumerate_() -> None:
        found["exact"] = exact(posterior)

    def estimate() -> None:
        found["estimate"] = information.of_tree(posterior, votes, np.random.default_rng(0), questions)

    slow, quick = seconds(enumerate_, estimate, repeats=3)
    value, error = found["estimate"]
    few = np.arange(64)
    long = information.of_tree(posterior.select(few), votes, np.random.default_rng(1), questions, simulations=3000)
    return {
        "speedup": slow / quick,
        "exact_seconds_per_1000_subjects": slow / len(posterior) * 1000,
        "estimate_seconds_per_1000_subjects": quick / len(posterior) * 1000,
        "mean_exact": float(found["exact"].mean()),
        "mean_estimate": float(value.mean()),
        "mean_error": float(error.mean()),
        "mean_z": float((value - found["exact"]).sum() / np.sqrt(np.square(error).sum())),
        "z_spread": float(np.sqrt(np.square((long.value - found["exact"][few]) / long.error).mean())),
    }


def enumeration() -> dict[str, dict[str, float]]:
    """Return the comparisons with enumeration, by name."""
    one, three = ["smooth-or-featured"], ["smooth-or-featured", "disk-edge-on", "bar"]
    some = made_up(512, 3)
    return {
        "three_questions_10_votes": against(lambda p: three_questions(p, 10), some, 10, three),
        "one_question_40_votes": against(lambda p: information.of_question(p, one[0], 40), some, 40, one),
    }


# ---- peers ---------------------------------------------------------------------------------------------


def peer(module: str) -> Any:
    """Import a peer; ImportError where it is not installed."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:  # built for another torch, it fails for want of two operators' names, and baal with it
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        OPEN.append(library)
    except ImportError:
        pass
    return importlib.import_module(module)


def classes(subjects: int) -> np.ndarray:
    """Return p[draw, subject, class] with three classes."""
    return np.random.default_rng(0).dirichlet(np.ones(3), (DRAWS, subjects))


def against_baal(subjects: int = 200_000) -> dict[str, Any]:
    """Compare `acquisition.bald` with baal's, each given its own layout of the same numbers."""
    try:
        heuristic = peer("baal.active.heuristics").BALD()
    except ImportError as error:
        return {"ratio": None, "why": str(error)}
    ours = classes(subjects)
    theirs = np.ascontiguousarray(ours.transpose(1, 2, 0))
    quick, slow = seconds(lambda: acquisition.bald(ours), lambda: heuristic.compute_score(theirs), repeats=7)
    return {
        "ratio": slow / quick,
        "subjects_per_second": subjects / quick,
        "baal_subjects_per_second": subjects / slow,
        "largest_difference": float(np.abs(acquisition.bald(ours) - heuristic.compute_score(theirs)).max()),
    }


def joint(p: np.ndarray, rows: np.ndarray, simulations: int = 20_000) -> float:
    """Estimate the information in a batch's answers together: E KL(w(y) ‖ 1/T)."""
    rng = np.random.default_rng(9)
    under = np.arange(simulations) % len(p)
    log_p = np.zeros((simulations, len(p)))
    for row in rows:
        answers = (rng.random((simulations, 1)) > np.cumsum(p[under, row], axis=1)[:, :-1]).sum(axis=1)
        log_p += np.log(p[:, row, answers]).T
    w = softmax(log_p, axis=1)
    return float(np.log(len(p)) - entr(w).sum(axis=1).mean())


def against_redux() -> dict[str, Any]:
    """Compare `acquisition.batch_bald` with batchbald_redux on the same numbers."""
    try:
        redux = peer("batchbald_redux.batchbald")
    except ImportError as error:
        return {"ratio": None, "why": str(error)}
    p = classes(POOL)
    log_p = torch.log(torch.tensor(p)).permute(1, 0, 2).contiguous()
    chosen: dict[str, np.ndarray] = {}

    def ours() -> None:
        chosen["ours"] = acquisition.batch_bald(p, BATCH, np.random.default_rng(0), SAMPLES).rows

    def theirs() -> None:
        batch = redux.get_batchbald_batch(log_p, BATCH, SAMPLES, dtype=torch.double)
        chosen["redux"] = np.array(batch.indices)

    quick, slow = seconds(ours, theirs, repeats=3)
    return {
        "ratio": slow / quick,
        "seconds": quick,
        "redux_seconds": slow,
        "joint_information": joint(p, chosen["ours"]),
        "redux_joint_information": joint(p, chosen["redux"]),
        "chosen_alike": len(set(chosen["ours"]) & set(chosen["redux"])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=20_000)
    parser.add_argument("--stream", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        stream(arguments.worker)
        return
    pools = {str(size): streamed(size) for size in arguments.stream}
    posterior, score = made_up(arguments.subjects, 0), acquisition.information(VOTES)
    worked = time.process_time()
    (taken,) = seconds(lambda: score(posterior, np.random.default_rng(1)), repeats=3)
    worked = (time.process_time() - worked) / 4  # with the warm-up
    print(f"{arguments.subjects / taken:,.0f} subjects a second", flush=True)
    prediction = {str(draws): predicted(draws) for draws in MANY}
    print(f"prediction, by draws: {prediction}", flush=True)
    enumerated, baal, redux = enumeration(), against_baal(), against_redux()
    finish(
        {
            "benchmark": "acquisition",
            "subjects_per_second": arguments.subjects / taken,
            "subjects_per_processor_second": arguments.subjects / worked,
            "prediction": prediction,
            "peak_mib": {size: found["peak_mib"] for size, found in pools.items()},
            "speedup_over_enumeration": min(found["speedup"] for found in enumerated.values()),
            "ratio_to_baal": baal["ratio"],
            "batch_bald_ratio_to_batchbald_redux": redux["ratio"],
            "streamed": pools,
            "enumeration": enumerated,
            "baal": baal,
            "batchbald_redux": redux,
            "load": os.getloadavg()[0],
        }
    )


if __name__ == "__main__":
    main()

"""What the benchmarks share: where the real data is, and the one JSON object printed last.

torch is imported where it is used: `greenpea.learning` tells it how its threads wait, and must come first.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from greenpea.calibration import Score

KEPT: list[Any] = []


def data_folder(*parts: str) -> Path:
    """Return a folder of the real data, or end politely where it is not at hand."""
    root = Path(__file__).parent.parent
    folder = (root / os.environ.get("GREENPEA_DATA", "../shared/data")).joinpath(*parts)
    if not folder.exists():
        finish({"skipped": f"no real data at hand ({'/'.join(parts)}): set GREENPEA_DATA"})
        sys.exit(0)
    return folder


def finish(figures: dict[str, Any]) -> None:
    """Print the figures as one line of JSON, last."""
    import torch

    machine = {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "python": platform.python_version()}
    print(json.dumps(_rounded(figures) | {"machine": machine}))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def declare_torchvision() -> None:
    """Let timm load beside a torch for processors: a torchvision built for GPUs misses two operators there."""
    import torch

    try:
        import torchvision  # noqa: F401
    except ImportError:
        return
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        KEPT.append(library)  # what it declares goes with it


def say() -> Callable[[str, float, str], None]:
    """Return a reporter that prints a line now and then, for a log."""
    last: dict[str, int] = {}

    def report(stage: str, share: float, words: str) -> None:
        tenth = int(share * 10)
        if last.get(stage) != tenth:
            last[stage] = tenth
            print(f"{stage}: {share:4.0%} {words}", flush=True)

    return report


def figures(score: Score) -> dict[str, Any]:
    """Return a score's figures under the names that the benchmarks print."""
    return {
        "subjects": score.subjects,
        "votes": score.votes,
        "nats_per_vote": score.nats,
        "excess_nats_per_vote": score.excess.value,
        "excess_interval": [score.excess.low, score.excess.high],
        "constant_excess_nats_per_vote": score.constant_excess,
        "gain_over_constant": [score.gain.value, score.gain.low, score.gain.high],
        "rmse": score.rmse,
        "constant_rmse": score.constant_rmse,
        "coverage": dict(score.coverage),
        "coverage_standard_error": dict(score.coverage_error),
        "accuracy": score.accuracy,
    }

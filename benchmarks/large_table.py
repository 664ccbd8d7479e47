"""Opening a table of millions of subjects: how long it takes and how much memory, beside pandas reading the same file.

    python benchmarks/large_table.py --rows 2000000

Each step runs in a process of its own, whose peak memory is told less what importing takes. The table names images
that do not exist: nothing but the table is read.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

STEPS = ("pandas csv", "csv", "parquet", "votes", "save", "load", "a thousand places")


def make(folder: Path, rows: int) -> None:
    """Write a CSV and a Parquet table: id, path, coordinates, magnitudes, and counts of three answers."""
    rng = np.random.default_rng(0)
    columns = {
        "iauname": [f"J{index:010d}.5+123456.{index % 10}" for index in range(rows)],
        "file_loc": [f"cutouts/{index // 1000:06d}/J{index:010d}.fits" for index in range(rows)],
        **{name: rng.uniform(0, 360, rows).round(6) for name in ("ra", "dec", "redshift", "mag_g", "mag_r")},
        **{
            f"smooth-or-featured_{answer}": rng.integers(0, 40, rows)
            for answer in ("smooth", "featured-or-disk", "artifact")
        },
    }
    table = pa.table(columns)
    pa.csv.write_csv(table, folder / "t.csv")
    pq.write_table(table, folder / "t.parquet")


def run(step: str, folder: Path) -> dict[str, float]:
    """Do one step and return its seconds and MiB."""
    if step == "pandas csv":
        import pandas
    from greenpea.subjects import SubjectSet
    from greenpea.tree import DecisionTree
    from greenpea.votes import read_votes

    source = SubjectSet.open(folder / "t.parquet") if step == "save" else None
    before = peak()
    began, worked = time.perf_counter(), time.process_time()
    if step == "pandas csv":
        pandas.read_csv(folder / "t.csv")
    elif step in ("csv", "parquet"):
        SubjectSet.open(folder / f"t.{step}")
    elif step == "votes":
        read_votes(folder / "t.parquet", DecisionTree.load("gz-decals-5"), id_column="iauname")
    elif source is not None:
        source.save(folder)
    else:
        subjects = SubjectSet.load(folder)
        if step != "load":
            began, worked, before = time.perf_counter(), time.process_time(), peak()
            for row in range(0, len(subjects), len(subjects) // 1000):
                subjects.source(row)
    seconds, processor = time.perf_counter() - began, time.process_time() - worked
    return {"seconds": seconds, "processor_seconds": processor, "mib": peak() - before}


def peak() -> float:
    """Return the largest memory this process had, MiB (Linux; `ru_maxrss` would begin with the parent's)."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024


def main() -> None:
    """Make the table, do every step in a process of its own, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--step", choices=STEPS, help="(used by itself)")
    parser.add_argument("--folder", type=Path, help="(used by itself)")
    chosen = parser.parse_args()
    if chosen.step:
        print(json.dumps(run(chosen.step, chosen.folder)))
        return
    from common import finish

    with tempfile.TemporaryDirectory() as name:
        make(Path(name), chosen.rows)
        figures = {}
        for step in STEPS:
            line = [sys.executable, __file__, "--step", step, "--folder", name]
            figures[step] = json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)
            print(step, figures[step], flush=True)
        sizes = {kind: (Path(name) / f"t.{kind}").stat().st_size / 2**20 for kind in ("csv", "parquet")}
    ratios = {what: figures["csv"][what] / figures["pandas csv"][what] for what in ("seconds", "mib")}
    finish({"rows": chosen.rows, "file_mib": sizes, **figures, "over_pandas": ratios})


if __name__ == "__main__":
    main()

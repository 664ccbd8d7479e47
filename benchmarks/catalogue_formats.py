"""A catalogue converted to every format: rows a second, and memory that does not follow the rows; beside astropy's own.

Numbers are random, of the shape of a GZ DECaLS catalogue (180 columns). Each conversion runs in a process of its own,
so that its peak memory is its own. astropy's way is the whole table in memory, and ``Table.write``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.table import Table

from greenpea import catalogue
from greenpea.converting import FORMATS, convert
from greenpea.tree import DecisionTree

COLUMNS, BLOCK = 180, 10_000
ASTROPY = {".fits": "fits", ".vot": "votable"}  # what a reader of astropy's documentation would write


def made(path: Path, rows: int) -> Path:
    """Write a catalogue of random numbers."""
    rng, told = (
        np.random.default_rng(0),
        {"unit": "1", "description": "A share of volunteers", "ucd": "src.morph.param"},
    )
    names = [f"share_{number}" for number in range(COLUMNS)]
    fields = [
        pa.field("subject_id", pa.string(), metadata=told),
        *(pa.field(n, pa.float32(), metadata=told) for n in names),
    ]
    writer = catalogue.Writer(path, catalogue.about(DecisionTree.load("gz-decals-5"), 40))
    for start in range(0, rows, BLOCK):
        ids = pa.array([f"galaxy-{start + i:08d}" for i in range(BLOCK)])
        shares = [pa.array(rng.random(BLOCK, dtype=np.float32)) for _ in names]
        writer.write(pa.table([ids, *shares], schema=pa.schema(fields)))
    writer.close()
    return path


def by_astropy(source: Path, out: Path) -> None:
    """Convert as one would without Greenpea: the whole table in memory."""
    table = Table.from_pandas(pq.read_table(source).to_pandas())
    table.write(out, format=ASTROPY[out.suffix], overwrite=True)


def peak_mib() -> float:
    """Return the most memory this process has had. What getrusage says begins with its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def measured(how: Callable[[Path, Path], object], source: Path, out: Path) -> dict[str, float]:
    """Run one conversion, and return what it took."""
    start = time.perf_counter()
    how(source, out)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_mib": peak_mib(), "megabytes": out.stat().st_size / 1e6}


def alone(way: str, source: Path, ending: str) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--one", way, str(source), ending]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures: dict[str, float] = json.loads(said.splitlines()[-1])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs=2, default=(20_000, 160_000), help="two sizes, multiples of 10,000")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        way, source, ending = chosen.one
        with tempfile.TemporaryDirectory() as folder:
            how = by_astropy if way == "astropy" else convert
            print(json.dumps(measured(how, Path(source), Path(folder) / f"out{ending}")))
        return
    from common import finish  # brings torch along, which the processes that are measured do without

    figures: dict[str, object] = {"columns": COLUMNS + 1, "rows": list(chosen.rows)}
    with tempfile.TemporaryDirectory() as folder:
        few, many = (made(Path(folder) / f"{rows}.parquet", rows) for rows in chosen.rows)
        for ending in FORMATS:
            small, large = alone("greenpea", few, ending), alone("greenpea", many, ending)
            figures[ending] = large | {
                "rows_per_second": chosen.rows[1] / large["seconds"],
                "peak_mib_of_the_smaller": small["peak_mib"],
            }
        # astropy's VOTables take minutes where its FITS takes seconds.
        for ending, source in ((".fits", many), (".vot", few)):
            peer, ours = alone("astropy", source, ending), alone("greenpea", source, ending)
            figures[f"astropy{ending}"] = {
                "rows": pq.read_metadata(source).num_rows,
                "times_as_long": peer["seconds"] / ours["seconds"],
                "times_the_memory": peer["peak_mib"] / ours["peak_mib"],
            }
    finish(figures)


if __name__ == "__main__":
    main()

"""Work in threads and in processes: in order, bounded, and gone when nobody waits for it any more."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from greenpea.errors import GreenpeaError
from greenpea.runner import FEW, Processes, Runner, Threads, choose
from greenpea.subjects import SubjectSet


@pytest.fixture(params=[Threads, Processes])
def runner(request: pytest.FixtureRequest):  # type: ignore[no-untyped-def]
    with request.param(2) as some:
        yield some


def test_results_come_in_order_and_tasks_are_taken_as_needed(runner: Runner) -> None:
    taken: list[int] = []

    def tasks():  # type: ignore[no-untyped-def]
        for number in range(40):
            taken.append(number)
            yield -number

    found = runner.map(abs, tasks(), ahead=3)
    assert next(found) == 0
    assert len(taken) == 4
    assert list(found) == list(range(1, 40))


def test_arrays_travel_unchanged(runner: Runner) -> None:
    some = [np.random.default_rng(i).integers(0, 255, (4, 3, 8, 8), np.uint8) for i in range(5)]
    for sent, found in zip(some, runner.map(np.negative, some, ahead=2), strict=True):
        np.testing.assert_array_equal(found, np.negative(sent))


def test_errors_are_raised_where_the_result_would_be(runner: Runner) -> None:
    found = runner.map(int, ["1", "two", "3"], ahead=1)
    assert next(found) == 1
    with pytest.raises(ValueError, match="two"):
        next(found)
    assert list(runner.map(int, ["4"], ahead=1)) == [4]  # it works on


def test_our_own_errors_keep_their_kind() -> None:
    with Processes(1) as processes, pytest.raises(GreenpeaError, match=r"there is no file nowhere"):
        next(processes.map(SubjectSet.open, ["nowhere"], ahead=1))


def test_a_process_that_is_killed_is_told_of() -> None:
    with Processes(1) as processes, pytest.raises(GreenpeaError, match=r"ended with code -9.*catalogue\.workers"):
        next(processes.map(eval, ["__import__('os').kill(__import__('os').getpid(), 9)"], ahead=1))


def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    script = tmp_path / "script.py"  # without a guard against being imported, as people write them
    script.write_text(
        "import os, time\n"
        "from greenpea.runner import Processes\n"
        "with Processes(2) as some:\n"
        '    pids = set(some.map(eval, [\'__import__("time").sleep(0.2) or __import__("os").getpid()\'] * 6, 6))\n'
        "    print(*pids, flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        assert len(pids) == 2
        process.send_signal(signal.SIGKILL)
    for _ in range(200):
        if not any(Path(f"/proc/{pid}").exists() and "Z" not in _state(pid) for pid in pids):
            return
        time.sleep(0.05)
    raise AssertionError(f"still there: {pids}")


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


def test_few_pieces_of_work_start_no_process() -> None:
    with choose(2, FEW - 1) as few, choose(2, FEW) as many:
        assert isinstance(few, Threads)
        assert isinstance(many, Processes)

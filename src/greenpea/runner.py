"""Where work runs: in threads of this process or in processes beside it. The seam where an engine like Ray will come.

A runner maps a function over tasks, in order, with a bounded number of them under way: memory does not grow with the
tasks, and what takes the results is never kept waiting for work that could have been begun.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO, Protocol, TypeVar

from greenpea.errors import GreenpeaError

Task = TypeVar("Task")
Result = TypeVar("Result")

FEW = 2000  # pieces of work that a process is not worth its start for, which takes as long as some thousand images
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Runner(Protocol):
    """Runs work. ``map`` may be called again while the results of an earlier call are still being taken."""

    def map(self, work: Callable[[Task], Result], tasks: Iterable[Task], ahead: int) -> Generator[Result, None, None]:
        """Yield ``work(task)`` in the order of ``tasks``, which are taken up to ``ahead`` in advance.

        What ``work`` raises is raised where its result would be yielded.
        """
        ...

    def __enter__(self) -> Runner: ...

    def __exit__(self, *_: object) -> None: ...


class _Pooled:
    """A pool of threads that map; what one does with a task is the subclasses' own."""

    def __init__(self, workers: int) -> None:
        self._pool = ThreadPoolExecutor(max(1, workers), thread_name_prefix="greenpea")

    def map(self, work: Callable[[Task], Result], tasks: Iterable[Task], ahead: int) -> Generator[Result, None, None]:
        """Yield ``work(task)`` in the order of ``tasks`` (`Runner`)."""
        pending: deque[Future[Result]] = deque()
        try:
            for task in tasks:
                pending.append(self._pool.submit(self._do, work, task))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

    def _do(self, work: Callable[[Any], Any], task: Any) -> Any:
        return work(task)

    def __enter__(self) -> _Pooled:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)


class Threads(_Pooled):
    """Threads of this process: they start at once, and share one lock for all that is Python."""


class Processes(_Pooled):
    """Processes of their own, which end with this one, however it ends; each is led by a thread here.

    Functions, tasks and results are pickled. Functions must be importable: those of a script or notebook are not,
    and for the same reason a script needs no ``if __name__ == "__main__"``.
    """

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self._own = threading.local()
        self._started: list[_Process] = []

    def _do(self, work: Callable[[Any], Any], task: Any) -> Any:
        if not hasattr(self._own, "process"):
            self._own.process = _Process()
            self._started.append(self._own.process)
        return self._own.process.ask(work, task)

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in self._started:
            process.end()
        self._pool.shutdown()


class _Process:
    """One process that does what it is asked, one task after another."""

    def __init__(self) -> None:
        code = f"import sys; sys.path[:] = {sys.path!r}; from greenpea.runner import serve; serve()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | ONE_THREAD,
        )

    def ask(self, work: Callable[[Any], Any], task: Any) -> Any:
        content = pickle.dumps((work, task), protocol=5)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(content)
            self._process.stdin.flush()
            done, result = pickle.load(self._process.stdout)
        except (BrokenPipeError, EOFError, pickle.UnpicklingError, ValueError) as error:
            raise GreenpeaError(
                f"a process that works beside this one ended with code {self._process.wait()}: where it was killed, "
                f"memory may have run out (set catalogue.workers lower); then run the same again"
            ) from error
        if not done:
            raise result
        return result

    def end(self) -> None:
        """Let it go: it ends when nothing more can come."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()  # it holds nothing that is not held here
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                pipe.close()
            except OSError:  # what was still to be flushed has nobody to go to
                continue


def choose(workers: int, pieces: int) -> Runner:
    """Return what suits so many pieces of work: threads for a few, else processes."""
    return Threads(workers) if pieces < FEW else Processes(workers)


# ---- inside a process beside -------------------------------------------------------------------------


def serve() -> None:
    """Do what comes in, and send it back, until the one who asks is gone: however it went, its pipe is closed then."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who asks
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the work prints must not run into the replies
    questions = sys.stdin.buffer
    while True:
        try:
            work, task = pickle.load(questions)
        except EOFError:
            return
        _reply(replies, work, task)


def _reply(replies: BinaryIO, work: Callable[[Any], Any], task: Any) -> None:
    try:
        content = pickle.dumps((True, work(task)), protocol=5)
    except Exception as error:
        content = pickle.dumps((False, _portable(error)), protocol=5)
    replies.write(content)
    replies.flush()


def _portable(error: Exception) -> Exception:
    """Return the error itself where it can travel, else its words."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return GreenpeaError(f"{type(error).__name__}: {error}")
    return error

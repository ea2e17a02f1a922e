"""Runs in processes of their own, one per core at a time, with progress bars on stderr."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from typing import Any

from tqdm import tqdm

from lab import training
from lab.records import Record
from lab.store import Store

THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def run_all(
    run: Callable[[Record], Record], store: Store, jobs: int, name: str, line: int = 0
) -> None:
    """Run what is not finished yet and put it into the store.

    The bar that counts runs is on `line`; each process has a line below it for its own run.
    """
    with closing(in_processes(run, store.todo(), jobs, name, len(store.finished), line)) as done:
        for config, measured in done:
            store.add(config, measured)


def in_processes(
    run: Callable[[Record], Record],
    todo: Sequence[Record],
    jobs: int,
    name: str,
    finished: int = 0,
    line: int = 0,
) -> Generator[tuple[Record, Record]]:
    """Each configuration and what it measured, as they are finished; `finished` are done before."""
    if not todo:
        return
    # Spawned processes load NumPy after this. The runs are parallel, so each gets one thread.
    os.environ.update(dict.fromkeys(THREADS, "1"))
    context = multiprocessing.get_context("spawn")
    lock = context.RLock()
    tqdm.set_lock(lock)
    jobs = min(jobs, len(todo))
    lines = context.SimpleQueue()
    for i in range(jobs):
        lines.put(line + 1 + i)
    with (
        tqdm(
            total=finished + len(todo),
            initial=finished,
            desc=name,
            unit="run",
            position=line,
            disable=None,
        ) as bar,
        ProcessPoolExecutor(jobs, context, _begin, (lock, lines)) as pool,
    ):
        futures = {pool.submit(_timed, run, config): config for config in todo}
        try:
            for future in as_completed(futures):
                config, measured = futures[future], future.result()
                yield config, measured
                if measured.get("diverged_at") is not None and not bar.disable:
                    told = " ".join(f"{k}={v}" for k, v in config.items())
                    bar.write(f"diverged at step {measured['diverged_at']}: {told}", sys.stderr)
                bar.update()
        except BaseException:  # also Ctrl-C: do not wait for the running processes
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()
            raise


def _begin(lock: Any, lines: Any) -> None:
    """Prepare a new process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    tqdm.set_lock(lock)
    training.bar_position = lines.get()


def _end_with_the_parent() -> None:
    """End this process when its parent is gone, even if nobody could tell it so."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _timed(run: Callable[[Record], Record], config: Record) -> Record:
    start = time.perf_counter()
    measured = run(config)
    return measured | {"run_seconds": time.perf_counter() - start}

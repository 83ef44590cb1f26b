"""Processes that compute side by side."""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any


def worker_pool(n: int, prepare: Callable[..., None], *material: Any) -> ProcessPoolExecutor:
    """`n` fresh processes, `prepare(*material)` called in each; one thread of linear algebra apiece.

    They end with the process that made them, however it ends. Fresh ones, for forking would copy the locks
    of ONNX Runtime and of BLAS as they happen to be: the calling script needs its `__main__` guard.
    """
    return ProcessPoolExecutor(n, get_context("spawn"), _start, (prepare, material))


def _start(prepare: Callable[..., None], material: tuple[Any, ...]) -> None:
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)
    Thread(target=_end_with_parent, daemon=True).start()
    prepare(*material)


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever: it holds both ends of the queue."""
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)

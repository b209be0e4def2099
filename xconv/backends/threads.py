"""Blocks on several threads of Python, the caller's among them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

__all__ = ["share_out"]

T = TypeVar("T")


def share_out(task: Callable[[T], Any], items: Iterable[T], workers: int) -> None:
    """Calls `task` once for each item, on at most so many threads.

    The caller's thread begins at once: to wait for two others costs as much as a millisecond's
    work.  After an error no other item is begun, and it is raised here.

    >>> squares = {}
    >>> share_out(lambda n: squares.update({n: n * n}), range(100), workers=3)
    >>> sum(squares.values())
    328350
    """
    rest = deque(items)  # its methods are atomic

    def work() -> None:
        try:
            while True:
                try:
                    item = rest.popleft()
                except IndexError:
                    return
                task(item)
        except BaseException:
            rest.clear()
            raise

    others = min(workers, len(rest)) - 1
    if others < 1:
        work()
        return
    with ThreadPoolExecutor(others) as pool:
        started = [pool.submit(work) for _ in range(others)]
        work()
    for other in started:
        other.result()

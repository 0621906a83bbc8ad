"""Work that a thread does ahead of the one who needs it."""

import collections
import concurrent.futures
from collections.abc import Generator, Iterator
from typing import TypeVar

T = TypeVar("T")


def prefetch(items: Iterator[T], depth: int) -> Generator[T, None, None]:
    """Yields the items of an iterator, which a thread asks for ahead of time.

    An exception of the iterator is raised where its item would have come. Close the
    generator (`contextlib.closing`) to end the thread before the items do.

    Args:
      items: Used by the thread alone from now on.
      depth: Most items that are ready or in the making; at least 1.
    """
    end = object()
    with concurrent.futures.ThreadPoolExecutor(1, "prefetch") as pool:
        pending = collections.deque(pool.submit(next, items, end) for _ in range(depth))
        try:
            while (item := pending.popleft().result()) is not end:
                pending.append(pool.submit(next, items, end))
                yield item
        finally:
            pool.shutdown(cancel_futures=True)

"""A thread that works ahead."""

import contextlib
import itertools
import threading
import time

import pytest

from cifar_jax.training.feed import prefetch


def threads():
    return [t for t in threading.enumerate() if t.name.startswith("prefetch")]


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_the_items_come_in_their_order(depth, count):
    assert list(prefetch(iter(range(count)), depth)) == list(range(count))
    assert not threads()


def test_an_exception_comes_where_its_item_would_have_come():
    def items():
        yield from (1, 2)
        raise KeyError("third")

    seen = []
    with pytest.raises(KeyError, match="third"):
        for item in prefetch(items(), 2):
            seen.append(item)
    assert seen == [1, 2]
    assert not threads()


def test_closing_ends_the_thread_before_the_items_end():
    with contextlib.closing(prefetch(itertools.count(), 2)) as ahead:
        assert [next(ahead), next(ahead)] == [0, 1]
        assert threads()
    assert not threads()


def test_it_works_ahead_but_not_further_than_told():
    made = []
    ahead = prefetch((made.append(k) or k for k in itertools.count()), 3)
    with contextlib.closing(ahead):
        for taken in (1, 2):
            next(ahead)
            deadline = time.monotonic() + 10
            while len(made) < taken + 3 and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(0.02)
            assert len(made) == taken + 3

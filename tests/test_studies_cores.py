"""Cores that workers have for themselves."""

import multiprocessing
import os

import pytest

from cifar_jax.studies import cores

pytestmark = pytest.mark.skipif(
    len(cores.allowed()) < 2 or not hasattr(os, "sched_setaffinity"),
    reason="there is a single core, or processes cannot be confined",
)
CONTEXT = multiprocessing.get_context("forkserver")


def take(folder, count, pipe):
    took = cores.take(count, folder)
    pipe.send((took, sorted(os.sched_getaffinity(0))))
    pipe.recv()


class Process:
    """A process that has taken some cores."""

    def __init__(self, folder, count=1):
        self._pipe, theirs = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=take, args=(folder, count, theirs))
        self.process.start()
        self.took, self.has = self._pipe.recv()

    def kill(self):
        self.process.kill()
        self.process.join()


@pytest.fixture
def start(tmp_path):
    started = []

    def start(count=1):
        started.append(Process(tmp_path / "locks", count))
        return started[-1]

    yield start
    for each in started:
        each.kill()


def test_each_process_has_a_core_of_its_own(start):
    everything = cores.allowed()
    processes = [start() for _ in everything]
    assert [each.has for each in processes] == [[core] for core in everything]
    late = start()  # nothing is left: it is not confined
    assert late.took == late.has == everything
    processes[1].kill()
    assert start().has == [everything[1]]


def test_a_process_with_all_cores_takes_none(start):
    everything = cores.allowed()
    assert start(len(everything)).has == everything
    assert start().has == everything[:1]


def test_a_process_is_confined_to_all_or_none(start):
    everything = cores.allowed()
    assert start().has == everything[:1]
    most = len(everything) - 1
    assert start(most).has == everything[1:]
    assert start(most).has == everything


def test_without_a_place_for_locks_nothing_is_confined(start, tmp_path):
    (tmp_path / "locks").write_text("")
    assert start().has == cores.allowed()


def test_the_share_of_workers():
    num = len(cores.allowed())
    assert [cores.share(workers) for workers in (1, num, 5 * num)] == [num, 1, 1]

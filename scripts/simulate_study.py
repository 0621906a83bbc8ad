"""Measures a study's driver with runs that only pretend: how fast, and in what memory.

    python scripts/simulate_study.py --runs=10000 --workers=1000

Each run takes a second of a simulated worker, writes its metrics, and one in a hundred
dies with its worker at first. Designs are those of a grid, or of a --sampler.
"""

import argparse
import heapq
import json
import pathlib
import random
import resource
import tempfile
import threading
import time
from concurrent.futures import Executor, Future
from typing import Any

from cifar_jax import _runtime
from cifar_jax import config as default
from cifar_jax.studies import driver, run


class Pretended(Executor):
    """Workers that do nothing for a while, then write what a run would."""

    def __init__(self, seconds: float, deaths: float):
        self._seconds, self._deaths = seconds, deaths
        self._random = random.Random(0)
        self._due: list[tuple[float, int, Future, pathlib.Path]] = []
        self._changed = threading.Condition()
        self._number = self.num_deaths = 0
        threading.Thread(target=self._work, daemon=True).start()

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Starts a run; the winner's are scored at once."""
        del kwargs
        future = Future()
        if fn is run.score:
            future.set_result(0.5)
            return future
        with self._changed:
            self._number += 1
            item = time.monotonic() + self._seconds, self._number, future, args[1]
            heapq.heappush(self._due, item)
            self._changed.notify()
        return future

    def _work(self):
        while True:
            with self._changed:
                while not self._due:
                    self._changed.wait()
                due, _, future, workdir = heapq.heappop(self._due)
            time.sleep(max(0.0, due - time.monotonic()))
            if self._random.random() < self._deaths:
                self.num_deaths += 1
                future.set_exception(_runtime.WorkerDied("signal 9"))
                continue
            value = self._random.random()
            workdir.mkdir(parents=True, exist_ok=True)
            row = {"epoch": 1, "split": "val", "accuracy": value, "loss": 1.0}
            (workdir / "metrics.jsonl").write_text(json.dumps(row) + "\n")
            figures = dict(accuracy=value, loss=1.0, macs=1, seconds=1.0, best_epoch=1)
            future.set_result(run.Outcome("done", figures))


def main():
    """Runs a study, and prints a JSON object with the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--deaths", type=float, default=0.01)
    parser.add_argument("--sampler", choices=("tpe", "nsga2", "random"))
    arguments = parser.parse_args()
    config = default.get_study_config()
    config.base.data.name = "digits"
    config.base.train.epochs = 1
    config.study.seeds = 1 if arguments.sampler else 4
    rates = tuple(0.001 * (1 + n) for n in range(arguments.runs // 4))
    config.study.kind = "grid"
    config.study.space = (dict(factor="optim.learning_rate", values=rates),)
    if arguments.sampler:
        config.study.kind, config.study.sampler = "sample", arguments.sampler
        config.study.trials = arguments.runs
        low, high = rates[0], rates[-1]
        axis = dict(factor="optim.learning_rate", low=low, high=high, log=True)
        config.study.space = (axis,)
    executor = Pretended(arguments.seconds, arguments.deaths)
    with tempfile.TemporaryDirectory() as folder:
        start, cpu = time.perf_counter(), time.process_time()
        rows = driver.run_study(
            config, folder, executor=executor, workers=arguments.workers
        )
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        journal = pathlib.Path(folder, "journal.log").stat().st_size
    figures = {
        **vars(arguments),
        "done": (num_done := sum(len(row.done) for row in rows)),
        "died": executor.num_deaths,
        "wall_seconds": round(seconds, 1),
        "runs_per_second": round(num_done / seconds, 1),
        "processor_ms_per_run": round(1000 * cpu / num_done, 2),
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "journal_megabytes": round(journal / 1e6, 1),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

"""What an executor runs: one run of a study, in a worker process of any kind.

The run directory is all that a run shares with its driver: the driver reads its
metrics.jsonl, and leaves a stop file there, which a run honours at an epoch's end.
"""

import dataclasses
import fcntl
import functools
import os
import pathlib
import traceback
from collections.abc import Mapping

from ml_collections import ConfigDict

from cifar_jax import UserError, _runtime
from cifar_jax.studies.table import Figures

STOP = "stop"  # the stop file


@dataclasses.dataclass(frozen=True)
class Task:
    """A run to be done, in a run directory that the driver sees under the same path.

    Attributes:
      threads: CPU threads, whose number changes the rounding; 0: all cores.
      latency: Whether to measure the latency of the trained network.
    """

    config: ConfigDict
    workdir: pathlib.Path
    threads: int = 0
    latency: bool = False


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a run: done, failed with an error, or stopped and saved."""

    state: str
    figures: Figures = dataclasses.field(default_factory=Figures)
    error: str = ""


class _StopAsked(Exception):
    """Raised within a run that finds its stop file."""


def train(task: Task) -> Outcome:
    """Trains a run, or resumes it; returns its result if it is done already."""
    _start(task.threads, task.config.train.cpu_devices)
    import jax

    from cifar_jax.training import interrupt, loop

    def stop_if_asked(means: Mapping | None = None) -> None:
        del means
        if (task.workdir / STOP).exists():
            raise _StopAsked

    print(f"== {task.workdir}", flush=True)
    try:
        stop_if_asked()
        task.workdir.mkdir(parents=True, exist_ok=True)
        with (task.workdir / ".lock").open("a") as file:
            # Whoever works here still is about to end: a worker whose driver was
            # killed, or one that a cluster has taken for lost.
            fcntl.flock(file, fcntl.LOCK_EX)
        _forget_other_designs(str(task.workdir.parent))
        result = loop.train_and_evaluate(
            task.config, task.workdir, on_epoch=stop_if_asked
        )
        return Outcome("done", _figures(task, result))
    except (_StopAsked, interrupt.Stopped):
        return Outcome("stopped")
    except (UserError, OSError, jax.errors.JaxRuntimeError) as error:
        print(error, flush=True)
        return Outcome("failed", error=str(error).splitlines()[0])
    except Exception as error:  # whatever a design trips over; the next may not
        traceback.print_exception(error)
        line = f"{type(error).__name__}: {error}".splitlines()[0]
        return Outcome("failed", error=line)


def score(task: Task) -> float:
    """Returns the accuracy of a trained run on the test images of its config."""
    _start(task.threads, task.config.train.cpu_devices)
    import numpy as np

    from cifar_jax.data import sources
    from cifar_jax.evaluation.inference import Predictor

    data = task.config.data
    source = sources.open(data.name, data.dir, image_size=data.image_size)
    images = source.open_split(data.test_split)
    logits, labels = Predictor(task.workdir, batch_size=500).outputs(images)
    return float(np.mean(logits[:, 0].argmax(axis=-1) == labels))


@functools.cache
def _start(threads: int, cpu_devices: int) -> None:
    """Sets a worker process up, before its first run."""
    if threads:  # XLA reads it when it starts
        os.environ.setdefault("NPROC", str(threads))
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    _runtime.start(cpu_devices)


@functools.lru_cache(1)
def _forget_other_designs(design: str) -> None:
    """Drops compiled programs when another design comes, which calls none of them."""
    import jax

    del design
    jax.clear_caches()


def _figures(task: Task, result: Mapping) -> Figures:
    """Returns what the study keeps of result.json."""
    figures = Figures(
        accuracy=result["val"]["accuracy"],
        loss=result["val"]["loss"],
        accuracy_tta=(result.get("val_tta") or {}).get("accuracy"),
        parameters=result["num_parameters"],
        macs=result["flops_per_image"] // 2,
        best_epoch=result["best_epoch"],
        seconds=result["seconds"]["total"],
        compile_seconds=result["seconds"]["compile"],
        images_per_second=result["images_per_second"],
        device=result["device"],
    )
    if task.latency:
        from cifar_jax.evaluation import efficiency
        from cifar_jax.evaluation.inference import Predictor

        predictor = Predictor(task.workdir, batch_size=1)
        figures["latency"] = efficiency.latency_ms(predictor)
    return figures

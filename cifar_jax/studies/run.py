"""What an executor does: one run of a study, in a worker process of any kind.

The run directory is all that a run shares with its driver: the driver reads what the
run writes, and leaves a stop file there, which a run honours at an epoch's end.
"""

import functools
import os
import pathlib
import traceback
from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from cifar_jax import Stopped, UserError, _runtime
from cifar_jax._files import OutputFolder, first_line, lock_file, read_object

STOP = "stop"  # the stop file
MEASURED = "measured.json"  # what a study has measured besides result.json


class Outcome(NamedTuple):
    """What became of a run: done, failed with an error, or stopped and saved."""

    state: str
    figures: dict[str, Any] = {}
    error: str = ""


def train(
    config: ConfigDict, workdir: pathlib.Path, threads: int = 0, latency: bool = False
) -> Outcome:
    """Trains a run, or resumes it; returns its result if it is done already.

    Its driver sees the run directory under the same path. 0 threads: all cores.
    """
    _start(threads, config.train.cpu_devices, str(workdir.parent))
    import jax

    from cifar_jax.evaluation import efficiency
    from cifar_jax.evaluation.inference import Predictor
    from cifar_jax.training import loop, pretrained

    def stop_if_asked(means: Mapping | None = None) -> None:
        del means
        if (workdir / STOP).exists():
            raise Stopped("stopped by its driver", 0)

    print(f"== {workdir}", flush=True)
    try:
        stop_if_asked()
        workdir.mkdir(parents=True, exist_ok=True)
        with (workdir / ".lock").open("a") as file:
            # Whoever works here still is about to end: a worker whose driver was
            # killed, or one that a cluster has taken for lost.
            lock_file(file, wait=True)
        loop.train_and_evaluate(config, workdir, on_epoch=stop_if_asked)
        if latency:
            predictor = Predictor(pretrained.load_model(workdir), batch_size=1)
            value = efficiency.latency_ms(predictor, predictor.mesh.size)
            OutputFolder(workdir).json(MEASURED, {"latency": value})
        return Outcome("done", figures(workdir))
    except Stopped:
        return Outcome("stopped")
    except Exception as error:  # whatever a design trips over; the next may not
        traceback.print_exception(error)
        is_plain = isinstance(error, UserError | OSError | jax.errors.JaxRuntimeError)
        name = "" if is_plain else f"{type(error).__name__}: "
        return Outcome("failed", error=name + first_line(error))


def score(config: ConfigDict, workdir: pathlib.Path, threads: int = 0) -> float:
    """Returns the accuracy of a trained run on the test images."""
    _start(threads, config.train.cpu_devices, str(workdir.parent))
    import numpy as np

    from cifar_jax.evaluation.inference import Predictor
    from cifar_jax.training import pretrained, setup

    images = setup.open_source(config).open_split(config.data.test_split)
    network = pretrained.load_model(workdir)
    logits, labels = Predictor(network, batch_size=500).outputs(images)
    accuracy = float(np.mean(logits[:, 0].argmax(axis=-1) == labels))
    old = {"latency": figures(workdir).get("latency")}
    OutputFolder(workdir).json(MEASURED, {**old, "test_accuracy": accuracy})
    return accuracy


def figures(workdir: pathlib.Path) -> dict[str, Any]:
    """Returns what a study keeps of a run that is done, by name; {} of another one.

    Accuracy and loss are those of the best validation, `latency` is in ms.
    """
    path, measured = workdir / "result.json", workdir / MEASURED
    if not path.exists():
        return {}
    values = read_object(path)
    return {
        "accuracy": values["val"]["accuracy"],
        "loss": values["val"]["loss"],
        "accuracy_tta": (values.get("val_tta") or {}).get("accuracy"),
        "parameters": values["num_parameters"],
        "macs": values["flops_per_image"] // 2,
        "best_epoch": values["best_epoch"],
        "seconds": values["seconds"]["total"],
        "compile_seconds": values["seconds"]["compile"],
        "images_per_second": values["images_per_second"],
        "device": values["device"],
        **(read_object(measured) if measured.exists() else {}),
    }


@functools.lru_cache(1)
def _start(threads: int, cpu_devices: int, design: str) -> None:
    """Sets a worker process up for the runs of a design."""
    del design
    if threads:  # XLA reads it when it starts
        os.environ.setdefault("NPROC", str(threads))
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    _runtime.start(cpu_devices)
    import jax

    jax.clear_caches()  # this design calls none of the programs of another one

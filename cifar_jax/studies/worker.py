"""A worker: takes one run of a study after the other, until none is left."""

import pathlib
import traceback
from collections.abc import Mapping
from typing import Any

import jax

from cifar_jax import UserError
from cifar_jax.analysis import efficiency
from cifar_jax.analysis.inference import Predictor
from cifar_jax.studies import designs
from cifar_jax.studies.journal import Job, Journal
from cifar_jax.studies.study import Study
from cifar_jax.training import loop
from cifar_jax.training.interrupt import Stopped


class _Pruned(Exception):
    """The run validates too badly to go on."""


def work(study: Study, journal: Journal) -> None:
    """Does runs of a study as long as there are any.

    Raises:
      Stopped: After SIGINT or SIGTERM; the run is saved and given back.
    """
    design = None
    while (job := journal.claim()) is not None:
        if job.candidate.name != design:
            jax.clear_caches()  # of programs that no other design will call
            design = job.candidate.name
        try:
            _run(study, journal, job)
        except (Stopped, KeyboardInterrupt, SystemExit):
            journal.give_back(job)
            raise


def _run(study: Study, journal: Journal, job: Job) -> None:
    """Does a run, and writes what became of it into the journal."""
    workdir = run_directory(journal.folder, job.candidate.name, job.seed)
    key = study.objectives[0] if study.objectives[0] == "loss" else "accuracy"

    def on_epoch(means: Mapping[str, Any]) -> None:
        if means["val"] is None:
            return
        journal.report(job, means["epoch"], means["val"][key])
        last = job.candidate.config.train.epochs
        if means["epoch"] < last and journal.prunes(job):
            raise _Pruned

    print(f"== {workdir}", flush=True)
    try:
        config = study.config(job.candidate, job.seed)
        result = loop.train_and_evaluate(config, workdir, on_epoch=on_epoch)
        measured = _measured(study, job, result, workdir)
    except Stopped:
        raise
    except _Pruned:
        journal.prune(job)
    except (UserError, OSError, jax.errors.JaxRuntimeError) as error:
        journal.fail(job, str(error).splitlines()[0])
    except Exception as error:  # whatever a design may trip over; the next may not
        traceback.print_exc()
        journal.fail(job, f"{type(error).__name__}: {error}".splitlines()[0])
    else:
        values = [measured[name] for name in study.objectives]
        journal.complete(job, values, measured)


def run_directory(folder: pathlib.Path, name: str, seed: int) -> pathlib.Path:
    """Returns the folder of a run, an ordinary run directory."""
    return folder / "runs" / designs.folder_of(name) / f"seed-{seed}"


def _measured(study: Study, job: Job, result, workdir) -> dict[str, Any]:
    """Returns the figures of a run that the study keeps."""
    measured = {
        "accuracy": result["val"]["accuracy"],
        "loss": result["val"]["loss"],
        "parameters": result["num_parameters"],
        "macs": result["flops_per_image"] // 2,
        "best_epoch": result["best_epoch"],
        "seconds": result["seconds"]["total"],
        "compile_seconds": result["seconds"]["compile"],
        "images_per_second": result["images_per_second"],
        "device": result["device"],
    }
    if study.latency or "latency" in study.objectives:
        measured["latency"] = efficiency.latency_ms(Predictor(workdir, batch_size=1))
    return measured

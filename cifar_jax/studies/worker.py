"""A worker: takes one run of a study after the other, until none is left."""

import pathlib
import traceback
from collections.abc import Mapping
from typing import Any

import jax

from cifar_jax import UserError
from cifar_jax.evaluation import efficiency
from cifar_jax.evaluation.inference import Predictor
from cifar_jax.studies import designs
from cifar_jax.studies.journal import Job, Journal
from cifar_jax.studies.study import Study
from cifar_jax.training import loop
from cifar_jax.training.interrupt import Stopped

# What ends a run and needs no traceback.
_EXPECTED = (UserError, OSError, jax.errors.JaxRuntimeError)


class Pruned(Exception):
    """Raised by `on_epoch` to end a run that validates too badly."""


def work(study: Study, journal: Journal) -> None:
    """Does runs of a study as long as there are any.

    Raises:
      Stopped: After SIGINT or SIGTERM; the runs are saved and given back.
    """
    design = None
    while job := journal.claim():
        if job.candidate.name != design:
            jax.clear_caches()  # of programs that no other design will call
            design = job.candidate.name
        try:
            _close(study, journal, job, _outcome(study, journal, job))
        except (Stopped, KeyboardInterrupt, SystemExit):
            journal.give_back(job)
            raise


def _outcome(study: Study, journal: Journal, job: Job) -> dict[str, Any] | Exception:
    """Trains a run; returns its result, or what has ended it."""
    print(f"== {_path(journal, job)}", flush=True)
    try:
        return loop.train_and_evaluate(
            study.config(job.candidate, job.seed),
            _path(journal, job),
            on_epoch=lambda means: _note(study, journal, job, means),
        )
    except Stopped:
        raise
    except Exception as error:  # whatever a design may trip over; the next may not
        _show(error)
        return error.with_traceback(None)  # which holds the run's arrays


def _show(error: Exception) -> None:
    """Prints an error, with its traceback if that tells more than its text."""
    if isinstance(error, _EXPECTED):
        print(error, flush=True)
    elif not isinstance(error, Pruned):
        traceback.print_exception(error)


def _note(study: Study, journal: Journal, job: Job, means: Mapping[str, Any]) -> None:
    """Notes an epoch of a run in the journal, and closes one that is hopeless.

    Raises:
      Pruned: The run validates too badly to continue.
    """
    if means["val"] is None:
        return
    key = study.objectives[0] if study.objectives[0] == "loss" else "accuracy"
    journal.report(job, means["epoch"], means["val"][key])
    last = job.candidate.config.train.epochs
    if means["epoch"] < last and journal.prunes(job):
        journal.prune(job)  # now: a pruner that is asked again may answer otherwise
        raise Pruned("stopped by the pruner")


def _close(
    study: Study, journal: Journal, job: Job, outcome: dict[str, Any] | Exception
) -> None:
    """Writes what became of a run into the journal."""
    if isinstance(outcome, Pruned):
        return
    if not isinstance(outcome, Exception):
        try:
            measured = _measured(study, outcome, _path(journal, job))
            values = [measured[name] for name in study.objectives]
        except Exception as error:
            _show(error)
            outcome = error
    if isinstance(outcome, Exception):
        name = "" if isinstance(outcome, _EXPECTED) else f"{type(outcome).__name__}: "
        journal.fail(job, f"{name}{outcome}".splitlines()[0])
    else:
        journal.complete(job, values, measured)


def _path(journal: Journal, job: Job) -> pathlib.Path:
    return run_directory(journal.folder, job.candidate.name, job.seed)


def run_directory(folder: pathlib.Path, name: str, seed: int) -> pathlib.Path:
    """Returns the folder of a run, an ordinary run directory."""
    return folder / "runs" / designs.folder_of(name) / f"seed-{seed}"


def _measured(study: Study, result, workdir) -> dict[str, Any]:
    """Returns the figures of a run that the study keeps."""
    measured = {
        "accuracy": result["val"]["accuracy"],
        "loss": result["val"]["loss"],
        "accuracy_tta": (result.get("val_tta") or {}).get("accuracy"),
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

"""A worker: takes one run of a study after the other, until none is left."""

import gc
import pathlib
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from cifar_jax import UserError
from cifar_jax.data import sources
from cifar_jax.evaluation import efficiency
from cifar_jax.evaluation.inference import Predictor
from cifar_jax.studies import designs
from cifar_jax.studies.designs import Candidate
from cifar_jax.studies.journal import Job, Journal
from cifar_jax.studies.study import Study
from cifar_jax.training import alike, loop, together
from cifar_jax.training.calls import RunEnded
from cifar_jax.training.interrupt import Stopped

# What ends a run and needs no traceback.
_EXPECTED = (UserError, OSError, jax.errors.JaxRuntimeError)


def work(study: Study, journal: Journal) -> None:
    """Does runs of a study as long as there are any.

    Raises:
      Stopped: After SIGINT or SIGTERM; the runs are saved and given back.
    """
    fits, design = _fits(study), None
    with sources.keeping():
        while jobs := journal.claim(study.together, fits):
            if jobs[0].candidate.name != design:
                jax.clear_caches()  # of programs that no other design will call
                design = jobs[0].candidate.name
            try:
                outcomes = _outcomes(study, journal, jobs)
                for job, outcome in zip(jobs, outcomes, strict=True):
                    _close(study, journal, job, outcome)
            except (Stopped, KeyboardInterrupt, SystemExit):
                for job in jobs:
                    journal.give_back(job)
                raise


def _fits(study: Study) -> Callable[[Job, Candidate], bool]:
    """Returns what tells whether runs of a design can be trained together with one.

    Those of another design are only if its own seeds leave room: else it would depend
    on the workers which runs are together.
    """
    known: dict[tuple[str, str], bool] = {}

    def fits(job: Job, candidate: Candidate) -> bool:
        names = job.candidate.name, candidate.name
        if names[0] != names[1] and study.together <= study.seeds:
            return False
        if names not in known:
            known[names] = _are_alike(job.candidate.config, candidate.config)
        return known[names]

    return fits


def _are_alike(*configs: ConfigDict) -> bool:
    try:
        alike.differences(configs)
    except UserError:
        return False
    return True


def _outcomes(
    study: Study, journal: Journal, jobs: Sequence[Job]
) -> list[dict[str, Any] | Exception]:
    """Trains runs; returns their results, or what has ended them."""
    if len(jobs) > 1:
        paths = [_path(journal, job) for job in jobs]
        print(f"== {', '.join(map(str, paths))}", flush=True)
        try:
            return together.train_together(
                [study.config(job.candidate, job.seed) for job in jobs],
                paths,
                on_epoch=lambda run, means: _note(study, journal, jobs[run], means),
            )
        except Stopped:
            raise
        except Exception as error:  # too large for the memory, say
            _show(error)
        print("not together, but one after another", flush=True)
        gc.collect()  # the error held the arrays of all the runs
    return [_alone(study, journal, job) for job in jobs]


def _alone(study: Study, journal: Journal, job: Job) -> dict[str, Any] | Exception:
    print(f"== {_path(journal, job)}", flush=True)
    if journal.is_closed(job):
        return RunEnded()
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
    elif not isinstance(error, RunEnded):
        traceback.print_exception(error)


def _note(study: Study, journal: Journal, job: Job, means: Mapping[str, Any]) -> None:
    """Notes an epoch of a run in the journal, and closes one that is hopeless.

    Raises:
      RunEnded: It validates too badly to go on.
    """
    if means["val"] is None:
        return
    key = study.objectives[0] if study.objectives[0] == "loss" else "accuracy"
    journal.report(job, means["epoch"], means["val"][key])
    last = job.candidate.config.train.epochs
    if means["epoch"] < last and journal.prunes(job):
        journal.prune(job)  # now: a pruner that is asked again may answer otherwise
        raise RunEnded("it validates too badly to go on")


def _close(
    study: Study, journal: Journal, job: Job, outcome: dict[str, Any] | Exception
) -> None:
    """Writes what became of a run into the journal."""
    if isinstance(outcome, RunEnded):
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
        # runs that train together have all of their seconds in common
        "seconds": result["seconds"]["total"] / result.get("together", 1),
        "compile_seconds": result["seconds"]["compile"],
        "images_per_second": result["images_per_second"],
        "device": result["device"],
    }
    if study.latency or "latency" in study.objectives:
        measured["latency"] = efficiency.latency_ms(Predictor(workdir, batch_size=1))
    return measured

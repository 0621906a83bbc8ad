"""A worker: takes one run of a study after the other, until none is left."""

import pathlib
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from cifar_jax import UserError
from cifar_jax.analysis import efficiency
from cifar_jax.analysis.inference import Predictor
from cifar_jax.data import sources
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
    design = None
    with sources.keeping():
        while (job := journal.claim()) is not None:
            if job.candidate.name != design:
                jax.clear_caches()  # of programs that no other design will call
                design = job.candidate.name
            jobs = [job, *journal.claim_more(study.together - 1, _fits(study, job))]
            _work(study, journal, jobs)


def _work(study: Study, journal: Journal, jobs: Sequence[Job]) -> None:
    """Does runs that are claimed."""
    try:
        outcomes = _outcomes(study, journal, jobs)
    except (Stopped, KeyboardInterrupt, SystemExit):
        for job in jobs:
            journal.give_back(job)
        raise
    for job, outcome in zip(jobs, outcomes, strict=True):
        _close(study, journal, job, outcome)


def _fits(study: Study, job: Job) -> Callable[[Candidate, int], bool]:
    """Returns what tells whether a run can be trained together with another."""
    config = study.config(job.candidate, job.seed)

    def fits(candidate: Candidate, seed: int) -> bool:
        try:
            alike.differences([config, study.config(candidate, seed)])
        except UserError:
            return False
        return True

    return fits


def _outcomes(
    study: Study, journal: Journal, jobs: Sequence[Job]
) -> list[dict[str, Any] | Exception]:
    """Trains runs; returns their results, or what has ended them."""
    if len(jobs) == 1:
        return [_alone(study, journal, jobs[0])]
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
        print(f"not together: {error}", flush=True)
        return [_alone(study, journal, job) for job in jobs]


def _alone(study: Study, journal: Journal, job: Job) -> dict[str, Any] | Exception:
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
        if not isinstance(error, (RunEnded, *_EXPECTED)):
            traceback.print_exc()
        return error


def _note(study: Study, journal: Journal, job: Job, means: Mapping[str, Any]) -> None:
    """Notes an epoch of a run in the journal, and ends one that is hopeless.

    Raises:
      RunEnded: It validates too badly to go on.
    """
    if means["val"] is None:
        return
    key = study.objectives[0] if study.objectives[0] == "loss" else "accuracy"
    journal.report(job, means["epoch"], means["val"][key])
    last = job.candidate.config.train.epochs
    if means["epoch"] < last and journal.prunes(job):
        raise RunEnded("pruned")


def _close(
    study: Study, journal: Journal, job: Job, outcome: dict[str, Any] | Exception
) -> None:
    """Writes what became of a run into the journal."""
    if isinstance(outcome, RunEnded):
        journal.prune(job)
        return
    if not isinstance(outcome, Exception):
        try:
            measured = _measured(study, outcome, _path(journal, job))
        except _EXPECTED as error:
            outcome = error
    if isinstance(outcome, Exception):
        name = "" if isinstance(outcome, _EXPECTED) else f"{type(outcome).__name__}: "
        journal.fail(job, f"{name}{outcome}".splitlines()[0])
        return
    values = [measured[name] for name in study.objectives]
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

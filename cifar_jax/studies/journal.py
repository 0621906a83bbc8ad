"""The state of a study, shared by all its workers: Optuna's journal, and claims.

Every run is a trial in an Optuna journal, a file that only grows, so that Optuna's
own tools can read it. A worker holds the kernel's lock on a file of its trial's for as
long as it works on it. The kernel frees that lock when the worker dies, however it
dies; a trial that runs by the journal, but whose lock is free, has been given back, and
the next worker that looks for work goes on with it from its run's newest checkpoint.
Optuna's own remedy, heartbeats in a database, needs a clock that all machines share,
waits for it, takes a paused worker for dead, and starts the trial anew.

Workers on several machines need a folder on a file system that shares locks (flock), as
run directories do: NFS, Lustre and GPFS can. A machine that vanishes gives its locks
back when the file server notices.
"""

import contextlib
import dataclasses
import pathlib
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from cifar_jax.studies import designs, samplers
from cifar_jax.studies.designs import Candidate
from cifar_jax.studies.locks import KernelLock, mend
from cifar_jax.studies.study import OBJECTIVES, Study

POLL_SECONDS = 1.0
MOST_STARTS = 3  # of a run whose worker dies each time before it has closed an epoch
_MOST_PROPOSALS = 200  # in a row that are over the budget or known already


@dataclasses.dataclass(frozen=True)
class Job:
    """A run that this worker has claimed.

    Attributes:
      number: Of its trial.
      trial_id: In the storage.
      candidate: Its design.
      seed: Number of the run among those of the design, from 0.
      lock: That nobody else works on it.
    """

    number: int
    trial_id: int
    candidate: Candidate
    seed: int
    lock: KernelLock


class Journal:
    """The trials of a study in its folder.

    Args:
      study: Whose.
      folder: Where; made if need be.
    """

    def __init__(self, study: Study, folder: pathlib.Path):
        self.folder = folder
        self._study = study
        self._known = {each.name: each for each in study.candidates}
        self._claims = folder / "claims"
        self._claims.mkdir(parents=True, exist_ok=True)
        self._turn = KernelLock(folder / ".lock")
        path = folder / "journal.log"
        lock = KernelLock(folder / ".journal.lock", lambda: mend(path))
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with self._turn:
            self._storage = JournalStorage(JournalFileBackend(str(path), lock))
            self._optuna = optuna.create_study(
                storage=self._storage,
                study_name="study",
                directions=[
                    "maximize" if OBJECTIVES[name] else "minimize"
                    for name in study.objectives
                ],
                pruner=samplers.make_pruner(
                    study.pruner,
                    min_epochs=study.min_epochs,
                    max_epochs=study.rules.base.train.epochs,
                    reduction=study.reduction,
                ),
                load_if_exists=True,
            )
            seeds = range(1 if study.staged else study.seeds)
            self._enqueue((each, seeds) for each in study.candidates)

    def trials(self) -> list[FrozenTrial]:
        """Returns the newest trial of each run, in the order of their first ones."""
        newest = {}
        for trial in self._optuna.get_trials(deepcopy=False):
            if "candidate" in trial.user_attrs:
                newest[_key(trial)] = trial
        return list(newest.values())

    def candidates(self) -> list[Candidate]:
        """Returns the designs that there are so far."""
        known = dict(self._known)
        for trial in self.trials():
            name = trial.user_attrs["candidate"]
            known[name] = known.get(name) or self._candidate(trial)
        return list(known.values())

    def is_done(self) -> bool:
        """Tells whether no run is left, nor is to be proposed."""
        with self._turn:
            if len(self._first_runs()) < self._study.trials and self._study.samples:
                return False
            finished = all(trial.state.is_finished() for trial in self.trials())
            return finished and not self._extend()

    def retry_failed(self) -> int:
        """Queues the failed runs again, and returns how many."""
        with self._turn:
            failed = [t for t in self.trials() if t.state == TrialState.FAIL]
            for trial in failed:
                self._add(trial.user_attrs["factors"], *_key(trial))
        return len(failed)

    def claim(self) -> Job | None:
        """Returns the next run, claimed; waits while others may still give one back.

        Returns:
          None when the study is done.
        """
        while True:
            with self._turn:
                job = self._next() or self._propose()
                if job is not None:
                    return job
                running = any(not t.state.is_finished() for t in self.trials())
                if not running and not self._extend():
                    return None
            time.sleep(POLL_SECONDS)

    def claim_more(
        self, most: int, fits: Callable[[Candidate, int], bool]
    ) -> list[Job]:
        """Claims runs that are to be done at the same time as one that is claimed.

        Args:
          most: How many.
          fits: Tells of a design and a seed whether that run can be.
        """
        jobs = []
        with self._turn:
            while len(jobs) < most and (job := self._next(fits)) is not None:
                jobs.append(job)
        return jobs

    def report(self, job: Job, epoch: int, value: float) -> None:
        """Notes what a run validates at after an epoch."""
        self._storage.set_trial_intermediate_value(job.trial_id, epoch, value)

    def prunes(self, job: Job) -> bool:
        """Tells whether a run is too bad to go on.

        Only the first run of a design can be: the mean over seeds is that of all.
        """
        if job.seed:
            return False
        trial = self._storage.get_trial(job.trial_id)
        return self._optuna.pruner.prune(self._optuna, trial)

    def complete(self, job: Job, values: list[float], result: dict[str, Any]) -> None:
        """Closes a run that has ended."""
        self._set(job.trial_id, "result", result)
        self._optuna.tell(job.number, values)
        job.lock.release()

    def prune(self, job: Job) -> None:
        """Closes a run that was too bad to go on."""
        self._optuna.tell(job.number, state=TrialState.PRUNED)
        job.lock.release()

    def fail(self, job: Job, reason: str) -> None:
        """Closes a run that cannot be done."""
        self._set(job.trial_id, "error", reason)
        self._optuna.tell(job.number, state=TrialState.FAIL)
        job.lock.release()

    def give_back(self, job: Job) -> None:
        """Leaves a run, whose state is saved, to the next worker."""
        self._set(job.trial_id, "starts", [0, 0])
        job.lock.release()

    def note_test(self, name: str, seed: int, accuracy: float) -> None:
        """Notes the test accuracy of a run, by its design's name and its number."""
        self._optuna.set_user_attr(f"test {name} {seed}", [name, seed, accuracy])

    def tested(self) -> dict[tuple[str, int], float]:
        """Returns the test accuracies of runs, by design and number."""
        noted = self._optuna.user_attrs.items()
        found = [value for key, value in noted if key.startswith("test ")]
        return {(name, seed): accuracy for name, seed, accuracy in found}

    @contextlib.contextmanager
    def alone(self, what: str, *, wait: bool = True) -> Iterator[bool]:
        """Keeps other workers out of a block, until it ends.

        Args:
          what: The same for all of them.
          wait: Whether to wait for one that is in there.

        Yields:
          Whether the others are out.
        """
        lock = KernelLock(self._claims / what)
        mine = lock.acquire(wait)
        try:
            yield mine
        finally:
            if mine:
                lock.release()

    def _set(self, trial_id: int, key: str, value: Any) -> None:
        self._storage.set_trial_user_attr(trial_id, key, value)

    def _next(
        self, fits: Callable[[Candidate, int], bool] = lambda *run: True
    ) -> Job | None:
        """Returns a run whose worker is gone, or else the first one that waits."""
        trials = self._optuna.get_trials(deepcopy=False)
        for state in (TrialState.RUNNING, TrialState.WAITING):
            for trial in trials:
                if trial.state == state and (job := self._taken(trial, fits)):
                    return job
        return None

    def _taken(self, trial: FrozenTrial, fits) -> Job | None:
        """Claims a run that nobody works on, if it fits and can be done."""
        if "candidate" in trial.user_attrs:
            if not fits(self._candidate(trial), trial.user_attrs["seed"]):
                return None
        lock = self._lock(trial.number)
        if lock is None:
            return None
        if "candidate" not in trial.user_attrs:  # died while it was being made
            self._optuna.tell(trial.number, state=TrialState.FAIL)
            lock.release()
            return None
        if trial.state == TrialState.WAITING:
            self._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
        job = self._job(trial, lock)
        if self._start(trial) <= MOST_STARTS:
            return job
        self.fail(job, f"its process died {MOST_STARTS} times; see logs/")
        return None

    def _start(self, trial: FrozenTrial) -> int:
        """Counts the starts of a run since it last closed an epoch."""
        epochs = len(trial.intermediate_values)
        starts, before = trial.user_attrs.get("starts", (0, 0))
        starts = starts + 1 if epochs == before else 1
        self._set(trial._trial_id, "starts", [starts, epochs])
        return starts

    def _job(self, trial: FrozenTrial, lock: KernelLock) -> Job:
        seed = trial.user_attrs["seed"]
        return Job(trial.number, trial._trial_id, self._candidate(trial), seed, lock)

    def _candidate(self, trial: FrozenTrial) -> Candidate:
        name = trial.user_attrs["candidate"]
        return self._known.get(name) or designs.candidate(
            self._study.rules, trial.user_attrs["factors"], name
        )

    def _lock(self, number: int) -> KernelLock | None:
        lock = KernelLock(self._claims / str(number))
        return lock if lock.acquire(wait=False) else None

    def _first_runs(self) -> list[FrozenTrial]:
        """Returns the first run of each design."""
        return [trial for trial in self.trials() if trial.user_attrs["seed"] == 0]

    def _propose(self) -> Job | None:
        """Returns the first run of a design that the sampler proposes."""
        if not self._study.samples:
            return None
        for _ in range(_MOST_PROPOSALS):
            sampled = self._first_runs()
            if len(sampled) >= self._study.trials:
                return None
            trials = self._optuna.get_trials(deepcopy=False)
            seed = (self._study.sampler_seed * 1_000_003 + len(trials)) % 2**32
            self._optuna.sampler = samplers.make_sampler(self._study.sampler, seed)
            trial = self._optuna.ask(self._study.distributions)
            name = f"t{trial.number:04}"
            candidate = designs.candidate(self._study.rules, trial.params, name)
            known = [self._candidate(each) for each in sampled]
            if candidate.refusal is None and not designs.same(candidate, known):
                for key, value in (("factors", trial.params), ("seed", 0)):
                    self._set(trial._trial_id, key, value)
                self._set(trial._trial_id, "candidate", name)
                trial = self._optuna.get_trials(deepcopy=False)[trial.number]
                return self._taken(trial, lambda *run: True)
            reason = candidate.refusal or "it has been tried"
            self._set(trial._trial_id, "error", reason)
            self._optuna.tell(trial.number, state=TrialState.FAIL)
        return None

    def _extend(self) -> bool:
        """Queues all seeds of what is left after the first; tells whether it did.

        To be called when no run is left.
        """
        if not self._study.staged:
            return False
        done = [t for t in self._first_runs() if t.state == TrialState.COMPLETE]
        sign = -1 if OBJECTIVES[self._study.objectives[0]] else 1
        done.sort(key=lambda trial: sign * trial.values[0])
        if self._study.samples:
            done = done[: self._study.finalists]
        left = [self._candidate(trial) for trial in done]
        return self._enqueue((each, range(1, self._study.seeds)) for each in left)

    def _enqueue(self, runs) -> bool:
        known, added = {_key(trial) for trial in self.trials()}, False
        for candidate, seeds in runs:
            for seed in seeds:
                if candidate.refusal is None and (candidate.name, seed) not in known:
                    self._add(candidate.factors, candidate.name, seed)
                    added = True
        return added

    def _add(self, factors: dict[str, Any], name: str, seed: int) -> None:
        attrs = {"candidate": name, "seed": seed, "factors": factors}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._optuna.add_trial(
                optuna.create_trial(state=TrialState.WAITING, user_attrs=attrs)
            )


def _key(trial: FrozenTrial) -> tuple[str, int]:
    return trial.user_attrs["candidate"], trial.user_attrs["seed"]

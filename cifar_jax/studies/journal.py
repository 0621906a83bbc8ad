"""Who works on which run of a study: claims, and what becomes of them.

A worker holds the kernel's lock on a file of its trial's for as long as it works on it.
The kernel frees that lock when the worker dies, however it dies; a trial that runs by
the journal, but whose lock is free, has been given back, and the next worker that looks
for work goes on with it from its run's newest checkpoint. Optuna's own remedy,
heartbeats in a database, needs a clock that all machines share, waits for it, takes a
paused worker for dead, and starts the trial anew.

Workers on several machines need a folder on a file system that shares locks (flock), as
run directories do: NFS, Lustre and GPFS can. A machine that vanishes gives its locks
back when the file server notices.
"""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Iterator
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from cifar_jax.studies.designs import Candidate
from cifar_jax.studies.locks import KernelLock
from cifar_jax.studies.study import Study
from cifar_jax.studies.trials import Trials

POLL_SECONDS = 1.0
MOST_STARTS = 3  # of a run whose worker dies each time before it has closed an epoch


@dataclasses.dataclass(frozen=True)
class Job:
    """A run that this worker has claimed.

    Attributes:
      number: Of its trial.
      trial_id: In the storage.
      candidate: Its design.
      seed: Number of the run among those of the design, from 0.
      starts: How often it has been begun, with this time, since it last closed an epoch
        or was saved.
      lock: That nobody else works on it.
    """

    number: int
    trial_id: int
    candidate: Candidate
    seed: int
    starts: int
    lock: KernelLock


class Journal(Trials):
    """The trials of a study, and claims of its workers on them.

    Args:
      study: Whose.
      folder: Where; made if need be.
    """

    def __init__(self, study: Study, folder: pathlib.Path):
        super().__init__(study, folder)
        self._claims = folder / "claims"
        self._claims.mkdir(exist_ok=True)

    def claim(self) -> Job | None:
        """Claims the next run; returns None when the study is done.

        It waits while other workers may still give a run back.
        """
        while True:
            with self._turn:
                if job := self._next() or self._proposed():
                    return job
                running = any(not t.state.is_finished() for t in self.trials())
                if not running and not self._extend():
                    return None
            time.sleep(POLL_SECONDS)

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
        """Leaves a run, whose state is saved, to the next worker; but a closed one."""
        if not self.is_closed(job):
            self._set(job.trial_id, "starts", [0, 0])
            job.lock.release()

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

    def is_closed(self, job: Job) -> bool:
        """Tells whether it is written what became of a run."""
        return self._storage.get_trial(job.trial_id).state.is_finished()

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

    def _next(self) -> Job | None:
        """Returns a run whose worker is gone, or else the first one that waits."""
        trials = self._all()
        for state in (TrialState.RUNNING, TrialState.WAITING):
            for trial in trials:
                if trial.state == state and (job := self._taken(trial)):
                    return job
        return None

    def _proposed(self) -> Job | None:
        """Returns the first run of a design that the sampler proposes."""
        trial = self._propose()
        return trial and self._taken(trial)

    def _taken(self, trial: FrozenTrial) -> Job | None:
        """Claims a run that nobody works on, if it can be done."""
        lock = self._lock(trial.number)
        if lock is None:
            return None
        # Its worker may have closed it by now.
        trial = self._storage.get_trial(trial._trial_id)
        if not trial.state.is_finished() and "candidate" not in trial.user_attrs:
            self._optuna.tell(trial.number, state=TrialState.FAIL)  # died in the making
            lock.release()
            return None
        if trial.state.is_finished():
            lock.release()
            return None
        if trial.state == TrialState.WAITING:
            self._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
        starts = _starts(trial) + 1
        self._set(trial._trial_id, "starts", [starts, len(trial.intermediate_values)])
        job = Job(
            number=trial.number,
            trial_id=trial._trial_id,
            candidate=self._candidate(trial),
            seed=trial.user_attrs["seed"],
            starts=starts,
            lock=lock,
        )
        if starts <= MOST_STARTS:
            return job
        self.fail(
            job,
            f"its process died {MOST_STARTS} times; see logs/, and try it again with "
            "--retry_failed, with fewer --workers if memory is short",
        )
        return None

    def _lock(self, number: int) -> KernelLock | None:
        lock = KernelLock(self._claims / str(number))
        return lock if lock.acquire(wait=False) else None


def _starts(trial: FrozenTrial) -> int:
    """Returns how often a run was begun since it closed an epoch, or was saved."""
    starts, epochs = trial.user_attrs.get("starts", (0, 0))
    return starts if epochs == len(trial.intermediate_values) else 0

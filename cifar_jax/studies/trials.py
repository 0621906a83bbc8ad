"""What is known of the runs of a study, and which runs there are to be.

Every run is a trial in an Optuna journal, a file that only grows, so that Optuna's
own tools can read it.
"""

import pathlib
import warnings
from collections.abc import Iterable
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from cifar_jax.studies import designs, samplers
from cifar_jax.studies.designs import Candidate
from cifar_jax.studies.locks import KernelLock, mend
from cifar_jax.studies.study import OBJECTIVES, Study

_MOST_PROPOSALS = 200  # in a row that are over the budget or known already


class Trials:
    """The trials of a study.

    What changes which runs there are, in its name or by its effect, is for one worker
    at a time.

    Args:
      study: Whose.
      folder: Where; made if need be.
    """

    def __init__(self, study: Study, folder: pathlib.Path):
        self.folder = folder
        self._study = study
        self._known = {each.name: each for each in study.candidates}
        folder.mkdir(parents=True, exist_ok=True)
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
                    reduction=study.reduction_factor,
                ),
                load_if_exists=True,
            )
            seeds = range(1 if study.staged else study.seeds)
            self._enqueue((each, seeds) for each in study.candidates)

    def trials(self) -> list[FrozenTrial]:
        """Returns the newest trial of each run, in the order of their first ones."""
        newest = {}
        for trial in self._all():
            if "candidate" in trial.user_attrs:
                newest[key(trial)] = trial
        return list(newest.values())

    def candidates(self) -> list[Candidate]:
        """Returns the designs that there are so far."""
        found = {each.name: each for each in self._study.candidates}
        for trial in self.trials():
            found.setdefault(trial.user_attrs["candidate"], self._candidate(trial))
        return list(found.values())

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
                self._add(trial.user_attrs["factors"], *key(trial))
        return len(failed)

    def note_test(self, name: str, seed: int, accuracy: float) -> None:
        """Notes the test accuracy of a run, by its design's name and its number."""
        self._optuna.set_user_attr(f"test {name} {seed}", [name, seed, accuracy])

    def tested(self) -> dict[tuple[str, int], float]:
        """Returns the test accuracies of runs, by design and number."""
        noted = self._optuna.user_attrs.items()
        found = [value for name, value in noted if name.startswith("test ")]
        return {(name, seed): accuracy for name, seed, accuracy in found}

    def _all(self) -> list[FrozenTrial]:
        return self._optuna.get_trials(deepcopy=False)

    def _set(self, trial_id: int, name: str, value: Any) -> None:
        self._storage.set_trial_user_attr(trial_id, name, value)

    def _candidate(self, trial: FrozenTrial) -> Candidate:
        """Returns the design of a run."""
        name = trial.user_attrs["candidate"]
        if name not in self._known:
            self._known[name] = designs.candidate(
                self._study.rules, trial.user_attrs["factors"], name
            )
        return self._known[name]

    def _first_runs(self) -> list[FrozenTrial]:
        """Returns the first run of each design."""
        return [trial for trial in self.trials() if trial.user_attrs["seed"] == 0]

    def _propose(self) -> FrozenTrial | None:
        """Returns the first run of a design that the sampler proposes."""
        if not self._study.samples:
            return None
        for _ in range(_MOST_PROPOSALS):
            sampled = self._first_runs()
            if len(sampled) >= self._study.trials:
                return None
            seed = (self._study.sampler_seed * 1_000_003 + len(self._all())) % 2**32
            self._optuna.sampler = samplers.make_sampler(self._study.sampler, seed)
            trial = self._optuna.ask(self._study.distributions)
            name = f"t{trial.number:04}"
            candidate = designs.candidate(self._study.rules, trial.params, name)
            known = [self._candidate(each) for each in sampled]
            if candidate.refusal is None and not designs.same(candidate, known):
                # The name last: it tells that the others are there.
                attrs = {"factors": trial.params, "seed": 0, "candidate": name}
                for attr, value in attrs.items():
                    self._set(trial._trial_id, attr, value)
                return self._storage.get_trial(trial._trial_id)
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

    def _enqueue(self, runs: Iterable[tuple[Candidate, range]]) -> bool:
        known, added = {key(trial) for trial in self.trials()}, False
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


def key(trial: FrozenTrial) -> tuple[str, int]:
    """Returns the name of a run's design, and the run's number."""
    return trial.user_attrs["candidate"], trial.user_attrs["seed"]

"""The record of a study: Optuna's journal, which only the driver writes.

Optuna's own tools can read it, with `JournalStorage(JournalFileBackend(path))`. A run
is a trial from its start; what a study knows of it is the attribute "run".
"""

import functools
import json
import pathlib
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.study import StudyDirection
from optuna.trial import Trial, TrialState

from cifar_jax import UserError
from cifar_jax._files import CheckedLines, OutputFolder
from cifar_jax.studies import designs
from cifar_jax.studies.study import OBJECTIVES, Study
from cifar_jax.studies.table import Key, Run

DESIGN = "design.json"  # factors of a sampled design, in the folder of its runs
_MOST_PROPOSALS = 200  # in a row that are over the budget or known already
_STATES = {
    TrialState.RUNNING: "waiting",  # its driver has ended: the run is resumed
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
_TRIAL_STATES = {state: trial_state for trial_state, state in _STATES.items()}
_SAMPLERS = {
    "tpe": functools.partial(optuna.samplers.TPESampler, multivariate=True),
    "nsga2": optuna.samplers.NSGAIISampler,
    "random": optuna.samplers.RandomSampler,
}


class _Backend(CheckedLines, BaseJournalBackend):
    """Optuna's journal file for a single writer, with checked lines."""

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        """Returns the records since the last call, from which Optuna continues."""
        del log_number_from
        unread, self.records = self.records, []
        return unread


class Journal:
    """The trials of a study in its folder; those of an earlier driver are resumed.

    Attributes:
      designs: Designs of the study that are known so far, by name.
    """

    def __init__(self, study: Study, folder: pathlib.Path, name: str = "journal.log"):
        options, objectives = study.options, study.options.objectives
        least, factor = options.min_epochs, options.reduction_factor
        self._study, self._folder = study, folder / "runs"
        self.designs = {design.name: design for design in study.candidates}
        self._trials: dict[Key, Trial] = {}  # of runs that have not ended
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            storage = JournalStorage(_Backend(folder / name))
        except ValueError as error:
            raise UserError(
                f"{folder / name} is damaged ({error}); results of finished runs are "
                "safe in runs/, but which runs were pruned or have failed, and what a "
                f"sampler has learned, is lost; to continue, move {name} away"
            ) from error
        if not optuna.get_all_study_names(storage):
            goals = [StudyDirection(1 + OBJECTIVES[name]) for name in objectives]
            optuna.create_study(study_name="study", storage=storage, directions=goals)
        epochs = study.rules.base.train.epochs
        pruners = {
            "none": optuna.pruners.NopPruner(),
            "halving": optuna.pruners.SuccessiveHalvingPruner(least, factor),
            "hyperband": optuna.pruners.HyperbandPruner(least, epochs, factor),
        }
        self._optuna = optuna.load_study(
            study_name="study", storage=storage, pruner=pruners[options.pruner]
        )
        known = {run.candidate.name for run in self.runs()}
        for path in sorted(self._folder.glob(f"*/{DESIGN}")):
            if path.parent.name not in known:  # the journal was lost: proposed again
                self._optuna.enqueue_trial(
                    json.loads(path.read_text()),
                    user_attrs={"design": path.parent.name},
                    skip_if_exists=True,
                )

    def runs(self) -> list[Run]:
        """Returns the newest trial of each run, in the order of their first ones."""
        newest = {}
        for trial in self._optuna.get_trials(deepcopy=False):
            if record := trial.user_attrs.get("run"):
                newest[record["name"], record["seed"]] = trial, record
            elif trial.state == TrialState.RUNNING:  # its driver was killed just then
                self._optuna.tell(trial.number, state=TrialState.FAIL)
        runs = []
        for (name, seed), (trial, record) in newest.items():
            if name not in self.designs:
                rules, factors = self._study.rules, record["factors"]
                self.designs[name] = designs.candidate(rules, factors, name)
            values = trial.intermediate_values or record["values"]
            values = {int(epoch): value for epoch, value in values.items()}
            state, figures = _STATES[trial.state], record["figures"]
            design = self.designs[name]
            run = Run(design, seed, state, values, figures, record["error"])
            if not run.has_ended:  # its trial stays open
                self._trials[run.key] = Trial(self._optuna, trial._trial_id)
            runs.append(run)
        return runs

    def begin(self, run: Run) -> None:
        """Opens the trial of a run, unless one is open."""
        if run.key not in self._trials:
            distributions = self._study.distributions
            if distributions:  # a sampled design that is tried again
                self._optuna.enqueue_trial(run.candidate.factors)
            self._trials[run.key] = self._optuna.ask(distributions)
            self._note(run)

    def report(self, run: Run, epoch: int) -> bool:
        """Records the validation of an epoch; returns whether the run should be pruned.

        To be called once for each epoch, in order: pruners count the calls.
        """
        if self._study.options.pruner == "none" or run.seed:
            return False
        trial = self._trials[run.key]
        trial.report(run.values[epoch], epoch)
        is_open = epoch < run.candidate.config.train.epochs and not run.figures
        return is_open and trial.should_prune()

    def close(self, run: Run) -> None:
        """Records how a run has ended."""
        self._note(run)
        names = self._study.options.objectives if run.state == "done" else ()
        values = [run.figures[name] for name in names] or None
        self._optuna.tell(self._trials.pop(run.key), values, _TRIAL_STATES[run.state])

    def propose(self) -> Run | None:
        """Returns the first run of a new design that the sampler proposes, or None."""
        options = self._study.options
        for _ in range(_MOST_PROPOSALS):
            if not self._study.is_sampled or len(self.designs) >= options.trials:
                break
            # Each draw has a seed of its own, so that a resumed study draws what an
            # uninterrupted one would have drawn.
            number = len(self._optuna.get_trials(deepcopy=False))
            seed = (options.sampler_seed * 1_000_003 + number) % 2**32
            self._optuna.sampler = _SAMPLERS[options.sampler](seed=seed)
            trial = self._optuna.ask(self._study.distributions)
            while (name := f"t{number:04}") in self.designs:  # of a lost journal
                number += 1
            name = trial.user_attrs.get("design", name)
            design = designs.candidate(self._study.rules, trial.params, name)
            twins = (other.identity for other in self.designs.values())
            if not design.skip_reason and design.identity not in twins:
                run, self.designs[name] = Run(design, 0), design
                self._trials[run.key] = trial
                self._note(run)
                OutputFolder(self._folder / name).json(DESIGN, design.factors)
                return run
            trial.set_user_attr("error", design.skip_reason or "it has been tried")
            self._optuna.tell(trial, state=TrialState.FAIL)
        return None

    def _note(self, run: Run) -> None:
        """Writes what is known of a run to its trial."""
        record = {"name": run.candidate.name, "factors": run.candidate.factors}
        record |= {"seed": run.seed, "values": run.values, "figures": run.figures}
        self._trials[run.key].set_user_attr("run", record | {"error": run.error})

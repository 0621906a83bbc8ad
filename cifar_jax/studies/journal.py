"""The record of a study: Optuna's journal, which only the driver writes.

Optuna's own tools can read it, with `JournalStorage(JournalFileBackend(path))`. A run
becomes a trial when it has ended; but the first run of a design that may be pruned, or
that a sampler has proposed, is a trial from its start.
"""

import json
import os
import pathlib
import warnings
import zlib
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from cifar_jax import UserError
from cifar_jax._files import OutputFolder
from cifar_jax.studies import designs
from cifar_jax.studies.designs import Candidate
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


class CheckedFile(BaseJournalBackend):
    """Optuna's journal file for a single writer, with a checksum in each line.

    `crc` in a line depends on all lines before it, so that changed, missing and foreign
    lines are all noticed. Optuna itself ignores it, and dies of such lines.

    Raises:
      UserError: If a line is damaged, or was written by a version without checksums.
    """

    def __init__(self, path: pathlib.Path):
        self._path, self._crc = path, 0
        self._unread: list[dict[str, Any]] = []
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        if lines and not lines[-1].endswith(b"\n"):  # cut off by a kill or power cut
            os.truncate(path, sum(map(len, lines[:-1])))
            lines.pop()
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                crc = record.pop("crc", None)
                if crc != zlib.crc32(json.dumps(record).encode(), self._crc):
                    raise ValueError("wrong checksum" if crc else "no checksum")
            except (ValueError, AttributeError, TypeError) as error:
                raise UserError(
                    f"{path} is damaged (line {number} of {len(lines)}: {error}); "
                    "results of finished runs are safe in runs/, but which runs were "
                    "pruned or have failed, and what a sampler has learned, is lost; "
                    f"to continue, move {path.name} away and run the same command"
                ) from error
            self._crc = crc
            self._unread.append(record)

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        """Returns the records since the last call, from which Optuna continues."""
        del log_number_from
        records, self._unread = self._unread, []
        return records

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Appends records."""
        with self._path.open("a") as file:
            for log in logs:
                self._crc = zlib.crc32(json.dumps(log).encode(), self._crc)
                text = json.dumps({**log, "crc": self._crc}, separators=(",", ":"))
                file.write(text + "\n")
                # As Optuna reads them back: the keys of JSON are texts.
                self._unread.append(json.loads(text))


class Journal:
    """The trials of a study, in a file of its folder."""

    def __init__(self, study: Study, folder: pathlib.Path, name: str = "journal.log"):
        self._study, self._runs_folder = study, folder / "runs"
        self._known = {design.name: design for design in study.candidates}
        self._identities: set[str] = set()  # of sampled designs
        self._trials: dict[Key, Trial] = {}  # of runs that have not ended
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._storage = storage = JournalStorage(CheckedFile(folder / name))
        if not optuna.get_all_study_names(storage):
            optuna.create_study(
                study_name="study",
                storage=storage,
                directions=[
                    StudyDirection.MAXIMIZE
                    if OBJECTIVES[n]
                    else StudyDirection.MINIMIZE
                    for n in study.objectives
                ],
            )
        pruner = study.make_pruner()
        self._optuna = optuna.load_study(
            study_name="study", storage=storage, pruner=pruner
        )
        recorded = {run.candidate.name for run in self.runs()}
        for path in sorted(self._runs_folder.glob(f"*/{DESIGN}")):
            if path.parent.name not in recorded:  # the journal was lost
                factors = json.loads(path.read_text())
                self.close(Run(self._design(path.parent.name, factors), 0))

    def runs(self) -> list[Run]:
        """Returns the newest trial of each run, in the order of their first ones."""
        newest: dict[Key, FrozenTrial] = {}
        for trial in self._optuna.get_trials(deepcopy=False):
            attrs = trial.user_attrs
            if "candidate" in attrs:
                newest[attrs["candidate"], attrs["seed"]] = trial
            elif trial.state == TrialState.RUNNING:  # its driver was killed just then
                self._optuna.tell(trial.number, state=TrialState.FAIL)
        runs = []
        for (name, seed), trial in newest.items():
            attrs = trial.user_attrs
            values = trial.intermediate_values or attrs.get("values", {})
            run = Run(
                self._design(name, attrs["factors"]),
                seed,
                state=_STATES[trial.state],
                values={int(epoch): value for epoch, value in values.items()},
                figures=attrs.get("result", {}),
                error=attrs.get("error"),
            )
            if not run.has_ended:  # its trial stays open
                study_id = self._storage.get_study_id_from_name("study")
                find_id = self._storage.get_trial_id_from_study_id_trial_number
                trial_id = find_id(study_id, trial.number)
                self._trials[run.key] = Trial(self._optuna, trial_id)
            runs.append(run)
        return runs

    def begin(self, run: Run) -> None:
        """Opens the trial of a run that may be pruned: the first one of a design."""
        may_be_pruned = self._study.pruner != "none" and run.seed == 0
        if may_be_pruned and run.key not in self._trials:
            self._open(self._optuna.ask(), run)

    def report(self, run: Run, epoch: int) -> bool:
        """Records the validation of an epoch; returns whether the run should be pruned.

        To be called once for each epoch, in order: pruners count the calls.
        """
        trial = self._trials.get(run.key)
        if trial is None or self._study.pruner == "none":
            return False
        trial.report(run.values[epoch], epoch)
        return epoch < run.candidate.config.train.epochs and trial.should_prune()

    def close(self, run: Run) -> None:
        """Records how a run has ended, or a run of a lost journal as unfinished."""
        attrs, state, values = self._attrs(run), _TRIAL_STATES[run.state], None
        if run.state == "done":
            figures: Mapping[str, Any] = run.figures
            values = [figures[name] for name in self._study.objectives]
        if (trial := self._trials.pop(run.key, None)) is not None:
            for name, value in attrs.items():
                trial.set_user_attr(name, value)
            self._optuna.tell(trial, values, state)
            return
        fields: dict[str, Any] = {}
        if self._study.is_sampled and run.seed == 0:  # the sampler learns from it
            fields["params"] = run.candidate.factors
            fields["distributions"] = self._study.distributions
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._optuna.add_trial(
                optuna.create_trial(
                    state=state, values=values, user_attrs=attrs, **fields
                )
            )

    def propose(self) -> Run | None:
        """Returns the first run of a new design that the sampler proposes, or None."""
        for _ in range(_MOST_PROPOSALS):
            num_trials = len(self._optuna.get_trials(deepcopy=False))
            self._optuna.sampler = self._study.make_sampler(num_trials)
            trial = self._optuna.ask(self._study.distributions)
            number, num_identities = trial.number, len(self._identities)
            while (name := f"t{number:04}") in self._known:  # restored
                number += 1
            design = self._design(name, trial.params)
            if not design.skip_reason and len(self._identities) > num_identities:
                run = Run(design, 0)
                self._open(trial, run)
                OutputFolder(self._runs_folder / name).json(DESIGN, design.factors)
                return run
            del self._known[name]
            trial.set_user_attr("error", design.skip_reason or "it has been tried")
            self._optuna.tell(trial, state=TrialState.FAIL)
        return None

    def note_test(self, run: Run, accuracy: float) -> None:
        """Records the test accuracy of a run of the winner."""
        name, seed = run.key
        self._optuna.set_user_attr(f"test {name} {seed}", [name, seed, accuracy])

    def tested(self) -> dict[Key, float]:
        """Returns the test accuracies that were measured, by run."""
        values = self._optuna.user_attrs.values()
        return {(name, seed): accuracy for name, seed, accuracy in values}

    def _design(self, name: str, factors: dict[str, Any]) -> Candidate:
        if name not in self._known:
            design = designs.candidate(self._study.rules, factors, name)
            self._known[name] = design
            if not design.skip_reason:
                self._identities.add(designs.identity_of(design))
        return self._known[name]

    def _open(self, trial: Trial, run: Run) -> None:
        for name, value in self._attrs(run).items():
            trial.set_user_attr(name, value)
        self._trials[run.key] = trial

    def _attrs(self, run: Run) -> dict[str, Any]:
        """Returns what a trial says of a run, its name last: then all is said."""
        attrs: dict[str, Any] = {"factors": run.candidate.factors, "seed": run.seed}
        if run.state == "done":
            attrs["result"] = run.figures
        if run.error:
            attrs["error"] = run.error
        if run.values:
            attrs["values"] = run.values
        return attrs | {"candidate": run.candidate.name}

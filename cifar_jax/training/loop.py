"""The training loop: epochs, validation, checkpoints, and the test set at the end."""

import contextlib
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cifar_jax import UserError
from cifar_jax.config import config_to_dict
from cifar_jax.data.sources import Examples
from cifar_jax.training import distributed, lineage, policy, results, setup, tracking
from cifar_jax.training.calls import ALONE, Company, Compile, Train, Work, serve
from cifar_jax.training.checkpoint import NotFiniteError
from cifar_jax.training.due import Timer
from cifar_jax.training.engine import Engine, Feed, Interrupted, means
from cifar_jax.training.interrupt import Stopped, StopRequest, listen
from cifar_jax.training.methods import pruning
from cifar_jax.training.profiling import Profiler
from cifar_jax.training.progress import Progress
from cifar_jax.training.saver import Saver
from cifar_jax.training.state import Metrics
from cifar_jax.training.tracking import RunDirectory
from cifar_jax.training.watchdog import watch


def train_and_evaluate(
    config: ConfigDict,
    workdir: os.PathLike,
    *,
    devices: Sequence[jax.Device] | None = None,
    resume: str = "auto",
    profile: bool = False,
    on_epoch: Callable[[Mapping[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Trains a network, or goes on training it, and scores it on the test set once.

    Args:
      config: As `cifar_jax.config` has it.
      workdir: Run directory; what an earlier call left there is gone on with.
      devices: To run on; None: all, of all processes.
      resume: "auto"; "never" refuses a directory that holds a run, "must" one that
        does not.
      profile: Write a trace of a few steps into profile/ of the run directory.
      on_epoch: Called with `epoch`, `train` and `val` (`loss` and `accuracy`, or None)
        when an epoch is closed and what is due of it is saved. What it raises ends the
        call, and another call goes on from there.

    Returns:
      What result.json holds.

    Raises:
      UserError: If the config, the data or the run directory is no good, or training
        diverges.
      Stopped: After SIGINT or SIGTERM, or train.max_seconds, when all is saved.
    """
    start = time.perf_counter()
    with tracking.enter(workdir, config, resume) as run:
        result = run.result()
        if result is not None:
            distributed.say(f"{run.path} is done; nothing is left to do")
        else:
            with listen() as stop, watch(stop, config.train.watchdog_seconds):
                with distributed.together():
                    prepared = setup.make(config, devices, distributed.say)
                    prepared = lineage.with_teacher(config, prepared)
                if stop:
                    message = f"stopped by {stop.signal.name} before the first step"
                    raise Stopped(message, stop.exit_code)
                run.claim(config, results.dataset(prepared))
                profiler = (
                    Profiler(run.profile, prepared.steps_per_dispatch)
                    if profile and distributed.is_primary()
                    else None
                )
                engine = Engine(prepared, config.seed, profiler)
                trainer = Trainer(config, prepared, engine, run, stop, start)
                trainer.on_epoch = on_epoch
                result = serve(trainer.run(), engine)
        distributed.say(results.summary(result, run.path))
        return result


class Trainer:
    """One run of the loop.

    The position is the state's step and the number of epochs that are closed, that is
    validated and logged; both are saved, so a stop is possible anywhere.

    What the devices are to train it asks for: so several runs can share a call.

    Attributes:
      on_epoch: As `train_and_evaluate` has it.
    """

    on_epoch: Callable[[Mapping[str, Any]], None] | None = None

    def __init__(
        self,
        config: ConfigDict,
        prepared: setup.Setup,
        engine: Engine,
        run: RunDirectory,
        stop: StopRequest,
        start: float,
        company: Company = ALONE,
    ):
        self._config = config
        self._company = company
        self._setup = prepared
        self._run = run
        self._stop = stop
        self._start = start  # of this session; the clocks of others are in the facts
        self._limit = Timer(config.train.max_seconds, start)
        self._engine = engine
        self._state = engine.first_state()
        self._metrics = engine.empty_metrics()
        self._step = 0  # the state's, without asking the device
        self._facts = {
            "epoch": 0,  # epochs closed
            "best": None,  # epoch, and its validation's means
            "init": None,  # where the first weights came from
            "teacher": prepared.teacher and prepared.teacher.facts,
            "seconds": dict.fromkeys(("total", "compile", "train", "evaluate"), 0.0),
        }
        self._rates = np.asarray(
            jax.jit(jax.vmap(prepared.schedule))(np.arange(prepared.total_steps))
        )
        self._saver = Saver(run, config.checkpoint, distributed.say)
        with distributed.together():
            self._saver.check_space(self._tree(), self._state.best_variables)
        self._progress = Progress(
            num_epochs=prepared.num_epochs,
            total_steps=prepared.total_steps,
            batch_size=prepared.options.batch_size,
            name=company.name,
            display=company.display,
            quiet=not distributed.is_primary(),
        )

    def run(self) -> Work:
        """Runs what is left.

        Yields:
          What it asks the devices for, whose answer is to be sent back.

        Returns:
          What result.json holds.
        """
        with contextlib.ExitStack() as stack:
            stack.callback(self._saver.close)
            self._restore()
            stack.enter_context(self._progress)
            if not self._is_over():
                with self._clock("compile"):  # so that its time is known apart
                    yield Compile(self._state)
            while not self._is_over():
                yield from self._train_epoch(self._facts["epoch"])
                self._close_epoch(self._facts["epoch"])
            variables = self._best_variables()
            result = results.make(
                self._setup,
                config=config_to_dict(self._config),
                weights=pruning.sparsity(variables["params"]),
                init=self._facts.get("init"),
                scores=self._final_scores(variables),
                epochs=self._facts["epoch"],
                steps=self._step,
                best=self._facts["best"],
                seconds=self._seconds(),
                together=self._company.size,
            )
        self._run.write_result(result)  # when the checkpoints are on disk
        return result

    def _is_over(self, num_closed: int | None = None) -> bool:
        return policy.is_over(
            self._facts["epoch"] if num_closed is None else num_closed,
            self._facts["best"],
            num_epochs=self._setup.num_epochs,
            patience=self._config.train.patience,
        )

    def _restore(self) -> None:
        restored = self._saver.restore(self._tree(), self._engine.replicated)
        if restored is None:
            self._state, self._facts["init"] = lineage.start(
                self._config, self._setup, self._state
            )
        else:
            tree, self._facts = restored
            lineage.check_teacher(self._setup, self._facts.get("teacher"))
            self._state, self._metrics = tree["state"], tree["metrics"]
            self._step = self._facts.pop("step")
            self._progress.say(f"resuming at step {self._step:,}")
        self._run.rewind(self._facts["epoch"], self._step)

    def _tree(self) -> dict[str, Any]:
        return {"state": self._state, "metrics": self._metrics}

    def _train_epoch(self, epoch: int) -> Work:
        steps_per_epoch = self._setup.options.steps_per_epoch
        start, end = epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch
        if self._step == start and self._config.train.reload_best:
            self._state = self._state.replace(**self._best_variables())
        with self._engine.epoch(epoch, self._step - start) as feed:
            while self._step < end:
                self._stop_if_asked()
                yield from self._train_some(epoch, feed, end)
                if self._saver.is_due() and self._step < end:
                    self._save()

    def _train_some(self, epoch: int, feed: Feed, end: int) -> Work:
        """Trains for one call of the devices."""
        num_steps = self._engine.num_steps(self._step, end)
        start, before, step = self._company.clock(), self._metrics, self._step
        try:
            self._state, self._metrics = yield Train(
                self._state, before, feed, num_steps, step, step + num_steps == end
            )
        except Stopped as other:  # of the company
            self._save_and_stop(other.reason, other.exit_code)
        self._step += num_steps
        if step % self._setup.options.steps_per_epoch:
            # The call before this one: the device never waits to be watched.
            self._watch(epoch, step, before)
        if self._step == end:
            jax.block_until_ready(self._metrics)
        self._count(num_steps, self._company.clock() - start)

    def _count(self, num_steps: int, seconds: float) -> None:
        self._facts["seconds"]["train"] += seconds
        self._progress.count(num_steps, seconds)

    def _watch(self, epoch: int, step: int, metrics: Metrics) -> dict[str, float]:
        """Shows an epoch's metrics so far, and stops a run that has diverged."""
        values, rate = means(metrics), self._learning_rate(step)
        if not math.isfinite(values["loss"]):
            raise UserError(self._diverged(step, f"the loss is {values['loss']}"))
        self._progress.show(epoch + 1, step, values, rate)
        return values

    def _learning_rate(self, step: int) -> float:
        """Returns the rate of the last of these steps."""
        return float(self._rates[step - 1])

    def _diverged(self, step: int, what: str) -> str:
        saved = self._saver.newest_step()
        kept = f"the state of step {saved:,} is kept" if saved else "nothing saved"
        return (
            f"training diverged: {what} by step {step:,} at learning rate "
            f"{self._learning_rate(step):.3g} ({kept}); start again in another "
            "--workdir with a lower optim.learning_rate, or set optim.gradient_clip"
        )

    def _close_epoch(self, epoch: int) -> None:
        """Validates and logs an epoch, and saves it where that is due."""
        train = self._watch(epoch, self._step, self._metrics)
        evaluate = self._config.evaluate
        val, ends = None, epoch + 1 == self._setup.num_epochs
        if self._setup.val and (ends or (epoch + 1) % evaluate.every_epochs == 0):
            val = self._evaluate(self._setup.val, self._state.best_variables)
        is_best = (
            val is not None
            and self._step >= self._setup.ships_from
            and policy.is_better(
                evaluate.best_by, {"epoch": epoch + 1, **val}, self._facts["best"]
            )
        )
        if is_best:
            self._facts["best"] = {"epoch": epoch + 1, **val}
            self._save_best(self._facts["best"])
        last = self._is_over(epoch + 1)
        row = {"step": self._step, "epoch": epoch + 1}
        rate = self._learning_rate(self._step)
        speed = self._progress.images_per_second
        self._run.add_row(
            {**row, "split": "train", **train, "learning_rate": rate}
            | {"images_per_second": round(speed, 1)}
        )
        if val is not None:
            self._run.add_row({**row, "split": self._setup.val_split, **val})
        self._progress.end_epoch(epoch + 1, self._step, train, val, is_best)
        self._facts["epoch"] = epoch + 1
        self._metrics = self._engine.empty_metrics()
        if last and not self._setup.val:  # nothing to choose by: the last is shipped
            self._save_best({"epoch": epoch + 1})
        due = (epoch + 1) % self._config.checkpoint.every_epochs == 0
        # A state saved before its validation stays: closing the epoch can be repeated.
        if last or ((is_best or due) and not self._saver.has(self._step)):
            self._save()
        if self.on_epoch:
            self.on_epoch({"epoch": epoch + 1, "train": train, "val": val})

    def _evaluate(
        self, examples: Examples, variables: Any, augmentation: str = "none"
    ) -> dict[str, float]:
        with self._clock("evaluate"):
            try:
                return self._engine.evaluate(
                    examples,
                    variables,
                    batch_size=self._config.evaluate.batch_size,
                    stop=self._stop,
                    augmentation=augmentation,
                )
            except Interrupted:
                self._stop_if_asked()
                raise

    def _save(self) -> None:
        facts = {**self._facts, "step": self._step, "seconds": self._seconds()}
        with self._divergence():
            self._saver.save(self._tree(), facts)

    def _save_best(self, facts: dict[str, Any]) -> None:
        with self._divergence():
            self._saver.save_best(self._step, self._state.best_variables, facts)

    @contextlib.contextmanager
    def _divergence(self):
        """Explains weights that are not finite, which are never saved."""
        try:
            yield
        except NotFiniteError as error:
            raise UserError(self._diverged(self._step, str(error))) from error

    def _stop_if_asked(self) -> None:
        limit = self._config.train.max_seconds
        if self._stop:
            self._save_and_stop(self._stop.signal.name, self._stop.exit_code)
        if limit and self._limit.is_due():
            self._save_and_stop(f"train.max_seconds={limit:g}", 0)

    def _save_and_stop(self, reason: str, exit_code: int) -> None:
        self._save()
        raise Stopped(
            f"stopped by {reason} at step {self._step:,}, all saved in "
            f"{self._run.path}; the same command goes on from there",
            exit_code,
            reason,
        )

    def _final_scores(self, variables: dict[str, Any]) -> dict[str, Any]:
        """Scores the best variables, by validation, on the test set, if that is asked.

        Test-time augmentation has scores of its own, on the validation images too.
        """
        options, scores, shown = self._config.evaluate, {"test": None}, {}
        if self._setup.val and self._setup.val_split == "val":
            shown["val_tta"] = self._setup.val
        if options.test:
            test = self._setup.source.read(self._config.data.test_split)
            shown["test_tta"] = test
            scores["test"] = self._score(test, variables)
        if options.tta != "none":
            for name, examples in shown.items():
                scores[name] = self._score(examples, variables, options.tta)
        return scores

    def _score(self, examples: Examples, variables, augmentation="none"):
        means = self._evaluate(examples, variables, augmentation)
        return {**means, "num_examples": len(examples)}

    def _best_variables(self) -> dict[str, Any]:
        """Returns the variables of the best epoch; before there is one, the state's."""
        variables, best = self._state.best_variables, self._facts["best"]
        if best is None:
            return variables
        return self._saver.restore_best(
            variables, self._engine.replicated, best["epoch"]
        )

    @contextlib.contextmanager
    def _clock(self, name: str):
        """Adds the block's time to one of the run's clocks."""
        start = self._company.clock()
        try:
            yield
        finally:
            self._facts["seconds"][name] += self._company.clock() - start

    def _seconds(self) -> dict[str, float]:
        """Returns the clocks of all sessions of the run, up to now."""
        seconds = self._facts["seconds"]
        total = seconds["total"] + time.perf_counter() - self._start
        return {**seconds, "total": total}

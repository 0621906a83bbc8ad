"""The training loop: epochs, validation, checkpoints, and the test set at the end."""

import contextlib
import json
import math
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, cast

import jax
import numpy as np
from ml_collections import ConfigDict

from cifar_jax import Stopped, UserError
from cifar_jax.config import config_diff, config_to_dict
from cifar_jax.data.sources import Examples, Source
from cifar_jax.training import distributed, interrupt, pretrained, results, setup
from cifar_jax.training import workdir as workdir_lib
from cifar_jax.training.checkpoint import Checkpointer, NotFiniteError, digest
from cifar_jax.training.feed import Feed, evaluation_call, lower
from cifar_jax.training.interrupt import StopRequest
from cifar_jax.training.methods import pruning
from cifar_jax.training.progress import Profiler, Progress
from cifar_jax.training.results import Best, Result, RunMetadata, Scores, Seconds
from cifar_jax.training.state import Metrics, means, split_key
from cifar_jax.training.workdir import RunDirectory

OnEpoch = Callable[[Mapping[str, Any]], None]


def train_and_evaluate(
    config: ConfigDict,
    workdir: os.PathLike | str,
    *,
    devices: Sequence[jax.Device] | None = None,
    source: Source | None = None,
    resume: str = "auto",
    profile: bool = False,
    on_epoch: OnEpoch | None = None,
    start: float | None = None,
) -> Result:
    """Trains a network, or resumes training, and scores it on the test set once.

    Args:
      config: Config of the run, as `cifar_jax.config` documents it.
      workdir: Run directory. An unfinished run in it is resumed.
      devices: Devices to run on; None: all, of all processes.
      source: Data set to use in place of the config's, or None.
      resume: "auto"; "never" refuses a directory with a run, "must" one without.
      profile: Whether to trace a few steps into profile/ of the run directory.
      on_epoch: Called with `epoch`, `train` and `val` (`loss` and `accuracy`, or None)
        when an epoch is closed. An exception that it raises ends the call; another
        call resumes from the newest state.
      start: Time of `time.perf_counter` from which the run's total is counted; None:
        that of the call.

    Returns:
      The contents of result.json.

    Raises:
      UserError: If the config, the data or the run directory is unusable, or training
        diverges.
      Stopped: After SIGINT, SIGTERM, SIGHUP or train.max_seconds, when all is saved.
    """
    start = time.perf_counter() if start is None else start
    with workdir_lib.enter(workdir, config, resume) as run:
        result = run.result()
        if result is None:
            with _trainer(config, run, devices, source, profile, start) as trainer:
                while not trainer.is_over():
                    trainer.train_epoch()
                    closed = trainer.close_epoch()
                    if on_epoch:
                        on_epoch(closed)
                result = trainer.finish()
            run.write_result(result)  # when all checkpoints are on disk
        else:
            distributed.log(f"{run.path} is done; nothing is left to do")
        distributed.log(results.summary(result, run.path))
        return result


@contextlib.contextmanager
def _trainer(
    config: ConfigDict,
    run: RunDirectory,
    devices: Sequence[jax.Device] | None,
    source: Source | None,
    profile: bool,
    start: float,
) -> Iterator["Trainer"]:
    """Yields a trainer that is ready to train; waits for its checkpoints at the end."""
    with interrupt.listen() as stop:
        with distributed.all_or_none():
            prepared = setup.make(config, devices, distributed.log, source)
            prepared = pretrained.with_teacher(config, prepared)
        _check_alike(config, prepared)
        if stop.poll() and stop.signal:
            message = f"stopped by {stop.signal.name} before the first step"
            raise Stopped(message, stop.exit_code)
        data, options = prepared.source, prepared.options
        run.claim(config, results.describe(data.name, data, options.mean, options.std))
        profiler = None
        if profile and distributed.is_primary():
            profiler = Profiler(run.profile, prepared.steps_per_dispatch)
        trainer = Trainer(config, prepared, run, stop, profiler, start)
        watchdog = interrupt.watchdog(stop, config.train.watchdog_seconds)
        with contextlib.closing(trainer), watchdog:
            trainer.restore()
            with trainer.progress.live:
                trainer.compile()
                try:
                    yield trainer
                except NotFiniteError as error:  # such weights are never saved
                    raise trainer.divergence(str(error)) from error


# What each process of a run may have for itself: no collective depends on it.
_OWN_KEYS = ("data.dir", "data.placement", "data.source", "train.watchdog_seconds")


def _check_alike(config: ConfigDict, prepared: setup.Setup) -> None:
    """A collective: refuses to train where the processes would differ unnoticed."""
    if jax.process_count() == 1:
        return
    stem = prepared.stem_kernel
    facts = {
        "config": config_to_dict(config),
        "versions": {**results.environment(prepared.mesh)["versions"], "python": ""},
        "training images": zlib.crc32(prepared.train.images.tobytes()),
        "training labels": zlib.crc32(prepared.train.labels.tobytes()),
        "data.placement": prepared.placement,
        "teacher": prepared.teacher and prepared.teacher.source["digest"],
        "stem": stem is not None and zlib.crc32(stem.tobytes()),
    }
    first = json.loads(distributed.exchange(json.dumps(facts))[0])
    with distributed.all_or_none():
        changes = config_diff(first.pop("config"), facts.pop("config"), _OWN_KEYS)
        changes |= {
            name: f"{name}: {first[name]} there, {value} here"
            for name, value in facts.items()
            if value != first[name]
        }
        if changes:
            raise UserError(
                f"it differs from process 0 ({'; '.join(changes.values())}); start all "
                "with the same command, versions and data"
            )


class Trainer:
    """One run of the loop.

    The position is the state's step and the number of closed epochs, those that are
    validated and logged. Both are saved, so a stop is possible anywhere.

    Args:
      config: Config of the run.
      prepared: The run before its first step.
      run: Run directory.
      stop: Polled before each call of the devices.
      profiler: Called before each training call, or None.
      start: Time of `time.perf_counter` at which the session began.

    Attributes:
      checkpoints: Saver of states and best weights.
      progress: Progress display.
    """

    def __init__(
        self,
        config: ConfigDict,
        prepared: setup.Setup,
        run: RunDirectory,
        stop: StopRequest,
        profiler: Profiler | None,
        start: float,
    ):
        options, teacher = prepared.options, prepared.teacher
        self._config, self._setup, self._run = config, prepared, run
        self._stop, self._profiler, self._start = stop, profiler, start
        self._time_limit = interrupt.Timer(config.train.max_seconds, start)
        self._replicated = distributed.replicated(prepared.mesh)
        self._empty_metrics = jax.jit(Metrics.empty, out_shardings=self._replicated)
        key = jax.random.key(config.seed)
        self._key, init_key, _, order_key = jax.jit(
            lambda: (key, *split_key(key)), out_shardings=self._replicated
        )()
        # What the devices hold. `_step` is the state's, known without asking them.
        self._state = setup.jit_create_state(prepared)(init_key)
        self._step, self._metrics = 0, self._empty_metrics()
        # The teacher is an argument of the call: a constant would be compiled into it.
        self._teacher = teacher.variables if teacher else None
        self._feed = Feed(prepared, order_key)
        self._programs: dict[setup.Call, Future] = {}
        self._compiler = ThreadPoolExecutor(1, "compile")
        self._evaluate_batch = evaluation_call(prepared)
        rates = jax.jit(jax.vmap(prepared.schedule))(np.arange(options.total_steps))
        self._learning_rates = np.asarray(rates)
        self._metadata: RunMetadata = {
            "step": 0,
            "epoch": 0,
            "best": None,
            "init": None,
            "teacher": teacher.source if teacher else None,
            "seconds": {"total": 0.0, "compile": 0.0, "train": 0.0, "evaluate": 0.0},
        }
        self.checkpoints = Checkpointer(run, config.checkpoint)
        with distributed.all_or_none():
            template = {"state": self._state, "metrics": self._metrics}
            self.checkpoints.check_space(template, self._state.eval_variables)
        self.progress = Progress(
            num_epochs=config.train.epochs,
            total_steps=options.total_steps,
            batch_size=options.batch_size,
        )

    def restore(self) -> None:
        """Resumes from the newest checkpoint, or starts with the weights asked for."""
        template = {"state": self._state, "metrics": self._metrics}
        restored = self.checkpoints.restore(template, self._replicated)
        if restored is None:
            self._state, self._metadata["init"] = pretrained.initialize(
                self._config, self._setup, self._state
            )
        else:
            tree, self._metadata = restored
            pretrained.check_teacher(self._setup, self._metadata.get("teacher"))
            self._state, self._metrics = tree["state"], tree["metrics"]
            self._step = self._metadata["step"]
            steps = self._setup.options.steps_per_epoch
            if not 0 <= self._step - self._metadata["epoch"] * steps <= steps:
                raise UserError(
                    f"{self._run.path} was trained in epochs of another length than "
                    f"{steps} steps; use as many images as before, or another --workdir"
                )
            self.progress.log(f"resuming at step {self._step:,}")
        self._run.rewind(self._metadata["epoch"], self._step)

    def is_over(self) -> bool:
        """Returns whether training is complete or should stop early."""
        epoch, best = self._metadata["epoch"], self._metadata["best"]
        train, every = self._config.train, self._config.evaluate.every_epochs
        is_stale = best is not None and 0 < train.patience <= epoch - best["epoch"]
        # Only a validation can say so.
        return (is_stale and epoch % every == 0) or epoch == train.epochs

    def compile(self) -> None:
        """Compiles the first call; a thread compiles the others while that one runs."""
        total_steps = self._setup.options.total_steps
        calls = dict.fromkeys(self._setup.calls(self._step, total_steps))
        if self.is_over() or not calls:  # a validation may be left
            return
        if not distributed.is_on_cpu(self._setup.options.split):
            distributed.log("compiling, which takes a minute or two the first time")
        for call in calls:
            self._programs[call] = self._compiler.submit(
                lambda call: lower(self._setup, call).compile(), call
            )
        self._program(next(iter(calls)))

    def close(self) -> None:
        """Waits for the checkpoints, and for a program that is being compiled."""
        with contextlib.closing(self.checkpoints):
            if self._profiler:
                self._profiler.close()
            self._compiler.shutdown(cancel_futures=True)

    def train_epoch(self) -> None:
        """Trains the rest of the current epoch.

        Each call of the devices is dispatched before the metrics of the one before it
        are fetched, so the devices never wait for this loop.
        """
        epoch, time_limit = self._metadata["epoch"], self._config.train.max_seconds
        steps_per_epoch = self._setup.options.steps_per_epoch
        position = self._step - epoch * steps_per_epoch
        if position == 0 and self._config.train.reload_best:  # as report 001 does
            self._state = self._state.replace(**self._best_variables())
        with self._feed.epoch(epoch, position) as calls:
            counted, start = self._step, time.perf_counter()
            for call, data in calls:
                if self._stop.poll() or (time_limit and self._time_limit.poll()):
                    jax.block_until_ready(self._metrics)
                    seconds = time.perf_counter() - start
                    self._metadata["seconds"]["train"] += seconds
                    self._save_and_stop()
                before = time.perf_counter()
                train = self._program(call)  # `steps.train`, once or several times
                start += time.perf_counter() - before  # it has a clock of its own
                previous, step = self._metrics, self._step
                if self._profiler:
                    self._profiler.before_call(previous)
                self._state, self._metrics = train(
                    self._state, previous, data, self._key, self._teacher
                )
                self._step += call.num_steps
                is_end = self._step % steps_per_epoch == 0
                # Do not change the order: all processes must poll equally often.
                is_due = self.checkpoints.timer.poll() and not is_end
                done = self._step if is_end or is_due else step
                jax.block_until_ready(self._metrics if done > step else previous)
                now = time.perf_counter()
                self._metadata["seconds"]["train"] += now - start
                self.progress.count(done - counted, now - start)
                counted, start = done, now
                if step % steps_per_epoch:
                    self._show(previous, step)
                if is_due:
                    self._save()
                    start = time.perf_counter()  # this is not training

    def close_epoch(self) -> dict[str, Any]:
        """Validates and logs the epoch, saves it where that is due; returns its row."""
        epoch, evaluate = self._metadata["epoch"] + 1, self._config.evaluate
        train = self._show(self._metrics, self._step)
        val, is_last = None, epoch == self._config.train.epochs
        if self._setup.val and (is_last or epoch % evaluate.every_epochs == 0):
            val = self._evaluate(self._setup.val, self._state.eval_variables)
        # Do not change the order: best weights or metrics without a state are a sign of
        # a run that has lost its states, so the first state is saved before them.
        if self.checkpoints.saved_step is None:
            self._save()
        is_best = self._select(epoch, val)
        row = {"step": self._step, "epoch": epoch}
        speed = {
            "learning_rate": float(self._learning_rates[self._step - 1]),
            "images_per_second": round(self.progress.images_per_second, 1),
        }
        self._run.add_row({**row, "split": "train", **train, **speed})
        if val is not None:
            self._run.add_row({**row, "split": evaluate.select_on, **val})
        self.progress.end_epoch(epoch, self._step, train, val, is_best)
        self._metadata["epoch"] = epoch
        self._metrics = self._empty_metrics()
        last = self.is_over()
        if last and not self._setup.val:  # nothing to select by: the last is kept
            best: Best = {"epoch": epoch}
            self.checkpoints.best.save(self._step, self._state.eval_variables, best)
        # Polled in any case: all processes must poll equally often.
        due = self.checkpoints.timer.poll()
        due |= epoch % self._config.checkpoint.every_epochs == 0
        # A state saved before its validation stays: closing the epoch can be repeated.
        if last or ((is_best or due) and self.checkpoints.saved_step != self._step):
            self._save()
        return {"epoch": epoch, "train": train, "val": val}

    def finish(self) -> Result:
        """Scores the selected weights and returns the contents of result.json."""
        variables = self._best_variables()
        best = self._metadata["best"]
        if best and not math.isfinite(loss := best.get("loss", 0.0)):
            raise self.divergence(f"the loss of the best validation is {loss}")
        scores = self._final_scores(variables)  # before the clocks are read
        seconds = self._seconds()
        images = self._step * self._setup.options.batch_size
        result = {
            "config": config_to_dict(self._config),
            "dataset": self._setup.source.name,
            "num_parameters": self._setup.num_parameters,
            **pruning.sparsity(variables["params"]),
            "flops_per_image": self._setup.flops_per_image,
            "init": self._metadata.get("init"),
            "teacher": self._setup.teacher.source if self._setup.teacher else None,
            **scores,
            "best_epoch": best["epoch"] if best else self._metadata["epoch"],
            "best_digest": digest(jax.device_get(variables), {}),
            "epochs": self._metadata["epoch"],
            "steps": self._step,
            "seed": self._config.seed,
            "seconds": {k: round(cast(float, v), 2) for k, v in seconds.items()},
            "images_per_second": round(images / seconds["train"], 1),
            **results.environment(self._setup.mesh),
        }
        return cast("Result", result)

    def _program(self, call: setup.Call) -> Callable:
        """Returns the program of a call, which may have to be waited for."""
        with self._clock("compile"):
            return self._programs[call].result()

    def _show(self, metrics: Metrics, step: int) -> dict[str, float]:
        """Shows an epoch's metrics so far, and stops a run that has diverged."""
        values = means(metrics)
        if not math.isfinite(values["loss"]):
            raise self.divergence(f"the loss is {values['loss']}", step)
        rate = self._learning_rates[step - 1]
        self.progress.show(self._metadata["epoch"] + 1, step, values, rate)
        return values

    def divergence(self, what: str, step: int | None = None) -> UserError:
        """Returns the error of a run that has diverged by a step; None: this one."""
        saved, step = self.checkpoints.saved_step, step or self._step
        kept = f"the state of step {saved:,} is kept" if saved else "nothing saved"
        return UserError(
            f"training diverged: {what} by step {step:,} at learning rate "
            f"{self._learning_rates[step - 1]:.3g} ({kept}); start again in another "
            "--workdir with a lower optim.learning_rate, or set optim.gradient_clip"
        )

    def _select(self, epoch: int, val: Mapping[str, float] | None) -> bool:
        """Keeps the weights if the epoch is the best so far; returns whether it is."""
        plan = self._setup.options.pruning_plan
        if val is None or (plan and self._step < plan.stop):  # not all is pruned yet
            return False
        candidate = cast("Best", {"epoch": epoch, **val})
        best = self._metadata["best"]
        rank = results.RANKS[self._config.evaluate.best_by]
        if best and not rank(candidate) > rank(best):
            return False
        self._metadata["best"] = candidate
        # The averages, if there are any.
        self.checkpoints.best.save(self._step, self._state.eval_variables, candidate)
        return True

    def _evaluate(
        self, examples: Examples, variables: Any, augmentation: str = "none"
    ) -> dict[str, float]:
        """Returns the means over all the examples, each counted once."""
        with self._clock("evaluate"):
            metrics = self._empty_metrics()
            batch_size = self._config.evaluate.batch_size
            for batch, mask in self._feed.every_example(examples, batch_size):
                if self._stop.poll():
                    break
                metrics = self._evaluate_batch(
                    metrics, variables, batch, mask, augmentation=augmentation
                )
            metrics = jax.device_get(metrics)
        if self._stop.signal:  # the state is whole, the evaluation is not
            self._save_and_stop()
        return means(metrics)

    def _final_scores(self, variables: dict[str, Any]) -> dict[str, Scores | None]:
        """Returns the validation, and scores the test set, if that is asked.

        Test-time augmentation has scores of its own, on the validation images too.
        """
        options, best = self._config.evaluate, self._metadata["best"]
        scores: dict[str, Scores | None] = {"val": None, "test": None}
        splits: dict[str, Examples] = {}

        def score(examples: Examples, augmentation: str = "none") -> Scores:
            values = self._evaluate(examples, variables, augmentation)
            return cast("Scores", {**values, "num_examples": len(examples)})

        if self._setup.val and options.select_on == "val":
            splits["val"] = self._setup.val
            if best:
                of_best = {key: best[key] for key in ("accuracy", "loss")}
                size = {"num_examples": len(self._setup.val)}
                scores["val"] = cast("Scores", of_best | size)
        if options.test:
            splits["test"] = self._setup.source.read(self._config.data.test_split)
            scores["test"] = score(splits["test"])
        if options.tta != "none":
            for name, examples in splits.items():
                scores[f"{name}_tta"] = score(examples, options.tta)
        return scores

    def _best_variables(self) -> dict[str, Any]:
        """Returns the weights of the best epoch; before there is one, the state's."""
        variables, best = self._state.eval_variables, self._metadata["best"]
        if best is None:
            return variables
        restored = self.checkpoints.best.restore(
            variables, self._replicated, epoch=best["epoch"]
        )
        if restored is None:
            raise UserError(
                f"{self._run.best} lacks the best weights, of epoch {best['epoch']}; "
                "restore the folder from a copy, or start in another --workdir"
            )
        return restored[0]

    def _save(self) -> None:
        """Saves the state at its position, with the clocks up to now."""
        metadata = {**self._metadata, "step": self._step, "seconds": self._seconds()}
        tree = {"state": self._state, "metrics": self._metrics}
        self.checkpoints.save(tree, cast("RunMetadata", metadata))

    def _save_and_stop(self) -> None:
        """Ends the call with the exit code of the signal, or 0 at the time limit."""
        self._save()
        limit = f"train.max_seconds={self._config.train.max_seconds:g}"
        reason = self._stop.signal.name if self._stop.signal else limit
        raise Stopped(
            f"stopped by {reason} at step {self._step:,}, all saved in "
            f"{self._run.path}; run the same command to resume",
            self._stop.exit_code,
        )

    @contextlib.contextmanager
    def _clock(self, name: Literal["compile", "evaluate"]) -> Iterator[None]:
        """Adds the block's time to one of the run's clocks."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._metadata["seconds"][name] += time.perf_counter() - start

    def _seconds(self) -> Seconds:
        """Returns the clocks of all sessions of the run, up to now."""
        seconds = self._metadata["seconds"]
        total = seconds["total"] + time.perf_counter() - self._start
        return cast("Seconds", {**seconds, "total": total})

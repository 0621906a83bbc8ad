"""The training loop: epochs, validation, checkpoints, and the test set at the end."""

import contextlib
import functools
import math
import os
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cifar_jax import UserError
from cifar_jax.data import batches
from cifar_jax.data.sources import Examples
from cifar_jax.training import environment, setup, sharding, steps
from cifar_jax.training.checkpoint import Checkpoints, NotFiniteError
from cifar_jax.training.interrupt import Stopped, StopRequest, listen
from cifar_jax.training.progress import Progress, clock_time
from cifar_jax.training.state import Metrics, create_state
from cifar_jax.training.tracking import RunDirectory, plain


def train_and_evaluate(
    config: ConfigDict,
    workdir: os.PathLike,
    *,
    devices: Sequence[jax.Device] | None = None,
) -> dict[str, Any]:
    """Trains a network, or goes on training it, and scores it on the test set once.

    Args:
      config: As `cifar_jax.config` has it.
      workdir: Run directory; what an earlier call left there is gone on with.
      devices: To run on; None: all.

    Returns:
      What result.json holds.

    Raises:
      UserError: If the config, the data or the run directory is no good, or training
        diverges.
      Stopped: After SIGINT or SIGTERM, when all is saved.
    """
    run = RunDirectory(workdir)
    with run.lock():
        run.check(config)
        result = run.result()
        if result is not None:
            print(f"{run.path} is done; nothing is left to do")
        else:
            with listen() as stop:
                prepared = setup.make(config, devices, print)
                run.claim(config)
                result = Trainer(config, prepared, run, stop).run()
        print(_summary(result, run.path))
        return result


class Trainer:
    """One run of the loop.

    The position is the state's step and the number of epochs that are closed, that is
    validated and logged; both are saved, so a stop is possible anywhere.
    """

    def __init__(
        self,
        config: ConfigDict,
        prepared: setup.Setup,
        run: RunDirectory,
        stop: StopRequest,
    ):
        self._config = config
        self._setup = prepared
        self._run = run
        self._stop = stop
        self._start = self._last_save = time.perf_counter()
        self._replicated = sharding.replicated(prepared.mesh)
        init_key, train_key, order_key = jax.random.split(
            jax.random.key(config.seed), 3
        )
        self._train_key = jax.device_put(train_key, self._replicated)
        self._order_key = jax.device_put(order_key, self._replicated)
        self._state = create_state(
            init_key,
            prepared.model,
            prepared.optimizer,
            image_shape=prepared.source.image_shape,
            average=config.train.ema_decay > 0,
            sharding=self._replicated,
            stem_kernel=prepared.stem_kernel,
        )
        self._rates = np.asarray(
            jax.jit(jax.vmap(prepared.schedule))(np.arange(prepared.total_steps))
        )
        self._metrics = self._empty_metrics()
        self._step = 0  # the state's, without asking the device
        self._saved = None  # position of the newest checkpoint
        self._facts = {
            "epoch": 0,  # epochs closed
            "best": None,  # epoch, and its validation's means
            "seconds": dict.fromkeys(("total", "compile", "train", "evaluate"), 0.0),
        }
        self._evaluate_step = jax.jit(
            functools.partial(
                steps.evaluate_step,
                apply_fn=prepared.model.apply,
                options=prepared.options,
            ),
            out_shardings=self._replicated,
        )
        self._latest = Checkpoints(run.checkpoints, keep=config.checkpoint.keep)
        self._best = Checkpoints(run.best, keep=1)
        self._progress = Progress(
            num_epochs=prepared.num_epochs,
            total_steps=prepared.total_steps,
            batch_size=prepared.options.batch_size,
        )

    def run(self) -> dict[str, Any]:
        """Runs what is left, and returns what result.json holds."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._best.close)
            stack.callback(self._latest.close)
            self._restore()
            stack.enter_context(self._progress)
            if self._facts["epoch"] < self._setup.num_epochs:
                self._compile()
            for epoch in range(self._facts["epoch"], self._setup.num_epochs):
                self._train_epoch(epoch)
                self._close_epoch(epoch)
            result = self._result(self._score_test())
        self._run.write_result(result)  # when the checkpoints are on disk
        return result

    def _restore(self) -> None:
        restored = self._latest.restore(self._tree(), self._replicated)
        if restored is not None:
            tree, self._facts = restored
            self._state, self._metrics = tree["state"], tree["metrics"]
            self._step = int(self._state.step)
            self._saved = self._step, self._facts["epoch"]
            self._progress.say(f"resuming at step {self._step:,}")
        self._best.delete_after(self._step)
        self._run.rewind(self._facts["epoch"], self._step)

    def _tree(self) -> dict[str, Any]:
        return {"state": self._state, "metrics": self._metrics}

    def _compile(self) -> None:
        """Compiles the training call, so that its time is known apart."""
        with self._clock("compile"):
            self._order = jax.jit(
                functools.partial(
                    batches.epoch_order, num_examples=len(self._setup.train)
                ),
                out_shardings=self._replicated,
            )
            self._data = self._on_device(self._setup.train)
            options = self._setup.options
            call = steps.make_train_call(options, self._setup.steps_per_dispatch)
            shardings = (self._replicated, self._replicated)
            jitted = jax.jit(call, out_shardings=shardings, donate_argnums=0)
            order = self._order(self._order_key, 0)
            self._train_call = jitted.lower(*self._arguments(order, 1)).compile()

    def _on_device(self, examples: Examples) -> tuple[jax.Array, jax.Array]:
        return jax.device_put((examples.images, examples.labels), self._replicated)

    def _empty_metrics(self) -> Metrics:
        return jax.device_put(Metrics.empty(), self._replicated)

    def _arguments(self, order: jax.Array, num_steps: int) -> tuple:
        varying = (self._state, self._metrics)
        return (*varying, *self._data, order, self._train_key, np.int32(num_steps))

    def _train_epoch(self, epoch: int) -> None:
        end = (epoch + 1) * self._setup.options.steps_per_epoch
        order = self._order(self._order_key, epoch)
        while self._step < end:
            self._stop_if_asked()
            num_steps = min(self._setup.steps_per_dispatch, end - self._step)
            start, before, step = time.perf_counter(), self._metrics, self._step
            self._state, self._metrics = self._train_call(
                *self._arguments(order, num_steps)
            )
            self._step += num_steps
            if step % self._setup.options.steps_per_epoch:
                # The call before this one: the device never waits to be watched.
                self._watch(epoch, step, before)
            if self._step == end:
                jax.block_until_ready(self._metrics)
            self._count(num_steps, time.perf_counter() - start)
            if self._is_due() and self._step < end:
                self._save()

    def _count(self, num_steps: int, seconds: float) -> None:
        self._facts["seconds"]["train"] += seconds
        self._progress.count(num_steps, seconds)

    def _watch(self, epoch: int, step: int, metrics: Metrics) -> dict[str, float]:
        """Shows an epoch's metrics so far, and stops a run that has diverged."""
        means, rate = _means(metrics), self._learning_rate(step)
        if not math.isfinite(means["loss"]):
            raise UserError(self._diverged(step, f"the loss is {means['loss']}"))
        self._progress.show(epoch + 1, step, means, rate)
        return means

    def _learning_rate(self, step: int) -> float:
        """Returns the rate of the last of these steps."""
        return float(self._rates[step - 1])

    def _diverged(self, step: int, what: str) -> str:
        saved = self._latest.steps()
        kept = f"the state of step {saved[-1]:,} is kept" if saved else "nothing saved"
        return (
            f"training diverged: {what} by step {step:,} at learning rate "
            f"{self._learning_rate(step):.3g} ({kept}); lower optim.learning_rate or "
            "set optim.gradient_clip"
        )

    def _close_epoch(self, epoch: int) -> None:
        """Validates and logs an epoch, and saves it where that is due."""
        train = self._watch(epoch, self._step, self._metrics)
        last, evaluate = epoch + 1 == self._setup.num_epochs, self._config.evaluate
        val = None
        if self._setup.val and (last or (epoch + 1) % evaluate.every_epochs == 0):
            val = self._evaluate(self._setup.val, self._state.best_variables)
        is_best = val is not None and self._is_best(val)
        if is_best:
            best = {"epoch": epoch + 1, **val}
            self._save_to(self._best, self._state.best_variables, best)
            self._facts["best"] = best
        row = {"step": self._step, "epoch": epoch + 1}
        rate = self._learning_rate(self._step)
        speed = self._progress.images_per_second
        self._run.add_row(
            {**row, "split": "train", **train, "learning_rate": rate}
            | {"images_per_second": round(speed, 1)}
        )
        if val is not None:
            self._run.add_row({**row, "split": "val", **val})
        self._progress.end_epoch(epoch + 1, self._step, train, val, is_best)
        self._facts["epoch"] = epoch + 1
        self._metrics = self._empty_metrics()
        if last or (epoch + 1) % self._config.checkpoint.every_epochs == 0:
            self._save()

    def _is_best(self, val: dict[str, float]) -> bool:
        """By accuracy; of equal ones by loss."""
        best = self._facts["best"]
        rank = (val["accuracy"], -val["loss"])
        return best is None or rank > (best["accuracy"], -best["loss"])

    def _evaluate(self, examples: Examples, variables: Any) -> dict[str, float]:
        """Returns the means over all the examples, each counted once."""
        with self._clock("evaluate"):
            metrics = self._empty_metrics()
            size = min(self._config.evaluate.batch_size, len(examples))
            for index, mask in batches.every_example(
                len(examples), self._round_up(size)
            ):
                self._stop_if_asked()
                metrics = self._evaluate_step(
                    metrics,
                    variables,
                    *jax.device_put(
                        (examples.images[index], examples.labels[index], mask),
                        self._setup.options.split,
                    ),
                )
            return _means(metrics)

    def _round_up(self, batch_size: int) -> int:
        """To a size that all devices share evenly; what is too much is masked."""
        return -(-batch_size // self._setup.mesh.size) * self._setup.mesh.size

    def _is_due(self) -> bool:
        since = time.perf_counter() - self._last_save
        return since >= self._config.checkpoint.every_seconds

    def _save(self) -> None:
        position = self._step, self._facts["epoch"]
        if position != self._saved:
            facts = {**self._facts, "seconds": self._seconds()}
            self._save_to(self._latest, self._tree(), facts)
        self._saved, self._last_save = position, time.perf_counter()

    def _save_to(self, checkpoints: Checkpoints, tree: Any, facts: dict) -> None:
        try:
            checkpoints.save(self._step, tree, facts)
        except NotFiniteError as error:
            raise UserError(self._diverged(self._step, str(error))) from error

    def _stop_if_asked(self) -> None:
        if self._stop:
            self._save()
            raise Stopped(
                f"stopped by {self._stop.signal.name} at step {self._step:,}, all saved "
                f"in {self._run.path}; the same command goes on from there",
                self._stop.exit_code,
            )

    def _score_test(self) -> dict[str, Any]:
        """Scores the best variables, by validation, on the test set."""
        variables = self._state.best_variables
        if self._setup.val:
            variables, _ = self._best.restore(variables, self._replicated)
        test = setup.load_test(self._config)
        return {**self._evaluate(test, variables), "num_examples": len(test)}

    @contextlib.contextmanager
    def _clock(self, name: str):
        """Adds the block's time to one of the run's clocks."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._facts["seconds"][name] += time.perf_counter() - start

    def _seconds(self) -> dict[str, float]:
        """Returns the clocks of all sessions of the run, up to now."""
        seconds = self._facts["seconds"]
        total = seconds["total"] + time.perf_counter() - self._start
        return {**seconds, "total": total}

    def _result(self, test: dict[str, Any]) -> dict[str, Any]:
        prepared, val = self._setup, None
        best = self._facts["best"]
        if best:
            means = {key: best[key] for key in ("accuracy", "loss")}
            val = {**means, "num_examples": len(prepared.val)}
        seconds = self._seconds()
        images = self._step * prepared.options.batch_size
        return {
            "config": plain(self._config),
            "dataset": prepared.source.name,
            "num_parameters": prepared.num_parameters,
            "flops_per_image": prepared.flops_per_image,
            "val": val,
            "test": test,
            "best_epoch": best["epoch"] if best else prepared.num_epochs,
            "epochs": prepared.num_epochs,
            "steps": self._step,
            "seed": self._config.seed,
            "seconds": {name: round(value, 2) for name, value in seconds.items()},
            "images_per_second": round(images / seconds["train"], 1),
            **environment.describe(prepared.mesh),
        }


def _means(metrics: Metrics) -> dict[str, float]:
    return {k: float(v) for k, v in jax.device_get(metrics).compute().items()}


def _summary(result: dict[str, Any], path: pathlib.Path) -> str:
    """Returns the last lines that a run prints."""
    test, val, seconds = result["test"], result["val"], result["seconds"]
    lines = [
        f"test accuracy {test['accuracy']:.4f}, loss {test['loss']:.4f} "
        f"({test['num_examples']:,} images, scored once)"
    ]
    if val:
        lines.append(
            f"validation accuracy {val['accuracy']:.4f}, loss {val['loss']:.4f} "
            f"(best of {result['epochs']} epochs: {result['best_epoch']})"
        )
    clocks = ", ".join(
        f"{name} {clock_time(seconds[name])}"
        for name in ("compile", "train", "evaluate")
    )
    lines.append(
        f"{clock_time(seconds['total'])} in all: {clocks}; "
        f"{result['images_per_second']:,.0f} images/s on {result['num_devices']} x "
        f"{result['device']}"
    )
    lines.append(f"{path}: result.json, metrics.jsonl, best/, checkpoints/, tb/")
    return "\n".join(lines)

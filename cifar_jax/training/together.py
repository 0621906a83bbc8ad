"""Several runs that are trained together, each with its own run directory."""

import contextlib
import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from cifar_jax import UserError
from cifar_jax.training import distributed, results, setup, tracking, variants
from cifar_jax.training.calls import Company
from cifar_jax.training.engine import Engine
from cifar_jax.training.interrupt import Stopped, StopRequest, listen
from cifar_jax.training.joined import Joined
from cifar_jax.training.loop import Trainer
from cifar_jax.training.progress import Display
from cifar_jax.training.tracking import RunDirectory
from cifar_jax.training.turns import Turns


def train_together(
    configs: Sequence[ConfigDict],
    workdirs: Sequence[os.PathLike],
    *,
    devices: Sequence[jax.Device] | None = None,
    resume: str = "auto",
    form: str | None = None,
) -> list[dict[str, Any] | UserError]:
    """Does for each config what `loop.train_and_evaluate` does, with shared calls.

    Each run directory is that of an ordinary run, which can be gone on with alone.

    Args:
      configs: They differ in `seed` and in `variants.SCALARS` alone.
      workdirs: A run directory for each.
      devices: To run on; None: all.
      resume: As in `loop.train_and_evaluate`.
      form: A key of `joined.FORMS`; None: the one for these devices.

    Returns:
      For each config what result.json holds, or the error that has ended its run; the
      others go on without it.

    Raises:
      UserError: If the configs differ in other keys, or what they share is no good.
      Stopped: After SIGINT or SIGTERM, or train.max_seconds, when all is saved.
    """
    start = time.perf_counter()
    if jax.process_count() > 1:
        raise UserError(
            f"runs train together in one process, not in {jax.process_count()}; start "
            "one, or train them one after another"
        )
    turns = Turns(variants.names(configs))
    with contextlib.ExitStack() as stack:
        runs = {}
        for number, (config, workdir) in enumerate(zip(configs, workdirs, strict=True)):
            with turns.noting(number):
                run = stack.enter_context(tracking.enter(workdir, config, resume))
                if (result := run.result()) is None:
                    runs[number] = run
                else:
                    turns.outcomes[number] = result
        if runs:
            stop = stack.enter_context(listen())
            prepared = setup.make(configs[min(runs)], devices, distributed.say)
            if stop:
                message = f"stopped by {stop.signal.name} before the first step"
                raise Stopped(message, stop.exit_code)
            _run(configs, prepared, runs, turns, stop, start, form)
    for number, (name, path) in enumerate(zip(turns.names, workdirs, strict=True)):
        if not isinstance(turns.outcomes[number], UserError):
            text = results.summary(turns.outcomes[number], pathlib.Path(path))
            distributed.say(f"{name}:\n{text}")
    return [turns.outcomes[number] for number in range(len(configs))]


def _run(
    configs: Sequence[ConfigDict],
    prepared: setup.Setup,
    runs: Mapping[int, RunDirectory],
    turns: Turns,
    stop: StopRequest,
    start: float,
    form: str | None,
) -> None:
    """Runs what is left of some of the runs, by their numbers."""
    engine = Engine(prepared, seed=0)  # any: it lends the others what they share
    engines = {number: engine.with_seed(configs[number].seed) for number in runs}
    with Display() as display:
        works = {}
        for number, run in runs.items():
            config, name, clock = configs[number], turns.names[number], turns.clock
            company = Company(len(runs), name, display, clock(number))
            with turns.noting(number):
                varied = variants.vary(prepared, config)
                run.claim(config, results.dataset(varied))
                trainer = Trainer(
                    config, varied, engines[number], run, stop, start, company
                )
                works[number] = trainer.run()
        values = variants.scalars(configs)
        turns.run(works, Joined(prepared, configs[0], engines, values, form))

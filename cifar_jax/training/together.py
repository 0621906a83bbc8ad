"""Several runs that are trained together, each with its own run directory."""

import contextlib
import functools
import itertools
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from cifar_jax import UserError
from cifar_jax.training import alike, distributed, results, setup, sharding, tracking
from cifar_jax.training.calls import Company
from cifar_jax.training.engine import Engine
from cifar_jax.training.interrupt import Stopped, StopRequest, listen
from cifar_jax.training.joined import Joined
from cifar_jax.training.lockstep import Lockstep
from cifar_jax.training.loop import Trainer
from cifar_jax.training.progress import Display
from cifar_jax.training.tracking import RunDirectory


def train_together(
    configs: Sequence[ConfigDict],
    workdirs: Sequence[os.PathLike],
    *,
    devices: Sequence[jax.Device] | None = None,
    resume: str = "auto",
    form: str | None = None,
    spread: bool = True,
    on_epoch: Callable[[int, Mapping[str, Any]], None] | None = None,
) -> list[dict[str, Any] | Exception]:
    """Does for each config what `loop.train_and_evaluate` does, with shared calls.

    Each run directory is that of an ordinary run, which can be gone on with alone.

    Args:
      configs: They differ in `seed` and in `alike.SCALARS` alone.
      workdirs: A run directory for each.
      devices: To run on; None: all.
      resume: As in `loop.train_and_evaluate`.
      form: One of `joined.FORMS`; None: the one for these devices.
      spread: Whether each run has one of the devices, which may serve several runs;
        else each run's batches are split over all devices.
      on_epoch: Called with the number of a run, from 0, and what the `on_epoch` of
        `loop.train_and_evaluate` is called with. If it raises `RunEnded`, that run
        ends, and another call goes on from there.

    Returns:
      For each config what result.json holds, or the error (a UserError, OSError or
      RunEnded) that has ended its run; the others go on without it.

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
    lockstep = Lockstep(alike.names(configs))
    with contextlib.ExitStack() as stack:
        runs = {}
        for number, (config, workdir) in enumerate(zip(configs, workdirs, strict=True)):
            with lockstep.noting(number):
                run = stack.enter_context(tracking.enter(workdir, config, resume))
                if (result := run.result()) is None:
                    runs[number] = run
                else:
                    lockstep.outcomes[number] = result
        if runs:
            stop = stack.enter_context(listen())
            prepared = setup.make(configs[min(runs)], devices, distributed.say)
            if stop:
                message = f"stopped by {stop.signal.name} before the first step"
                raise Stopped(message, stop.exit_code)
            setups = _places(prepared, runs, spread)
            _run(configs, setups, runs, lockstep, stop, start, form, on_epoch)
    for number, (name, path) in enumerate(zip(lockstep.names, workdirs, strict=True)):
        if not isinstance(lockstep.outcomes[number], Exception):
            text = results.summary(lockstep.outcomes[number], pathlib.Path(path))
            distributed.say(f"{name}:\n{text}")
    return [lockstep.outcomes[number] for number in range(len(configs))]


def _places(
    prepared: setup.Setup, runs: Iterable[int], spread: bool
) -> dict[int, setup.Setup]:
    """Returns the setup of each run, on its devices."""
    mesh = prepared.mesh
    meshes = [sharding.make_mesh([device]) for device in mesh.devices.flat]
    places = [alike.place(prepared, each) for each in (meshes if spread else [mesh])]
    return dict(zip(runs, itertools.cycle(places)))


def _run(
    configs: Sequence[ConfigDict],
    setups: Mapping[int, setup.Setup],
    runs: Mapping[int, RunDirectory],
    lockstep: Lockstep,
    stop: StopRequest,
    start: float,
    form: str | None,
    on_epoch: Callable[[int, Mapping[str, Any]], None] | None,
) -> None:
    """Runs what is left of some of the runs, by their numbers."""
    # One for each mesh: it lends what it shares.
    lenders = {each.mesh: Engine(each, seed=0) for each in setups.values()}
    engines = {
        number: lenders[each.mesh].with_seed(configs[number].seed)
        for number, each in setups.items()
    }
    with Display() as display:
        works = {}
        for number, run in runs.items():
            config, clock = configs[number], lockstep.clock(number)
            company = Company(len(runs), lockstep.names[number], display, clock)
            with lockstep.noting(number):
                varied = alike.vary(setups[number], config)
                run.claim(config, results.dataset(varied))
                trainer = Trainer(
                    config, varied, engines[number], run, stop, start, company
                )
                if on_epoch:
                    trainer.on_epoch = functools.partial(on_epoch, number)
                works[number] = trainer.run()
        values = alike.scalars(configs)
        lockstep.run(works, Joined(setups, engines, configs[0], values, form))

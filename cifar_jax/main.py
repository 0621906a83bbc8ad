"""Trains a network: python -m cifar_jax.main --config configs/resnet_4p9m.py.

Rerun the command to resume an interrupted run. Any key of the config can be
overridden: --config.optim.learning_rate=0.05.
"""

import pathlib

from cifar_jax import Stopped, _cli, _runtime
from cifar_jax import config as default


def define_flags(flags: _cli.Flags) -> None:
    """Defines the command's flags."""
    _cli.define_config(flags)
    flags.add_string("workdir", "run directory [runs/ and the config's name]")
    flags.add_enum(
        "resume",
        "a run in --workdir: resume it if there is one, refuse it, or insist on it",
        "auto",
        enum_values=["auto", "never", "must"],
    )
    flags.add_bool(
        "profile", "write a trace of a few steps into profile/ of the run directory"
    )
    flags.add_bool(
        "dry_run", "do it all in a few steps on made-up images, and leave nothing"
    )
    flags.add_string(
        "coordinator",
        "HOST:PORT of process 0 of several; TPU VMs and srun need no such flags",
    )
    flags.add_integer("num_processes", "how many processes")
    flags.add_integer("process_id", "which one this is, from 0")
    flags.add_integer(
        "heartbeat_seconds",
        "a process that is silent for this long is taken for dead, and the others end",
        100,
    )


def main(flags: _cli.Flags) -> int:
    """Trains, or resumes training, and prints where everything is."""
    config = flags.config
    default.check(config)
    workdir = pathlib.Path(flags.workdir or f"runs/{flags.config_name}")
    if not flags.process_id:  # the first one speaks for all
        print(f"{flags.config_path}: {config.data.name}, into {workdir}", flush=True)
    # slow to import: neither for --help nor for a mistake

    from cifar_jax.training import distributed, dry_run, loop

    _runtime.start(config.train.cpu_devices)
    try:
        if flags.dry_run:  # of each process for itself
            dry_run.dry_run(config)
            return 0
        distributed.initialize(
            flags.coordinator,
            flags.num_processes,
            flags.process_id,
            heartbeat_seconds=flags.heartbeat_seconds,
        )
        loop.train_and_evaluate(
            config,
            workdir,
            resume=flags.resume,
            profile=flags.profile,
            start=_cli.START,
        )
    except Stopped as stopped:
        distributed.log(
            "dry run stopped; its files are deleted" if flags.dry_run else stopped
        )
        return stopped.exit_code
    except Exception as error:
        distributed.exit_if_peer_died(error)
        raise
    return 0


if __name__ == "__main__":
    _cli.run()

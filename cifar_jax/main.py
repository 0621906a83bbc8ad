"""Trains a network: python -m cifar_jax.main --config configs/resnet_4p9m.py.

Typed again, an interrupted run goes on where it was. Any key of the config can be
overridden: --config.optim.learning_rate=0.05.
"""

import pathlib

from absl import flags

from cifar_jax import UserError, _cli, _runtime

_CONFIG = _cli.define_config()
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "run directory [runs/ and the config's name]"
)
_RESUME = flags.DEFINE_enum(
    "resume",
    "auto",
    ["auto", "never", "must"],
    "a run in --workdir: go on with it if there is one, refuse it, or insist on it",
)
_PROFILE = flags.DEFINE_bool(
    "profile", False, "write a trace of a few steps into profile/ of the run directory"
)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "do it all in a few steps on made-up images, and leave nothing"
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "HOST:PORT of process 0, if there are several; TPU VMs and srun need no such flags",
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "how many processes")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "which one this is, from 0")
_HEARTBEAT = flags.DEFINE_integer(
    "heartbeat_seconds",
    100,
    "a process that is silent for so long is taken for dead, and the others end",
)


def main() -> int:
    """Trains, or goes on training, and prints where everything is."""
    # slow to import: not for --help
    import jax

    from cifar_jax.training import (
        distributed,
        interrupt,
        loop,
        rehearsal,
    )

    name = _cli.config_name(flags.FLAGS["config"].config_filename)
    workdir = pathlib.Path(_WORKDIR.value or pathlib.Path("runs", name))
    _runtime.start(_CONFIG.value.train.cpu_devices)
    try:
        if _DRY_RUN.value:  # of each process for itself
            rehearsal.rehearse(_CONFIG.value)
            return 0
        distributed.initialize(
            _COORDINATOR.value,
            _NUM_PROCESSES.value,
            _PROCESS_ID.value,
            heartbeat_seconds=_HEARTBEAT.value,
        )
        loop.train_and_evaluate(
            _CONFIG.value, workdir, resume=_RESUME.value, profile=_PROFILE.value
        )
    except interrupt.Stopped as stopped:
        distributed.say(stopped)
        return stopped.exit_code
    except jax.errors.JaxRuntimeError as error:
        distributed.end_if_alone(error)
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"the device is out of memory (train.batch_size is "
            f"{_CONFIG.value.train.batch_size}); use a smaller batch in another "
            "--workdir"
        ) from error
    return 0


if __name__ == "__main__":
    _cli.run(main, __doc__)

"""Trains a network: python -m cifar_jax.main --config configs/resnet_4p9m.py.

Typed again, an interrupted run goes on where it was. Any key of the config can be
overridden: --config.optim.learning_rate=0.05.
"""

import pathlib

from absl import flags

from cifar_jax import UserError, _cli

_CONFIG = _cli.define_config()
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "run directory [runs/ and the config's name]"
)


def main() -> int:
    """Trains, or goes on training, and prints where everything is."""
    from cifar_jax.training import host_memory

    host_memory.keep_freed()  # before anything starts threads
    # slow to import: not for --help
    import jax

    from cifar_jax.training import interrupt, loop, sharding

    config_path = pathlib.Path(flags.FLAGS["config"].config_filename)
    workdir = pathlib.Path(_WORKDIR.value or pathlib.Path("runs", config_path.stem))
    sharding.divide_cpu(_CONFIG.value.train.cpu_devices)
    try:
        loop.train_and_evaluate(_CONFIG.value, workdir)
    except interrupt.Stopped as stopped:
        print(stopped)
        return stopped.exit_code
    except jax.errors.JaxRuntimeError as error:
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

"""The whole path of a run in a few steps, on made-up images: `--dry_run`."""

import pathlib
import tempfile
from collections.abc import Sequence

import jax
from ml_collections import ConfigDict

from cifar_jax.data import fake, sources
from cifar_jax.training import distributed, loop

NUM_STEPS = 2
NUM_TEST = 50
# The config's durations may be longer than this run.
_CONSTANT = {"name": "constant", "warmup": "0%", "momentum_range": None}


def rehearse(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> None:
    """Trains, validates, saves, resumes and tests; leaves nothing behind.

    The network, the batch and the recipe are the config's, but for the schedule, so
    that what does not fit into memory does not fit here either. The data set need not
    be on disk.

    Args:
      config: As `cifar_jax.config` has it.
      devices: To run on; None: all.

    Raises:
      UserError: As the run would.
    """
    source = sources.open(
        config.data.name, config.data.dir, image_size=config.data.image_size
    )
    with tempfile.TemporaryDirectory(prefix="cifar_jax-") as folder:
        data, workdir = pathlib.Path(folder, "data"), pathlib.Path(folder, "run")
        num_val = 2 * source.num_classes if config.data.validation else 0
        num_images = config.train.batch_size // max(config.train.repeats, 1)
        num_train = NUM_STEPS * num_images + num_val
        fake.write(source, data, num_train=num_train, num_test=NUM_TEST)
        short = shortened(config, data, num_val)
        first = loop.train_and_evaluate(short, workdir, devices=devices)
        (workdir / "result.json").unlink()  # as if it had been killed at the end
        again = loop.train_and_evaluate(short, workdir, devices=devices, resume="must")
        if first["test"] != again["test"]:
            raise RuntimeError(f"test {first['test']}, resumed {again['test']}")
    distributed.say(
        f"dry run: made {num_train:,} and {NUM_TEST} images of noise, trained "
        f"{NUM_STEPS} steps, validated, saved, resumed, and scored the test set twice "
        "with the same result; the files are deleted"
    )


def shortened(config: ConfigDict, data: pathlib.Path, num_val: int) -> ConfigDict:
    """Returns the config of an epoch on a data set that `fake.write` has written."""
    short = config.copy_and_resolve_references()
    short.data.update(
        name=fake.NAME,
        dir=str(data),
        source=None,
        image_size=None,
        train_split="train",
        test_split="test",
        validation=num_val,
    )
    short.schedule = ConfigDict({**short.schedule, **_CONSTANT})
    short.prune.update(start="0%", stop="50%")
    short.train.epochs = 1
    short.train.max_seconds = 0.0
    short.optim.sam_start = "1 steps"
    short.checkpoint.every_seconds = 0.0
    return short

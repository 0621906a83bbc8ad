"""The whole path of a run in a few steps, on synthetic images: `--dry_run`."""

import contextlib
import io
import os
import pathlib
import tempfile
from collections.abc import Sequence

import jax
import numpy as np
import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from cifar_jax.data import sources, tfds_store
from cifar_jax.data.builders import LabelledImages
from cifar_jax.training import distributed, loop, setup

DATASET = "fake"
NUM_STEPS = 2
NUM_MEASURED = 6  # steps whose time is measured
NUM_TEST = 50
# The config's durations may be longer than this run.
_CONSTANT = {"name": "constant", "warmup": "0%", "momentum_range": None}


def dry_run(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> None:
    """Trains, validates, saves, resumes and tests; leaves nothing behind.

    Network, batch and recipe are the config's, except for the schedule, so that what
    does not fit into memory does not fit here either. The data set need not be on disk.

    Args:
      config: Config of the run.
      devices: Devices to run on; None: all.
    """
    config = setup.for_chips(config)
    source = setup.open_source(config)
    with tempfile.TemporaryDirectory(prefix="cifar_jax-") as folder:
        data, workdir = pathlib.Path(folder, "data"), pathlib.Path(folder, "run")
        num_val = 2 * source.num_classes if config.data.validation else 0
        num_images = config.train.batch_size // max(config.train.repeats, 1)
        num_train = NUM_STEPS * num_images + num_val
        write_noise(source, data, num_train=num_train, num_test=NUM_TEST)
        short = shortened(config, data, num_val)
        first = loop.train_and_evaluate(short, workdir, devices=devices)
        (workdir / "result.json").unlink()  # as if it had been killed at the end
        again = loop.train_and_evaluate(short, workdir, devices=devices, resume="must")
        if first["test"] != again["test"]:
            raise RuntimeError(f"test {first['test']}, resumed {again['test']}")
    distributed.log(
        f"dry run: made {num_train:,} and {NUM_TEST} images of noise, trained "
        f"{NUM_STEPS} steps, validated, saved, resumed, and scored the test set twice "
        "with the same result; the files are deleted"
    )


def seconds(config: ConfigDict) -> float:
    """Returns the seconds of a run, from a few of its steps on synthetic images."""
    config = setup.for_chips(config)
    data = config.data
    source = sources.open(data.name, data.dir, image_size=data.image_size)
    num_val = 2 * source.num_classes
    num_train = NUM_MEASURED * config.train.batch_size + num_val
    with tempfile.TemporaryDirectory(prefix="cifar_jax-") as folder:
        path = pathlib.Path(folder, "data")
        write_noise(source, path, num_train=num_train, num_test=num_val)
        with contextlib.redirect_stdout(io.StringIO()):
            result = loop.train_and_evaluate(
                shortened(config, path, num_val), pathlib.Path(folder, "run")
            )
    num_images = config.train.epochs * len(source.open_split(data.train_split))
    return result["seconds"]["compile"] + num_images / result["images_per_second"]


def shortened(config: ConfigDict, data: pathlib.Path, num_val: int) -> ConfigDict:
    """Returns the config of an epoch on a data set that `write_noise` has written."""
    short = config.copy_and_resolve_references()
    short.data.update(
        name=DATASET,
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


def write_noise(
    source: sources.Source, data_dir: os.PathLike, *, num_train: int, num_test: int
) -> None:
    """Writes a TFDS data set of random images, with the shape and classes of another.

    Args:
      source: Data set to stand in for.
      data_dir: Folder for TFDS data sets.
      num_train: Images in the split "train".
      num_test: Images in the split "test".
    """

    class Noise(LabelledImages, skip_registration=True):
        """Noise."""

        name = DATASET
        VERSION = tfds.core.Version("1.0.0")
        image_shape = source.image_shape
        labels = {"label": source.label_names}

        def read(self):
            """Returns random images, and each class equally often."""
            splits = {}
            for split, size in (("train", num_train), ("test", num_test)):
                random = np.random.default_rng(size)
                shape = (size, *self.image_shape)
                images = random.integers(0, 256, shape, dtype=np.uint8)
                labels = np.arange(size, dtype=np.int32) % len(self.labels["label"])
                splits[split] = images, {"label": labels}
            return splits

    with tfds_store.quiet_tfds():
        Noise(data_dir=os.fspath(data_dir)).download_and_prepare()

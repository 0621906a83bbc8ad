"""The whole path of a run in a few steps, on synthetic images: `--dry_run`."""

import contextlib
import io
import os
import pathlib
import tempfile
from collections.abc import Iterator, Sequence

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
    with _rehearsal(config, NUM_STEPS) as (short, workdir, num_train):
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
    with (
        _rehearsal(config, NUM_MEASURED) as (short, workdir, _),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        result = loop.train_and_evaluate(short, workdir)
    size = len(setup.open_source(config).open_split(config.data.train_split))
    num_images = config.train.epochs * size
    return result["seconds"]["compile"] + num_images / result["images_per_second"]


@contextlib.contextmanager
def _rehearsal(
    config: ConfigDict, num_steps: int
) -> Iterator[tuple[ConfigDict, pathlib.Path, int]]:
    """Yields the config of an epoch of noise, its run directory, and its images."""
    config = setup.for_chips(config).copy_and_resolve_references()
    source = setup.open_source(config)
    num_val = 2 * source.num_classes if config.data.validation else 0
    num_images = num_steps * config.train.batch_size // max(config.train.repeats, 1)
    num_train = num_images + num_val
    with tempfile.TemporaryDirectory(prefix="cifar_jax-") as folder:
        data = pathlib.Path(folder, "data")
        write_noise(source, data, num_train=num_train, num_test=NUM_TEST)
        config.data.update(
            name=DATASET,
            dir=str(data),
            source=None,
            image_size=None,
            train_split="train",
            test_split="test",
            validation=num_val,
        )
        config.schedule = ConfigDict({**config.schedule, **_CONSTANT})
        config.prune.update(start="0%", stop="50%")
        config.train.update(epochs=1, max_seconds=0.0)
        config.optim.sam_start = "1 steps"
        config.checkpoint.every_seconds = 0.0
        yield config, pathlib.Path(folder, "run"), num_train


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

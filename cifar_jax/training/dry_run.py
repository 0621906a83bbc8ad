"""The whole path of a run in a few steps, on synthetic images: `--dry_run`."""

import contextlib
import io
import pathlib
import tempfile
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from cifar_jax.config import get_config
from cifar_jax.data import sources
from cifar_jax.data.dataset import Dataset, from_arrays
from cifar_jax.training import distributed, loop, setup

NUM_STEPS = 2
NUM_MEASURED = 6  # steps whose time is measured
NUM_TEST = 50


class Noise(sources.Source):
    """Random images, with the shape and the classes of another data set.

    Args:
      source: Data set to stand in for.
      sizes: Number of images of each split.
    """

    def __init__(self, source: sources.Source, sizes: dict[str, int]):
        self.name, self.label_names = source.name, source.label_names
        self.image_shape = source.image_shape
        self.sizes, self._opened = sizes, {}

    def open_split(self, split: str) -> Dataset:
        """Opens random images, with each class equally often."""
        size = self.sizes[split]
        shape = (size, *self.image_shape)
        images = np.random.default_rng(size).integers(0, 256, shape, dtype=np.uint8)
        labels = np.arange(size, dtype=np.int32) % self.num_classes
        return from_arrays(self.name, images, labels)


def dry_run(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> None:
    """Trains, validates, saves, resumes and tests; leaves nothing behind.

    Network, batch and recipe are the config's, except for the schedule, so that what
    does not fit into memory does not fit here either. The data set need not be on disk.

    Args:
      config: Config of the run.
      devices: Devices to run on; None: all.
    """
    with _rehearsal(config, NUM_STEPS) as (short, workdir, noise):
        options = {"devices": devices, "source": noise}
        first = loop.train_and_evaluate(short, workdir, **options)
        (workdir / "result.json").unlink()  # as if it had been killed at the end
        again = loop.train_and_evaluate(short, workdir, resume="must", **options)
        if first["test"] != again["test"]:
            raise RuntimeError(f"test {first['test']}, resumed {again['test']}")
    distributed.log(
        f"dry run: made {noise.sizes['train']:,} and {NUM_TEST} images of noise, "
        f"trained {NUM_STEPS} steps, validated, saved, resumed, and scored the test "
        "set twice with the same result; the files are deleted"
    )


def seconds(config: ConfigDict) -> float:
    """Returns the seconds of a run, from a few of its steps on synthetic images."""
    with (
        _rehearsal(config, NUM_MEASURED) as (short, workdir, noise),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        result = loop.train_and_evaluate(short, workdir, source=noise)
    size = len(setup.open_source(config).open_split(config.data.train_split))
    held_out = config.data.validation
    size -= held_out * size if held_out < 1 else held_out
    num_images = config.train.epochs * config.train.repeats * size
    return result["seconds"]["compile"] + num_images / result["images_per_second"]


@contextlib.contextmanager
def _rehearsal(
    config: ConfigDict, num_steps: int
) -> Iterator[tuple[ConfigDict, pathlib.Path, Noise]]:
    """Yields the config of an epoch of noise, its run directory, and the noise."""
    config = setup.for_chips(config).copy_and_resolve_references()
    source = setup.open_source(config)
    num_val = 2 * source.num_classes if config.data.validation else 0
    num_images = num_steps * config.train.batch_size // max(config.train.repeats, 1)
    noise = Noise(source, {"train": num_images + num_val, "test": NUM_TEST})
    config.data.update(train_split="train", test_split="test", validation=num_val)
    config.data.stratified = False
    # The config's durations may be longer than this run.
    config.schedule = get_config().schedule
    config.schedule.update(name="constant", warmup="0%")
    config.prune.update(start="0%", stop="50%")
    config.train.update(epochs=1, max_seconds=0.0)
    config.optim.sam_start, config.init.frozen = "1 steps", "0%"
    config.checkpoint.every_seconds = 0.0
    with tempfile.TemporaryDirectory(prefix="cifar_jax-") as folder:
        yield config, pathlib.Path(folder, "run"), noise

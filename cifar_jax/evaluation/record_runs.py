"""The runs of a record, one seed after the other, in a process of their own."""

import copy
import hashlib
import pathlib
import re
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from cifar_jax import _runtime
from cifar_jax.data import sources
from cifar_jax.evaluation import gpu, peaks
from cifar_jax.training import loop, results, sharding
from cifar_jax.training.interrupt import Stopped


class Runs:
    """Ordinary runs of one recipe.

    What one of them compiles the others find in the cache that the environment names.

    Args:
      config: The recipe.
    """

    def __init__(self, config: ConfigDict):
        _runtime.start(config.train.cpu_devices)
        self._config = config

    def facts(self) -> dict[str, Any]:
        """Returns the devices and the versions."""
        facts = results.environment(sharding.make_mesh())
        facts["versions"] |= gpu.libraries()
        return facts

    def run(
        self, seed: int, workdir: pathlib.Path, max_seconds: float
    ) -> dict[str, Any] | None:
        """Trains with a seed, or goes on; returns its result, or None if it stopped.

        Args:
          seed: Of the run.
          workdir: Its run directory.
          max_seconds: After which it saves and stops; 0: never.
        """
        config = copy.deepcopy(self._config)
        config.seed, config.train.max_seconds = seed, max_seconds
        try:
            return loop.train_and_evaluate(config, workdir)
        except Stopped as stopped:
            print(stopped, flush=True)
            return None

    def peaks(self) -> dict[str, float]:
        """Returns the device's FLOP/s in the recipe's dtype, and its bytes a second."""
        accelerated = not self.facts()["device"].startswith("cpu")
        auto = "bfloat16" if accelerated else "float32"
        dtype = self._config.model.dtype
        return {
            "flops": peaks.flops(jnp.dtype(auto if dtype == "auto" else dtype)),
            "bytes_per_second": peaks.bandwidth(),
        }

    def data(self) -> dict[str, Any]:
        """Returns the data set's name, and SHA-256 of all its images and labels."""
        data = self._config.data
        source = sources.open(data.name, data.dir, image_size=data.image_size)
        digests = {}
        for name, split in (("train", data.train_split), ("test", data.test_split)):
            split = re.sub(r"\[.*?\]", "", split)  # train[:10%] is a part of train
            digests[name] = digest(source.read(split))
        return {"name": data.name, "sha256": digests}


def digest(examples: sources.Examples) -> str:
    """Returns the SHA-256 of uint8 images [N, H, W, C], then of uint8 labels [N]."""
    found = hashlib.sha256(examples.images.tobytes())
    found.update(examples.labels.astype("uint8").tobytes())
    return found.hexdigest()

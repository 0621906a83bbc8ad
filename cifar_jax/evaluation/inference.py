"""A trained network on all local devices, and data sets run through it."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import rich.console
import rich.progress

from cifar_jax import UserError
from cifar_jax.data.dataset import Batch, Dataset
from cifar_jax.training import distributed
from cifar_jax.training.methods import tta
from cifar_jax.training.pretrained import LoadedModel


class Predictor:
    """A trained network on all local devices; any number of threads may share it.

    Attributes:
      network: Network, with its weights on the devices.
      mesh: Devices.

    Args:
      network: Network with its weights.
      batch_size: Most images in a call; rounded up to what all devices share evenly.
      tta: Key of `tta.TTA`.
      output: What is computed: "logits" or "features", methods of the network.
    """

    def __init__(
        self,
        network: LoadedModel,
        *,
        batch_size: int,
        tta: str = "none",
        output: str = "logits",
    ):
        self.mesh = distributed.make_mesh(jax.local_devices())
        on_all = distributed.replicated(self.mesh)
        variables = jax.device_put(network.variables, on_all)
        self.network = dataclasses.replace(network, variables=variables)
        self._batch_size, self._tta, self._output = batch_size, tta, output
        split = distributed.split(self.mesh)
        # It sends the images itself: `device_put` before it would take longer.
        self._compiled = jax.jit(
            self._compute, in_shardings=(on_all, split), out_shardings=split
        )

    def __call__(self, images: np.ndarray) -> jax.Array:
        """Returns the outputs, float32 [B, 1 or 2, K]; does not wait for the devices.

        The first row is that of the images as they are, the second one, with test-time
        augmentation, the mean over all views.

        Args:
          images: uint8 [B, H, W, C], for a B that all devices share evenly; not to be
            changed before the outputs are there. Each B has a program of its own.
        """
        if self.network.program:  # which cannot be traced
            with jax.disable_jit():
                return self._compute({}, jnp.asarray(images))
        return self._compiled(self.network.variables, images)

    def _compute(self, variables, images: jax.Array) -> jax.Array:
        # The weights are an argument: as constants they would be compiled in.
        network = dataclasses.replace(self.network, variables=variables)
        return tta.logits(getattr(network, self._output), images, self._tta)

    def batches(
        self, dataset: Dataset, what: str = ""
    ) -> Iterator[tuple[Batch, np.ndarray]]:
        """Yields all batches in order with their outputs, float32 [B, 1 or 2, K].

        All batches are filled up to one of a few sizes, so few programs are compiled.
        While the devices compute a batch, the next one is read.

        Args:
          dataset: Images of the network's shape.
          what: Text beside a progress bar on a terminal; without it there is none.
        """
        if not len(dataset):
            raise UserError(f"{dataset.name} is empty; choose another split or source")
        size = min(self._batch_size, 1 << (len(dataset) - 1).bit_length())
        size = -(-size // self.mesh.size) * self.mesh.size
        console = rich.console.Console(stderr=True)
        chunks = rich.progress.track(
            dataset.chunks(size),
            what,
            total=-(-len(dataset) // size),
            console=console,
            transient=True,
            disable=not (what and console.is_terminal),
        )

        shape = (size, *dataset.image_shape)  # smaller batches are filled up
        calls = ((batch, self(np.resize(batch.images, shape))) for batch in chunks)
        end: Any = None
        # Each call is begun before the answer of the one before it is awaited.
        for (batch, outputs), _ in itertools.pairwise(itertools.chain(calls, [end])):
            yield batch, np.asarray(outputs)[: len(batch.images)]

    def outputs(self, data: Dataset, what: str = "") -> tuple[np.ndarray, np.ndarray]:
        """Runs all labelled images through the network, each exactly once.

        Args:
          data: Labelled images of the network's shape.
          what: Text beside the progress bar.

        Returns:
          Logits float32 [N, 1 or 2, K], and labels int32 [N].
        """
        data.examples(1)  # refuses images without labels
        logits, labels = [], []
        for batch, outputs in self.batches(data, what):
            if batch.errors:
                raise UserError(next(iter(batch.errors.values())))
            logits.append(outputs)
            labels.append(batch.labels)
        return np.concatenate(logits), np.concatenate(labels)

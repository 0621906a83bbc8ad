"""A trained network on all local devices, and data sets run through it."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import rich.console
import rich.progress

from cifar_jax import UserError, formats
from cifar_jax.data.dataset import Batch, Dataset
from cifar_jax.training import distributed
from cifar_jax.training.methods import tta


class Predictor:
    """A trained network, compiled for batches of one size on all local devices.

    Attributes:
      network: Network, with its weights on the devices.
      mesh: Devices.
      num_outputs: Number of rows of logits for each image: 1, or 2 with test-time
        augmentation.

    Args:
      workdir: Run directory, weights or exported program, as `formats.load` takes it.
      which: "best", "last" or "ema"; see `pretrained.load_model`.
      step: Step of the checkpoint; None: the newest.
      batch_size: Most images in a call; rounded up to what all devices share evenly.
      tta: Key of `tta.TTA`.
    """

    def __init__(
        self,
        workdir: os.PathLike | str,
        *,
        which: str = "best",
        step: int | None = None,
        batch_size: int,
        tta: str = "none",
    ):
        self.mesh = distributed.make_mesh()
        replicated = distributed.replicated(self.mesh)
        self.network = formats.load(workdir, replicated, which=which, step=step)
        self.num_outputs = 1 if tta == "none" else 2
        self._batch_size = batch_size
        self._tta = tta
        self._split = distributed.split(self.mesh)
        self._calls = {}

    def batch_size(self, dataset: Dataset) -> int:
        """Returns the number of images in a call for this data set."""
        if not len(dataset):
            raise UserError(f"{dataset.name} is empty; choose another split or source")
        most = min(self._batch_size, len(dataset))
        return -(-most // self.mesh.size) * self.mesh.size

    def compile(self, batch_size: int) -> Callable[[np.ndarray], jax.Array]:
        """Returns `images uint8 [B, H, W, C] -> float32 [B, 1 or 2, K]`, compiled once.

        The first row of logits is that of the images as they are, the second one,
        with test-time augmentation, the mean over all views. The call does not wait
        for the devices.

        Args:
          batch_size: B, which all devices share evenly.
        """

        def logits(variables, images: jax.Array) -> jax.Array:
            # The weights are an argument: as constants they would be compiled in.
            network = dataclasses.replace(self.network, variables=variables)
            return tta.logits(network.logits, images, self._tta)

        if self.network.program:
            return lambda images: tta.logits(
                self.network.logits,
                jnp.asarray(images),
                self._tta,
                lambda call, views: jnp.stack([call(view) for view in views]),
            )
        variables = self.network.variables
        if batch_size not in self._calls:
            shape = (batch_size, *self.network.image_shape)
            images = jax.ShapeDtypeStruct(shape, np.uint8, sharding=self._split)
            call = jax.jit(logits, out_shardings=self._split)
            self._calls[batch_size] = call.lower(variables, images).compile()
        call = self._calls[batch_size]
        return lambda images: call(variables, jax.device_put(images, self._split))

    def batches(self, dataset: Dataset) -> Iterator[tuple[Batch, np.ndarray]]:
        """Yields all batches in order with their logits, float32 [B, 1 or 2, K].

        While the devices compute a batch, the next one is read.

        Args:
          dataset: Images of the network's shape.
        """
        batch_size, waiting = self.batch_size(dataset), None
        try:
            call = self.compile(batch_size)
            for batch in dataset.chunks(batch_size):
                # All batches are padded to one shape, so one program serves them all.
                rest = batch_size - len(batch.images)
                logits = call(np.pad(batch.images, ((0, rest), (0, 0), (0, 0), (0, 0))))
                if waiting:
                    previous, outputs = waiting
                    yield previous, np.asarray(outputs)[: len(previous.images)]
                waiting = batch, logits
            if waiting:
                previous, outputs = waiting
                yield previous, np.asarray(outputs)[: len(previous.images)]
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise UserError(
                f"the device is out of memory in batches of {batch_size:,}; use a "
                "smaller --batch_size"
            ) from error

    def outputs(
        self, dataset: Dataset, what: str = ""
    ) -> tuple[np.ndarray, np.ndarray]:
        """Runs all labelled images through the network, each exactly once.

        Args:
          dataset: Labelled images of the network's shape.
          what: Text beside the progress bar.

        Returns:
          Logits float32 [N, 1 or 2, K], and labels int32 [N].
        """
        if dataset.label_names is None:
            raise UserError(
                f"{dataset.name} has no labels; give a labelled source, or label it "
                "with cifar_jax.predict"
            )
        logits, labels = [], []
        with progress(what, len(dataset)) as advance:
            for batch, outputs in self.batches(dataset):
                if batch.errors:
                    raise UserError(next(iter(batch.errors.values())))
                logits.append(outputs)
                labels.append(batch.labels)
                advance(len(outputs))
        return np.concatenate(logits), np.concatenate(labels)


@contextlib.contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows a progress bar on a terminal, and nothing elsewhere.

    Args:
      description: Text beside the bar.
      total: Number of images.

    Yields:
      A function to call with the number of images that have been done since.
    """
    console = rich.console.Console(stderr=True)
    with rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(bar_width=20),
        rich.progress.TextColumn("{task.completed:,}/{task.total:,} images"),
        rich.progress.TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(description, total=total)
        yield lambda count: bar.advance(task, count)

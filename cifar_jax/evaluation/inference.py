"""A trained network on all local devices, and tables of any length run through it."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator

import jax
import numpy as np

from cifar_jax import UserError
from cifar_jax.data.dataset import Batch, Dataset
from cifar_jax.evaluation.progress import progress
from cifar_jax.training import distributed, pretrained
from cifar_jax.training.methods import tta


class Predictor:
    """A trained network, compiled for batches of one size on all local devices.

    Attributes:
      network: With its weights on the devices.
      mesh: The devices.
      views: Number of rows of logits for each image: 1, or 2 where there is test-time
        augmentation.

    Args:
      workdir: Run directory.
      which: "best", "last" or "ema"; see `pretrained.load_model`.
      step: Of the checkpoint; None: the newest.
      batch_size: Images in a call, at most; rounded up to what all devices share.
      tta: Of `tta.TTA`.

    Raises:
      UserError: If the run has no such network.
    """

    def __init__(
        self,
        workdir: os.PathLike,
        *,
        which: str = "best",
        step: int | None = None,
        batch_size: int,
        tta: str = "none",
    ):
        self.mesh = distributed.make_mesh()
        replicated = distributed.replicated(self.mesh)
        self.network = pretrained.load_model(
            workdir, replicated, which=which, step=step
        )
        self.views = 1 if tta == "none" else 2
        self._batch_size = batch_size
        self._tta = tta
        self._split = distributed.split(self.mesh)
        self._calls = {}

    def batch_size(self, table: Dataset) -> int:
        """Returns the images in a call for this table, shared by all devices evenly."""
        most = max(1, min(self._batch_size, len(table)))
        return -(-most // self.mesh.size) * self.mesh.size

    def compile(self, batch_size: int) -> Callable[[np.ndarray], jax.Array]:
        """Returns `images uint8 [B, H, W, C] -> float32 [B, 1 or 2, K]`, compiled once.

        The first row of logits is that of the images as they are, the second one,
        where there is test-time augmentation, the mean over all views. The call does
        not wait for the devices.

        Args:
          batch_size: B, which all devices share evenly.
        """
        if batch_size not in self._calls:
            shape = (batch_size, *self.network.image_shape)
            images = jax.ShapeDtypeStruct(shape, np.uint8, sharding=self._split)
            call = jax.jit(self._logits, out_shardings=self._split)
            call = call.lower(self.network.variables, images).compile()
            self._calls[batch_size] = call
        call, variables = self._calls[batch_size], self.network.variables
        return lambda images: call(variables, jax.device_put(images, self._split))

    def _logits(self, variables, images: jax.Array) -> jax.Array:
        # The weights are an argument: as constants they would be compiled in.
        network = dataclasses.replace(self.network, variables=variables)
        return tta.logits(network.logits, images, self._tta)

    def batches(self, table: Dataset) -> Iterator[tuple[Batch, np.ndarray]]:
        """Yields all rows in order with their logits, float32 [B, 1 or 2, K].

        While the devices compute a batch, the next one is read.

        Args:
          table: Images of the network's shape.
        """
        batch_size, waiting = self.batch_size(table), None
        with _fitting(batch_size):
            call = self.compile(batch_size)
            for rows in table.chunks(batch_size):
                rest = batch_size - len(rows.images)
                logits = call(np.pad(rows.images, ((0, rest), (0, 0), (0, 0), (0, 0))))
                if waiting:
                    yield _fetched(*waiting)
                waiting = rows, logits
            if waiting:
                yield _fetched(*waiting)

    def outputs(self, table: Dataset, what: str = "") -> tuple[np.ndarray, np.ndarray]:
        """Runs all labelled images through the network, each exactly once.

        Args:
          table: Labelled images of the network's shape.
          what: Shown beside a progress bar.

        Returns:
          Logits float32 [N, 1 or 2, K], and labels int32 [N].

        Raises:
          UserError: If there are no labels, no images, or one cannot be read.
        """
        check_labelled(table)
        logits, labels = [], []
        with progress(what, len(table)) as advance:
            for rows, batch in self.batches(table):
                if rows.errors:
                    raise UserError(next(iter(rows.errors.values())))
                logits.append(batch)
                labels.append(rows.labels)
                advance(len(batch))
        return np.concatenate(logits), np.concatenate(labels)


def check_labelled(table: Dataset) -> None:
    """Refuses a table without labels or without images.

    Raises:
      UserError: names the remedy.
    """
    if table.label_names is None:
        raise UserError(
            f"{table.name} has no labels; give a labelled source, or label it with "
            "cifar_jax.predict"
        )
    if not len(table):
        raise UserError(f"{table.name} is empty; choose another split or source")


def _fetched(rows: Batch, logits: jax.Array) -> tuple[Batch, np.ndarray]:
    return rows, np.asarray(logits)[: len(rows.images)]


@contextlib.contextmanager
def _fitting(batch_size: int) -> Iterator[None]:
    """Turns a lack of memory into a user's error."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"the device is out of memory in batches of {batch_size:,}; use a smaller "
            "--batch_size"
        ) from error

"""Where arrays lie: one mesh of all devices, batches split over it, all else copied.

Under `jax.jit` the program is that of one big device: BatchNorm, for example, takes the
statistics of the global batch.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from cifar_jax import UserError

AXIS = "data"


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh with the one axis "data" over the devices; None: all of them."""
    try:
        devices = jax.devices() if devices is None else devices
    except RuntimeError as error:
        raise UserError(
            f"JAX finds no device ({str(error).splitlines()[0]}); set "
            "JAX_PLATFORMS=cpu, or install the extra cuda12, cuda13 or tpu"
        ) from error
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """Every device holds its part of the first axis."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def put(tree: Any, sharding: Sharding) -> Any:
    """Returns host arrays as arrays on the devices, of all processes together.

    `jax.device_put` would first compare the values of all processes.

    Args:
      tree: NumPy arrays, the same in every process, which reads of them what its
        devices are to hold.
      sharding: Where they are to lie.
    """
    return jax.tree.map(
        lambda array: jax.make_array_from_callback(
            array.shape, sharding, array.__getitem__
        ),
        tree,
    )


def put_rows(arrays: Any, index: np.ndarray, sharding: Sharding) -> Any:
    """Returns rows of host arrays on the devices; each process gathers only its own.

    Args:
      arrays: NumPy arrays [N, ...].
      index: int [B], which rows.
      sharding: Of the first axis.
    """
    return jax.tree.map(
        lambda array: jax.make_array_from_callback(
            (len(index), *array.shape[1:]),
            sharding,
            lambda part: array[index[part[0]]],
        ),
        arrays,
    )


def check_batch_size(name: str, batch_size: int, mesh: Mesh) -> None:
    """Refuses a batch that the devices cannot share evenly.

    Raises:
      UserError: names the sizes around it that they can.
    """
    below = batch_size // mesh.size * mesh.size
    if batch_size < 1 or below != batch_size:
        choices = [str(n) for n in (below, below + mesh.size) if n > 0]
        raise UserError(
            f"{name} is {batch_size}, which {mesh.size} devices cannot share evenly; "
            f"use {' or '.join(choices)}"
        )

"""Where arrays lie: one mesh of all devices, batches split over it, all else copied.

Under `jax.jit` the program is that of one big device: BatchNorm, for example, takes the
statistics of the global batch.
"""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cifar_jax import UserError

AXIS = "data"


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh with the one axis "data" over the devices; None: all of them."""
    devices = jax.devices() if devices is None else devices
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """Every device holds its part of the first axis."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


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

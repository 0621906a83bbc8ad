"""StableHLO: the whole network with its weights, for JAX and XLA without this package.

`scripts/run_stablehlo.py` runs such a file. The batch may have any size.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from cifar_jax.formats.export import Card, Classify, Format
from cifar_jax.training.pretrained import LoadedModel

PLATFORMS = ("cpu", "cuda", "tpu")


def write(network: LoadedModel, path: pathlib.Path, card: Card) -> None:
    """Writes `jax.export`'s serialisation, the weights as constants in it.

    Products are asked for in float32 on every platform: GPUs and TPUs would otherwise
    take fewer bits of the weights.
    """
    (batch,) = export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *network.image_shape), jnp.uint8)
    with jax.default_matmul_precision("float32"):
        exported = export.export(jax.jit(network.logits), platforms=PLATFORMS)(images)
    path.write_bytes(exported.serialize())


def read(path: pathlib.Path) -> Classify:
    """Returns the function of a file."""
    exported = export.deserialize(bytearray(path.read_bytes()))
    return lambda images: np.asarray(exported.call(images))


FORMAT = Format(".stablehlo", write, read)

"""safetensors: the weights by their paths, such as params/stem_conv/kernel.

The file's metadata holds the card, so the file alone is the network, which
`training.pretrained` reads.
"""

import functools
import json
import pathlib
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from safetensors import numpy as safe_numpy

from cifar_jax.formats.export import Card, Classify, Format, compare, in_float32
from cifar_jax.training.pretrained import LoadedModel, load_model

HALF_TOLERANCE = 1e-2  # of logits, as a share of the largest: weights have 11 bits


def write(
    network: LoadedModel, path: pathlib.Path, card: Card, dtype: Any = np.float32
) -> None:
    """Writes params and batch_stats in Flax's layout, and the card.

    Args:
      network: Network to write.
      path: File to write.
      card: Card, which goes into the metadata.
      dtype: Type of the arrays.
    """
    variables = jax.device_get(network.variables)
    flat: dict[str, Any] = traverse_util.flatten_dict(variables, sep="/")
    tensors = {name: value.astype(dtype) for name, value in flat.items()}
    content = safe_numpy.save(tensors, metadata={"card": json.dumps(card)})
    path.write_bytes(content)


def read(path: pathlib.Path) -> Classify:
    """Returns the function of a file."""
    return jax.jit(in_float32(load_model(path)).logits)


FORMAT = Format(".safetensors", write, read)
HALF = Format(
    ".safetensors",
    functools.partial(write, dtype=np.float16),
    read,
    functools.partial(compare, share=HALF_TOLERANCE),
)

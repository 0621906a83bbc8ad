"""safetensors: the weights by their paths, such as params/stem_conv/kernel.

The file's metadata holds the card, so the file alone is the network.
"""

import dataclasses
import json
import os
import pathlib

import jax
import numpy as np
import safetensors
from flax import traverse_util
from safetensors import numpy as safe_numpy

from cifar_jax import UserError
from cifar_jax.training import pretrained

SUFFIX = ".safetensors"
_MALFORMED = (AttributeError, KeyError, TypeError, ValueError)  # of a strange card


def write(network: pretrained.LoadedModel, path: os.PathLike, card: dict) -> None:
    """Writes params and batch_stats, float32, in Flax's layout.

    Args:
      network: To write.
      path: Of the file.
      card: Goes into the metadata.
    """
    tensors = _flat(jax.device_get(network.variables))
    content = safe_numpy.save(tensors, metadata={"card": json.dumps(card)})
    pathlib.Path(path).write_bytes(content)


def read(path: os.PathLike):
    """Returns what classifies with the weights in a file."""
    network = load(path)
    return jax.jit(network.logits)


def load(path: os.PathLike) -> pretrained.LoadedModel:
    """Returns the network of a file.

    Raises:
      UserError: If the file is damaged, is not one of ours, or does not hold exactly
        the weights of its config's network.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            card = json.loads((file.metadata() or {})["card"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        network = pretrained.abstract_model(card["config"], card["dataset"])
        epoch = int(card["epoch"])
    except UserError:
        raise
    except (safetensors.SafetensorError, *_MALFORMED) as error:
        raise UserError(
            f"{path} is no network of `cifar_jax.export --format safetensors` "
            f"({type(error).__name__}: {error}); give one, or export it again"
        ) from error
    _check(path, tensors, _flat(network.variables))
    variables = traverse_util.unflatten_dict(tensors, sep="/")
    return dataclasses.replace(network, variables=variables, epoch=epoch)


def _flat(variables) -> dict:
    return traverse_util.flatten_dict(variables, sep="/")


def _check(path, tensors: dict[str, np.ndarray], shapes: dict) -> None:
    for name in sorted({*tensors, *shapes}):
        found, needed = tensors.get(name), shapes.get(name)
        found = found is not None and f"{found.dtype} {list(found.shape)}"
        needed = needed is not None and f"{needed.dtype} {list(needed.shape)}"
        if found != needed:
            raise UserError(
                f"{path} holds {found or 'nothing'} as {name}, and its network "
                f"{needed or 'nothing'}; export it again"
            )

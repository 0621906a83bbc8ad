"""safetensors: the weights by their paths, such as params/stem_conv/kernel.

The file's metadata holds the card, so the file alone is the network.
"""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import safetensors
from flax import traverse_util
from safetensors import numpy as safe_numpy

from cifar_jax import UserError
from cifar_jax._files import check
from cifar_jax.config import complete
from cifar_jax.formats.export import Card, Format
from cifar_jax.training import results
from cifar_jax.training.pretrained import LoadedModel, abstract_model


def write(network: LoadedModel, path: pathlib.Path, card: Card) -> None:
    """Writes params and batch_stats, float32, in Flax's layout, and the card."""
    variables = jax.device_get(network.variables)
    tensors: dict[str, Any] = traverse_util.flatten_dict(variables, sep="/")
    content = safe_numpy.save(tensors, metadata={"card": json.dumps(card)})
    path.write_bytes(content)


def load(path: pathlib.Path | str) -> LoadedModel:
    """Returns the network of a file."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            card = json.loads((file.metadata() or {})["card"])
            dataset = check(card["dataset"], results.Dataset, pathlib.Path(path))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        network = abstract_model(complete(card["config"], pathlib.Path(path)), dataset)
        epoch = int(card["epoch"])
    except UserError:
        raise
    except (
        safetensors.SafetensorError,
        # of a malformed card
        *(AttributeError, KeyError, TypeError, ValueError),
        *(OverflowError, RecursionError),
    ) as error:
        raise UserError(
            f"{path} is not a network of `cifar_jax.export --format safetensors` "
            f"({type(error).__name__}: {error}); give one, or export it again"
        ) from error
    shapes: dict[str, Any] = traverse_util.flatten_dict(network.variables, sep="/")
    for name in sorted({*tensors, *shapes}):
        held, needed = (
            f"{tree[name].dtype} {list(tree[name].shape)}"
            if name in tree
            else "nothing"
            for tree in (tensors, shapes)
        )
        if held != needed:
            raise UserError(
                f"{path} holds {held} as {name}, and its network {needed}; export it "
                "again"
            )
    variables = traverse_util.unflatten_dict(tensors, sep="/")
    return dataclasses.replace(network, variables=variables, epoch=epoch)


FORMAT = Format(".safetensors", write, lambda path: jax.jit(load(path).logits))

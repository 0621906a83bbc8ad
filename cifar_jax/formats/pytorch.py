"""PyTorch: a state_dict, or a program. Both need the extra torch.

The state_dict is for `cifar_jax.models.torch_resnet`. The program is one of
`torch.export` and runs without this package: `torch.export.load(path).module()` takes
uint8 [B, H, W, C], for any B, and returns float32 logits.
"""

import os
import pathlib
import pickle
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import torch
from flax import traverse_util

from cifar_jax import UserError
from cifar_jax.formats.export import Card, Classify, Format
from cifar_jax.models import torch_resnet
from cifar_jax.training.pretrained import LoadedModel


def translate(network: LoadedModel) -> torch_resnet.Classifier:
    """Returns the same network in PyTorch, in evaluation mode."""
    model = network.config["model"]
    module = torch_resnet.create(model, network.image_shape, network.num_classes)
    flat: dict[Any, Any] = traverse_util.flatten_dict(network.variables)
    leaves = {path[1:]: np.asarray(leaf) for path, leaf in flat.items()}
    state = module.state_dict()
    head_map = module.design.head_map(network.image_shape)
    # `state` also has what Flax has no leaf for: how many batches each BatchNorm saw.
    module.load_state_dict(state | torch_resnet.to_torch(leaves, state, head_map))
    mean, std = network.mean.tolist(), network.std.tolist()
    return torch_resnet.Classifier(module, mean, std).eval()


def on_arrays(module: Callable[[torch.Tensor], torch.Tensor]) -> Classify:
    """Returns a PyTorch function as one of NumPy arrays."""
    return torch.inference_mode()(lambda images: module(torch.tensor(images)).numpy())


def write_program(network: LoadedModel, path: pathlib.Path, card: Card) -> None:
    """Writes the network with its normalisation and its weights."""
    # Two images: an example of one would fix the batch size.
    images = torch.zeros((2, *network.image_shape), dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(
        translate(network), (images,), dynamic_shapes=({0: batch},)
    )
    torch.export.save(program, path)


def read_program(path: pathlib.Path) -> Classify:
    """Returns the function of a program; objects that a file may pickle are refused."""
    try:
        with mock.patch.dict(os.environ, TORCH_FORCE_WEIGHTS_ONLY_LOAD="1"):
            return on_arrays(torch.export.load(path).module())
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} holds more than a program; export it again") from error


# What `torch_resnet.load`, with the card, and `torch.load(weights_only=True)` read.
STATE_DICT = Format(
    ".pt",
    lambda net, path, card: torch.save(translate(net).network.state_dict(), path),
    lambda path: on_arrays(torch_resnet.load(path)),
)
PROGRAM = Format(".pt2", write_program, read_program)

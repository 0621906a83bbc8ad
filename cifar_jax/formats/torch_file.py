"""PyTorch: a state_dict for `cifar_jax.models.torch_resnet`. Needs the extra torch."""

import os
from collections.abc import Callable

import jax
import numpy as np
import torch
from flax import traverse_util

from cifar_jax.models import torch_resnet
from cifar_jax.training.pretrained import LoadedModel

SUFFIX = ".pt"


def write(network: LoadedModel, path: os.PathLike, card: dict) -> None:
    """Writes what `torch_resnet.load` reads; `torch.load(weights_only=True)` as well.

    Args:
      network: To write.
      path: Of the file.
      card: Is not part of the file.
    """
    torch.save(translate(network).network.state_dict(), path)


def translate(network: LoadedModel) -> torch_resnet.Classifier:
    """Returns the same network in PyTorch, in evaluation mode."""
    model = network.config["model"]
    module = torch_resnet.create(model, network.image_shape, network.num_classes)
    flat = {}
    for tree in jax.device_get(network.variables).values():
        flat |= traverse_util.flatten_dict(tree)
    state = module.state_dict()
    head_map = torch_resnet.head_map(module.design, network.image_shape)
    # what Flax has no leaf for: how many batches each BatchNorm has seen
    module.load_state_dict(state | torch_resnet.to_torch(flat, state, head_map))
    mean, std = network.mean.tolist(), network.std.tolist()
    return torch_resnet.Classifier(module, mean, std).eval()


def read(path: os.PathLike):
    """Returns what classifies with a file and its card."""
    return calls(torch_resnet.load(path))


def calls(module: Callable[[torch.Tensor], torch.Tensor]):
    """Returns a PyTorch function as one of NumPy arrays."""

    def classify(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.tensor(images)).numpy()

    return classify

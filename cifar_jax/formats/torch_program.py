"""PyTorch's exported program: runs without this package. Needs the extra torch.

`torch.export.load(path).module()` takes uint8 [B, H, W, C], for any B, and returns
float32 logits.
"""

import os

import torch

from cifar_jax.formats import torch_file
from cifar_jax.training.pretrained import LoadedModel

SUFFIX = ".pt2"


def write(network: LoadedModel, path: os.PathLike, card: dict) -> None:
    """Writes the network with its normalisation and its weights.

    Args:
      network: To write.
      path: Of the file; ends in .pt2.
      card: Is not part of the file.
    """
    # of two images: an example of one would fix the batch size
    images = torch.zeros((2, *network.image_shape), dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(
        torch_file.translate(network), (images,), dynamic_shapes=({0: batch},)
    )
    torch.export.save(program, path)


def read(path: os.PathLike):
    """Returns the function of a file."""
    return torch_file.calls(torch.export.load(path).module())

"""The same family of networks in plain PyTorch: to compare with, and to export to.

Written from the papers and from PyTorch's own layers, so that a convention which Flax
reads differently shows up as a difference. Needs the extra torch. Nothing here needs
JAX: `load` reads what `cifar_jax.export --format torch` has written.
"""

import json
import os
import pathlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from cifar_jax.models.design import Design, ImageShape, resolve

ACTIVATIONS = {
    "relu": nn.ReLU,
    "mish": nn.Mish,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}


def _conv(before, after, kernel, stride=1):
    return nn.Conv2d(before, after, kernel, stride, (kernel - 1) // 2, bias=False)


class Block(nn.Module):
    """A residual block of either kind."""

    def __init__(self, design, stage, before, stride, norm):
        super().__init__()
        after, kernel = design.widths[stage], design.kernel_sizes[stage]
        self.preact = design.block == "preact"
        self.act = ACTIVATIONS[design.activation]()
        self.conv1 = _conv(before, after, kernel, stride)
        self.bn1 = norm(before if self.preact else after)
        self.conv2 = _conv(after, after, kernel)
        self.bn2 = norm(after)
        self.se = None
        if design.se_ratio:  # its gate (Hu et al., 2018, arXiv:1709.01507)
            hidden = after // design.se_ratio
            layers = OrderedDict(
                squeeze=nn.AdaptiveAvgPool2d(1),
                reduce=nn.Conv2d(after, hidden, 1, bias=design.se_bias),
                act=ACTIVATIONS[design.se_activation](),
                expand=nn.Conv2d(hidden, after, 1, bias=design.se_bias),
                gate=nn.Sigmoid(),
            )
            self.se = nn.Sequential(layers)
        self.changes = stride != 1 or before != after
        if self.changes and design.shortcut == "padding":
            # Subsamples, then adds zero channels on both sides: the last entries of a
            # padding in three dimensions are those of the channels.
            extra = after - before
            zeros = (0, 0, 0, 0, extra // 2, extra - extra // 2)
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(1, stride), nn.ConstantPad3d(zeros, 0.0)
            )
        elif self.changes:
            size = design.shortcut_kernel_sizes[stage]
            self.shortcut_conv = _conv(before, after, size, stride)
            self.shortcut_bn = nn.Identity() if self.preact else norm(after)
            self.shortcut = lambda x: self.shortcut_bn(self.shortcut_conv(x))
        else:
            self.shortcut = nn.Identity()

    def forward(self, x):
        """Returns [B, width, H / stride, W / stride]."""
        if self.preact:
            y = self.act(self.bn1(x))
            shortcut = self.shortcut(y) if self.changes else x
            y = self.conv2(self.act(self.bn2(self.conv1(y))))
        else:
            shortcut = self.shortcut(x)
            y = self.act(self.bn1(self.conv1(x)))
            y = self.bn2(self.conv2(y))
        if self.se is not None:
            y = y * self.se(y)
        return y + shortcut if self.preact else self.act(y + shortcut)


class TorchResNet(nn.Module):
    """Images NCHW in, logits out; without dropout.

    Args:
      design: Options of the network, resolved.
      channels: Number of channels of the images.
      num_classes: Length of the logits.
      head_inputs: Number of features that the classifier takes.
    """

    def __init__(self, design: Design, channels: int, num_classes: int, head_inputs):
        super().__init__()
        self.design = design

        def norm(width):
            layer = nn.BatchNorm2d(width, design.bn_epsilon, 1 - design.bn_momentum)
            if not design.bn_scale:  # ones, which are neither trained nor saved
                del layer.weight
                layer.register_buffer("weight", torch.ones(width), persistent=False)
            return layer

        self.preact = design.block == "preact"
        self.stem_conv = nn.Conv2d(
            channels,
            design.stem_width,
            design.stem_kernel,
            design.stem_stride,
            (design.stem_kernel - 1) // 2,
            bias=design.stem == "whitening",
        )
        self.stem_bn = nn.Identity()
        if not self.preact and design.stem == "conv":
            self.stem_bn = norm(design.stem_width)
        self.act = ACTIVATIONS[design.activation]()
        before = design.stem_width  # channels of the map that a block takes
        self.blocks = []  # their names, in order
        for stage, num_blocks in enumerate(design.stage_sizes):
            if design.downsample == "pool":
                name, width = f"stage{stage + 1}_pool", design.widths[stage]
                layers = OrderedDict(
                    conv=_conv(before, width, design.kernel_sizes[stage]),
                    pool=nn.MaxPool2d(design.strides[stage]),
                    bn=norm(width),
                    act=ACTIVATIONS[design.activation](),
                )
                self.add_module(name, nn.Sequential(layers))
                self.blocks.append(name)
                before = width
            for index in range(num_blocks):
                stride = design.block_stride(stage, index)
                name = f"stage{stage + 1}_block{index + 1}"
                self.add_module(name, Block(design, stage, before, stride, norm))
                self.blocks.append(name)
                before = design.widths[stage]
        if self.preact:
            self.final_bn = norm(before)
        self.head = nn.Linear(head_inputs, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns logits [B, num_classes] of float images [B, C, H, W]."""
        x = self.stem_conv(x)
        x = x if self.preact else self.act(self.stem_bn(x))
        if self.design.stem_pool:
            window = self.design.stem_pool
            x = F.max_pool2d(x, window, 2, (window - 1) // 2)
        for name in self.blocks:
            x = getattr(self, name)(x)
        x = self.act(self.final_bn(x)) if self.preact else x
        if self.design.pool is None:
            x = F.adaptive_avg_pool2d(x, 1)
        else:
            x = F.avg_pool2d(x, self.design.pool)
        self.head_map = x.shape[1:]
        return self.head(x.flatten(1))


class Classifier(nn.Module):
    """A network with its normalisation: raw images in, logits out.

    Args:
      network: Network that takes normalised images.
      mean: Mean of each channel, with pixels in [0, 1].
      std: Standard deviation of each channel, with pixels in [0, 1].
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self, network: TorchResNet, mean: Sequence[float], std: Sequence[float]
    ):
        super().__init__()
        self.network = network
        for name, values in (("mean", mean), ("std", std)):
            values = torch.tensor(values, dtype=torch.float32)[:, None, None]
            self.register_buffer(name, values, persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns float32 logits [B, num_classes] of uint8 images [B, H, W, C]."""
        images = images.permute(0, 3, 1, 2).float() / 255
        return self.network((images - self.mean) / self.std)


def create(model: Mapping, image_shape: ImageShape, num_classes: int) -> TorchResNet:
    """Returns the network of these options, with random weights.

    Args:
      model: Keys of `config.model`.
      image_shape: (height, width, channels) of the images.
      num_classes: Length of the logits.
    """
    design = resolve(dict(model))
    head_inputs = int(np.prod(design.head_map(image_shape)))
    return TorchResNet(design, image_shape[2], num_classes, head_inputs)


def load(path: os.PathLike) -> Classifier:
    """Returns an exported network, ready to classify.

    Args:
      path: Path of the .pt file; its .json must lie beside it.
    """
    card = json.loads(pathlib.Path(f"{path}.json").read_text())
    dataset = card["dataset"]
    network = create(
        card["config"]["model"],
        tuple(dataset["image_shape"]),
        len(dataset["label_names"]),
    )
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return Classifier(network, dataset["mean"], dataset["std"]).eval()


_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def torch_name(path: Sequence[str]) -> str:
    """Returns the name in PyTorch's state_dict of the leaf at a Flax path."""
    return ".".join([*path[:-1], _LEAVES[path[-1]]])


def to_torch(
    flat: Mapping[tuple[str, ...], np.ndarray],
    state: Mapping[str, torch.Tensor],
    head_map: tuple[int, int, int],
) -> dict[str, torch.Tensor]:
    """Returns Flax leaves {path: array} as PyTorch's {name: tensor}.

    Args:
      flat: Parameters, gradients or batch statistics by path.
      state: The network's `state_dict()`, for the shapes.
      head_map: (C, H, W) of the flattened maps, which PyTorch flattens in that order.
    """
    tensors = {}
    for path, value in flat.items():
        value, name = np.asarray(value), torch_name(path)
        if path == ("head", "kernel"):
            channels, height, width = head_map
            value = value.reshape(height, width, channels, -1).transpose(3, 2, 0, 1)
        elif value.ndim == 4:
            value = value.transpose(3, 2, 0, 1)  # HWIO to OIHW
        elif value.ndim == 2:
            value = value.T
        tensors[name] = torch.tensor(value.copy()).reshape(state[name].shape)
    return tensors

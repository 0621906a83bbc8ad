"""The same family of networks in plain PyTorch: to compare with, and to export to.

Written from the papers and from PyTorch's own layers, so that a convention which Flax
reads differently shows up as a difference. Needs the extra torch. Nothing here needs
JAX: `load` reads what `cifar_jax.export --format torch` has written.
"""

import json
import math
import os
import pathlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from cifar_jax.models.design import Design, ImageShape, resolve

ACTIVATIONS = dict(relu=nn.ReLU, mish=nn.Mish, elu=nn.ELU, silu=nn.SiLU, gelu=nn.GELU)


def _conv(before, after, kernel, stride=1, *, bias=False):
    return nn.Conv2d(before, after, kernel, stride, (kernel - 1) // 2, bias=bias)


class Block(nn.Module):
    """A residual block of either kind."""

    def __init__(self, design, part, norm):
        super().__init__()
        before, after, stride = part.before, part.width, part.stride
        self.preact = design.block == "preact"
        self.act = ACTIVATIONS[design.activation]()
        self.conv1 = _conv(before, after, part.kernel, stride)
        self.bn1 = norm(before if self.preact else after)
        self.conv2 = _conv(after, after, part.kernel)
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
        self.reshapes = part.reshapes
        if self.reshapes and design.shortcut == "padding":
            # Subsamples, then adds zero channels on both sides: the last entries of a
            # padding in three dimensions are those of the channels.
            extra = after - before
            zeros = (0, 0, 0, 0, extra // 2, extra - extra // 2)
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(1, stride), nn.ConstantPad3d(zeros, 0.0)
            )
        elif self.reshapes:
            self.shortcut_conv = _conv(before, after, part.shortcut_kernel, stride)
            self.shortcut_bn = nn.Identity() if self.preact else norm(after)
            self.shortcut = lambda x: self.shortcut_bn(self.shortcut_conv(x))
        else:
            self.shortcut = nn.Identity()

    def forward(self, x):
        """Returns [B, width, H / stride, W / stride]."""
        if self.preact:
            y = self.act(self.bn1(x))
            shortcut = self.shortcut(y) if self.reshapes else x
            y = self.conv2(self.act(self.bn2(self.conv1(y))))
        else:
            shortcut = self.shortcut(x)
            y = self.act(self.bn1(self.conv1(x)))
            y = self.bn2(self.conv2(y))
        if self.se is not None:
            y = y * self.se(y)
        return y + shortcut if self.preact else self.act(y + shortcut)


class TorchResNet(nn.Sequential):
    """Images [B, C, H, W] in, logits [B, num_classes] out; without dropout.

    Args:
      design: Options of the network, resolved.
      image_shape: (height, width, channels) of the images.
      num_classes: Length of the logits.
    """

    def __init__(self, design: Design, image_shape: ImageShape, num_classes: int):
        super().__init__()
        self.design, preact = design, design.block == "preact"
        act = ACTIVATIONS[design.activation]

        def norm(width):
            layer = nn.BatchNorm2d(width, design.bn_epsilon, 1 - design.bn_momentum)
            if not design.bn_scale:  # ones, which are neither trained nor saved
                del layer.weight
                layer.register_buffer("weight", torch.ones(width), persistent=False)
            return layer

        self.stem_conv = _conv(
            image_shape[2],
            design.stem_width,
            design.stem_kernel,
            design.stem_stride,
            bias=design.stem == "whitening",
        )
        if not preact:
            if design.stem == "conv":
                self.stem_bn = norm(design.stem_width)
            self.stem_act = act()
        if window := design.stem_pool:
            self.stem_pool = nn.MaxPool2d(window, 2, (window - 1) // 2)
        for part in design.parts():
            if part.pools:
                layers = OrderedDict(
                    conv=_conv(part.before, part.width, part.kernel),
                    pool=nn.MaxPool2d(part.stride),
                    bn=norm(part.width),
                    act=act(),
                )
                self.add_module(part.name, nn.Sequential(layers))
            else:
                self.add_module(part.name, Block(design, part, norm))
        if preact:
            self.final_bn = norm(design.widths[-1])
            self.final_act = act()
        is_whole = design.pool is None
        self.pool = nn.AdaptiveAvgPool2d(1) if is_whole else nn.AvgPool2d(design.pool)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(math.prod(design.head_map(image_shape)), num_classes)


class Classifier(nn.Module):
    """A network with its normalisation: raw images in, logits out.

    Args:
      network: Network that takes normalised images.
      mean: Mean of each channel, with pixels in [0, 1].
      std: Standard deviation of each channel, with pixels in [0, 1].
    """

    def __init__(
        self, network: TorchResNet, mean: Sequence[float], std: Sequence[float]
    ):
        super().__init__()
        self.network = network
        self.mean = nn.Buffer(torch.tensor(mean)[:, None, None], persistent=False)
        self.std = nn.Buffer(torch.tensor(std)[:, None, None], persistent=False)

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
    return TorchResNet(resolve(model), image_shape, num_classes)


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


_LEAVES = dict(
    kernel="weight", scale="weight", bias="bias", mean="running_mean", var="running_var"
)


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

"""The same family of networks in plain PyTorch, to compare with. Needs the extra torch.

Written from the papers and from PyTorch's own layers, so that a convention which Flax
reads differently shows up as a difference. Nothing here needs JAX.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from cifar_jax.models.design import Design

ACTIVATIONS = {
    "relu": nn.ReLU,
    "mish": nn.Mish,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}


def _conv(before, after, kernel, stride=1):
    return nn.Conv2d(before, after, kernel, stride, (kernel - 1) // 2, bias=False)


class Excite(nn.Module):
    """Squeeze-and-excitation."""

    def __init__(self, width, design):
        super().__init__()
        hidden = width // design.se_ratio
        self.reduce = nn.Conv2d(width, hidden, 1, bias=design.se_bias)
        self.act = ACTIVATIONS[design.se_activation]()
        self.expand = nn.Conv2d(hidden, width, 1, bias=design.se_bias)

    def forward(self, x):
        """Returns x [B, C, H, W], gated."""
        gate = F.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.expand(self.act(self.reduce(gate))))


class Pad(nn.Module):
    """The shortcut that subsamples and adds zero channels."""

    def __init__(self, extra, stride):
        super().__init__()
        self.pads, self.stride = (0, 0, 0, 0, extra // 2, extra - extra // 2), stride

    def forward(self, x):
        """Returns [B, C + extra, H / stride, W / stride]."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], self.pads)


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
        self.se = Excite(after, design) if design.se_ratio else nn.Identity()
        self.changes = stride != 1 or before != after
        if self.changes and design.shortcut == "padding":
            self.shortcut = Pad(after - before, stride)
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
            x = self.shortcut(y) if self.changes else x
            y = self.conv2(self.act(self.bn2(self.conv1(y))))
            return self.se(y) + x
        y = self.act(self.bn1(self.conv1(x)))
        y = self.se(self.bn2(self.conv2(y)))
        return self.act(y + self.shortcut(x))


class TorchResNet(nn.Module):
    """Images NCHW in, logits out; without dropout.

    Args:
        design: resolved.
        channels: of the images.
        num_classes: length of the logits.
        head_inputs: features that the classifier takes.
    """

    def __init__(self, design: Design, channels: int, num_classes: int, head_inputs):
        super().__init__()
        self.design = design

        def norm(width):
            return nn.BatchNorm2d(width, design.bn_epsilon, 1 - design.bn_momentum)

        self.preact = design.block == "preact"
        self.stem_conv = nn.Conv2d(
            channels,
            design.stem_width,
            design.stem_kernel,
            design.stem_stride,
            design.stem_kernel // 2,
            bias=design.stem == "whitening",
        )
        self.stem_bn = nn.Identity()
        if not self.preact and design.stem == "conv":
            self.stem_bn = norm(design.stem_width)
        self.act = ACTIVATIONS[design.activation]()
        before, self.blocks = design.stem_width, []
        for stage, num_blocks in enumerate(design.stage_sizes):
            for index in range(num_blocks):
                stride = design.strides[stage] if index == 0 else 1
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


_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
_LEAVES |= {"mean": "running_mean", "var": "running_var"}


def _name(path):
    return ".".join([*path[:-1], _LEAVES[path[-1]]])


def to_torch(
    flat: Mapping[tuple[str, ...], np.ndarray],
    state: Mapping[str, torch.Tensor],
    head_map: tuple[int, int, int],
) -> dict[str, torch.Tensor]:
    """Returns Flax leaves {path: array} as PyTorch's {name: tensor}.

    Args:
        flat: parameters, gradients or batch statistics by path.
        state: the network's `state_dict()`, for the shapes.
        head_map: (C, H, W) of the flattened maps, which PyTorch flattens in that order.
    """
    tensors = {}
    for path, value in flat.items():
        value, name = np.asarray(value), _name(path)
        if path == ("head", "kernel"):
            channels, height, width = head_map
            value = value.reshape(height, width, channels, -1).transpose(3, 2, 0, 1)
        elif value.ndim == 4:
            value = value.transpose(3, 2, 0, 1)  # HWIO to OIHW
        elif value.ndim == 2:
            value = value.T
        tensors[name] = torch.tensor(value.copy()).reshape(state[name].shape)
    return tensors

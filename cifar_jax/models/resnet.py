"""The residual networks of this project: one Flax module for the whole family.

Images are float NHWC. Parameters, batch statistics and logits are float32 whatever the
compute dtype is.

BatchNorm follows Flax where PyTorch differs: the running variance is the biased one,
the same that normalises in training. PyTorch's is n / (n - 1) times as far along, with
n the number of values for a channel (batch x height x width). Momentum 0.9 here is
PyTorch's 0.1. Under `jax.jit` over a mesh the statistics are those of the global batch.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cifar_jax.models import blocks, cpu, gemm
from cifar_jax.models.design import Design, ImageShape, check, resolve


class ResNet(nn.Module):
    """A residual network for small images."""

    design: Design  # options of the network, resolved and checked
    num_classes: int  # length of the logits
    dtype: Any = jnp.float32  # of the computation
    param_dtype: Any = jnp.float32  # of parameters, statistics and logits
    convolve: Any = None  # computes the convolutions; None: `lax.conv_general_dilated`

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns logits.

        Args:
          images: float [B, H, W, C], normalised images.
          train: Whether to normalise by the batch's statistics and update the running
            ones (`mutable=["batch_stats"]`), and to drop out (`rngs={"dropout": key}`).

        Returns:
          float32 [B, num_classes].
        """
        design = self.design
        layers = self._layers(train)
        x = self._stem(images, layers)
        num_blocks, number = sum(design.stage_sizes), 0
        for part in design.parts():
            if part.pools:  # else the stage's first block has a stride
                x = blocks.Pool(
                    part, layers["conv"], layers["norm"], layers["act"], name=part.name
                )(x)
                continue
            number += 1
            x = blocks.BLOCKS[design.block](
                part,
                shortcut=design.shortcut,
                # stochastic depth's rates rise in a line to the last block's
                drop_rate=design.stochastic_depth * number / num_blocks,
                zero_init=design.zero_init,
                name=part.name,
                **layers,
            )(x)
        if design.block == "preact":
            x = layers["act"](layers["norm"](name="final_bn")(x))
        return self._head(x, train)

    def _layers(self, train: bool) -> dict[str, Any]:
        """Returns the layers that all blocks share, with the options of the design."""
        design = self.design
        types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        excite = functools.partial(
            blocks.SqueezeExcite,
            ratio=design.se_ratio,
            act=blocks.ACTIVATIONS[design.se_activation],
            dense=functools.partial(
                blocks.linear, init=design.init, use_bias=design.se_bias, **types
            ),
        )
        return dict(
            conv=functools.partial(
                blocks.conv,
                init=design.init,
                dirac=design.dirac_init,
                conv_general_dilated=self.convolve,
                **types,
            ),
            norm=functools.partial(
                nn.BatchNorm,
                use_running_average=not train,
                momentum=design.bn_momentum,
                epsilon=design.bn_epsilon,
                use_scale=design.bn_scale,
                **types,
            ),
            act=blocks.ACTIVATIONS[design.activation],
            excite=excite if design.se_ratio else None,
            dropout=functools.partial(
                nn.Dropout, rate=design.block_dropout, deterministic=not train
            ),
        )

    def _stem(self, images: jax.Array, layers: dict[str, Any]) -> jax.Array:
        """Returns the maps that the first stage takes."""
        design = self.design
        whitens = design.stem == "whitening"
        x = layers["conv"](
            design.stem_width,
            design.stem_kernel,
            design.stem_stride,
            use_bias=whitens,
            name="stem_conv",
        )(images)
        if whitens:  # whitened maps need no BatchNorm
            x = layers["act"](x)
        elif design.block == "basic":  # a pre-activation block brings its own
            x = layers["act"](layers["norm"](name="stem_bn")(x))
        if design.stem_pool:
            window, pad = design.stem_pool, (design.stem_pool - 1) // 2
            x = nn.max_pool(x, (window, window), (2, 2), ((pad, pad), (pad, pad)))
        return x

    def _head(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns the logits: pooling, dropout, and the classifier."""
        # float32 from here: the mean over a map and the logits need its precision.
        design, x = self.design, x.astype(self.param_dtype)
        if design.pool is None:
            x = x.mean(axis=(1, 2))  # [B, C]
        else:
            window = (design.pool, design.pool)
            x = nn.avg_pool(x, window, strides=window)  # drops incomplete windows
            x = x.reshape(x.shape[0], -1)  # [B, H * W * C]
        self.sow("intermediates", "features", x)  # kept where they are asked for
        x = nn.Dropout(design.dropout, deterministic=not train)(x)
        x = blocks.linear(
            self.num_classes,
            fan_in=x.shape[-1],
            init=design.init,
            dtype=self.param_dtype,
            param_dtype=self.param_dtype,
            precision="highest",  # accelerators would round float32
            name="head",
        )(x)
        return nn.Dropout(design.logits_dropout, deterministic=not train)(x)


def abstract_variables(model: ResNet, image_shape: ImageShape) -> dict[str, Any]:
    """Returns `params` and `batch_stats` as shapes; nothing is allocated."""
    shapes = jax.eval_shape(
        lambda key: model.init(key, jnp.zeros((1, *image_shape)), train=False),
        jax.random.key(0),
    )
    return dict(shapes)


def create(
    *,
    num_classes: int,
    image_shape: ImageShape,
    devices: Sequence[jax.Device] | None = None,
    **options,
) -> ResNet:
    """Returns the network of these options, which are the keys of `config.model`.

    Args:
      num_classes: Length of the logits.
      image_shape: (height, width, channels) of the images.
      devices: Devices that train the network and share a batch; None: it is not
        trained. Accelerators compute in bfloat16 where the dtype is "auto". The number
        of CPUs changes how they sum a gradient, not what the network computes.
      **options: Fields of `Design`.
    """
    design = resolve(options)
    check(design, image_shape)
    platform = devices[0].platform if devices else jax.default_backend()
    auto, convolve = "float32" if platform == "cpu" else "bfloat16", None
    if devices and platform == "cpu":
        way = gemm if gemm.rounds(design.conv_precision) else cpu
        convolve = functools.partial(way.convolve, num_devices=len(devices))
    return ResNet(
        design=design,
        num_classes=num_classes,
        dtype=jnp.dtype(auto if design.dtype == "auto" else design.dtype),
        convolve=convolve,
    )

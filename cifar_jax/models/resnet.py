"""The residual networks of this project: one Flax module for the whole family.

Images are float NHWC. Parameters, batch statistics and logits are float32 whatever the
compute dtype is.

BatchNorm follows Flax where PyTorch differs: the running variance is the biased one,
the same that normalises in training. PyTorch's is n / (n - 1) times as far along, with
n the number of values for a channel (batch x height x width). Momentum 0.9 here is
PyTorch's 0.1. Under `jax.jit` over a mesh the statistics are those of the global batch.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cifar_jax.models import blocks, convolution
from cifar_jax.models.design import Design, block_stride, check, resolve

_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
_CONVOLUTIONS = {"cpu": convolution.convolve}


class ResNet(nn.Module):
    """A residual network for small images.

    Attributes:
        design: resolved and checked.
        num_classes: length of the logits.
        dtype: of the computation.
        param_dtype: of parameters, statistics and logits.
        convolve: computes the convolutions; None: `lax.conv_general_dilated`.
        norm: makes a BatchNorm.
    """

    design: Design
    num_classes: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    convolve: Any = None
    norm: Any = nn.BatchNorm

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns logits.

        Args:
            images: float [B, H, W, C].
            train: normalise by the batch's statistics and update the running ones
                (`mutable=["batch_stats"]`); drop out (`rngs={"dropout": key}`).

        Returns:
            float32 [B, num_classes].
        """
        design = self.design
        layers = self._layers(train)
        x = self._stem(images, layers)
        drop_rates = self._drop_rates()
        for stage, num_blocks in enumerate(design.stage_sizes):
            x = self._stage_start(x, stage, layers)
            for index in range(num_blocks):
                x = blocks.BLOCKS[design.block](
                    width=design.widths[stage],
                    stride=block_stride(design, stage, index),
                    kernel=design.kernel_sizes[stage],
                    shortcut_kernel=design.shortcut_kernel_sizes[stage],
                    shortcut=design.shortcut,
                    drop_rate=next(drop_rates),
                    zero_init=design.zero_init,
                    name=f"stage{stage + 1}_block{index + 1}",
                    **layers,
                )(x)
        if design.block == "preact":
            x = layers["act"](layers["norm"](name="final_bn")(x))
        return self._head(x, train)

    def _drop_rates(self) -> Iterator[float]:
        """Yields stochastic depth's rates, which rise in a line to the last block's."""
        num_blocks = sum(self.design.stage_sizes)
        for block in range(1, num_blocks + 1):
            yield self.design.stochastic_depth * block / num_blocks

    def _layers(self, train: bool) -> dict:
        """The layers that all blocks share, with the options of the design."""
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
                self.norm,
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

    def _stem(self, x, layers):
        design = self.design
        whitens = design.stem == "whitening"
        x = layers["conv"](
            *(design.stem_width, design.stem_kernel, design.stem_stride),
            use_bias=whitens,
            name="stem_conv",
        )(x)
        if whitens:  # what is white needs no BatchNorm
            x = layers["act"](x)
        elif design.block == "basic":  # a pre-activation block brings its own
            x = layers["act"](layers["norm"](name="stem_bn")(x))
        if design.stem_pool:
            window, pad = design.stem_pool, (design.stem_pool - 1) // 2
            x = nn.max_pool(x, (window, window), (2, 2), ((pad, pad), (pad, pad)))
        return x

    def _stage_start(self, x, stage, layers):
        design = self.design
        if design.downsample == "stride":  # the stage's first block does it
            return x
        return blocks.Pool(
            width=design.widths[stage],
            window=design.strides[stage],
            kernel=design.kernel_sizes[stage],
            name=f"stage{stage + 1}_pool",
            **{name: layers[name] for name in ("conv", "norm", "act")},
        )(x)

    def _head(self, x, train):
        # float32 from here: the mean over a map and the logits need its precision
        design, x = self.design, x.astype(self.param_dtype)
        if design.pool is None:
            x = x.mean(axis=(1, 2))  # [B, C]
        else:
            window = (design.pool, design.pool)
            x = nn.avg_pool(x, window, strides=window)  # what is over is dropped
            x = x.reshape(x.shape[0], -1)  # [B, H * W * C]
        x = nn.Dropout(design.dropout, deterministic=not train)(x)
        x = blocks.linear(
            self.num_classes,
            fan_in=x.shape[-1],
            init=design.init,
            dtype=self.param_dtype,
            param_dtype=self.param_dtype,
            name="head",
        )(x)
        return nn.Dropout(design.logits_dropout, deterministic=not train)(x)


def create(*, num_classes: int, image_shape: tuple[int, int, int], **options) -> ResNet:
    """Returns the network of these options, which are the keys of `config.model`.

    Args:
        num_classes: length of the logits.
        image_shape: (height, width, channels).
        **options: fields of `Design`.

    Raises:
        UserError: the options are no sound network for these images.
    """
    design = resolve(options)
    check(design, tuple(image_shape), num_classes)
    accelerated = jax.default_backend() in ("gpu", "tpu")
    auto = "bfloat16" if accelerated else "float32"
    dtype = _DTYPES[auto if design.dtype == "auto" else design.dtype]
    return ResNet(
        design=design,
        num_classes=num_classes,
        dtype=dtype,
        convolve=_CONVOLUTIONS.get(jax.default_backend()),
    )

"""Designs of the whole family, chosen and random; a helper of tests."""

from hypothesis import strategies as st

from cifar_jax.config import CHOICES
from cifar_jax.models.design import resolve

# One for each option; all of them change SMALL.
SMALL = dict(stage_sizes=(1, 2), widths=(8, 12))
VARIANTS = {
    "basic": {},
    "preact": dict(block="preact", stem_width=4),
    "padding": dict(shortcut="padding", widths=(8, 13)),
    "preact_padding": dict(block="preact", shortcut="padding", widths=(8, 13)),
    "kernels": dict(kernel_sizes=(1, 5), stem_kernel=7, shortcut_kernel_sizes=(5, 3)),
    "preact_kernels": dict(block="preact", shortcut_kernel_sizes=(3,)),
    "strides": dict(strides=(2, 3)),
    "stem_stride_and_pool": dict(stem_stride=2, stem_pool=3, stem_kernel=7),
    "whitening": dict(stem="whitening", stem_width=6),
    "stem_pool_2": dict(stem_pool=2),
    "se": dict(se_ratio=4, se_bias=False, se_activation="silu"),
    "preact_se": dict(block="preact", se_ratio=3),
    "pool_flattens": dict(pool=2),
    "pool_drops_the_rest": dict(pool=4),
    "batch_norm": dict(bn_momentum=0.7, bn_epsilon=1e-2),
    "zero_init": dict(zero_init=True),
    "mish": dict(activation="mish", se_ratio=4),
    "pooled_stages": dict(downsample="pool", strides=(2, 2), widths=(12, 8)),
    "no_bn_scale": dict(bn_scale=False),
    "stem_kernel_2": dict(stem_kernel=2, downsample="pool", strides=(3, 1)),
    "elu": dict(activation="elu"),
    "silu": dict(activation="silu"),
    "gelu": dict(activation="gelu", se_ratio=4),
}
# Variants that do not meet in one layer share a network, so that few are compiled: all
# but the basic one, and the one that differs only as it starts.
NETWORKS = (
    "preact preact_kernels preact_se",
    "preact_padding",
    "padding elu stem_pool_2",
    "kernels se",
    "strides mish",
    "stem_stride_and_pool gelu",
    "whitening silu",
    "pool_flattens no_bn_scale",
    "pool_drops_the_rest batch_norm",
    "pooled_stages",
    "stem_kernel_2",
)


def joined(names):
    """Returns the options of a network of variants."""
    options = {}
    for name in names.split():
        assert not options.keys() & VARIANTS[name].keys() - {"block"}
        options |= VARIANTS[name]
    return SMALL | options


_ODD = st.sampled_from([1, 3, 5])
_SIDE = st.integers(36, 72)  # six halvings leave a pixel, where a pool rounds down too


@st.composite
def designs(draw):
    """Draws (options, image_shape, num_classes) of a sound network."""
    num_stages = draw(st.sampled_from([1, 1, 1, 2, 2, 3, 4]))  # tracing takes its time
    side = draw(st.tuples(_SIDE, _SIDE))
    downsample = draw(st.sampled_from(CHOICES["model.downsample"]))
    strides = downsample == "stride"  # a max-pool rounds down
    block = draw(st.sampled_from(CHOICES["model.block"])) if strides else "basic"
    shortcut = draw(st.sampled_from(CHOICES["model.shortcut"]))
    widths = draw(_for_stages(num_stages, st.integers(1, 40)))
    stem_width = draw(st.none() | st.integers(1, 40))
    stem_kernel = draw(st.none() | _ODD | st.just(2))
    bn_scale = draw(st.booleans())
    # a whitening stem has an even width, of no more than its 3x3 patches allow
    whitens = block == "basic" and shortcut == "projection" and draw(st.booleans())
    if whitens:
        stem_width, stem_kernel = draw(st.sampled_from([2, 4, 18])), 3
    if shortcut == "padding":
        widths = tuple(sorted(widths))
        stem_width = stem_width and min(stem_width, *widths)
    options = dict(
        stage_sizes=tuple(
            draw(st.sampled_from([1, 1, 1, 2])) for _ in range(num_stages)
        ),
        widths=widths,
        strides=draw(st.none() | _for_stages(num_stages, st.integers(1, 2))),
        kernel_sizes=draw(_for_stages(num_stages, _ODD)),
        shortcut_kernel_sizes=(1,)
        if shortcut == "padding"
        else draw(_for_stages(num_stages, _ODD)),
        stem="whitening" if whitens else "conv",
        stem_width=stem_width,
        stem_kernel=stem_kernel,
        stem_stride=draw(st.sampled_from([1, 1, 2])) if strides else 1,
        stem_pool=draw(st.sampled_from([0, 0, 2, 3])) if strides else 0,
        block=block,
        shortcut=shortcut,
        activation=draw(st.sampled_from(CHOICES["model.activation"])),
        se_ratio=draw(st.integers(0, min(widths))),
        se_bias=draw(st.booleans()),
        downsample=downsample,
        bn_scale=bn_scale,
        zero_init=block == "basic" and bn_scale and draw(st.booleans()),
        dirac_init=draw(st.booleans()),
    )
    image_shape = (*side, draw(st.sampled_from([1, 3, 4])))
    last = min(resolve(options).map_sizes(image_shape)[-1])
    options["pool"] = draw(st.none() | st.integers(1, last))
    return options, image_shape, draw(st.integers(1, 100))


def _for_stages(num_stages, entries):
    """A tuple with one entry for each stage, or a single one."""
    lengths = st.sampled_from([1, num_stages])
    return lengths.flatmap(lambda length: st.tuples(*[entries] * length))

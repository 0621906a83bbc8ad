"""Random designs of the whole family, for hypothesis; a helper of tests."""

from hypothesis import strategies as st

from cifar_jax.models.design import CHOICES, map_sizes, resolve

_ODD = st.sampled_from([1, 3, 5])
_SIDE = st.integers(36, 72)  # six halvings leave a pixel, where a pool rounds down too


@st.composite
def designs(draw):
    """Draws (options, image_shape, num_classes) of a sound network."""
    num_stages = draw(st.sampled_from([1, 1, 1, 2, 2, 3, 4]))  # tracing takes its time
    side = draw(st.tuples(_SIDE, _SIDE))
    block = draw(st.sampled_from(CHOICES["block"]))
    shortcut = draw(st.sampled_from(CHOICES["shortcut"]))
    widths = draw(_for_stages(num_stages, st.integers(1, 40)))
    stem_width = draw(st.none() | st.integers(1, 40))
    stem_kernel = draw(st.none() | _ODD)
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
        stem_stride=draw(st.sampled_from([1, 1, 2])),
        stem_pool=draw(st.sampled_from([0, 0, 2, 3])),
        block=block,
        shortcut=shortcut,
        activation=draw(st.sampled_from(CHOICES["activation"])),
        se_ratio=draw(st.integers(0, min(widths))),
        se_bias=draw(st.booleans()),
        zero_init=block == "basic" and draw(st.booleans()),
    )
    image_shape = (*side, draw(st.sampled_from([1, 3, 4])))
    last = min(map_sizes(resolve(options), image_shape)[-1])
    options["pool"] = draw(st.none() | st.integers(1, last))
    return options, image_shape, draw(st.integers(1, 100))


def _for_stages(num_stages, entries):
    """A tuple with one entry for each stage, or a single one."""
    lengths = st.sampled_from([1, num_stages])
    return lengths.flatmap(lambda length: st.tuples(*[entries] * length))

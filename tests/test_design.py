"""Options resolve to one entry for each stage, and odd designs refuse clearly."""

import dataclasses

import pytest

from cifar_jax import UserError
from cifar_jax.config import CHOICES, get_config
from cifar_jax.models.blocks import ACTIVATIONS, BLOCKS
from cifar_jax.models.design import Design, check, resolve

CIFAR = (32, 32, 3)


def refusal(image_shape=CIFAR, **options):
    with pytest.raises(UserError) as error:
        check(resolve(options), image_shape)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_short_forms():
    design = resolve(dict(stage_sizes=(2, 2, 2), widths=(85,), kernel_sizes=(5,)))
    assert design.widths == (85, 170, 340)
    assert design.strides == (1, 2, 2)
    assert design.kernel_sizes == (5, 5, 5)
    assert (design.stem_width, design.stem_kernel) == (85, 5)
    assert design.se_activation == "relu"


def test_lists_of_a_restored_config_are_tuples():
    design = resolve(dict(stage_sizes=[1, 1], widths=[8, 16], strides=[1, 1]))
    assert design == resolve(dict(stage_sizes=(1, 1), widths=(8, 16), strides=(1, 1)))
    hash(design)


def test_defaults_are_those_of_the_config():
    default = resolve(get_config().model.to_dict())
    assert default == resolve({})
    names = {field.name for field in dataclasses.fields(Design)}
    assert names == set(get_config().model)


def test_choices_are_what_is_built():
    assert set(CHOICES["model.block"]) == set(BLOCKS)
    assert set(CHOICES["model.activation"]) == set(ACTIVATIONS)
    assert set(CHOICES["model.se_activation"]) == {None, *ACTIVATIONS}


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({}, [(32, 32), (32, 32), (16, 16), (8, 8), (4, 4)]),
        (dict(stem_stride=2, stem_pool=3), [(8, 8), (8, 8), (4, 4), (2, 2), (1, 1)]),
        (
            dict(downsample="pool", strides=(2, 2, 1, 3), stem_kernel=2),
            [(31, 31), (15, 15), (7, 7), (7, 7), (2, 2)],
        ),
    ],
)
def test_map_sizes(options, sizes):
    assert resolve(options).map_sizes(CIFAR) == sizes


def test_odd_maps_round_up():
    assert resolve({}).map_sizes((25, 9, 3))[-1] == (4, 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(stage_sizes=(2, 0, 2, 2)), ["stage_sizes", "(2, 0, 2, 2)", "at least 1"]),
        (dict(stage_sizes=()), ["stage_sizes", "at least 1"]),
        (dict(kernel_sizes=(3, 4, 3, 3)), ["kernel_sizes", "4", "even", "5"]),
        (dict(stem_kernel=0), ["stem_kernel", "at least 1"]),
        (dict(shortcut_kernel_sizes=(2,)), ["shortcut_kernel_sizes", "even"]),
        (dict(stage_sizes=(1,) * 7, widths=(4,)), ["stage 7", "1x1", "at most 6"]),
        (dict(pool=5), ["pool is 5", "4x4", "1 to 4"]),
        (dict(pool=0), ["pool is 0", "1 to 4"]),
        (dict(se_ratio=65), ["se_ratio is 65", "64 channels", "at most 64"]),
        (dict(se_ratio=-1), ["se_ratio is -1"]),
        (dict(widths=(8, 16)), ["widths has 2 entries for 4 stages"]),
        (dict(strides=(1, 2, 2)), ["strides has 3 entries for 4 stages"]),
        (dict(widths=(8.5,)), ["widths", "8.5", "whole numbers"]),
        (dict(stem_width=0), ["stem_width", "at least 1"]),
        (dict(stem_pool=-2), ["stem_pool is -2"]),
        (dict(activation="tanh"), ["activation is 'tanh'", "mish"]),
        (dict(block="bottleneck"), ["block is 'bottleneck'", "preact"]),
        (dict(dtype="float16"), ["dtype is 'float16'", "bfloat16"]),
        (dict(dropout=1.0), ["dropout is 1.0", "below 1"]),
        (dict(bn_epsilon=0.0), ["bn_epsilon is 0.0", "above 0"]),
        (dict(zero_init=True, block="preact"), ["zero_init", "basic"]),
        (
            dict(shortcut="padding", widths=(16, 8, 8, 8)),
            ["from 16 to 8", "projection"],
        ),
        (
            dict(stem="whitening", stem_width=56),
            ["stem_width is 56", "at most 54"],
        ),
        (dict(stem="whitening", stem_width=27), ["stem_width is 27", "even"]),
        (
            dict(stem="whitening", stem_width=8, block="preact"),
            ["'whitening'", "'preact'", "basic"],
        ),
        (
            dict(downsample="pool", block="preact"),
            ["'pool'", "'preact'", "basic"],
        ),
        (dict(downsample="blur"), ["downsample is 'blur'", "stride, pool"]),
        (dict(downsample="pool", strides=(2, 2, 2, 5)), ["4x4", "stride of 5"]),
        (dict(zero_init=True, bn_scale=False), ["zero_init", "bn_scale"]),
    ],
)
def test_odd_designs_refuse(options, words):
    message = refusal(**options)
    for word in words:
        assert word in message


def test_odd_images_refuse():
    assert "0x32" in refusal(image_shape=(0, 32, 3))
    assert "8x1" in refusal(image_shape=(32, 4, 3), strides=(2, 2, 2, 2))


def test_an_even_pool_of_the_stem_is_sound():
    check(resolve(dict(stem_pool=2)), CIFAR)

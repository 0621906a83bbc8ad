"""The named networks have the parameters that were published for them."""

import jax
import jax.numpy as jnp
import pytest

from cifar_jax import UserError
from cifar_jax.config import get_config
from cifar_jax.models.count import num_parameters
from cifar_jax.models.formula import closed_form
from cifar_jax.models.presets import PRESETS, cifar_resnet, wide_resnet
from cifar_jax.models.resnet import create

CIFAR = (32, 32, 3)

# The table of DESIGN.md: each count three ways.
PUBLISHED = {
    "report_000": 4_964_266,
    "report_000_baseline": 855_770,
    "report_001": 4_903_242,
    "report_002": 4_570_934,
    "report_003": 4_977_226,
    "report_004": 4_895_755,
    "resnet18": 11_173_962,
    # He et al. (2016) print 0.27M, 0.85M and 1.7M
    "resnet20": 269_722,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
    # Zagoruyko & Komodakis (2016) print 2.7M and 2.2M; they have no WRN-22-4
    "wrn_16_4": 2_748_890,
    "wrn_22_4": 4_298_970,
    "wrn_40_2": 2_243_546,
}


@pytest.mark.parametrize("name", PRESETS)
def test_count_agrees_three_ways(name):
    model = create(num_classes=10, image_shape=CIFAR, **PRESETS[name])
    assert closed_form(model.design, CIFAR, 10) == PUBLISHED[name]
    assert num_parameters(model, CIFAR) == PUBLISHED[name]
    images = jnp.zeros((1, *CIFAR))
    init = jax.jit(
        lambda key: model.init(key, images, train=False)["params"],
        compiler_options=dict(xla_backend_optimization_level=0),
    )
    params = init(jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == PUBLISHED[name]
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


def test_the_largest_published_wide_resnet():
    # 36.5M in the paper, Table 5; its reference code counts 36,479,194
    model = create(num_classes=10, image_shape=CIFAR, **wide_resnet(28, 10))
    assert closed_form(model.design, CIFAR, 10) == 36_479_194
    assert num_parameters(model, CIFAR) == 36_479_194


def test_presets_fit_into_the_config():
    for options in PRESETS.values():
        config = get_config()
        config.model.update(options)
        model = create(num_classes=10, image_shape=CIFAR, **config.model.to_dict())
        bare = create(num_classes=10, image_shape=CIFAR, **options)
        assert model.design == bare.design


@pytest.mark.parametrize(("build", "depth"), [(cifar_resnet, 21), (cifar_resnet, 2)])
def test_depths_that_are_none(build, depth):
    with pytest.raises(UserError, match=f"depth {depth} is not 6n \\+ 2; use"):
        build(depth)


def test_a_wide_depth_that_is_none():
    with pytest.raises(UserError, match="depth 20 is not 6n \\+ 4; use 16"):
        wide_resnet(20, 4)

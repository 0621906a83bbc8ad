"""The named networks have the parameters that were published for them."""

import jax
import jax.numpy as jnp
import pytest

from cifar_jax.config import get_config
from cifar_jax.models.count import closed_form, num_parameters
from cifar_jax.models.design import resolve
from cifar_jax.models.presets import PRESETS
from cifar_jax.models.resnet import create

CIFAR = (32, 32, 3)

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
    "wrn_16_4": 2_748_890,
    "wrn_22_4": 4_298_970,
    "wrn_40_2": 2_243_546,
}

# These are counted three ways; to draw the others takes long.
ALSO_INITIALISED = ("report_001", "report_003")


@pytest.mark.parametrize("name", PRESETS)
def test_counts_agree(name):
    model = create(num_classes=10, image_shape=CIFAR, **PRESETS[name])
    assert closed_form(model.design, CIFAR, 10) == PUBLISHED[name]
    assert num_parameters(model, CIFAR) == PUBLISHED[name]
    if name in ALSO_INITIALISED:
        leaves = initialise(model)
        assert sum(leaf.size for leaf in leaves) == PUBLISHED[name]
        assert all(leaf.dtype == jnp.float32 for leaf in leaves)


def initialise(model):
    """Returns the parameters, drawn by their initialisers, and computes no images."""
    images = jax.ShapeDtypeStruct((1, *CIFAR), jnp.float32)
    key = jax.random.key(0, impl="rbg")  # its draws compile sooner
    variables = model.lazy_init(key, images, train=False)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(variables))
    return jax.tree.leaves(variables["params"])


# Depth, width factor, millions of parameters: Zagoruyko & Komodakis (2016), Table 4.
@pytest.mark.parametrize(
    ("depth", "width_factor", "millions"),
    [
        (40, 1, 0.6),
        (40, 2, 2.2),
        (40, 4, 8.9),
        (40, 8, 35.7),
        (28, 10, 36.5),
        (28, 12, 52.5),
        (22, 8, 17.2),
        (22, 10, 26.8),
        (16, 8, 11.0),
        (16, 10, 17.1),
    ],
)
def test_wide_resnets_have_their_published_size(depth, width_factor, millions):
    options = {
        **PRESETS["wrn_40_2"],
        "stage_sizes": ((depth - 4) // 6,) * 3,
        "widths": tuple(16 * width_factor * 2**stage for stage in range(3)),
    }
    design = resolve(options)
    assert round(closed_form(design, CIFAR, 10) / 1e6, 1) == millions


def test_presets_fit_into_the_config():
    for options in PRESETS.values():
        config = get_config()
        config.model.update(options)
        model = create(num_classes=10, image_shape=CIFAR, **config.model.to_dict())
        bare = create(num_classes=10, image_shape=CIFAR, **options)
        assert model.design == bare.design

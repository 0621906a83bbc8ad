"""From a config to what its run needs: the options of the steps."""

import jax
import numpy as np
import pytest
from support.runs import tiny_config

from cifar_jax import UserError
from cifar_jax.training import setup


def make(digits_dir, key, value):
    config = tiny_config(digits_dir, **{key: value})
    return setup.make(config, jax.devices()[:1], lambda line: None)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.label_smoothing", 0.3),
        ("train.ema_decay", 0.7),
        ("train.accumulate", 4),
        ("train.repeats", 2),
        ("optim.sam_rho", 0.2),
        ("optim.sam_adaptive", True),
        ("data.mean", (0.1, 0.2, 0.3)),
        ("data.std", (0.4, 0.5, 0.6)),
    ],
)
def test_the_steps_have_the_options_of_the_config(digits_dir, key, value):
    options = make(digits_dir, key, value).options
    found = getattr(options, key.partition(".")[2])
    np.testing.assert_allclose(found, value, rtol=1e-6)


def test_random_weights_are_not_frozen(digits_dir):
    with pytest.raises(UserError, match="init.frozen is 50%; name a trained network"):
        make(digits_dir, "init.frozen", "50%")


def test_classes_without_images_are_named(digits_dir):
    """As where labels begin with 1."""
    said = []
    config = tiny_config(digits_dir, data__validation=0)
    source = setup.open_source(config)
    source.label_names = (*source.label_names, "none of these")
    setup.make(config, jax.devices()[:1], said.append, source)
    assert "without training images: none of these" in said
    setup.make(config, jax.devices()[:1], said.append)
    assert sum("without training images" in line for line in said) == 1


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("data.mean", (0.5,), "data.mean has 1 values for 3 channels; give 3, or None"),
        ("data.std", (0.5,) * 4, "data.std has 4 values for 3 channels; give 3, or"),
        ("data.std", (0.5, 0.0, 0.5), r"std is \(0.5, 0.0, 0.5\); use positive values"),
    ],
)
def test_statistics_that_make_no_sense_are_refused(digits_dir, key, value, match):
    with pytest.raises(UserError, match=match):
        make(digits_dir, key, value)

"""What the whitening filters do to the patches that they were made from."""

import functools
import types

import jax
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from support.runs import tiny_config

from cifar_jax.data import sources
from cifar_jax.training import setup, steps
from cifar_jax.training.methods import whitening
from cifar_jax.training.state import Metrics


def smooth_images(channels=3):
    """Images float32 [N, 12, 12, C], correlated in space and between channels."""
    random = np.random.default_rng(0)
    images = random.normal(size=(400, 13, 13, channels))
    images = images[:, 1:, 1:] + images[:, :-1, 1:] + images[:, 1:, :-1]
    mixing = np.eye(channels) + 0.5
    return (images @ mixing).astype(np.float32)


def outputs(images, kernel):
    """What the filters return at the patches of every second row and column."""
    size = kernel.shape[0]
    patches = sliding_window_view(images, (size, size), axis=(1, 2))[:, ::2, ::2]
    return np.einsum("nyxcij,ijcf->nyxf", patches, kernel).reshape(-1, kernel.shape[-1])


def test_filters_are_of_images_from_all_over(monkeypatch):
    """A folder's images come class by class."""
    images = np.repeat(np.uint8([0, 100, 200]), 4000).reshape(-1, 1, 1, 1)
    images = np.broadcast_to(images, (12_000, 2, 2, 1))
    train = sources.Examples(images, np.zeros(12_000, np.int32))
    seen = []
    monkeypatch.setattr(whitening, "filters", lambda images, **_: seen.append(images))
    options = types.SimpleNamespace(mean=np.zeros(1), std=np.ones(1))
    model = types.SimpleNamespace(
        design=types.SimpleNamespace(stem_kernel=2, stem_width=4)
    )
    setup._whitening(model, train, options)
    assert len(seen[0]) == 4000 <= setup.NUM_WHITENING_IMAGES
    counts = np.unique(seen[0][:, 0, 0, 0], return_counts=True)[1]
    assert max(counts) - min(counts) <= 1


def test_the_stem_of_a_run_whitens_its_images_and_stays(digits_dir):
    stem = dict(model__stem="whitening", model__stem_width=8, model__stem_kernel=3)
    config, key = tiny_config(digits_dir, **stem), jax.random.key(0)
    made = setup.make(config, jax.devices()[:1], lambda line: None)
    images, labels = made.train.images, made.train.labels
    normal = steps.normalize(images, made.options.mean, made.options.std)
    expected = whitening.filters(np.asarray(normal), kernel_size=3, width=8)
    state = setup.jit_create_state(made)(key)
    kernels = [state.params["stem_conv"]["kernel"]]
    batch = steps.Batch(images[:64], labels[:64], np.arange(64))
    step = jax.jit(functools.partial(steps.train, options=made.options))
    for _ in range(2):
        state, _ = step(state, Metrics.empty(), batch, key)
        kernels.append(state.params["stem_conv"]["kernel"])
    np.testing.assert_array_equal(kernels, [expected] * 3)


@pytest.mark.parametrize(("size", "channels"), [(3, 3), (2, 3), (3, 1)])
def test_whitened_patches_have_identity_covariance(size, channels):
    images = smooth_images(channels)
    half = size**2 * channels
    kernel = whitening.filters(images, kernel_size=size, width=2 * half)
    assert kernel.shape == (size, size, channels, 2 * half)
    assert kernel.dtype == np.float32
    white = outputs(images, kernel[..., :half])
    covariance = white.T @ white / len(white)
    np.testing.assert_allclose(covariance, np.eye(half), atol=0.02)


def test_each_direction_has_both_signs():
    kernel = whitening.filters(smooth_images(), kernel_size=3, width=54)
    np.testing.assert_array_equal(kernel[..., 27:], -kernel[..., :27])


def test_a_narrow_stem_takes_the_directions_of_most_variance():
    images = smooth_images()
    kernel = whitening.filters(images, kernel_size=3, width=12)
    patches = sliding_window_view(images, (3, 3), axis=(1, 2))[:, ::2, ::2]
    patches = patches.reshape(-1, 27)
    variances = np.linalg.svd(patches, compute_uv=False) ** 2 / len(patches)
    # A filter is a direction over the root of its variance.
    lengths = np.linalg.norm(kernel[..., :6].reshape(27, 6), axis=0)
    np.testing.assert_allclose(lengths, variances[:6] ** -0.5, rtol=1e-3)


def test_directions_without_variance_are_not_blown_up():
    gray = np.repeat(smooth_images(1), 3, axis=-1)
    kernel = whitening.filters(gray, kernel_size=3, width=54)
    assert np.isfinite(kernel).all()
    assert np.abs(kernel).max() <= 1.01 / np.sqrt(whitening.EPSILON)

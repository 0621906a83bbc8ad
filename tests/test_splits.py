"""The held-out validation images, and the statistics of the channels."""

import numpy as np
import pytest

from cifar_jax import UserError
from cifar_jax.data import splits
from cifar_jax.data.sources import Examples


def numbered(counts):
    """Examples with the given number of each class, each image its own number."""
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    np.random.default_rng(0).shuffle(labels)
    numbers = np.arange(len(labels)).reshape(-1, 1, 1, 1)
    return Examples(numbers, labels)


def numbers(examples):
    return examples.images.ravel().tolist()


@pytest.mark.parametrize(
    ("size", "count"), [(0.1, 20), (20, 20), (0.25, 50), (190, 190)]
)
def test_each_image_is_on_one_side_in_its_old_order(size, count):
    examples = numbered([100, 60, 40])
    train, val = splits.hold_out(examples, size, seed=0)
    assert len(val) == count
    assert sorted(numbers(train) + numbers(val)) == list(range(200))
    for part in (train, val):
        assert numbers(part) == sorted(numbers(part))
        np.testing.assert_array_equal(part.labels, examples.labels[numbers(part)])
        shares = np.bincount(part.labels) / len(part)
        np.testing.assert_allclose(shares, [0.5, 0.3, 0.2], atol=1 / len(part))


def test_the_seed_decides_which_images_are_held_out():
    examples = numbered([50, 50])
    first, again, other = (
        numbers(splits.hold_out(examples, 0.2, seed=seed)[1]) for seed in (0, 0, 1)
    )
    assert first == again != other


@pytest.mark.parametrize("size", [1, 2, 198, 200, 5000, -5, 0.005, 0.999, 1.5])
def test_a_side_without_room_for_each_class_is_refused(size):
    with pytest.raises(UserError, match=rf"data\.validation is {size}, .* 3 classes"):
        splits.hold_out(numbered([100, 60, 40]), size, seed=0)


def test_a_class_with_one_image_is_refused():
    with pytest.raises(UserError, match="an image on both sides"):
        splits.hold_out(numbered([50, 50, 1]), 10, seed=0)


def test_channel_statistics_are_those_of_numpy():
    random = np.random.default_rng(0)
    images = random.integers(0, [256, 100, 3], (50, 8, 8, 3)).astype(np.uint8)
    mean, std = splits.channel_statistics(images)
    pixels = images.astype(np.float64) / 255
    np.testing.assert_allclose(mean, pixels.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std, pixels.std((0, 1, 2)), rtol=1e-6)
    assert mean.dtype == std.dtype == np.float32


def test_a_channel_without_contrast_is_not_divided_by_zero():
    images = np.full((2, 4, 4, 1), 51, np.uint8)
    mean, std = splits.channel_statistics(images)
    assert (mean, std) == (pytest.approx(0.2), 1.0)

"""The held-out validation images, and the statistics of the channels."""

import dataclasses

import numpy as np
import pytest
from sklearn import model_selection

from cifar_jax import UserError
from cifar_jax import config as default
from cifar_jax.data import sources, splits
from cifar_jax.data.dataset import histogram
from cifar_jax.data.sources import Examples
from cifar_jax.training import setup


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


def test_without_strata_the_classes_have_no_say():
    examples, seed = numbered([150, 49, 1]), 7
    train, val = splits.hold_out(examples, 40, seed=seed, stratified=False)
    drawn = np.random.RandomState(seed).permutation(200)  # a stream that NumPy froze
    assert numbers(val) == sorted(drawn[:40])
    assert numbers(train) == sorted(drawn[40:])
    np.testing.assert_array_equal(val.labels, examples.labels[numbers(val)])


@pytest.mark.parametrize("size", [200, 0.001, -1, 0.999])
def test_without_strata_each_side_has_an_image(size):
    with pytest.raises(UserError, match=r"must leave an image on both sides$"):
        splits.hold_out(numbered([100, 60, 40]), size, seed=0, stratified=False)


@pytest.mark.parametrize("stratified", [True, False])
@pytest.mark.parametrize(
    ("counts", "sizes"),
    [
        ([5000] * 10, [0.1, 5000, 0.02, 4999, 12_345]),  # CIFAR-10
        ([500] * 100, [0.1, 5001, 100]),
        ([100, 60, 40], [0.1, 7, 33, 66, 190]),
        ([145, 146, 142, 147, 145, 145, 145, 143, 140, 139], [0.1, 0.2, 77]),  # digits
        ([2, 3, 5, 7, 11, 13, 17, 2], [8, 9, 23, 31]),
    ],
)
def test_the_held_out_images_are_those_of_scikit_learn(counts, sizes, stratified):
    examples = numbered(counts)
    for size in sizes:
        for seed in (0, 1, 2**32 - 1):
            _, val = splits.hold_out(examples, size, seed=seed, stratified=stratified)
            _, expected = model_selection.train_test_split(
                np.arange(len(examples)),
                test_size=len(val),
                stratify=examples.labels if stratified else None,
                random_state=seed,
            )
            assert numbers(val) == sorted(expected)


@pytest.mark.parametrize("labels", [(0, 1), (3, 70)])
def test_a_known_histogram_becomes_that_of_the_training_images(labels):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (40, 4, 4, 3)).astype(np.uint8)
    plain = Examples(images, np.array(labels, np.int32).repeat(20))
    counted = dataclasses.replace(plain, histogram=histogram(images))
    train, val = splits.hold_out(counted, 8, seed=0)
    np.testing.assert_array_equal(train.histogram, histogram(train.images))
    assert val.histogram is None
    again = splits.hold_out(plain, 8, seed=0)[0]
    for one, other in zip(*map(splits.channel_statistics, (train, again)), strict=True):
        np.testing.assert_array_equal(one, other)


def make(digits_dir, **data):
    config = default.get_config()
    config.data.update(name="digits", dir=digits_dir, validation=0.25, **data)
    config.model.update(widths=(8,), stage_sizes=(1,), strides=(1,))
    config.augment = ()
    config.train.batch_size = 8
    config.seed = data.get("split_seed", 0) + 1  # has no say in the split
    return setup.make(config, None, lambda line: None)


def test_statistics_come_from_the_images_that_are_trained_on(digits_dir, monkeypatch):
    before, read = make(digits_dir), sources.Source.read
    asked, target = [], before.val

    def changed(source, split):
        examples = read(source, split)
        asked.append(split)
        wanted = {image.tobytes() for image in target.images}
        hit = np.array([image.tobytes() in wanted for image in examples.images])
        images = np.where(hit[:, None, None, None], 255, examples.images)
        return Examples(images.astype(np.uint8), examples.labels)

    monkeypatch.setattr(sources.Source, "read", changed)
    after = make(digits_dir)
    assert asked == ["train"]  # and nothing of the test images
    assert (after.val.images == 255).all()
    np.testing.assert_array_equal(after.options.mean, before.options.mean)
    np.testing.assert_array_equal(after.options.std, before.options.std)
    target = before.train
    assert (make(digits_dir).options.mean != before.options.mean).all()


def test_the_split_has_a_seed_of_its_own(digits_dir):
    first, other = (make(digits_dir, split_seed=seed).val for seed in (0, 1))
    assert (first.images != other.images).any()
    examples = sources.open("digits", digits_dir).read("train")
    expected = splits.hold_out(examples, 0.25, seed=0)[1]
    np.testing.assert_array_equal(first.images, expected.images)


@pytest.mark.parametrize("key", ["seed", "split_seed"])
def test_a_seed_out_of_bounds_is_named(digits_dir, key):
    with pytest.raises(UserError, match=rf"{key} is -1; use at least 0"):
        make(digits_dir, split_seed=-2 if key == "seed" else -1)


def test_channel_statistics_are_those_of_numpy():
    random = np.random.default_rng(0)
    images = random.integers(0, [256, 100, 3], (50, 8, 8, 3)).astype(np.uint8)
    mean, std = splits.channel_statistics(Examples(images, np.zeros(len(images), int)))
    pixels = images.astype(np.float64) / 255
    np.testing.assert_allclose(mean, pixels.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std, pixels.std((0, 1, 2)), rtol=1e-6)
    assert mean.dtype == std.dtype == np.float32


def test_a_channel_without_contrast_is_not_divided_by_zero():
    images = np.full((2, 4, 4, 1), 51, np.uint8)
    mean, std = splits.channel_statistics(Examples(images, np.zeros(len(images), int)))
    assert (mean, std) == (pytest.approx(0.2), 1.0)

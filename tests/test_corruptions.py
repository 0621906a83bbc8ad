"""Corruptions: repeatable, of the asked strength, and against other implementations."""

import colorsys
import io

import numpy as np
import pytest
from PIL import Image, ImageFilter
from support.augment_images import natural_images

from cifar_jax.data.dataset import from_arrays
from cifar_jax.evaluation import corruptions


@pytest.fixture(scope="module")
def images():
    return natural_images(24)


def distance(changed, images):
    return np.sqrt(((changed / 255 - images / 255) ** 2).mean())


@pytest.mark.parametrize("name", corruptions.CORRUPTIONS)
def test_a_stronger_corruption_takes_images_further(name, images):
    before = images.copy()
    changed = [corruptions.corrupt(images, name, severity) for severity in range(1, 6)]
    assert all(each.dtype == np.uint8 for each in changed)
    distances = [distance(each, images) for each in changed]
    # The mildest defocus is a disk within a pixel: the same for radius 0.3 and 0.4.
    assert distances == sorted(distances) and distances[-1] > 1.3 * distances[0] > 0
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("name", corruptions.CORRUPTIONS)
def test_draws_depend_on_seed_and_place_alone(name, images):
    whole = corruptions.corrupt(images, name, 3, seed=5)
    part = corruptions.corrupt(images[7:11], name, 3, seed=5, start=7)
    np.testing.assert_array_equal(part, whole[7:11])
    if name.endswith("noise"):
        assert (corruptions.corrupt(images, name, 3, seed=6) != whole).any()
        same = np.repeat(images[:1], 2, axis=0)
        first, second = corruptions.corrupt(same, name, 3)
        assert (first != second).any()


@pytest.mark.parametrize("name", corruptions.CORRUPTIONS)
def test_gray_images_stay_gray(name, images):
    gray = images[:2, :20, :, :1]
    assert corruptions.corrupt(gray, name, 2).shape == gray.shape


def test_noise_has_the_moments_of_its_distribution():
    gray = np.full((400, 16, 16, 3), 128, np.uint8)

    def moments(name, severity):
        changed = corruptions.corrupt(gray, name, severity) / 255
        return changed.mean(), changed.std()

    assert moments("gaussian_noise", 5) == pytest.approx((128 / 255, 0.10), rel=0.01)
    mean, std = moments("shot_noise", 5)
    assert mean == pytest.approx(128 / 255, rel=0.01)
    assert std == pytest.approx(np.sqrt(128 / 255 / 50), rel=0.01)
    changed = corruptions.corrupt(gray, "impulse_noise", 5)
    assert (changed == 255).mean() == pytest.approx(0.035, rel=0.05)
    assert (changed == 0).mean() == pytest.approx(0.035, rel=0.05)


def test_brightness_raises_the_value_of_hsv(images):
    changed = corruptions.corrupt(images[:2], "brightness", 4)
    for old, new in zip(images[:2].reshape(-1, 3), changed.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*old / 255)
        expected = colorsys.hsv_to_rgb(hue, saturation, min(value + 0.2, 1))
        np.testing.assert_allclose(new, np.multiply(expected, 255), atol=0.51)


def test_black_becomes_gray():
    black = np.zeros((1, 4, 4, 3), np.uint8)
    assert (corruptions.corrupt(black, "brightness", 1) == round(0.05 * 255)).all()


def test_contrast_shrinks_the_distances_to_the_mean(images):
    image = images[:1] // 2 + 64  # nothing is cut off
    changed = corruptions.corrupt(image, "contrast", 2) / 255
    mean = image.mean(axis=(1, 2)) / 255
    np.testing.assert_allclose(changed - mean, (image / 255 - mean) / 2, atol=2.1e-3)


def test_blurs_are_those_of_pil_and_of_a_plain_loop(images):
    image = max(images, key=np.std)
    changed = corruptions.corrupt(image[None], "defocus_blur", 5)[0] / 255
    # A disk of radius 1.5 has nine pixels; a Gaussian of 0.1 changes nothing.
    inner = Image.fromarray(image).filter(ImageFilter.BoxBlur(1))
    inner = np.asarray(inner)[1:-1, 1:-1] / 255
    np.testing.assert_allclose(changed[1:-1, 1:-1], inner, atol=0.01)
    point = np.zeros((1, 21, 21, 1), np.uint8)
    point[0, 10, 10] = 255
    spread = corruptions.corrupt(point, "gaussian_blur", 5)[0, 10, 10:14, 0] / 255
    weights = np.exp(-(np.arange(-4, 5) ** 2) / 2)
    expected = weights[4] * weights[4:8] / weights.sum() ** 2
    np.testing.assert_allclose(spread, expected, atol=0.003)


def test_jpeg_is_that_of_pil(images):
    file = io.BytesIO()
    Image.fromarray(images[3]).save(file, "JPEG", quality=40)
    changed = corruptions.corrupt(images[3:4], "jpeg_compression", 5)
    np.testing.assert_array_equal(changed[0], np.asarray(Image.open(file)))


def test_a_corrupted_table_is_read_alike_in_any_pieces(images):
    table = from_arrays("x", images, np.arange(24, dtype=np.int32) % 3)
    changed = corruptions.corrupted(table, "shot_noise", 2, seed=1)
    whole = changed.read(0, 24)
    pieces = np.concatenate([rows.images for rows in changed.chunks(5)])
    np.testing.assert_array_equal(pieces, whole.images)
    np.testing.assert_array_equal(whole.labels, np.arange(24) % 3)

"""Mixing: which pixels come from where, and labels by exactly those shares."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cifar_jax.data import augment

pytestmark = pytest.mark.usefixtures("strict_dtypes")

SIDE = 32
BATCH = 1024
SIGNIFICANCE = 1e-3


def run(name, images, labels, **options):
    transform = functools.partial(augment.TRANSFORMS[name], **options)
    return [
        np.asarray(x) for x in jax.jit(transform)(jax.random.key(0), images, labels)
    ]


def probe(batch=BATCH):
    """float32 images of (place in the batch, row, column), and a label for each."""
    place, row, column = np.meshgrid(
        np.arange(batch), np.arange(SIDE), np.arange(SIDE), indexing="ij"
    )
    images = np.stack([place, row, column], axis=-1).astype(np.float32)
    return jnp.asarray(images), jnp.eye(batch)


def shares_of(labels, distance):
    """Share of the image `distance` places on, in each row of mixed one-hot labels."""
    rows = np.arange(len(labels))
    return labels[rows, (rows + distance) % len(labels)]


def test_mixup_weighs_images_and_labels_alike_by_a_beta_draw():
    images, labels = probe()
    mixed, mixed_labels = run("mixup", images, labels, alpha=0.4)
    weights = shares_of(mixed_labels, 0)
    np.testing.assert_allclose(shares_of(mixed_labels, 1), 1 - weights, atol=1e-6)
    following = np.roll(images, -1, axis=0)
    weights = weights[:, None, None, None]
    expected = weights * images + (1 - weights) * following
    np.testing.assert_allclose(mixed, expected, atol=1e-3)
    fit = stats.kstest(weights.ravel(), stats.beta(0.4, 0.4).cdf)
    assert fit.pvalue > SIGNIFICANCE


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.5, 1.0, 2.0, 8.0])
def test_mixup_weights_are_beta_whatever_alpha_is(alpha):
    batch = 20_000
    images, labels = jnp.zeros((batch, 1, 1, 1)), jnp.eye(2)[jnp.arange(batch) % 2]
    _, mixed = run("mixup", images, labels, alpha=alpha)
    weights = mixed[np.arange(batch), np.arange(batch) % 2].astype(np.float64)
    reference = stats.beta(alpha, alpha).cdf
    # float32 holds what is close to 0, but not what is close to 1
    for low, high in ((0, 1e-3), (0, 0.5), (0.5, 1 - 1e-4)):
        inside = weights[(low <= weights) & (weights < high)]
        share = reference(high) - reference(low)
        assert stats.binomtest(len(inside), batch, share).pvalue > SIGNIFICANCE
        if len(inside) > 100:
            places = (reference(inside) - reference(low)) / share
            assert stats.kstest(places, "uniform").pvalue > SIGNIFICANCE


def test_cutmix_labels_are_the_areas_of_its_boxes():
    images, labels = probe()
    mixed, mixed_labels = run("cutmix", images, labels, alpha=1.0)
    place = mixed[..., 0].astype(int)
    pasted = place != np.arange(BATCH)[:, None, None]
    following = np.roll(np.arange(BATCH), -1)[:, None, None]
    np.testing.assert_array_equal(place[pasted], (pasted * following)[pasted])
    np.testing.assert_array_equal(mixed[..., 1:], np.asarray(images)[..., 1:])
    areas = pasted.sum(axis=(1, 2))
    np.testing.assert_array_equal(shares_of(mixed_labels, 1), areas / SIDE**2)
    np.testing.assert_array_equal(shares_of(mixed_labels, 0), 1 - areas / SIDE**2)
    rows, columns = pasted.any(axis=2).sum(axis=1), pasted.any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(rows * columns, areas)
    edge = pasted[:, [0, -1]].any(axis=(1, 2)) | pasted[:, :, [0, -1]].any(axis=(1, 2))
    assert not (rows[~edge] % 2).any() and not (columns[~edge] % 2).any()
    reference = cutmix_areas(np.random.default_rng(0))
    assert stats.ks_2samp(areas, reference).pvalue > SIGNIFICANCE


def cutmix_areas(rng):
    """Areas of boxes by the authors' rule, in numpy."""
    half = (SIDE * np.sqrt(1 - rng.beta(1.0, 1.0, BATCH))).astype(int) // 2
    lengths = [
        np.clip(centre + half, 0, SIDE) - np.clip(centre - half, 0, SIDE)
        for centre in rng.integers(0, SIDE, (2, BATCH))
    ]
    return lengths[0] * lengths[1]


def test_ricap_joins_four_whole_crops_and_counts_their_areas():
    images, labels = probe()
    mixed, mixed_labels = run("ricap", images, labels, beta=0.3)
    place, row, column = np.moveaxis(mixed.astype(int), -1, 0)
    patch = (place - np.arange(BATCH)[:, None, None]) % BATCH
    assert patch.max() == 3
    for k in range(4):
        areas = (patch == k).sum(axis=(1, 2))
        np.testing.assert_allclose(shares_of(mixed_labels, k), areas / SIDE**2)
    # Patches meet at one point, and each is a window of its image.
    heights = (patch < 2).sum(axis=1).max(axis=1)
    widths = (patch % 2 == 0).sum(axis=2).max(axis=1)
    y, x = np.mgrid[:SIDE, :SIDE][:, None]
    below, right = y >= heights[:, None, None], x >= widths[:, None, None]
    np.testing.assert_array_equal(patch, 2 * below + right)
    for moved in (row - y, column - x):
        low = np.stack([np.where(patch == k, moved, 99).min((1, 2)) for k in range(4)])
        high = np.stack(
            [np.where(patch == k, moved, -99).max((1, 2)) for k in range(4)]
        )
        assert ((low == high) | (low == 99)).all()
    for point in (heights, widths):
        edges = (np.array([0, 1, 4, 16, 28, 31, 32]) + 0.5) / SIDE
        expected = np.diff(stats.beta(0.3, 0.3).cdf([0, *edges]))
        observed = np.diff([0, *((point <= edge * SIDE).sum() for edge in edges)])
        fit = stats.chisquare(observed, BATCH * expected)
        assert fit.pvalue > SIGNIFICANCE


def test_ricap_offsets_reach_every_place_that_fits():
    images, labels = probe()
    mixed, _ = run("ricap", images, labels, beta=0.3)
    first = mixed[:, 0, 0].astype(int)  # the corner of the first patch
    place, row, column = first.T
    heights = (mixed[:, :, 0, 0] == place[:, None]).sum(axis=1)
    own = (place == np.arange(BATCH)) & (heights > 0) & (heights < SIDE)
    shares = (row[own] + np.random.default_rng(0).uniform(size=own.sum())) / (
        SIDE - heights[own] + 1
    )
    assert stats.kstest(shares, "uniform").pvalue > SIGNIFICANCE
    assert column.max() < SIDE


@pytest.mark.parametrize("name", ["mixup", "cutmix", "ricap"])
def test_a_share_of_the_images_is_mixed(name):
    images, labels = probe()
    option = {"beta" if name == "ricap" else "alpha": 8.0}
    mixed, mixed_labels = run(name, images, labels, p=0.3, **option)
    alone = (mixed == images).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(shares_of(mixed_labels, 0) == 1, alone)
    assert stats.binomtest(int(alone.sum()), BATCH, 0.7).pvalue > SIGNIFICANCE

"""Each image in its batch: in training by chance, in evaluation exactly once."""

import functools

import jax
import numpy as np
import pytest

from cifar_jax.data import batches


def test_an_epoch_is_a_permutation_of_its_own():
    key = jax.random.key(0)
    orders = [np.asarray(batches.epoch_order(key, epoch, 100)) for epoch in range(3)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(100))
        assert order.dtype == np.int32
    assert len({order.tobytes() for order in orders}) == 3
    other = batches.epoch_order(jax.random.key(1), 0, 100)
    assert (other != orders[0]).any()


def test_an_epoch_has_the_same_order_when_compiled():
    compiled = jax.jit(functools.partial(batches.epoch_order, num_examples=100))
    for epoch in (0, 7):
        key = jax.random.key(3)
        np.testing.assert_array_equal(
            compiled(key, epoch), batches.epoch_order(key, epoch, 100)
        )


def test_the_images_that_an_epoch_leaves_out_change():
    key = jax.random.key(0)
    left_out = {int(batches.epoch_order(key, epoch, 9)[-1]) for epoch in range(60)}
    assert left_out == set(range(9))


@pytest.mark.parametrize("num_examples", [1, 7, 8, 9, 31])
@pytest.mark.parametrize("batch_size", [1, 3, 8, 40])
def test_every_example_is_there_exactly_once(num_examples, batch_size):
    seen = []
    for index, mask in batches.every_example(num_examples, batch_size):
        assert index.shape == mask.shape == (batch_size,)  # so one compilation does
        assert (index >= 0).all() and (index < num_examples).all()
        assert mask.any()
        seen.extend(index[mask].tolist())
    assert seen == list(range(num_examples))

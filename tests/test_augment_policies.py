"""Work on a part of a batch: the selected images, and only they."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifar_jax.data.augment.policies import CHUNK, apply_where

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def add(images, values):
    return images + values[:, None, None, None]


@pytest.mark.parametrize("batch", [1, CHUNK, 2 * CHUNK + 5])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_the_selected_images_are_changed_and_the_others_kept(batch, share):
    random = np.random.default_rng(batch)
    images = random.integers(0, 100, (batch, 2, 3, 1)).astype(np.uint8)
    values = random.integers(1, 100, batch).astype(np.uint8)
    mask = random.uniform(size=batch) < share
    ours = jax.jit(apply_where, static_argnums=1)(mask, add, images, values)
    np.testing.assert_array_equal(ours[mask], add(images, values)[mask])
    np.testing.assert_array_equal(ours[~mask], images[~mask])


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_only_a_cpu_goes_through_them_in_a_loop(platform):
    mask, values = jnp.arange(64) % 2 == 0, jnp.zeros(64)
    call = jax.jit(lambda mask, *rest: apply_where(mask, add, *rest))
    traced = call.trace(mask, jnp.zeros((64, 8, 8, 3)), values)
    program = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.while" in program) == (platform == "cpu")


def test_a_cpu_spends_nothing_on_the_others():
    seen = []

    def note(images, values):
        jax.debug.callback(lambda values: seen.extend(values.tolist()), values)
        return add(images, values)

    mask = jnp.arange(10 * CHUNK) < 3
    images = jnp.zeros((len(mask), 1, 1, 1))
    apply_where(mask, note, images, jnp.arange(len(mask), dtype=jnp.float32))
    jax.effects_barrier()
    assert len(seen) == CHUNK and {0, 1, 2} <= set(seen)

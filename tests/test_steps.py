"""The compiled steps: what one step, several of them and an evaluation compute."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from support.stepping import (
    KEY,
    MEAN,
    NUM_CLASSES,
    SHAPE,
    STD,
    Plain,
    Run,
    check_close,
    examples,
    keep,
    log_softmax,
    means,
)

from cifar_jax.training import steps
from cifar_jax.training.state import create_state

pytestmark = pytest.mark.usefixtures("strict_dtypes")


@pytest.fixture(scope="module")
def trained():
    """A run that has trained for three steps; not to be trained on."""
    return Run().train(3)


def test_normalisation_is_that_of_numpy():
    images, _ = examples(5)
    expected = (images / 255.0 - MEAN.astype(float)) / STD.astype(float)
    for given in (images, images.astype(np.float32)):
        normal = steps.normalize(given, MEAN, STD)
        assert normal.dtype == jnp.float32
        np.testing.assert_allclose(normal, expected, atol=1e-5)


@pytest.mark.usefixtures("mixed_dtypes")
def test_training_overfits_32_images():
    run = Run(optimizer=optax.adam(0.02))
    before = run.evaluate(*examples(32), 32)
    run.train(80)
    assert before["accuracy"] < 0.5
    after = run.evaluate(*examples(32), 32)
    assert after["accuracy"] == 1.0 and after["loss"] < 0.05


class Headed(nn.Module):
    """A network with a classifier of its own."""

    @nn.compact
    def __call__(self, x, *, train):
        del train
        self.variable("batch_stats", "unused", lambda: jnp.zeros(()))
        x = nn.relu(nn.Dense(8, name="body")(x.reshape(len(x), -1)))
        return nn.Dense(NUM_CLASSES, name="head")(x)


@pytest.mark.usefixtures("mixed_dtypes")
@pytest.mark.parametrize("follows", [True, False])
def test_moments_can_follow_the_gradients_of_what_is_frozen(follows):
    options = dict(frozen=True, frozen_moments=follows)
    run = Run(net=Headed, optimizer=optax.adam(0.01), **options)
    before = jax.device_get(run.state.params)
    run.train(3)
    after, moments = jax.device_get((run.state.params, run.state.opt_state[0].nu))
    np.testing.assert_array_equal(after["body"]["kernel"], before["body"]["kernel"])
    assert (after["head"]["kernel"] != before["head"]["kernel"]).any()
    assert bool(moments["body"]["kernel"].any()) == follows


def test_the_metrics_are_those_of_the_batch():
    run = Run(label_smoothing=0.1)
    images, labels = examples(32)
    index = np.asarray(run.order)[:16]
    network = functools.partial(run.state.apply_fn, train=True, mutable=["batch_stats"])
    normal = steps.normalize(images[index], MEAN, STD)
    logits, _ = jax.jit(network)(run.state.variables, normal)
    targets = 0.9 * np.eye(NUM_CLASSES)[labels[index]] + 0.1 / NUM_CLASSES
    seen = means(run.train(1).metrics)
    loss = -(targets * log_softmax(logits)).sum(-1).mean()
    assert seen["loss"] == pytest.approx(loss, rel=1e-5)
    assert seen["accuracy"] == np.mean(np.argmax(logits, -1) == labels[index])


def test_mixed_labels_count_as_their_largest_share():
    def mix(key, images, labels, **context):
        images, labels = keep(key, images, labels, **context)
        return images, 0.6 * labels + 0.4 * jnp.roll(labels, 1, axis=0)

    plain, mixed = Run(), Run(augment=mix)
    before = means(plain.train(1).metrics), means(mixed.train(1).metrics)
    assert before[0]["accuracy"] == before[1]["accuracy"]
    assert before[0]["loss"] != before[1]["loss"]


def test_steps_go_through_the_order_with_keys_of_their_own():
    seen = []

    def note(key, epoch, index, progress, images, labels):
        position = (int(epoch), round(1000 * float(progress), 3))
        seen.append((tuple(key.tolist()), position, index.tolist()))
        np.testing.assert_array_equal(images, examples(48)[0][index])
        np.testing.assert_array_equal(labels.argmax(-1), examples(48)[1][index])

    def record(key, images, labels, **context):
        data = (jax.random.key_data(key), *map(context.get, names), images, labels)
        jax.debug.callback(note, *data, ordered=True)
        return keep(key, images, labels)

    names = ("epoch", "index", "progress")

    run = Run(num_examples=48, augment=record).train(4)
    Run(num_examples=48, augment=record).train(1)
    jax.effects_barrier()
    order = np.asarray(run.order).tolist()
    keys, positions, parts = zip(*seen, strict=True)
    assert positions == ((0, 0), (0, 1), (0, 2), (1, 3), (0, 0))  # of 1000 steps
    assert sum(parts[:3], []) == order
    assert parts[3] == parts[4] == order[:16]
    assert len(set(keys[:4])) == 4
    assert keys[4] == keys[0]


def test_an_epoch_shows_each_image_in_all_its_views():
    seen = []

    def record(key, images, labels, *, epoch, index, **context):
        jax.debug.callback(lambda *data: seen.append(data), epoch, index, ordered=True)
        return keep(key, images, labels)

    run = Run(num_examples=48, augment=record, repeats=4, steps_per_epoch=12).train(13)
    jax.effects_barrier()
    order = np.asarray(run.order)
    for step, (times, index) in enumerate(seen):
        epoch, position = divmod(step, 12)
        first = order[4 * position : 4 * position + 4]
        np.testing.assert_array_equal(index, np.tile(first, 4))  # neighbours differ
        np.testing.assert_array_equal(times, 4 * epoch + np.repeat(np.arange(4), 4))
    shown = np.concatenate([index for _, index in seen[:12]])
    np.testing.assert_array_equal(np.bincount(shown), np.full(48, 4))


def test_test_time_augmentation_is_a_mean_of_logits(trained):
    images, labels = examples(37)

    def logits(images):
        normal = (images / 255 - MEAN) / STD
        return trained.state.apply_fn(trained.state.variables, normal, train=False)

    mean = np.asarray(logits(images) + logits(images[:, :, ::-1])) / 2
    losses = -log_softmax(mean)[np.arange(37), labels]
    seen = trained.evaluate(images, labels, 16, augmentation="flip")
    assert seen["loss"] == pytest.approx(losses.mean(), rel=1e-5)
    assert seen["accuracy"] == pytest.approx((mean.argmax(-1) == labels).mean())
    assert seen["loss"] != trained.evaluate(images, labels, 16)["loss"]


def test_evaluation_leaves_the_batch_statistics_alone(trained):
    run = trained
    before = jax.device_get(run.state.variables)
    images, labels = examples(32)
    whole = run.evaluate(images, labels, 32)
    moved = run.evaluate(images[:1], labels[:1], 1)  # statistics of one image: none
    check_close(run.state.variables, before, rtol=0)
    assert run.evaluate(images, labels, 32) == whole
    singles = [run.evaluate(images[k : k + 1], labels[k : k + 1], 1) for k in range(32)]
    assert singles[0] == moved
    loss = np.mean([single["loss"] for single in singles])
    assert whole["loss"] == pytest.approx(loss, rel=1e-5)


def test_training_moves_the_batch_statistics():
    run = Run()
    before = jax.device_get(run.state.batch_stats["BatchNorm_0"])
    images, _ = examples(32)
    inputs = steps.normalize(images[np.asarray(run.order)[:16]], MEAN, STD)
    dense = jax.device_get(run.state.params["Dense_0"])
    features = inputs.reshape(16, -1) @ dense["kernel"] + dense["bias"][None]
    after = run.train(1).state.batch_stats["BatchNorm_0"]
    for name, batch in (("mean", features.mean(0)), ("var", features.var(0))):
        expected = 0.9 * before[name] + 0.1 * batch
        np.testing.assert_allclose(after[name], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 7, 16, 37, 64])
def test_evaluation_counts_each_example_once(trained, batch_size):
    images, labels = examples(37)
    normal = (images / 255 - MEAN) / STD
    state = trained.state
    logits = np.asarray(state.apply_fn(state.variables, normal, train=False))
    losses = -log_softmax(logits)[np.arange(37), labels]
    seen = trained.evaluate(images, labels, batch_size)
    assert seen["loss"] == pytest.approx(losses.mean(), rel=1e-5)
    correct = np.argmax(logits, -1) == labels
    assert seen["accuracy"] == pytest.approx(correct.mean(), abs=1e-6)


def test_eight_devices_compute_what_one_computes():
    one, eight = (
        Run(num_devices=n, average=True, ema_decay=0.9).train(4) for n in (1, 8)
    )
    for leaf in jax.tree.leaves(eight.state):
        assert leaf.sharding == eight.replicated
    trees = [
        (run.state.variables, run.state.averages, run.state.opt_state)
        for run in (one, eight)
    ]
    check_close(*trees, rtol=1e-4, atol=1e-6)
    assert means(eight.metrics) == pytest.approx(means(one.metrics), rel=1e-5)


def test_eight_devices_share_the_work():
    run = Run(num_devices=8)
    text = run.compile().lower(run.state, run.metrics, run.stored, KEY)
    # Each device multiplies its two of the 16 images.
    assert "f32[2,48]" in text.compile().as_text()


def test_a_call_of_several_steps_is_several_calls():
    options = dict(num_examples=48, average=True, ema_decay=0.9)
    single, several = Run(**options).train(6), Run(**options)
    several.train(4, in_one=4)
    assert int(several.state.step) == 4
    several.train(2, in_one=2)
    assert int(several.state.step) == int(single.state.step) == 6
    trees = [
        (run.state.variables, run.state.averages, run.state.opt_state)
        for run in (single, several)
    ]
    check_close(*trees, rtol=1e-5, atol=1e-6)
    assert means(several.metrics) == pytest.approx(means(single.metrics), rel=1e-5)


def test_averages_follow_their_closed_form():
    decay = 0.3  # reached after 4 steps: (1 + 4) / (10 + 4) is more
    run = Run(average=True, ema_decay=decay)
    averages, call = jax.device_get(run.state.variables), run.compile()
    check_close(run.state.averages, averages, rtol=0)
    for step in range(1, 8):
        run.train(1, call)
        share = min(decay, (1 + step) / (10 + step))
        averages = jax.tree.map(
            lambda old, new, share=share: share * old + (1 - share) * new,
            averages,
            jax.device_get(run.state.variables),
        )
        check_close(run.state.averages, averages, rtol=1e-4, atol=1e-6)
    assert run.state.eval_variables is run.state.averages
    assert Run().state.averages is None


def test_a_state_may_start_with_a_given_stem():
    class Stem(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            del train
            return nn.Conv(4, (2, 2), name="stem_conv")(x).mean((1, 2))

    kernel = np.random.default_rng(0).normal(size=(2, 2, 3, 4)).astype(np.float32)
    state = create_state(
        KEY,
        Stem(),
        optax.sgd(0.1, momentum=0.9),
        image_shape=SHAPE,
        average=True,
        stem_kernel=kernel,
    )
    for variables in (state.variables, state.averages):
        stem = variables["params"]["stem_conv"]["kernel"]
        np.testing.assert_array_equal(stem, kernel)
    assert state.batch_stats == {}


def loss_of(run, params, batch_stats):
    """The mean loss over the first batch of an epoch, as a function of weights."""
    index = run.order[:16]
    images = steps.normalize(run.data[0][index], MEAN, STD)
    targets = jax.nn.one_hot(run.data[1][index], NUM_CLASSES)
    logits, _ = run.state.apply_fn(
        {"params": params, "batch_stats": batch_stats},
        images,
        train=True,
        mutable=["batch_stats"],
    )
    return optax.softmax_cross_entropy(logits, targets).mean()


@pytest.mark.parametrize("adaptive", [False, True])
def test_sam_takes_the_gradient_of_its_papers_worst_case(adaptive):
    """Equations 2 and 3 of arXiv:2010.01412; ASAM's scaling of arXiv:2102.11600."""
    rate, rho = 0.1, 0.05
    run = Run(optimizer=optax.sgd(rate), sam_rho=rho, sam_adaptive=adaptive)
    params, stats = run.state.params, run.state.batch_stats
    gradient = jax.jit(jax.grad(lambda params: loss_of(run, params, stats)))
    flat, unflatten = jax.flatten_util.ravel_pytree(params)
    grad, _ = jax.flatten_util.ravel_pytree(gradient(params))
    sizes = jnp.abs(flat) + 0.01 if adaptive else jnp.ones_like(flat)
    ascent = rho * sizes**2 * grad / jnp.linalg.norm(sizes * grad)
    expected, _ = jax.flatten_util.ravel_pytree(gradient(unflatten(flat + ascent)))
    plain = Run(optimizer=optax.sgd(rate)).train(1)
    run.train(1)
    moved, _ = jax.flatten_util.ravel_pytree(run.state.params)
    np.testing.assert_allclose((flat - moved) / rate, expected, rtol=1e-3, atol=1e-5)
    assert not np.allclose(expected, grad, rtol=1e-2)
    # Statistics and metrics are those of the weights, not of the worst case.
    check_close(run.state.batch_stats, plain.state.batch_stats, rtol=1e-6)
    assert means(run.metrics) == means(plain.metrics)


def test_each_step_and_part_has_a_dropout_key_of_its_own():
    seen = []

    class Noisy(Plain):
        @nn.compact
        def __call__(self, x, *, train):
            if train:
                key = jax.random.key_data(self.make_rng("dropout"))
                jax.debug.callback(lambda key: seen.append(tuple(key.tolist())), key)
            return super().__call__(x, train=train)

    Run(net=Noisy, accumulate=2).train(3)
    jax.effects_barrier()
    assert len(seen) == len(set(seen)) == 6


@pytest.mark.parametrize("num_devices", [1, 2])
def test_accumulated_parts_are_one_batch(num_devices):
    whole = Run(net=Plain)
    parts = Run(net=Plain, accumulate=4, num_devices=num_devices)
    for run in (whole, parts):
        run.train(2)
    check_close(parts.state.params, whole.state.params, rtol=1e-5, atol=1e-6)
    assert means(parts.metrics) == pytest.approx(means(whole.metrics), rel=1e-5)


def test_accumulated_parts_move_the_statistics_one_by_one():
    """BatchNorm sees four batches of four: part i holds the images i, i + 4, ..."""
    run = Run(accumulate=4, optimizer=optax.sgd(0.0)).train(1)
    fresh = Run()
    variables = fresh.state.variables
    images = steps.normalize(fresh.data[0][fresh.order[:16]], MEAN, STD)
    for part in range(4):
        _, updates = fresh.state.apply_fn(
            variables, images[part::4], train=True, mutable=["batch_stats"]
        )
        variables = variables | updates
    check_close(run.state.batch_stats, variables["batch_stats"], rtol=1e-5)

"""Distillation: the loss is the paper's, on the images that the student sees."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.stepping import (
    MEAN,
    NUM_CLASSES,
    STD,
    Plain,
    Run,
    check_close,
    examples,
    log_softmax,
    means,
)

from cifar_jax.training import steps
from cifar_jax.training.methods.distillation import Distillation

WEIGHTS = np.random.default_rng(3).normal(size=(3, NUM_CLASSES)).astype(np.float32)


def teach(variables, images):
    """A teacher that looks at colours, and has no variables."""
    assert variables is None
    return images.mean((1, 2)) / 64 @ WEIGHTS


DISTILLATION = Distillation(teach, weight=0.7, temperature=3.0)


@pytest.mark.parametrize(("weight", "temperature"), [(1.0, 1.0), (0.9, 4.0), (0.3, 20)])
def test_the_loss_is_that_of_pytorchs_kl_divergence(weight, temperature):
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(0)
    student, teacher = (3 * random.normal(size=(2, 8, 5))).astype(np.float32)
    labels = random.dirichlet(np.ones(5), size=8).astype(np.float32)  # mixed ones

    def loss(logits):
        losses = optax.softmax_cross_entropy(logits, labels)
        mixed = Distillation(teach, weight, temperature).mix(losses, logits, teacher)
        return mixed.mean()

    logits = torch.tensor(student, requires_grad=True)
    soft = torch.nn.KLDivLoss(reduction="batchmean")(
        torch.log_softmax(logits / temperature, -1),
        torch.softmax(torch.tensor(teacher) / temperature, -1),
    )
    hard = torch.nn.functional.cross_entropy(logits, torch.tensor(labels))
    expected = weight * temperature**2 * soft + (1 - weight) * hard
    expected.backward()
    found, gradient = jax.value_and_grad(loss)(student)
    assert float(found) == pytest.approx(expected.item(), rel=1e-4)
    np.testing.assert_allclose(gradient, logits.grad, rtol=1e-3, atol=1e-5)


def test_the_teacher_sees_the_augmented_images_as_they_are():
    def darken(key, images, labels, **context):
        del key, context
        return images.astype(jnp.float32) / 2, labels

    run = Run(augment=darken, label_smoothing=0.1, distillation=DISTILLATION)
    images, labels = examples(32)
    index = np.asarray(run.order)[:16]
    batch = images[index] / np.float32(2)
    logits, _ = run.state.apply_fn(
        run.state.variables,
        steps.normalize(batch, MEAN, STD),
        train=True,
        mutable=["batch_stats"],
    )
    targets = 0.9 * np.eye(NUM_CLASSES)[labels[index]] + 0.1 / NUM_CLASSES
    losses = -(targets * log_softmax(logits)).sum(-1)
    log_student, log_teacher = (
        log_softmax(np.asarray(each) / 3.0) for each in (logits, teach(None, batch))
    )
    soft = 9 * (np.exp(log_teacher) * (log_teacher - log_student)).sum(-1)
    seen = means(run.train(1).metrics)
    assert seen["loss"] == pytest.approx((0.3 * losses + 0.7 * soft).mean(), rel=1e-4)
    assert seen["accuracy"] == np.mean(np.argmax(logits, -1) == labels[index])


@pytest.mark.parametrize("num_devices", [1, 2])
def test_parts_of_a_batch_have_their_own_teaching(num_devices):
    options = dict(net=Plain, distillation=DISTILLATION, sam_rho=0.05)
    whole = Run(**options)
    parts = Run(accumulate=4, num_devices=num_devices, **options)
    for run in (whole, parts):
        run.train(2)
    check_close(parts.state.params, whole.state.params, rtol=1e-5, atol=1e-6)
    assert means(parts.metrics) == pytest.approx(means(whole.metrics), rel=1e-5)


def test_a_student_learns_what_no_label_says():
    """With the whole weight on the teacher, it agrees with it and not with labels."""
    alone = Distillation(teach, weight=1.0, temperature=2.0)
    run = Run(optimizer=optax.adam(0.02), distillation=alone).train(100, in_one=50)
    images, labels = examples(32)
    taught = np.asarray(teach(None, images.astype(np.float32))).argmax(-1)
    assert run.evaluate(images, taught.astype(np.int32), 32)["accuracy"] > 0.8
    assert run.evaluate(images, labels, 32)["accuracy"] < 0.5

"""Pruning: which weights die, when, and that what is shipped has them at zero."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from support.runs import tiny_config, train
from support.stepping import NUM_CLASSES, Run, check_close

from cifar_jax import UserError
from cifar_jax import config as default
from cifar_jax.data import sources
from cifar_jax.training import pretrained, results, setup
from cifar_jax.training.methods import pruning
from cifar_jax.training.optim import make_optimizer

PLAN = pruning.Plan(sparsity=0.7, start=2, stop=6)


class Net(nn.Module):
    """Three layers, of which pruning may touch the first two."""

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Dense(24, name="stage1_block1")(x.reshape(len(x), -1))
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        x = nn.Dense(16, name="stage2_block1")(nn.relu(x))
        return nn.Dense(NUM_CLASSES, name="head")(nn.relu(x))


def run_of(**options):
    return Run(net=Net, **{"pruning_plan": PLAN, **options})


def kernels(run):
    return prunable(run.state.params)


def prunable(params):
    """All weights that pruning may touch, as one array."""
    blocks = [v for k, v in sorted(params.items()) if k.startswith("stage")]
    return np.concatenate([np.ravel(block["kernel"]) for block in blocks])


def zeros(array):
    return int(array.size - np.count_nonzero(array))


def test_the_share_is_the_cubic_of_zhu_and_gupta():
    plan = pruning.Plan(sparsity=0.8, start=100, stop=300)
    for step in (100, 150, 200, 299, 300):
        expected = 0.8 + (0.0 - 0.8) * (1 - (step - 100) / 200) ** 3
        assert float(plan.share(step)) == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert float(plan.share(0)) == 0 and float(plan.share(1000)) == np.float32(0.8)
    due = [step for step in range(400) if plan.is_due(jnp.int32(step))]
    assert due == list(range(100, 301, 4))
    uneven = pruning.Plan(sparsity=0.8, start=0, stop=109)  # a multiple of nothing
    assert uneven.is_due(109) and not uneven.is_due(110)


def test_the_smallest_weights_die_and_stay_dead():
    run = run_of()
    call, before = run.compile(), kernels(run)
    for step in range(1, 9):
        unpruned = run_of(pruning_plan=None)
        unpruned.state = jax.tree.map(jnp.copy, run.state)
        run.train(1, call)
        share = 0.7 * (1 - (1 - min(max(step - 2, 0), 4) / 4) ** 3)
        assert zeros(kernels(run)) == round(share * before.size), step
        assert not kernels(run)[before == 0].any()  # for good
        if step == 4:  # of the weights after the step, the smallest
            after = np.where(before == 0, 0, kernels(unpruned.train(1)))
            kept = np.abs(after[kernels(run) != 0]).min()
            assert kept > np.abs(after[kernels(run) == 0]).max()
        before = kernels(run)
    for name in ("kernel", "bias"):
        assert not zeros(np.asarray(run.state.params["head"][name]))
    found = pruning.sparsity(run.state.params)
    total = sum(leaf.size for leaf in jax.tree.leaves(run.state.params))
    assert found["num_nonzero"] == total - zeros(before)
    assert found["sparsity"] == pytest.approx(0.7, abs=1 / before.size)


@pytest.mark.parametrize("options", [dict(accumulate=2), dict(sam_rho=0.1)])
def test_dead_weights_have_no_gradient(options):
    """Momentum would grow from it, and with Muon and clipping others would change."""
    plan = pruning.Plan(sparsity=0.7, start=0, stop=1)
    run = run_of(pruning_plan=plan, **options)
    call = run.compile()
    dead = kernels(run.train(1, call)) == 0
    fresh = optax.sgd(0.1, momentum=0.9).init(run.state.params)
    run.state = run.state.replace(opt_state=fresh)
    trace = prunable(run.train(1, call).state.opt_state[0].trace)
    assert not trace[dead].any() and (trace[~dead] != 0).mean() > 0.9


def test_muon_and_momentum_leave_the_dead_dead():
    from cifar_jax import config as default

    class Conv(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            x = nn.Conv(8, (3, 3), name="stage1_block1")(x).mean((1, 2))
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
            return nn.Dense(NUM_CLASSES)(x)

    options = default.get_config().optim.to_dict()
    del options["sam_rho"], options["sam_adaptive"], options["learning_rate"]
    options["name"] = "muon"
    optimizer = make_optimizer(schedule=optax.constant_schedule(0.1), **options)
    run = Run(net=Conv, pruning_plan=PLAN, optimizer=optimizer)
    call = run.compile()
    dead = kernels(run.train(6, call)) == 0
    assert dead.sum() == round(0.7 * dead.size)
    np.testing.assert_array_equal(kernels(run.train(3, call)) == 0, dead)


def test_averages_are_as_sparse_and_otherwise_unchanged():
    options = dict(average=True, ema_decay=0.99)
    run = run_of(**options)
    averages, call = jax.device_get(run.state.variables), run.compile()
    for step in range(1, 9):
        run.train(1, call)
        share = (1 + step) / (10 + step)
        averages = jax.tree.map(
            lambda old, new, share=share: share * old + (1 - share) * new,
            averages,
            jax.device_get(run.state.variables),
        )
        for block in ("stage1_block1", "stage2_block1"):
            weights = np.asarray(run.state.params[block]["kernel"])
            average = averages["params"][block]
            average["kernel"] = np.where(weights == 0, 0, average["kernel"])
        check_close(run.state.averages, averages, rtol=1e-4, atol=1e-6)
        shipped = pruning.sparsity(run.state.eval_variables["params"])
        assert shipped == pruning.sparsity(run.state.params)


def test_one_step_or_several_on_one_device_or_eight():
    one = run_of().train(8)
    several = run_of(num_devices=8).train(8, in_one=4)
    np.testing.assert_allclose(kernels(several), kernels(one), rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(kernels(several) == 0, kernels(one) == 0)


def test_zeros_of_a_fresh_network_are_alive(digits_dir):
    """And those of a network that a run starts from are not."""
    config = tiny_config(digits_dir)
    config.model.dirac_init, config.prune.sparsity = True, 0.5
    prepared = setup.make(config, jax.devices()[:1], lambda line: None)
    first = setup.jit_create_state(prepared)(jax.random.key(0))
    state, _ = pretrained.initialize(config, prepared, first)
    assert pruning.sparsity(first.params)["sparsity"] > 0.3
    assert pruning.sparsity(state.params)["sparsity"] == 0
    for one, other in zip(
        *map(jax.tree.leaves, (first.params, state.params)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-29)


@pytest.mark.parametrize(
    ("start", "stop"),
    [("50%", "50%"), ("0%", "11 epochs"), ("3 epochs", "20 steps"), ("0%", "0 steps")],
)
def test_weights_that_would_not_be_pruned_in_time_are_refused(digits_dir, start, stop):
    config = tiny_config(digits_dir)
    config.train.epochs = 10  # of ten steps
    config.prune.sparsity, config.prune.start, config.prune.stop = 0.5, start, stop
    with pytest.raises(UserError, match="stop later than the start, within the run"):
        setup.make(config, jax.devices()[:1], lambda line: None)


@pytest.mark.slow
def test_only_epochs_of_the_final_sparsity_are_shipped(
    digits_dir, tmp_path, monkeypatch
):
    """The first epoch is the best one, but not pruned enough."""
    monkeypatch.setitem(results.RANKS, "earliest", lambda val: (-val["epoch"],))
    monkeypatch.setitem(default.CHOICES, "evaluate.best_by", ("earliest",))
    config = tiny_config(digits_dir)
    config.train.epochs, config.evaluate.best_by = 4, "earliest"
    config.prune.sparsity, config.prune.stop = 0.8, "3 epochs"
    result = train(config, tmp_path)
    network = pretrained.load_model(tmp_path)
    assert result["best_epoch"] == network.epoch == 3
    kernels = [
        np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(network.variables)
        if "stage" in str(path) and "kernel" in str(path)
    ]
    dead = sum(zeros(leaf) for leaf in kernels)
    assert dead == round(0.8 * sum(leaf.size for leaf in kernels))
    assert result["sparsity"] == pytest.approx(0.8, abs=1e-3)
    assert result["num_nonzero"] == result["num_parameters"] - dead
    images = sources.open("digits", digits_dir).read("test")
    predictions = np.asarray(jax.jit(network.logits)(images.images)).argmax(-1)
    accuracy = (predictions == images.labels).mean()
    assert result["test"]["accuracy"] == pytest.approx(accuracy)

"""The layer table, its sums, and what a network over the budget is told."""

import time

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from support.designs import designs

from cifar_jax import UserError
from cifar_jax.config import check, get_config
from cifar_jax.models import count
from cifar_jax.models.presets import PRESETS
from cifar_jax.models.resnet import create

CIFAR = (32, 32, 3)


def network(**options):
    return create(num_classes=10, image_shape=CIFAR, **options)


def test_layers_are_those_printed_by_report_003():
    """Its table of trainable parameters, without the rows that have none."""
    printed = [
        (
            (64, 32, 32),
            [1_728, 128, 36_864, 128, 36_864, 128, 36_864, 128, 36_864, 128],
        ),
        ((128, 16, 16), [73_728, 256, 147_456, 256, 8_192, 256]),
        ((256, 8, 8), [294_912, 512, 589_824, 512, 32_768, 512]),
        ((512, 4, 4), [1_179_648, 1_024, 2_359_296, 1_024, 131_072, 1_024]),
        ((10,), [5_130]),
    ]
    expected = [
        ((*shape[1:], shape[0]), size) for shape, sizes in printed for size in sizes
    ]
    rows = count.layer_table(network(**PRESETS["report_003"]), CIFAR)
    assert [(row.output_shape, row.parameters) for row in rows] == expected


def test_macs_are_those_of_the_compiled_network():
    # With 1x1 kernels no multiply-add falls on the padding, which XLA leaves out.
    options = dict(kernel_sizes=(1,), stage_sizes=(2, 1), widths=(8,), se_ratio=2)
    model = network(**options)
    macs = count.macs(model, CIFAR)
    rows = {row.name: row.macs for row in count.layer_table(model, CIFAR)}
    assert rows["stem_conv"] == 32 * 32 * 3 * 8
    assert rows["stage2_block1/conv1"] == 16 * 16 * 8 * 16
    assert rows["stage2_block1/se/reduce"] == 16 * 8
    assert rows["head"] == 16 * 10
    assert rows["stem_bn"] == 0
    images = jnp.zeros((1, *CIFAR))
    variables = model.init(jax.random.key(0), images, train=False)
    run = jax.jit(lambda images: model.apply(variables, images, train=False))
    flops = run.lower(images).compile().cost_analysis()["flops"]
    elementwise = 20 * sum(row.output_shape[0] ** 2 * 16 for row in _maps(model))
    assert 2 * macs <= flops <= 2 * macs + elementwise


def _maps(model):
    rows = count.layer_table(model, CIFAR)
    return [row for row in rows if len(row.output_shape) == 3]


def test_macs_of_resnet18_are_the_known_ones():
    # 0.56 GMACs for 32x32 images (kuangliu/pytorch-cifar and others)
    assert count.macs(network(**PRESETS["resnet18"]), CIFAR) == 555_422_720


@settings(max_examples=20, deadline=None, derandomize=True)
@given(designs())
def test_layers_add_up_to_the_network(drawn):
    options, image_shape, num_classes = drawn
    model = create(num_classes=num_classes, image_shape=image_shape, **options)
    rows = count.layer_table(model, image_shape)
    expected = count.num_parameters(model, image_shape)
    assert count.total(rows).parameters == expected
    assert count.total(count.by_stage(rows)).parameters == expected
    assert rows[-1].output_shape == (num_classes,)


def test_a_178m_design_is_counted_in_under_a_second():
    num_parameters = count.num_parameters
    num_parameters(network(), CIFAR)  # JAX's own start-up
    start = time.process_time()
    model = network(stage_sizes=(2, 2, 2, 2), widths=(256,))
    assert num_parameters(model, CIFAR) == 178_585_866
    assert time.process_time() - start < 1


def test_stages_are_summed_and_show_their_map():
    model = network(block="preact", stage_sizes=(1, 2), widths=(8,), se_ratio=2)
    rows = count.by_stage(count.layer_table(model, CIFAR))
    shapes = [(row.name, row.output_shape) for row in rows]
    assert shapes == [
        ("stem", (32, 32, 8)),
        ("stage1", (32, 32, 8)),
        ("stage2", (16, 16, 16)),
        ("final", (16, 16, 16)),
        ("head", (10,)),
    ]


def test_table_as_text():
    rows = [
        count.Layer("stem", (32, 32, 8), 1_000, 20_000_000),
        count.Layer("head", (10,), 90, 80),
    ]
    assert count.format_table(rows, 2_000).splitlines() == [
        "layer    output   parameters         MACs",
        "-----------------------------------------",
        "stem    32x32x8        1,000   20,000,000",
        "head         10           90           80",
        "-----------------------------------------",
        "total                  1,090   20,000,080",
        "1,090 parameters: 910 below the budget of 2,000; 0.04 GFLOPs an image",
    ]


@pytest.mark.parametrize(
    ("limit", "line"),
    [
        (1_001, "1,000 parameters: 1 below the budget of 1,001"),
        (1_000, "1,000 parameters: 0 over the budget of 1,000"),
        (400, "1,000 parameters: 600 over the budget of 400"),
        (None, "1,000 parameters; the budget is lifted (limit None)"),
    ],
)
def test_budget_line(limit, line):
    assert count.budget_line(1_000, limit) == line


def test_over_the_budget_is_told_the_excess_and_the_width_that_fits():
    model = network(**PRESETS["resnet18"])
    with pytest.raises(UserError) as error:
        count.check_budget(11_173_962, 5_000_000, model, CIFAR)
    assert "11,173,962" in str(error.value)
    assert "6,173,962 over" in str(error.value)
    assert "fewer than 5,000,000" in str(error.value)
    assert "width that fits is 42: use model.widths=42,84,168,336" in str(error.value)


def test_over_any_budget():
    with pytest.raises(UserError, match="no width fits: use fewer stages"):
        count.check_budget(1_000, 50, network(), CIFAR)


def test_the_budget_itself_is_too_many():
    model = network()
    count.check_budget(4_903_242, 4_903_243, model, CIFAR)
    with pytest.raises(UserError, match=" 0 over the budget .* 63:"):
        count.check_budget(4_903_242, 4_903_242, model, CIFAR)


@pytest.mark.parametrize("limit", [5e6, "5000000", True])
def test_a_limit_is_a_whole_number_or_none(limit):
    config = get_config()
    config.budget.limit = limit
    with pytest.raises(UserError, match="budget.limit is .* whole number"):
        check(config)


def test_no_budget():
    count.check_budget(10**12, None, network(), CIFAR)

"""The command `python -m cifar_jax.budget`, as a person types it."""

import json

from support import commands

CONFIG = "from cifar_jax.config import get_config\n"


def budget(tmp_path, *options):
    path = tmp_path / "config.py"
    path.write_text(CONFIG)
    return commands.call("budget", f"--config={path}", *options)


def test_table_and_budget_line(tmp_path):
    done = budget(tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["stage2_block1/conv1", "16x16x128", "73,728", "18,874,368"] in lines
    assert ["total", "4,903,242", "253,432,832"] in lines
    assert "96,758 below the budget of 5,000,000; 0.507 GFLOPs an image" in done.stdout
    assert "by pytree: 4,903,242; by formula: 4,903,242" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_over_the_budget_fails_and_names_the_remedy(tmp_path):
    done = budget(tmp_path, "--config.model.stage_sizes=2,2,2,2", "--json")
    assert done.returncode == 1
    assert done.stderr.startswith("error: 11,173,962 parameters are 6,173,962 over")
    assert "the largest width that fits is 42" in done.stderr
    facts = json.loads(done.stdout)
    layers = facts.pop("layers")
    assert facts == {
        "num_parameters": 11_173_962,
        "closed_form": 11_173_962,
        "macs_per_image": 555_422_720,
        "flops_per_image": 1_110_845_440,
        "limit": 5_000_000,
        "within_budget": False,
        "widest_within_budget": [42, 84, 168, 336],
    }
    assert sum(layer["parameters"] for layer in layers) == 11_173_962
    assert layers[0] == {
        "name": "stem_conv",
        "output_shape": [32, 32, 64],
        "parameters": 1_728,
        "macs": 1_769_472,
    }


def test_a_lifted_budget_is_said(tmp_path):
    design = ["--config.model.stage_sizes=2,2,2,2", "--config.model.widths=256"]
    done = budget(tmp_path, "--config.budget.limit=None", *design)
    assert done.returncode == 0, done.stderr
    assert "178,585,866 parameters; the budget is lifted" in done.stdout


def test_an_odd_design_is_one_line(tmp_path):
    done = budget(tmp_path, "--config.model.pool=5")
    assert done.returncode == 1
    assert done.stderr == (
        "error: model.pool is 5, but the last map is 4x4; use 1 to 4, or None for "
        "all of it\n"
    )
    assert done.stdout.count("\n") == 1  # what it reads

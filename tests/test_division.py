"""Compiled for 8 GPUs, which need not be there, each device does an eighth of a step.

On 8 devices of a CPU XLA divides the work where it does not for GPUs.
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# A folder with the wheels of the extra `aot-gpu`, from pip install --target: beside an
# ordinary JAX they would make it complain about the missing driver.
WHEELS = os.environ.get("CIFAR_JAX_AOT_PATH", "")
ACTING = {"start": 0.1, "stop": 0.9, "ramp": 0.2}
EVERY_TRANSFORM = [
    {"name": name, **ACTING}
    for name in (
        "random_crop random_flip alternating_flip random_rotation random_affine "
        "color_jitter cutout random_erasing auto_augment rand_augment "
        "trivial_augment_wide mixup cutmix ricap"
    ).split()
]
RECIPES = {
    "resnet_4p9m": ("resnet_4p9m:tiny",),
    "a step a call": ("records.minute:tiny", "train.steps_per_dispatch=1"),
    "all at once": (
        "records.best:tiny",
        f"augment={EVERY_TRANSFORM}",
        "data.placement='host'",
        "train.repeats=2",
        "train.accumulate=2",
        "optim.sam_rho=0.05",
    ),
}
PARTS = {"all at once": 2}  # a batch that is accumulated comes in so many


def compile_for_gpus(*arguments):
    paths = [WHEELS, str(ROOT), os.environ.get("PYTHONPATH", "")]
    program = ROOT / "tests" / "support" / "compile_for_gpus.py"
    done = subprocess.run(
        [sys.executable, program, *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(
    not (WHEELS or importlib.util.find_spec("jax_cuda12_plugin")),
    reason="the wheels of the extra aot-gpu are not here",
)
@pytest.mark.parametrize("recipe", RECIPES)
def test_each_of_eight_gpus_does_an_eighth(recipe):
    facts = compile_for_gpus(*RECIPES[recipe])
    share = facts["batch_size"] // (8 * PARTS.get(recipe, 1))
    assert facts["conv_batch"] == [share]
    assert facts["reduced"] >= facts["num_parameters"]  # the gradient of each
    assert not facts["gathered_images"]

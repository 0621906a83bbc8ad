import functools
import json
import os
import pathlib
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from cifar_jax import UserError, config
from cifar_jax.evaluation import variant_contender, variants
from cifar_jax.evaluation.turns import Protocol
from cifar_jax.evaluation.variant_list import VARIANTS, Variant
from cifar_jax.evaluation.workers import Seconds
from cifar_jax.models.resnet import create

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.parametrize("name", ["convolve_aligned", "convolve_nchw"])
def test_convolutions_agree(name):
    random = np.random.default_rng(0)
    x = random.normal(size=(2, 6, 7, 3)).astype(np.float32)
    kernel = random.normal(size=(3, 3, 3, 5)).astype(np.float32)
    options = dict(
        window_strides=(2, 2),
        padding=((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    convolve = functools.partial(getattr(variant_contender, name), **options)
    plain = functools.partial(lax.conv_general_dilated, **options)
    found, backward = jax.vjp(convolve, x, kernel)
    expected, plain_backward = jax.vjp(plain, x, kernel)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for a, b in zip(backward(found), plain_backward(found), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("change", variant_contender.CHANGES)
def test_changed_networks_compute_the_same(change, compile_fast):
    options = dict(stage_sizes=(1,), widths=(4,), strides=(2,), dtype="float32")
    options["downsample"] = "pool"
    model = create(num_classes=10, image_shape=(8, 8, 3), **options)
    changed = variant_contender.CHANGES[change](model)
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    variables = model.init(jax.random.key(0), images, train=False)
    expected, _ = model.apply(variables, images, train=True, mutable=["batch_stats"])
    found, _ = changed.apply(variables, images, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_forms_of_pooling_agree():
    x = np.random.default_rng(0).normal(size=(2, 6, 4, 3)).astype(np.float32)
    for kind, pool in (("max", nn.max_pool), ("mean", nn.avg_pool)):
        expected = pool(x, (2, 2), (2, 2))
        forms = [f for name, f in variant_contender.POOLS.items() if kind in name]
        assert len(forms) == 2
        for form in forms:
            np.testing.assert_allclose(form(x), expected, atol=1e-6)


def test_an_unknown_flag_is_told_from_a_known_one():
    message = "--xla_no_such_flag=1 is not known to this version of XLA"
    assert variants.unknown_flag("--xla_no_such_flag=1") == message
    assert variants.unknown_flag("") is None


def test_flags_are_known():
    flags = {flag for variant in VARIANTS for flag in variant.flags.split()}
    assert variants.unknown_flag(" ".join(sorted(flags))) is None


def test_variants_have_names_of_their_own():
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)
    keys = {key for variant in VARIANTS for key in variant.keys}
    flat = config.get_config()
    for key in keys:
        section, name = key.split(".")
        assert name in flat[section]


class FakeWorker:
    """Takes a second for a step, and half of one if its batch is padded."""

    def __init__(self, kind, argument, *, name, environment):
        self.name, self.argument, self.environment = name, argument, environment
        if name == "broken":
            raise UserError("broken cannot be measured here: a fault")

    def call(self, method, *args):
        task = SimpleNamespace(batch_size=8, flops_per_image=100)
        facts = {"device": "cpu (a chip)", "num_parameters": 3}
        answers = {"task": task, "facts": facts, "peak_flops": 1e6, "pools": {}}
        return answers.get(method)

    def timed(self, method, steps, limit=None):
        seconds = steps * (0.5 if self.argument[1] == "aligned" else 1.0)
        return None, Seconds(seconds, 0.0, 0.0)

    def close(self):
        pass


WANTED = [
    Variant("dispatch", "one", keys={"train.steps_per_dispatch": 1}),
    Variant("network", "padded", change="aligned"),
    Variant("network", "broken"),
    Variant("graphs", "graphs", flags="--xla_some=1", device="gpu"),
]


def measure(tmp_path, wanted=WANTED, recipe=None, **options):
    recipe = recipe or config.get_config()
    recipe.lock()
    return variants.measure(
        recipe, wanted, recipe="fast", output=tmp_path / "v.json", **options
    )


def test_variants_beside_the_step_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(variants, "Worker", FakeWorker)
    monkeypatch.setitem(variants.PROTOCOLS, "cpu", Protocol(1, 3, 4.0))
    record = measure(tmp_path)
    assert json.loads((tmp_path / "v.json").read_text())["missing"] == []
    found = record["variants"]
    assert found["padded"]["times_as_fast"] == {"median": 2.0, "min": 2.0, "max": 2.0}
    assert found["padded"]["images_per_second"]["median"] == 16.0
    assert found["padded"]["flops"] == 3 * 100 * 16.0
    assert found["one"]["times_as_fast"]["median"] == 1.0
    assert found["broken"]["fault"] == "broken cannot be measured here: a fault"
    assert found["graphs"]["fault"] == "needs a GPU"
    text = variants.table(record)
    assert "needs a GPU" in text and text.endswith("all variants are done")


def test_groups_that_are_measured_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(variants, "Worker", FakeWorker)
    record = measure(tmp_path, minutes=1e-9)
    assert len(record["missing"]) == 4
    record = measure(tmp_path, WANTED[:1])
    assert list(record["variants"]) == ["one"]
    monkeypatch.setattr(FakeWorker, "timed", None)  # nothing is measured again
    assert measure(tmp_path, WANTED[:1])["variants"] == record["variants"]
    changed = config.get_config()
    changed.train.epochs = 3
    with pytest.raises(UserError, match="train.epochs was 100, now 3"):
        measure(tmp_path, recipe=changed)


@pytest.mark.slow
def test_command(tmp_path, digits_dir):
    command = [sys.executable, "scripts/variants.py", "--config=configs/quickstart.py"]
    command += [f"--config.data.dir={digits_dir}", f"--output={tmp_path}/found.json"]
    command += ["--config.model.widths=(8,)", "--config.model.stage_sizes=(1,)"]
    command += ["--config.model.strides=(2,)", "--rounds=2", "--seconds=0"]
    command += ["--groups=graphs,compiler"]
    environment = os.environ | {"XLA_FLAGS": ""}
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())["variants"]
    assert {each["group"] for each in found.values()} == {"graphs", "compiler"}
    measured = found.pop("random numbers by rbg")
    assert measured["times_as_fast"]["median"] > 0
    assert all(each["fault"] == "needs a GPU" for each in found.values())

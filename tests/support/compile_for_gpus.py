"""Compiles a training call for 8 H200s that are not there; prints how it is divided.

A program of its own: python compile_for_gpus.py CONFIG [KEY=VALUE ...], with the wheels
of the extra `aot-gpu` in its path. No driver or device is needed.
"""

import ast
import functools
import importlib
import json
import math
import os
import pathlib
import re
import sys
import tempfile
from unittest import mock

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_COMPILATION_CACHE_DIR"] = ""  # compiled for devices that are not here

import jax
import numpy as np
from jax.experimental import topologies

from cifar_jax.training import distributed, dry_run, feed, steps
from cifar_jax.training import setup as setup_lib
from cifar_jax.training.state import Metrics

HERE = pathlib.Path(__file__).parent
NUM_DEVICES = 8


def main(name, *changes):
    """Prints one JSON object about the training call of a config."""
    name, _, form = name.partition(":")
    config = importlib.import_module(f"configs.{name}").get_config(form or None)
    config.data.placement = "device"  # there is no device to ask for its memory
    for change in changes:
        key, value = change.split("=", 1)
        config.update_from_flattened_dict({key: ast.literal_eval(value)})
    devices = topologies.get_topology_desc(
        "",
        platform="cuda",
        topology=f"1x1x{NUM_DEVICES}",
        target_config=(HERE / "h200.txtpb").read_text(),
    ).devices
    with tempfile.TemporaryDirectory() as folder:
        source = setup_lib.open_source(config)
        dry_run.write_noise(source, folder, num_train=1280, num_test=10)
        config.data.update(
            name=dry_run.DATASET, dir=folder, train_split="train", test_split="test"
        )
        # The network asks JAX what it runs on.
        with mock.patch("jax.default_backend", lambda: "gpu"):
            setup = setup_lib.make(config, devices, lambda *_: None)
            text = compile_call(setup)
    facts = {
        "batch_size": setup.options.batch_size,
        "num_parameters": setup.num_parameters,
    }
    print(json.dumps(facts | divided(text)))


def compile_call(setup):
    """Returns the compiled training call as XLA's text."""
    replicated = distributed.replicated(setup.mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state, metrics = jax.eval_shape(
        lambda k: (setup.create_state(k), Metrics.empty()), key
    )
    state, metrics, key = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated),
        (state, metrics, key),
    )
    call = feed.training_call(
        setup, functools.partial(steps.train, options=setup.options)
    )
    data, num_steps = feed.abstract_data(setup), np.int32(1)
    lowered = call.lower(state, metrics, data, key, num_steps, None)
    compiled = lowered.compile(compiler_options={"xla_gpu_autotune_level": "0"})
    return compiled.as_text()


def divided(text):
    """Returns what XLA's text says about the division of the work.

    - conv_batch: batches of the forward convolutions on one device, each size once;
    - reduced: floating-point numbers that the devices add up in a step;
    - gathered_images: shapes of the batches of images that every device gathers.
    """
    # In the backward pass the gradient of a kernel has the kernel's shape.
    convolutions = re.findall(
        r'= \(\w+\[(\d+),.* dim_labels=b01f_\w+->b01f, .*op_name="([^"]*)"', text
    )
    forward = [batch for batch, name in convolutions if "transpose(" not in name]
    reduced = re.findall(r"= (.*) all-reduce(?:-start)?\(", text)
    sizes = re.findall(r"(?:bf16|f32)\[([\d,]*)\]", " ".join(reduced))
    gathered = re.findall(r"= (.*) all-gather(?:-start)?\(", text)
    return {
        "conv_batch": sorted({int(batch) for batch in forward}),
        "reduced": sum(math.prod(map(int, filter(None, x.split(",")))) for x in sizes),
        "gathered_images": re.findall(r"\w+\[\d+,32,32,3\]", " ".join(gathered)),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])

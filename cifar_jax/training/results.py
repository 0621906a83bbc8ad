"""What a run ends with: result.json and the lines that sum it up."""

import importlib.metadata
import os
import pathlib
import platform
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from cifar_jax.training.progress import clock_time
from cifar_jax.training.setup import Setup

_PACKAGES = ("cifar-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")


def dataset(setup: Setup) -> dict[str, Any]:
    """Returns what dataset.json holds: what a network needs beside its weights."""
    return {
        "name": setup.source.name,
        "image_shape": list(setup.source.image_shape),
        "label_names": list(setup.source.label_names),
        "mean": [float(value) for value in setup.options.mean],
        "std": [float(value) for value in setup.options.std],
    }


def make(
    setup: Setup,
    *,
    config: dict[str, Any],
    weights: dict[str, Any],
    init: dict[str, Any] | None,
    epochs: int,
    steps: int,
    best: dict[str, Any] | None,
    scores: dict[str, dict[str, Any]],
    seconds: dict[str, float],
    together: int = 1,
) -> dict[str, Any]:
    """Returns what result.json holds.

    Args:
      setup: Of the run.
      config: As plain data.
      weights: `num_nonzero` and `sparsity` of those that are shipped.
      init: Where the first weights came from, or None.
      epochs: Epochs trained.
      steps: Steps trained.
      best: `epoch`, `accuracy` and `loss` of the best validation, or None.
      scores: By name, `accuracy`, `loss` and `num_examples`, or None: `test` and, where
        there is test-time augmentation, `test_tta` and `val_tta`.
      seconds: `total`, `compile`, `train` and `evaluate`.
      together: Runs that shared the devices, this one among them.
    """
    val = None
    if best and setup.val_split == "val":
        val = {
            "accuracy": best["accuracy"],
            "loss": best["loss"],
            "num_examples": len(setup.val),
        }
    images = steps * setup.options.batch_size
    return {
        "config": config,
        "dataset": setup.source.name,
        "num_parameters": setup.num_parameters,
        **weights,
        "flops_per_image": setup.flops_per_image,
        "init": init,
        "teacher": setup.teacher and setup.teacher.facts,
        "val": val,
        **scores,
        "best_epoch": best["epoch"] if best else epochs,
        "epochs": epochs,
        "steps": steps,
        "seed": config["seed"],
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "images_per_second": round(images / seconds["train"], 1),
        "together": together,
        **environment(setup.mesh),
    }


def summary(result: dict[str, Any], path: pathlib.Path) -> str:
    """Returns the last lines that a run prints."""
    test, val, seconds = result["test"], result["val"], result["seconds"]
    lines = []
    if test:
        lines.append(
            f"test accuracy {test['accuracy']:.4f}, loss {test['loss']:.4f} "
            f"({test['num_examples']:,} images, {_how_chosen(result)})"
        )
    for name in ("test_tta", "val_tta"):
        if result.get(name):
            lines.append(
                f"{name.removesuffix('_tta')} accuracy {result[name]['accuracy']:.4f} "
                f"with test-time augmentation ({result['config']['evaluate']['tta']})"
            )
    if val:
        lines.append(
            f"validation accuracy {val['accuracy']:.4f}, loss {val['loss']:.4f} "
            f"(best of {result['epochs']} epochs: {result['best_epoch']})"
        )
    clocks = ", ".join(
        f"{name} {clock_time(seconds[name])}"
        for name in ("compile", "train", "evaluate")
    )
    lines.append(
        f"{clock_time(seconds['total'])} in all: {clocks}; "
        f"{result['images_per_second']:,.0f} images/s on {result['num_devices']} x "
        f"{result['device']}{_beside(result.get('together', 1) - 1)}"
    )
    lines.append(f"{path}: result.json, metrics.jsonl, best/, checkpoints/, tb/")
    return "\n".join(lines)


def _beside(num_others: int) -> str:
    return f", beside {num_others} other runs" if num_others else ""


def _how_chosen(result: dict[str, Any]) -> str:
    if result["config"]["evaluate"]["select_on"] == "test":
        return "on which the epoch was chosen: too high for an honest accuracy"
    return "scored once"


def environment(mesh: Mesh) -> dict[str, Any]:
    """Returns the devices and the versions, as result.json has them."""
    return {
        "device": _device_name(mesh.devices.flat[0]),
        "num_devices": mesh.size,
        "num_processes": jax.process_count(),
        "versions": {"python": platform.python_version(), **versions(_PACKAGES)},
    }


def _device_name(device: jax.Device) -> str:
    if device.platform != "cpu":
        return device.device_kind
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    model = re.search(r"model name\s*:\s*(.+)", text)
    name = model[1].strip() if model else platform.processor() or "unknown"
    return f"cpu ({name}, {os.cpu_count()} cores)"


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Returns the versions of packages, or that one is "not installed"."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found

"""An exported network: one file and its card, proved before they get their names."""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cifar_jax import UserError
from cifar_jax.training import results
from cifar_jax.training.pretrained import LoadedModel

Classify = Callable[[np.ndarray], np.ndarray]

BATCH_SIZES = (1, 16)  # that a file is tried with
TOLERANCE = 1e-4  # of logits, as a share of the largest
_PACKAGES = ("cifar-jax", "jax", "numpy", "safetensors", "onnx", "torch")


def export(
    network: LoadedModel,
    kind: ModuleType,
    path: pathlib.Path,
    *,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes a network to a file, reads it back, and compares the two.

    Whatever the network was trained in, it is exported in float32, the type of its
    weights, in which all platforms give the same predictions.

    Args:
      network: To export.
      kind: Module of the format, from `formats.find`.
      path: Of the file; the card goes to `path` and .json.
      overwrite: Whether an older file may be replaced.

    Returns:
      The card.

    Raises:
      UserError: If there is such a file already, or if what was read back is not the
        network (`same_logits`, or the format's `prove`); then nothing is left behind,
        and an older file is untouched.
    """
    for taken in (path, card_path(path)):
        if taken.exists() and not overwrite:
            raise UserError(f"{taken} exists; use --overwrite, or another --output")
    path.parent.mkdir(parents=True, exist_ok=True)
    network = in_float32(network)
    card = describe(network)
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        kind.write(network, partial, card)
        card["sha256"] = hashlib.sha256(partial.read_bytes()).hexdigest()
        _write_json(card_path(partial), card)
        prove = getattr(kind, "prove", same_logits)
        card["check"] = prove(network, kind.read(partial))
        _write_json(card_path(partial), card)
        card_path(partial).replace(card_path(path))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
        card_path(partial).unlink(missing_ok=True)
    return card


def card_path(path: pathlib.Path) -> pathlib.Path:
    """Returns where the card of a file lies."""
    return path.with_name(f"{path.name}.json")


def in_float32(network: LoadedModel) -> LoadedModel:
    """Returns the same network, which computes in float32."""
    model = network.model.clone(dtype=jnp.float32)
    return dataclasses.replace(network, model=model)


def describe(network: LoadedModel) -> dict[str, Any]:
    """Returns what a user of the file must know, as plain data."""
    leaves = jax.device_get(jax.tree.leaves(network.variables["params"]))
    return {
        "input": {"dtype": "uint8", "shape": ["batch", *network.image_shape]},
        "output": {"dtype": "float32", "shape": ["batch", network.num_classes]},
        "dataset": {
            "name": network.config["data"]["name"],
            "image_shape": list(network.image_shape),
            "label_names": list(network.label_names),
            "mean": [float(value) for value in network.mean],
            "std": [float(value) for value in network.std],
        },
        "num_parameters": sum(leaf.size for leaf in leaves),
        "num_nonzero": int(sum(np.count_nonzero(leaf) for leaf in leaves)),
        "epoch": network.epoch,
        "config": network.config,
        "versions": results.versions(_PACKAGES),
    }


def same_logits(network: LoadedModel, classify: Classify) -> dict[str, float]:
    """Compares what was read back with the network; see `compare`."""
    return compare(jax.jit(network.logits), classify, network)


def compare(ours: Classify, theirs: Classify, network: LoadedModel) -> dict[str, float]:
    """Classifies the same random images twice.

    Args:
      ours: The network.
      theirs: What was read back.
      network: For its image shape.

    Returns:
      `num_images`, `max_abs_difference` of the logits, and the `tolerance` for it.

    Raises:
      UserError: If logits differ by more than the tolerance, or a prediction differs
        that is no tie within it.
    """
    key, worst, tolerance = np.random.default_rng(0), 0.0, 0.0
    for batch_size in BATCH_SIZES:
        shape = (batch_size, *network.image_shape)
        images = key.integers(0, 256, shape, np.uint8)
        expected, found = np.asarray(ours(images)), np.asarray(theirs(images))
        if found.shape != expected.shape or found.dtype != expected.dtype:
            raise UserError(
                f"what was written returns {found.dtype} {found.shape} and the network "
                f"{expected.dtype} {expected.shape}; nothing is kept: please report it"
            )
        difference = float(np.max(np.abs(found - expected)))
        tolerance = TOLERANCE * max(1.0, float(np.max(np.abs(expected))))
        top = np.take_along_axis(expected, found.argmax(-1)[:, None], -1)[:, 0]
        lost = float(np.max(expected.max(-1) - top))  # 0 where predictions agree
        if not (difference <= tolerance and lost <= 2 * tolerance):
            raise UserError(
                f"what was written differs from the network by {difference:.2g} in its "
                f"logits, more than {tolerance:.2g}; nothing is kept: please report it"
            )
        worst = max(worst, difference)
    return {
        "num_images": sum(BATCH_SIZES),
        "max_abs_difference": worst,
        "tolerance": tolerance,
    }


def summary(check: Mapping[str, Any]) -> str:
    """Returns in words what a card has in `check`."""
    if "agreement" in check:
        return (
            f"it predicts as before for {check['agreement']:.2%} of "
            f"{check['num_images']:,} {check['images']} images, accuracy "
            f"{check['accuracy']:.4f} (before: {check['float32_accuracy']:.4f})"
        )
    return (
        f"on {check['num_images']} random images it predicts the same as before, "
        f"with logits within {check['max_abs_difference']:.1e}"
    )


def _write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")

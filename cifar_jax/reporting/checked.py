"""JSON that a report reads, checked for what the report shows."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from cifar_jax import UserError

_NUMBER = (int, float)
CONFIG = {
    "seed": int,
    "data.name": str,
    "data.validation": _NUMBER,
    "model": dict,
    "budget": dict,
    "train.epochs": int,
    "train.label_smoothing": _NUMBER,
    "evaluate": dict,
}
DATASET = {"image_shape": list, "label_names": list, "mean": list, "std": list}
RESULT = {
    "config": dict,
    "num_parameters": int,
    "flops_per_image": int,
    "best_epoch": int,
    "epochs": int,
    "seconds.total": _NUMBER,
    "seconds.compile": _NUMBER,
    "seconds.train": _NUMBER,
    "seconds.evaluate": _NUMBER,
    "images_per_second": _NUMBER,
    "device": str,
    "num_devices": int,
}
SCORED = ("val", "test", "val_tta", "test_tta")  # of a result; None if not looked at
RECORD = {
    "recipe": str,
    "config": dict,
    "num_parameters": int,
    "flops_per_image": int,
    "seeds": list,
    "device": str,
    "num_devices": int,
}
SEED = {
    "seed": int,
    "best_epoch": int,
    "epochs": int,
    "images_per_second": _NUMBER,
    "clocks.train": _NUMBER,
    "clocks.train_and_evaluate": _NUMBER,
    "clocks.compile": _NUMBER,
    "clocks.run": _NUMBER,
}
EVALUATION = {
    "weights": str,
    "epoch": int,
    "data": str,
    "efficiency": dict,
    "files": list,
}
SCORES = {
    "classes": list,
    "scores.accuracy": _NUMBER,
    "scores.accuracy_interval": list,
    "scores.loss": _NUMBER,
    "scores.num_correct": int,
    "scores.num_examples": int,
}
SPEED = {
    "latency_ms": _NUMBER,
    "latency_batch_size": int,
    "images_per_second": _NUMBER,
    "best_batch_size": int,
    "num_devices": int,
    "device": str,
}


def checked_result(result: Any, path: pathlib.Path) -> dict[str, Any]:
    """Returns what result.json holds, with None for images that were not scored.

    Raises:
      UserError: names what it lacks.
    """
    checked(result, RESULT, path)
    scored = [name for name in SCORED if result.get(name) is not None]
    checked(result, {f"{name}.accuracy": _NUMBER for name in scored}, path)
    return {**dict.fromkeys(SCORED), **result}


def read_object(path: pathlib.Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
      UserError: If the file holds anything else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}); restore it from a copy"
        ) from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no JSON object; restore it from a copy")
    return found


def checked(tree: Any, kinds: Mapping[str, Any], path: pathlib.Path) -> Any:
    """Returns JSON that has values of these kinds.

    Raises:
      UserError: names what it lacks.
    """
    for key, kind in kinds.items():
        if not isinstance(look_up(tree, key), kind):
            raise UserError(
                f"{path} is none that a run has written: it lacks {key}, or has "
                "another type there; restore it from a copy"
            )
    return tree


def look_up(tree: Any, key: str) -> Any:
    """Returns what stands at a key such as optim.name, or None."""
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree

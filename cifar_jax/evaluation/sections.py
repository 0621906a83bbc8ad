"""The parts of an evaluation that need only logits and labels, with their pictures."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cifar_jax.data.dataset import Dataset
from cifar_jax.evaluation import plots, scores
from cifar_jax.evaluation.output import Output

NUM_ERRORS = 24  # that are drawn
TOP = 5


def score(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Returns accuracy with its 95% interval, loss, and top-5 accuracy.

    Args:
      logits: float [N, K].
      labels: int [N].
    """
    correct = int((logits.argmax(axis=-1) == labels).sum())
    has_top = logits.shape[-1] > TOP
    return {
        "num_examples": len(labels),
        "num_correct": correct,
        "accuracy": correct / len(labels),
        "accuracy_interval": scores.wilson_interval(correct, len(labels)),
        "loss": scores.cross_entropy(logits, labels),
        "top5": scores.top_k_accuracy(logits, labels, TOP) if has_top else None,
    }


def by_class(
    matrix: np.ndarray, label_names: Sequence[str], output: Output
) -> list[dict[str, Any]]:
    """Draws and writes a confusion matrix; returns the accuracy of each class.

    Args:
      matrix: int [K, K], see `scores.confusion_matrix`.
      label_names: K names.
      output: Gets confusion.csv and confusion.png.
    """
    rows = [[name, *row] for name, row in zip(label_names, matrix, strict=True)]
    output.table("confusion.csv", ["true class", *label_names], rows)
    output.figure("confusion.png", plots.confusion(matrix, label_names))
    classes = []
    for label, name in enumerate(label_names):
        count, correct = int(matrix[label].sum()), int(matrix[label, label])
        interval = scores.wilson_interval(correct, count) if count else None
        classes.append(
            {
                "name": name,
                "num_examples": count,
                "accuracy": correct / count if count else None,
                "accuracy_interval": interval,
                "times_predicted": int(matrix[:, label].sum()),
            }
        )
    return classes


def calibrate(
    logits: np.ndarray,
    labels: np.ndarray,
    validation: tuple[np.ndarray, np.ndarray] | None,
    output: Output,
) -> dict[str, Any]:
    """Draws and returns how far the network's confidence can be trusted.

    Args:
      logits: float [N, K].
      labels: int [N].
      validation: Likewise, of images to fit a temperature on; or None.
      output: Gets reliability.png.
    """
    before = scores.calibration(logits, labels)
    after, value, temperature = None, 1.0, None
    if validation is not None:
        value = scores.fit_temperature(*validation)
        after = scores.calibration(logits / value, labels)
        temperature = {
            "value": value,
            "num_validation": len(validation[1]),
            "ece": after.error,
            "loss": scores.cross_entropy(logits / value, labels),
        }
    output.figure("reliability.png", plots.reliability(before, after, value))
    bins = zip(
        before.edges[:-1].tolist(),
        before.edges[1:].tolist(),
        before.counts.tolist(),
        before.confidence.tolist(),
        before.accuracy.tolist(),
        strict=True,
    )
    keys = ("low", "high", "count", "confidence", "accuracy")
    return {
        "ece": before.error,
        "bins": [dict(zip(keys, values, strict=True)) for values in bins],
        "temperature": temperature,
    }


def draw_errors(
    logits: np.ndarray,
    labels: np.ndarray,
    table: Dataset,
    label_names: Sequence[str],
    output: Output,
) -> None:
    """Draws the images that the network is most sure and wrong about.

    Args:
      logits: float [N, K].
      labels: int [N].
      table: The images.
      label_names: K names.
      output: Gets errors.png, and errors.npz with `images` (uint8 [E, H, W, C]), their
        `places` among all, `labels`, `predictions`, and the `confidence` in those.
    """
    places = scores.confident_errors(logits, labels, NUM_ERRORS)
    images = [table.read(int(k), int(k) + 1).images[0] for k in places]
    images = np.array(images, np.uint8)
    predictions = logits[places].argmax(axis=-1)
    confidence = np.exp(scores.log_probabilities(logits[places]).max(axis=-1))
    output.arrays(
        "errors.npz",
        images=images,
        places=places,
        labels=labels[places],
        predictions=predictions,
        confidence=confidence,
    )
    figure = plots.errors(
        images,
        [label_names[k] for k in labels[places]],
        [label_names[k] for k in predictions],
        confidence,
    )
    output.figure("errors.png", figure)

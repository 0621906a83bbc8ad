"""Errors of a network under corruptions of one kind and strength after the other."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cifar_jax.data.arrays import SEVERITIES
from cifar_jax.data.dataset import Dataset
from cifar_jax.evaluation import corruptions, plots
from cifar_jax.evaluation.inference import Predictor
from cifar_jax.evaluation.output import Output

# By corruption, what opens the table of each severity, the mildest first.
Tables = Mapping[str, Sequence[Callable[[], Dataset]]]


def corrupted_tables(table: Dataset, seed: int) -> Tables:
    """Returns the tables of all corruptions that are computed here.

    Args:
      table: The images as they are.
      seed: Of the draws.
    """
    corrupted = functools.partial(corruptions.corrupted, table, seed=seed)
    return {
        name: [functools.partial(corrupted, name, severity) for severity in SEVERITIES]
        for name in corruptions.CORRUPTIONS
    }


def score(predictor: Predictor, tables: Tables, output: Output) -> dict[str, Any]:
    """Scores a network under corruptions.

    Args:
      predictor: The network.
      tables: What is scored.
      output: Gets corruptions.csv and corruptions.png.

    Returns:
      `error`, by corruption the share of wrong labels at each severity; `mean_error`
      over them all, which is mCE without its division by another network's errors; and
      with test-time augmentation both again, as `tta_error` and `tta_mean_error`.
    """
    errors = [{name: [] for name in tables} for _ in range(predictor.views)]
    for name, severities in tables.items():
        for severity, open_table in enumerate(severities, 1):
            table = open_table()
            logits, labels = predictor.outputs(table, f"{name} {severity}")
            wrong = logits.argmax(axis=-1) != labels[:, None]  # [N, views]
            for error, mean in zip(errors, wrong.mean(axis=0), strict=True):
                error[name].append(float(mean))
    rows = [[name, *values, np.mean(values)] for name, values in errors[0].items()]
    severities = range(1, len(rows[0]) - 1)
    output.table("corruptions.csv", ["corruption", *severities, "mean"], rows)
    output.figure("corruptions.png", plots.corruption_errors(errors[0]))
    record = {"num_examples": len(labels)}
    for prefix, error in zip(("", "tta_"), errors, strict=False):
        mean = float(np.mean(list(error.values())))
        record |= {f"{prefix}error": error, f"{prefix}mean_error": mean}
    return record

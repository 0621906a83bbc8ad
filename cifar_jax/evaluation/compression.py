"""What smaller forms of a network save, and what they cost.

All are files for one runtime. In timing they take turns, round after round, so that
what else the machine does meets all of them.
"""

import dataclasses
import gzip
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cifar_jax.data import batches
from cifar_jax.data.sources import Examples
from cifar_jax.evaluation import scores

BATCH_SIZE = 256  # of the throughput
ROUNDS = 15
SECONDS = 0.3  # of a turn, about


@dataclasses.dataclass(frozen=True)
class Variant:
    """One form of a network.

    Attributes:
      path: Of its file.
      classify: `images uint8 [B, H, W, C] -> logits [B, K]`, with that file.
      facts: About it, for the record; `num_parameters` and `num_nonzero` among them.
    """

    path: pathlib.Path
    classify: Callable[[np.ndarray], np.ndarray]
    facts: dict[str, Any]


def compare(
    variants: Sequence[Variant], *, val: Examples | None, test: Examples
) -> dict[str, Any]:
    """Measures size, time and accuracy.

    Args:
      variants: The first one is what the others are compared with.
      val: Images that were held out, or None.
      test: Test images.

    Returns:
      The record: `table` makes it readable.
    """
    images = test.images[:BATCH_SIZE]
    load = os.getloadavg()[0]
    single = _take_turns(variants, images[:1])
    many = _take_turns(variants, images)
    load = {"before": load, "after": os.getloadavg()[0]}
    on_val = _accuracies(variants, val) if val else [None] * len(variants)
    on_test = _accuracies(variants, test)  # last: nothing is chosen after it
    return {
        "batch_size": len(images),
        "rounds": ROUNDS,
        "load": load,
        "variants": [
            {
                "file": variant.path.name,
                **variant.facts,
                **_sizes(variant.path),
                "latency_ms": _spread([1000 * seconds for seconds in one]),
                "images_per_second": _spread([len(images) / each for each in batch]),
                "val": held_out,
                "test": tested,
            }
            for variant, one, batch, held_out, tested in zip(
                variants, single, many, on_val, on_test, strict=True
            )
        ],
    }


def _sizes(path: pathlib.Path) -> dict[str, int]:
    content = path.read_bytes()
    return {"bytes": len(content), "gzip_bytes": len(gzip.compress(content, 9))}


def _take_turns(variants: Sequence[Variant], images: np.ndarray) -> list[list[float]]:
    """Returns the seconds of a call, by variant and round."""
    for variant in variants:
        variant.classify(images)
    turns = [[] for _ in variants]
    for number in range(ROUNDS):
        # Every other round backwards: no variant always follows the same one.
        for place in range(len(variants))[:: -1 if number % 2 else 1]:
            turns[place].append(_seconds(variants[place].classify, images))
    return turns


def _seconds(classify: Callable, images: np.ndarray) -> float:
    """Returns the median seconds of the calls of one turn."""
    times, start = [], time.perf_counter()
    while not times or time.perf_counter() - start < SECONDS:
        begin = time.perf_counter()
        classify(images)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
    }


def _accuracies(
    variants: Sequence[Variant], examples: Examples
) -> list[dict[str, Any]]:
    """Returns each accuracy, and by McNemar's test whether it differs from the first's.

    Two networks that label the same images differ by far less chance than two samples
    of images.
    """
    right = [_are_right(variant.classify, examples) for variant in variants]
    found = []
    for each in right:
        test = scores.mcnemar(right[0], each)
        found.append(
            {
                "accuracy": float(each.mean()),
                "num_examples": len(examples),
                "difference": float(each.mean() - right[0].mean()),
                "only_first_right": test.only_first,
                "only_this_right": test.only_second,
                "p_value": test.p_value,
            }
        )
    return found


def _are_right(classify: Callable, examples: Examples) -> np.ndarray:
    """Returns bool [N]."""
    right = []
    for index, mask in batches.every_example(len(examples), BATCH_SIZE):
        labels = np.asarray(classify(examples.images[index])).argmax(-1)
        right.append((labels == examples.labels[index])[mask])
    return np.concatenate(right)


def table(record: dict[str, Any]) -> str:
    """Returns a record as a table in Markdown, with what to know about it."""
    size = record["batch_size"]
    rows = [
        (
            "file",
            "parameters",
            "not zero",
            "kB",
            "gzip -9",
            "one image, ms",
            f"images/s by {size}",
            "validation",
            "test",
            "points on test (p)",
        )
    ]
    rows += [_row(variant) for variant in record["variants"]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    load = record["load"]
    return "\n".join(
        [
            *lines,
            "",
            "Zeros among the weights save space only when a file is compressed, and no "
            "time: dense kernels multiply with them, too.",
            "p: McNemar's exact test against the first row, on the same images. Times: "
            f"medians of {record['rounds']} rounds in which the rows took turns, load "
            f"before {load['before']:.1f}, after {load['after']:.1f}; "
            f"{record['device']}, ONNX Runtime {record['versions']['onnxruntime']}.",
        ]
    )


def _row(variant: dict[str, Any]) -> tuple[str, ...]:
    val, test = variant["val"], variant["test"]
    change = f"{100 * test['difference']:+.2f} ({test['p_value']:.2g})"
    return (
        variant["file"],
        f"{variant['num_parameters']:,}",
        f"{variant['num_nonzero']:,}",
        f"{variant['bytes'] / 1000:,.0f}",
        f"{variant['gzip_bytes'] / 1000:,.0f}",
        f"{variant['latency_ms']['median']:.3f}",
        f"{variant['images_per_second']['median']:,.0f}",
        f"{val['accuracy']:.4f}" if val else "none",
        f"{test['accuracy']:.4f}",
        change if test["only_first_right"] or test["only_this_right"] else "",
    )

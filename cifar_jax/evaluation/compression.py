"""What smaller forms of a network save, and what they cost.

All forms are ONNX files for one runtime. In timing they take turns, round after round,
so that whatever else the machine does meets all of them.
"""

import functools
import gzip
import pathlib
import statistics
from collections.abc import Sequence
from typing import NamedTuple, NotRequired, TypedDict

import jax
import numpy as np
from ml_collections import ConfigDict

from cifar_jax import config as default
from cifar_jax import formats
from cifar_jax.data.dataset import Examples
from cifar_jax.evaluation import efficiency, scores
from cifar_jax.formats import export
from cifar_jax.training import distributed, loop, pretrained, results, setup

BATCH_SIZE = 256  # of the throughput
ROUNDS = 15
SECONDS = 0.3  # of a turn, about


class Spread(TypedDict):
    """A measured quantity over the rounds."""

    median: float
    min: float
    max: float


class Accuracy(TypedDict):
    """A form's accuracy, and how it compares with the first form's on the same images.

    Two networks that label the same images differ by far less chance than two samples
    of images.
    """

    accuracy: float
    num_examples: int
    difference: float  # from the first form's accuracy
    only_first_right: int
    only_this_right: int
    p_value: float  # of McNemar's test


class VariantRecord(TypedDict):
    """What was measured of one form."""

    file: str
    num_parameters: int
    num_nonzero: int
    check: export.Check
    bytes: int
    gzip_bytes: int
    latency_ms: Spread
    images_per_second: Spread
    val: Accuracy | None
    test: Accuracy


class Record(results.Environment):
    """compression.json."""

    workdir: str
    batch_size: int
    rounds: int
    variants: list[VariantRecord]
    pruned: NotRequired[results.Result]  # of the run that prunes


class Variant(NamedTuple):
    """One form of a network."""

    path: pathlib.Path
    classify: export.Classify  # with that file
    card: export.Card


def compress(
    config: ConfigDict,
    workdir: pathlib.Path,
    folder: pathlib.Path,
    pruning: ConfigDict | None,
    *,
    int8: bool,
) -> Record:
    """Makes smaller forms of a run's network, and compares them.

    Args:
      config: Config of the run.
      workdir: Run directory.
      folder: Folder for the networks and the pruned run.
      pruning: Config of the run that prunes, see `pruning_config`; or None.
      int8: Whether to write networks with 8 bits as well.

    Raises:
      Stopped: If the run that prunes is stopped.
    """
    networks, pruned = {"original": workdir}, None
    if pruning:
        networks["pruned"] = folder / "pruned"
        pruned = loop.train_and_evaluate(pruning, networks["pruned"])
    kinds = ["onnx", "onnx-int8"] if int8 else ["onnx"]
    variants = []
    for name, run in networks.items():
        cpu = jax.devices("cpu")[0]
        where = jax.sharding.SingleDeviceSharding(cpu)
        with jax.default_device(cpu):  # a file is verified in float32
            network = pretrained.load_model(run, where)
            network.config["data"]["dir"] = config.data.dir
            for kind in map(formats.find, kinds):
                path = folder / f"{name}{kind.suffix}"
                card = export.export(network, kind, path, overwrite=True)
                variants.append(Variant(path, kind.read(path), card))
    source = setup.open_source(config)
    _, val = setup.read_train_and_val(config, source)
    test = source.read(config.data.test_split)
    record: Record = {
        "workdir": str(workdir),
        **results.environment(distributed.make_mesh()),
        "batch_size": min(BATCH_SIZE, len(test)),
        "rounds": ROUNDS,
        "variants": compare(variants, val=val, test=test),
    }
    record["versions"] |= results.versions(("onnx", "onnxruntime"))
    if pruned is not None:
        record["pruned"] = pruned
    return record


def pruning_config(
    config: ConfigDict,
    workdir: pathlib.Path,
    dataset: results.Dataset,
    *,
    sparsity: float,
    epochs: int | None = None,
    learning_rate: float | None = None,
) -> ConfigDict:
    """Returns the config of a run that prunes: short, and gentle to the weights.

    Args:
      config: Config of the run whose network is pruned.
      workdir: Its run directory, or its weights.
      dataset: Content of its dataset.json.
      sparsity: Share of the weights in the blocks' kernels that become zero.
      epochs: Number of epochs; None: a fifth of the run's, at least 2.
      learning_rate: Peak of the learning rate; None: a quarter of the run's.
    """
    pruning = config.copy_and_resolve_references()
    pruning.init.update(workdir=str(workdir), frozen="0%")
    pruning.prune.update(sparsity=sparsity, start="0%", stop="50%")
    pruning.data.update(mean=tuple(dataset["mean"]), std=tuple(dataset["std"]))
    pruning.schedule = default.get_config().schedule
    quarter = config.optim.learning_rate / 4
    pruning.optim.learning_rate = quarter if learning_rate is None else learning_rate
    epochs = epochs or max(2, config.train.epochs // 5)
    pruning.train.update(epochs=epochs, patience=0, reload_best=False, max_seconds=0.0)
    # Nothing is chosen on the test set: the table alone has it, at the end.
    pruning.evaluate.update(every_epochs=1, select_on="val", test=False)
    return pruning


def compare(
    variants: Sequence[Variant], *, val: Examples | None, test: Examples
) -> list[VariantRecord]:
    """Measures size, time and accuracy.

    Args:
      variants: Forms of a network; the others are compared with the first one.
      val: Images that were held out, or None.
      test: Test images.
    """
    images = test.images[:BATCH_SIZE]
    single = take_turns(variants, images[:1])
    many = take_turns(variants, images)
    on_val = _accuracies(variants, val) if val else [None] * len(variants)
    on_test = _accuracies(variants, test)  # last: nothing is chosen after it
    return [
        {
            "file": variant.path.name,
            "num_parameters": variant.card["num_parameters"],
            "num_nonzero": variant.card["num_nonzero"],
            "check": variant.card["check"],
            "bytes": variant.path.stat().st_size,
            "gzip_bytes": len(gzip.compress(variant.path.read_bytes(), 9)),
            "latency_ms": _spread([1000 * seconds for seconds in single[k]]),
            "images_per_second": _spread([len(images) / s for s in many[k]]),
            "val": on_val[k],
            "test": on_test[k],
        }
        for k, variant in enumerate(variants)
    ]


def take_turns(variants: Sequence[Variant], images: np.ndarray) -> list[list[float]]:
    """Returns the seconds of a call, by variant and round."""
    for variant in variants:
        variant.classify(images)
    turns = [[] for _ in variants]
    for number in range(ROUNDS):
        # Every other round backwards: no variant always follows the same one.
        for place in range(len(variants))[:: -1 if number % 2 else 1]:
            call = functools.partial(variants[place].classify, images)
            turns[place].append(efficiency.median_seconds(call, SECONDS))
    return turns


def _spread(values: Sequence[float]) -> Spread:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _accuracies(variants: Sequence[Variant], examples: Examples) -> list[Accuracy]:
    """Returns each variant's accuracy, compared with the first one's."""
    right = []
    for variant in variants:
        logits = export.classify_all(variant.classify, examples.images, BATCH_SIZE)
        right.append(logits.argmax(axis=-1) == examples.labels)
    tests = [scores.mcnemar(right[0], other) for other in right]
    return [
        Accuracy(
            accuracy=float(other.mean()),
            num_examples=len(examples),
            difference=float(other.mean() - right[0].mean()),
            only_first_right=test.only_first,
            only_this_right=test.only_second,
            p_value=test.p_value,
        )
        for other, test in zip(right, tests, strict=True)
    ]


def table(record: Record) -> str:
    """Returns a record as a table in Markdown, with what to know about it."""
    rows = [
        ["file", "parameters", "not zero", "kB", "gzip -9", "one image, ms"]
        + [f"images/s by {record['batch_size']}", "validation", "test"]
        + ["points on test (p)"]
    ]
    for variant in record["variants"]:
        val, test = variant["val"], variant["test"]
        differs = test["only_first_right"] or test["only_this_right"]
        change = f"{100 * test['difference']:+.2f} ({test['p_value']:.2g})"
        rows.append(
            [
                variant["file"],
                f"{variant['num_parameters']:,}",
                f"{variant['num_nonzero']:,}",
                f"{variant['bytes'] / 1000:,.0f}",
                f"{variant['gzip_bytes'] / 1000:,.0f}",
                f"{variant['latency_ms']['median']:.3f}",
                f"{variant['images_per_second']['median']:,.0f}",
                f"{val['accuracy']:.4f}" if val else "none",
                f"{test['accuracy']:.4f}",
                change if differs else "",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) + (
        "\n\nZeros among the weights save space only when a file is compressed, and no "
        "time: dense kernels multiply with them, too.\n"
        "p: McNemar's exact test against the first row, on the same images. Times: "
        f"medians of {record['rounds']} rounds in which the rows took turns; "
        f"{record['device']}, ONNX Runtime {record['versions']['onnxruntime']}."
    )

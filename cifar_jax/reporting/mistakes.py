"""What a run gets wrong: confusion matrix, classes, most confident errors."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from cifar_jax.evaluation import plots
from cifar_jax.reporting import commands
from cifar_jax.reporting.document import (
    Cell,
    Drawing,
    Gallery,
    Note,
    Picture,
    Section,
    Table,
    Tile,
)
from cifar_jax.reporting.evaluated import Evaluation
from cifar_jax.reporting.groups import Group
from cifar_jax.reporting.run import Run
from cifar_jax.reporting.text import accuracy, nothing, number, printable

_MOST_CLASSES = 20  # whose matrix can be read as a table
_MOST_PAIRS = 10
_MATRIX = "Confusion matrix: true classes in rows, labels given in columns"


def section(groups: Sequence[Group]) -> Section:
    """Returns what each run gets wrong."""
    runs = [run for group in groups for run in group.runs if not run.is_record]
    if not runs:
        return Section("Errors", [Note("A record holds no predictions.")])
    if len(runs) == 1:
        return Section("Errors", _blocks(runs[0], ""))
    missing = [run for run in runs if not run.evaluation]
    blocks = [
        Section(run.name, _blocks(run, f"_{number}"), folded=True)
        for number, run in enumerate(runs, start=1)
        if run.evaluation
    ]
    if missing:
        names = ", ".join(run.name for run in missing)
        text = f"Not evaluated yet: {names}. For each of them:"
        blocks.append(_missing(missing[0], text))
    return Section("Errors", blocks)


def _blocks(run: Run, suffix: str) -> list:
    if not run.evaluation:
        text = "The run is not evaluated yet: no confusion matrix, no errors."
        return [_missing(run, text)]
    found, names = run.evaluation, _names(run)
    blocks = [Note(_what(run, found)), *_warnings(run, found)]
    if not found.fits(len(names)):
        text = "The evaluation has no confusion matrix."
        return [*blocks, _missing(run, text)]
    blocks += [_confusion(found.matrix, names, suffix), _pairs(found.matrix, names)]
    blocks.append(_gallery(run, found, names, suffix))
    table = _classes(found.record["classes"])
    return [*blocks, Section(f"All {len(names)} classes", [table], folded=True)]


def _missing(run: Run, text: str) -> Note:
    """Returns a note on what is missing, with the command that makes it."""
    if reason := commands.reason_to_wait(run):
        return Note(f"{text} {run.name} cannot be evaluated yet: {reason}.")
    return Note(text, commands.evaluate(run))


def _names(run: Run) -> list[str]:
    return [printable(str(name)) for name in run.dataset["label_names"]]


def _what(run: Run, found: Evaluation) -> str:
    record, scores = found.record, found.record.get("scores")
    text = (
        f"The {record['weights']} weights, of epoch {record['epoch']}, on "
        f"{record['data']}"
    )
    if not scores:
        return f"{text}."
    low, high = scores["accuracy_interval"]
    text += (
        f": {scores['num_correct']:,} of {scores['num_examples']:,} images right, "
        f"accuracy {accuracy(scores['accuracy'])} (95% interval {low:.4f} to "
        f"{high:.4f}), loss {scores['loss']:.4f}"
    )
    if scores.get("top5") is not None:
        text += f", top-5 {accuracy(scores['top5'])}"
    if found.record.get("calibration"):
        text += f", calibration error {found.record['calibration']['ece']:.4f}"
    return f"{text}."


def _warnings(run: Run, found: Evaluation) -> list[Note]:
    """Returns what the evaluation is not: of the weights or images one would think."""
    record, notes = found.record, []
    if found.split == run.choice_split and not run.imported:
        text = "The epoch was chosen on these images: expect less on others."
        notes.append(Note(text, warns=run.chose_on_test))
    if found.split == "val" and run.may_test:
        text = "The run has ended: its test images may be looked at."
        notes.append(_missing(run, text))
    if record["weights"] == "best" and record["epoch"] != run.best_epoch:
        text = f"The best epoch is now {run.best_epoch}; this is of an earlier state."
        notes.append(dataclasses.replace(_missing(run, text), warns=True))
    return notes


def _confusion(matrix: np.ndarray, names: Sequence[str], suffix: str):
    drawing = Drawing(f"confusion{suffix}", plots.confusion(matrix, names))
    if len(matrix) > _MOST_CLASSES:
        return Picture(drawing, _MATRIX)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    rows = [
        [
            Cell(name),
            *(
                Cell(f"{count:,}", number=int(count), shade=float(share))
                for count, share in zip(counts, of_class, strict=True)
            ),
        ]
        for name, counts, of_class in zip(names, matrix, shares, strict=True)
    ]
    return Table(
        _MATRIX,
        ["true class", *names],
        rows,
        matrix=True,
        drawing=drawing,
    )


def _pairs(matrix: np.ndarray, names: Sequence[str]) -> Table:
    """Returns the classes that are most often taken for others."""
    wrong = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_PAIRS]
    rows = []
    for truth, given in zip(*np.unravel_index(order, wrong.shape), strict=True):
        count, whole = int(wrong[truth, given]), int(matrix[truth].sum())
        if count:
            share = count / whole
            rows.append(
                [
                    Cell(names[truth]),
                    Cell(names[given]),
                    number(count),
                    Cell(f"{share:.1%}", number=share),
                ]
            )
    columns = ["true class", "label given", "images", "share of the class"]
    return Table("Most frequent confusions", columns, rows)


def _gallery(run: Run, found: Evaluation, names: Sequence[str], suffix: str):
    errors = found.errors
    if errors is None:
        text = "The evaluation has no pictures of its errors."
        return _missing(run, text)
    labels = [names[k] for k in errors["labels"]]
    predictions = [names[k] for k in errors["predictions"]]
    tiles = [
        Tile(
            image,
            (f"{given} {confidence:.1%}", f"is {truth}"),
            f"Image {place}: a {truth} that is labelled {given} with a confidence of "
            f"{confidence:.1%}",
        )
        for image, truth, given, confidence, place in zip(
            errors["images"],
            labels,
            predictions,
            errors["confidence"].tolist(),
            errors["places"].tolist(),
            strict=True,
        )
    ]
    if not tiles:
        return Note("There is no error.")
    figure = plots.errors(errors["images"], labels, predictions, errors["confidence"])
    caption = "The errors that the network is most sure of: the label given, its "
    caption += "probability, and the true class"
    return Gallery(Drawing(f"errors{suffix}", figure), tiles, caption)


def _classes(classes: Sequence[dict[str, Any]]) -> Table:
    columns = ["class", "images", "accuracy", "95% interval", "times given"]
    rows = []
    for each in classes:
        interval = each["accuracy_interval"]
        shown = nothing()
        if interval:
            shown = Cell("{:.4f} to {:.4f}".format(*interval), number=interval[0])
        rows.append(
            [
                Cell(printable(str(each["name"]))),
                number(each["num_examples"]),
                number(each["accuracy"], ".4f"),
                shown,
                number(each["times_predicted"]),
            ]
        )
    return Table("Classes", columns, rows)

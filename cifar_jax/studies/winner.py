"""The best design of a study, which alone is scored on the test set, once."""

import json
import pathlib

import numpy as np

from cifar_jax.analysis.inference import Predictor
from cifar_jax.analysis.output import replacing
from cifar_jax.data import sources
from cifar_jax.studies import results, table
from cifar_jax.studies.journal import Journal
from cifar_jax.studies.study import Study
from cifar_jax.studies.worker import run_directory


def score(study: Study, journal: Journal) -> None:
    """Scores the runs of the best design on the test images, and writes winner.json.

    Nothing is scored again that has been: the study must have chosen another design, or
    have more runs of it.
    """
    with journal.alone("winner"):
        rows = table.rows(study, journal.candidates(), journal.trials())
        best = table.ranked(study, rows)[0]
        runs = [run for run in best.runs if run.state == "done"]
        before = results.winner(journal.folder)
        seeds = [run.seed for run in runs]
        if not runs or (
            before
            and (before["design"], before["seeds"]) == (best.candidate.name, seeds)
        ):
            return
        folders = [
            run_directory(journal.folder, best.candidate.name, seed) for seed in seeds
        ]
        record = {
            "design": best.candidate.name,
            "factors": best.candidate.factors,
            "widths": best.candidate.widths,
            "parameters": best.candidate.num_parameters,
            "macs": best.candidate.cost.macs,
            "seeds": seeds,
            "validation": best.values("accuracy"),
            "test": [_test_accuracy(folder) for folder in folders],
        }
        with replacing(journal.folder / results.WINNER) as path:
            path.write_text(json.dumps(record, indent=2) + "\n")


def _test_accuracy(workdir: pathlib.Path) -> float:
    """Returns the accuracy of a run's best weights on its test images."""
    predictor = Predictor(workdir, batch_size=500)
    network = predictor.network
    data = network.config["data"]
    images = sources.open_table(
        f"{data['name']}:{data['test_split']}",
        data["dir"],
        label_names=network.label_names,
        image_shape=network.image_shape,
        resize=data["image_size"] is not None,
    )
    logits, labels = predictor.outputs(images)
    return float(np.mean(logits[:, 0].argmax(axis=-1) == labels))

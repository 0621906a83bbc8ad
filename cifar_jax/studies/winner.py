"""The best design of a study, which alone is scored on the test set, once."""

import functools
import json
from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from cifar_jax._files import replacing
from cifar_jax.data import dataset, sources
from cifar_jax.evaluation.inference import Predictor
from cifar_jax.studies import designs, results
from cifar_jax.studies import table as tables
from cifar_jax.studies.journal import Journal
from cifar_jax.studies.study import Study
from cifar_jax.studies.worker import run_directory


def score(study: Study, journal: Journal) -> None:
    """Scores the runs of the best design on the test images, and writes winner.json.

    Several workers share the runs. Nothing is scored again that has been: the study
    must have chosen another design, or have more runs of it.
    """
    rows = tables.rows(study, journal.candidates(), journal.trials())
    if results.is_scored(study, rows, journal.folder):
        return
    best = tables.ranked(study, rows)[0]
    name, seeds = best.candidate.name, best.seeds
    images = functools.cache(lambda: _test_images(best.candidate.config))
    for wait in (False, True):  # first those that nobody is at work on
        for seed in seeds:
            _score_one(journal, name, seed, images, wait)
    tested = journal.tested()
    record = {
        "design": name,
        "factors": best.candidate.factors,
        "widths": best.candidate.widths,
        "parameters": best.candidate.num_parameters,
        "macs": best.candidate.cost.macs,
        "seeds": seeds,
        "validation": best.values("accuracy"),
        "test": [tested[name, seed] for seed in seeds],
    }
    with journal.alone("winner"), replacing(journal.folder / results.WINNER) as path:
        path.write_text(json.dumps(record, indent=2) + "\n")


def _test_images(config: ConfigDict) -> dataset.Dataset:
    """Reads the test images into memory, as the runs of a config know them."""
    data = config.data
    source = sources.open(data.name, data.dir, image_size=data.image_size)
    test = source.read(data.test_split)
    spec = f"{data.name}:{data.test_split}"
    return dataset.from_arrays(
        spec, test.images, test.labels, label_names=source.label_names
    )


def _score_one(
    journal: Journal,
    name: str,
    seed: int,
    images: Callable[[], dataset.Dataset],
    wait: bool,
) -> None:
    """Notes a run's accuracy on the test images, unless that is done, or being done."""
    lock = f"test-{designs.folder_of(name)}-{seed}"
    with journal.alone(lock, wait=wait) as mine:
        if not mine or (name, seed) in journal.tested():
            return
        folder = run_directory(journal.folder, name, seed)
        logits, labels = Predictor(folder, batch_size=500).outputs(images())
        accuracy = np.mean(logits[:, 0].argmax(axis=-1) == labels)
        journal.note_test(name, seed, float(accuracy))

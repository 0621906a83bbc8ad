"""Scores a trained network on labelled images, and writes what a person looks at."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cifar_jax import UserError
from cifar_jax.data import sources
from cifar_jax.data.dataset import Dataset, from_arrays
from cifar_jax.evaluation import efficiency, robustness, scores, sections
from cifar_jax.evaluation.inference import Predictor
from cifar_jax.evaluation.output import Output
from cifar_jax.training import setup
from cifar_jax.training.results import environment


@dataclasses.dataclass(frozen=True)
class Request:
    """What to evaluate, and how.

    Attributes:
      workdir: Run directory.
      which: "best", "last" or "ema" weights.
      step: Of the checkpoint; None: the newest.
      data: Labelled source, or a folder laid out as CIFAR-10-C; None: the run's own
        test images.
      validation: Whether to score the run's own validation images instead.
      data_dir: Folder of TFDS data sets; None: that of the run.
      resize: Whether images of another size are resized.
      tta: Of `tta.TTA`.
      temperature: Whether to fit one on the run's own validation images.
      corruptions: Whether to score the images under corruptions, too.
      seed: Of the corruptions.
      compare: Other runs to compare with.
      speed: Whether to measure latency and throughput.
      batch_size: Images in a call.
    """

    workdir: pathlib.Path
    which: str = "best"
    step: int | None = None
    data: str | None = None
    validation: bool = False
    data_dir: str | None = None
    resize: bool = False
    tta: str = "none"
    temperature: bool = False
    corruptions: bool = False
    seed: int = 0
    compare: Sequence[str] = ()
    speed: bool = False
    batch_size: int = 500


def evaluate(request: Request, output: Output) -> dict[str, Any]:
    """Evaluates a run.

    Args:
      request: What is asked for.
      output: Gets tables, pictures, and the record as evaluation.json.

    Returns:
      The record. The README lists its keys.

    Raises:
      UserError: If the run or the data cannot be used as asked.
    """
    return _Evaluation(request, output).run()


class _Evaluation:
    def __init__(self, request: Request, output: Output):
        self._request, self._output = request, output
        _check(request)
        self._predictor = self._load(request.workdir, request.tta, request.step)
        self._network = self._predictor.network
        self._config = self._network.config
        data = self._config["data"]
        self._data_dir = request.data_dir or data["dir"]
        own = {
            "test": f"{data['name']}:{data['test_split']}",
            "val": f"validation images of {data['name']}",
        }
        self._spec = request.data or own["val" if request.validation else "test"]
        self._split = next((k for k, spec in own.items() if spec == self._spec), None)
        # Before anything is computed: they may not be there.
        self._others = {path: self._load_other(path) for path in request.compare}

    def _load(self, workdir, tta: str = "none", step: int | None = None) -> Predictor:
        options = dict(batch_size=self._request.batch_size, tta=tta)
        return Predictor(workdir, which=self._request.which, step=step, **options)

    def _load_other(self, workdir) -> Predictor:
        """Loads a run to compare with, which must know the same classes."""
        other = self._load(workdir)
        for name in ("label_names", "image_shape"):
            ours, theirs = getattr(self._network, name), getattr(other.network, name)
            if ours != theirs:
                raise UserError(
                    f"{workdir} has the {name} {str(theirs)[:80]}, and "
                    f"{self._request.workdir} {str(ours)[:80]}; compare runs of one "
                    "data set"
                )
        return other

    def run(self) -> dict[str, Any]:
        record = {
            "workdir": str(self._request.workdir),
            "weights": self._request.which,
            "epoch": self._network.epoch,
            "data": self._spec,
            "split": self._split,
            "select_on": self._config["evaluate"]["select_on"],
        }
        validation = self._request.validation
        corrupted = None if validation else sources.corruptions(self._spec)
        record |= self._score_corrupted(corrupted) if corrupted else self._score()
        record["efficiency"] = self._cost()
        self._output.record("evaluation.json", record)
        return record

    def _table(self) -> Dataset:
        if self._request.validation:
            return validation_table(self._config, self._data_dir)
        return self._open(self._spec)

    def _open(self, spec: str) -> Dataset:
        size = self._config["data"]["image_size"]
        return sources.open_split(
            spec,
            self._data_dir,
            label_names=self._network.label_names,
            image_shape=self._network.image_shape,
            resize=self._request.resize or size is not None,
        )

    def _score(self) -> dict[str, Any]:
        request, output = self._request, self._output
        names, table = self._network.label_names, self._table()
        held_out = self._validate() if request.temperature else None
        logits, labels = self._predictor.outputs(table, self._spec)
        plain = logits[:, 0]
        record = {"scores": sections.score(plain, labels)}
        if request.tta != "none":
            augmented = sections.score(logits[:, 1], labels)
            record["tta"] = {"name": request.tta, **augmented}
        predictions = plain.argmax(axis=-1)
        matrix = scores.confusion_matrix(labels, predictions, len(names))
        record["classes"] = sections.by_class(matrix, names, output)
        record["calibration"] = sections.calibrate(plain, labels, held_out, output)
        sections.draw_errors(plain, labels, table, names, output)
        if request.compare:
            record["comparisons"] = [
                self._compare(workdir, table, plain, labels) for workdir in self._others
            ]
        if request.corruptions:
            tables = robustness.corrupted_tables(table, seed=request.seed)
            record["corruptions"] = robustness.score(self._predictor, tables, output)
        return record

    def _score_corrupted(self, specs: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """Scores on a folder laid out as CIFAR-10-C."""
        example = next(iter(specs.values()))[0]
        for name in ("temperature", "corruptions", "compare"):
            if getattr(self._request, name):
                raise UserError(
                    f"--{name} needs one set of images, but {self._spec} holds "
                    f"{len(specs)} corruptions; leave it out, or use --data={example}"
                )
        tables = {
            name: [functools.partial(self._open, spec) for spec in severities]
            for name, severities in specs.items()
        }
        return {"corruptions": robustness.score(self._predictor, tables, self._output)}

    def _validate(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns logits [N, K] and labels of the run's own validation images."""
        table = validation_table(self._config, self._data_dir)
        logits, labels = self._predictor.outputs(table, "validation")
        return logits[:, 0], labels

    def _compare(self, workdir: str, table: Dataset, plain, labels) -> dict[str, Any]:
        """Compares with another run on the same images, by McNemar's test."""
        logits = self._others[workdir].outputs(table, workdir)[0][:, 0]
        right = [each.argmax(axis=-1) == labels for each in (plain, logits)]
        test = scores.mcnemar(*right)
        return {
            "workdir": workdir,
            **sections.score(logits, labels),
            "only_this_right": test.only_first,
            "only_other_right": test.only_second,
            "p_value": test.p_value,
        }

    def _cost(self) -> dict[str, Any]:
        """Returns what the network costs, and where that was measured."""
        predictor, workdir = self._predictor, self._request.workdir
        speed = efficiency.speed(self._load(workdir)) if self._request.speed else {}
        return {
            **efficiency.size(predictor, workdir),
            **speed,
            "peak_memory_bytes": efficiency.peak_memory(predictor.mesh.devices.flat),
            **environment(predictor.mesh),
        }


def _check(request: Request) -> None:
    """Refuses scores of validation images that would say too much."""
    if not request.validation:
        return
    for name, why in (
        ("data", "scores other images"),
        ("temperature", "is fitted on the same images"),
        ("compare", "needs images that no other run was trained on"),
    ):
        if getattr(request, name):
            raise UserError(f"--validation and --{name}: this {why}; leave one out")


def validation_table(config: Mapping[str, Any], data_dir: str | None) -> Dataset:
    """Opens the images that a run held out of its training images.

    Args:
      config: Of the run, as plain data.
      data_dir: Folder of TFDS data sets.

    Raises:
      UserError: If it held out none, or its data is no longer there.
    """
    if not config["data"]["validation"]:
        raise UserError(
            "the run held out no validation images (data.validation is 0); leave "
            "--temperature and --validation out"
        )
    source = setup.open_source(config, data_dir)
    _, held_out = setup.read_train_and_val(config, source)
    name = f"validation images of {config['data']['name']}"
    return from_arrays(name, held_out.images, held_out.labels)

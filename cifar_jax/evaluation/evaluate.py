"""Scores a trained network on labelled images, and writes what a person looks at."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

import numpy as np

from cifar_jax import UserError, formats
from cifar_jax._files import OutputFolder
from cifar_jax.data import sources
from cifar_jax.data.dataset import Dataset, from_arrays
from cifar_jax.evaluation import corruptions, efficiency, plots, scores
from cifar_jax.evaluation.corruptions import CorruptionErrors
from cifar_jax.evaluation.efficiency import Efficiency
from cifar_jax.evaluation.inference import Predictor
from cifar_jax.evaluation.scores import Bin, ClassScores, Scores
from cifar_jax.training import setup

NUM_PICTURES = 24  # wrongly labelled images, and random ones, that are shown


@dataclasses.dataclass(frozen=True)
class Request:
    """What to evaluate, and how."""

    workdir: pathlib.Path  # run directory
    which: str = "best"  # "best", "last" or "ema" weights
    step: int | None = None  # step of the checkpoint; None: the newest
    # labelled source, or a folder laid out as CIFAR-10-C; None: the run's test images
    data: str | None = None
    validation: bool = False  # whether to score the run's validation images instead
    data_dir: str | None = None  # folder of TFDS data sets; None: that of the run
    resize: bool = False  # whether images of another size are resized
    tta: str = "none"  # key of `tta.TTA`
    temperature: bool = False  # whether to fit one on the run's validation images
    corruptions: bool = False  # whether to score the images under corruptions, too
    seed: int = 0  # seed of the corruptions
    compare: Sequence[str] = ()  # other runs to compare with
    latency: bool = False  # whether to measure latency and throughput
    batch_size: int = 500  # most images in a call


class TtaScores(Scores):
    """Scores with test-time augmentation."""

    name: str


class Temperature(TypedDict):
    """A fitted temperature, by which logits are divided, and the scores it brings."""

    value: float
    num_validation: int
    ece: float
    loss: float


class Calibration(TypedDict):
    """How far the network's confidence can be trusted."""

    ece: float
    bins: list[Bin]
    temperature: Temperature | None


class Comparison(Scores):
    """Another run on the same images, compared by McNemar's test."""

    workdir: str
    only_this_right: int
    only_other_right: int
    p_value: float


class Report(TypedDict, total=False):
    """What images tell; a folder of corruptions has `corruptions` alone."""

    scores: Scores
    classes: list[ClassScores]
    calibration: Calibration
    tta: TtaScores
    comparisons: list[Comparison]
    corruptions: CorruptionErrors


class Evaluation(Report):
    """evaluation.json."""

    workdir: str
    weights: str
    epoch: int
    data: str
    split: str | None  # val or test, if these are the run's own images
    select_on: str
    efficiency: NotRequired[Efficiency]
    files: list[str]  # names of the tables and pictures beside it


def evaluate(request: Request, output: OutputFolder) -> Evaluation:
    """Evaluates a run.

    Args:
      request: What is asked for.
      output: Folder for tables, pictures, and the record as evaluation.json.

    Returns:
      The record.
    """
    if request.validation:  # refuses scores of validation images that say too much
        for name in ("data", "temperature", "compare"):
            if getattr(request, name):
                raise UserError(
                    f"--validation and --{name}: the run's validation images are "
                    "scored alone; leave one out"
                )
    return _Evaluator(request, output).run()


class _Evaluator:
    """A network, and the images that it is evaluated on."""

    def __init__(self, request: Request, output: OutputFolder):
        self._request, self._output = request, output
        which, step = request.which, request.step
        self._network = formats.load(request.workdir, which=which, step=step)
        self._predict = functools.partial(Predictor, batch_size=request.batch_size)
        self._predictor = self._predict(self._network, tta=request.tta)
        self._data = data = self._network.config["data"]
        data["dir"] = request.data_dir or data["dir"]
        self._own_test = f"{data['name']}:{data['test_split']}"
        self._spec = request.data or self._own_test
        if request.validation:
            self._spec = f"validation images of {data['name']}"
        # Before anything is computed: they may not be there.
        self._others = {p: formats.load(p, which=which) for p in request.compare}
        for path, other in self._others.items():
            for name in ("label_names", "image_shape"):
                if getattr(other, name) != getattr(self._network, name):
                    raise UserError(
                        f"{path} has other {name} than {request.workdir}; compare runs "
                        "of one data set"
                    )

    def run(self) -> Evaluation:
        request = self._request
        folder = None if request.validation else sources.corruptions(self._spec)
        split = "test" if self._spec == self._own_test else None
        told = self._score_corrupted(folder) if folder else self._score()
        record: Evaluation = {
            "workdir": str(request.workdir),
            "weights": request.which,
            "epoch": self._network.epoch,
            "data": self._spec,
            "split": "val" if request.validation else split,
            "select_on": self._network.config["evaluate"]["select_on"],
            **told,
            "efficiency": efficiency.measure(
                self._network, request.workdir, with_speed=request.latency
            ),
            "files": list(self._output.files),
        }
        self._output.json("evaluation.json", record)
        return record

    def _score(self) -> Report:
        """Returns what one set of images tells."""
        request, names = self._request, self._network.label_names
        dataset = self._validation() if request.validation else self._open(self._spec)
        held_out = None
        if request.temperature:
            logits, labels = self._predictor.outputs(self._validation(), "validation")
            held_out = logits[:, 0], labels
        logits, labels = self._predictor.outputs(dataset, self._spec)
        plain = logits[:, 0]
        record = report(plain, labels, dataset, names, self._output, held_out)
        if request.tta != "none":
            augmented = scores.score(logits[:, 1], labels)
            record["tta"] = {"name": request.tta, **augmented}
        if request.compare:
            right = plain.argmax(axis=-1) == labels
            record["comparisons"] = []
            for workdir, other in self._others.items():
                outputs, labels = self._predict(other).outputs(dataset, workdir)
                logits = outputs[:, 0]
                test = scores.mcnemar(right, logits.argmax(axis=-1) == labels)
                comparison: Comparison = {
                    "workdir": workdir,
                    **scores.score(logits, labels),
                    "only_this_right": test.only_first,
                    "only_other_right": test.only_second,
                    "p_value": test.p_value,
                }
                record["comparisons"].append(comparison)
        if request.corruptions:
            record["corruptions"] = corruptions.score(
                self._predictor,
                corruptions.CORRUPTIONS,
                functools.partial(corruptions.corrupted, dataset, seed=request.seed),
                self._output,
            )
        return record

    def _score_corrupted(self, specs: Mapping[str, Sequence[str]]) -> Report:
        """Returns the errors on a folder laid out as CIFAR-10-C."""
        example = next(iter(specs.values()))[0]
        for name in ("temperature", "corruptions", "compare"):
            if getattr(self._request, name):
                raise UserError(
                    f"--{name} needs one set of images, but {self._spec} holds "
                    f"{len(specs)} corruptions; leave it out, or use --data={example}"
                )
        errors = corruptions.score(
            self._predictor,
            specs,
            lambda name, severity: self._open(specs[name][severity - 1]),
            self._output,
        )
        return {"corruptions": errors}

    def _open(self, spec: str) -> Dataset:
        return sources.open_split(
            spec,
            self._data["dir"],
            label_names=self._network.label_names,
            image_shape=self._network.image_shape,
            resize=self._request.resize or self._data["image_size"] is not None,
        )

    def _validation(self) -> Dataset:
        """Returns the images that the run held out of its training images."""
        config = self._network.config
        _, held_out = setup.read_train_and_val(config, setup.open_source(config))
        if held_out is None:
            raise UserError(
                "the run held out no validation images (data.validation is 0); leave "
                "--temperature and --validation out"
            )
        return from_arrays("validation images", held_out.images, held_out.labels)


def report(
    logits: np.ndarray,
    labels: np.ndarray,
    dataset: Dataset,
    label_names: Sequence[str],
    output: OutputFolder,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
) -> Report:
    """Scores logits, and draws the confusion matrix, the calibration and the errors.

    Args:
      logits: float [N, K].
      labels: int [N].
      dataset: The N images.
      label_names: K names.
      output: Folder for the tables, pictures and arrays.
      validation: Logits and labels to fit a temperature on, or None.
    """
    from sklearn import metrics  # slow to import, and reports read evaluations

    found, classes = logits.argmax(axis=-1), range(len(label_names))
    matrix = metrics.confusion_matrix(labels, found, labels=classes)
    rows = [[name, *row] for name, row in zip(label_names, matrix, strict=True)]
    (output.path / "evaluation.json").unlink(missing_ok=True)  # now out of date
    output.table("confusion.csv", ["true class", *label_names], rows)
    output.figure("confusion.png", plots.confusion(matrix, label_names))
    bins = scores.calibration(logits, labels)
    drawn, temperature = {"as it is": bins}, None
    if validation is not None:
        value = scores.fit_temperature(*validation)
        after = scores.calibration(logits / value, labels)
        drawn[f"at temperature {value:.2f}"] = after
        temperature = Temperature(
            value=value,
            num_validation=len(validation[1]),
            ece=scores.calibration_error(after),
            loss=scores.cross_entropy(logits / value, labels),
        )
    output.figure("reliability.png", plots.reliability(drawn))
    _keep_pictures(logits, labels, dataset, output)
    error = scores.calibration_error(bins)
    return {
        "scores": scores.score(logits, labels),
        "classes": scores.score_classes(matrix, label_names),
        "calibration": {"ece": error, "bins": bins, "temperature": temperature},
    }


def _keep_pictures(
    logits: np.ndarray, labels: np.ndarray, dataset: Dataset, output: OutputFolder
) -> None:
    """Writes the most confident errors, and images at random, as .npz.

    They have the `images` (uint8 [E, H, W, C]), their `places` among all, `labels` and
    `predictions`, and the `confidence` in those.
    """
    found = logits.argmax(axis=-1)
    confidence = np.exp(scores.log_probabilities(logits).max(axis=-1))
    wrong = np.flatnonzero(found != labels)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]
    drawn = np.random.default_rng(0).permutation(len(labels))
    kept = {"errors": wrong[:NUM_PICTURES], "samples": np.sort(drawn[:NUM_PICTURES])}
    for name, places in kept.items():
        images = [dataset.read(int(k), int(k) + 1).images[0] for k in places]
        with output.file(f"{name}.npz") as path, path.open("wb") as file:
            np.savez_compressed(
                file,
                images=np.array(images, np.uint8),
                places=places,
                labels=labels[places],
                predictions=found[places],
                confidence=confidence[places],
            )


def summary(record: Evaluation) -> str:
    """Returns the figures of evaluation.json in a few lines."""
    lines = [f"{record['workdir']}, {record['weights']} weights, on {record['data']}"]
    if record["select_on"] == "test":
        lines.append(
            "the epoch was chosen on the test images: on those, accuracy is too high"
        )
    if plain := record.get("scores"):
        top = f", top-5 {plain['top5']:.4f}" if plain["top5"] is not None else ""
        lines.append(
            f"accuracy {_accuracy(plain)}, loss {plain['loss']:.4f}{top}: "
            f"{plain['num_correct']:,} of {plain['num_examples']:,} images"
        )
    if tta := record.get("tta"):
        lines.append(f"with {tta['name']}: {_accuracy(tta)}, loss {tta['loss']:.4f}")
    if classes := record.get("classes"):
        found = {c["name"]: c["accuracy"] for c in classes if c["accuracy"] is not None}
        worst = min(found, key=found.__getitem__)
        best = max(found, key=found.__getitem__)
        lines.append(
            f"worst class {worst}: {found[worst]:.4f}, best {best}: {found[best]:.4f}"
        )
    if calibration := record.get("calibration"):
        line = f"calibration error (ECE) {calibration['ece']:.4f}"
        if fitted := calibration["temperature"]:
            line += (
                f"; {fitted['ece']:.4f}, loss {fitted['loss']:.4f} at temperature "
                f"{fitted['value']:.3f}, fitted on {fitted['num_validation']:,} images"
            )
        lines.append(line)
    for other in record.get("comparisons", ()):
        lines.append(
            f"{other['workdir']}: accuracy {_accuracy(other)}; right alone "
            f"{other['only_other_right']:,}, this run {other['only_this_right']:,}; "
            f"McNemar p = {other['p_value']:.3g}"
        )
    if errors := record.get("corruptions"):
        lines.append(corruptions.summary(errors))
    if cost := record.get("efficiency"):
        lines += efficiency.summary(cost)
    return "\n".join(lines)


def _accuracy(record: Scores) -> str:
    low, high = record["accuracy_interval"]
    return f"{record['accuracy']:.4f} (95% interval {low:.4f} to {high:.4f})"

"""Small studies on digits, and executors that do their runs in no time."""

import json
from concurrent.futures import Executor, Future

from cifar_jax import config as default
from cifar_jax.studies import run, study
from cifar_jax.studies.run import Outcome

SAMPLED = {
    "study.kind": "sample",
    "study.space": (
        dict(factor="C", low=1, high=8),
        dict(factor="optim.learning_rate", low=1e-4, high=1e-1, log=True),
    ),
    "study.trials": 5,
    "study.finalists": 2,
    "study.sampler": "random",
}


def config_of(data_dir=None, **keys):
    """Returns the config of a study of two tiny networks on digits, of one epoch."""
    config = default.get_study_config()
    base = config.base
    base.data.name, base.data.dir = "digits", data_dir
    base.data.train_split = "train[:50%]"
    base.augment = ()
    base.model.update(stage_sizes=(1, 1), widths=(4, 8), stem_stride=4)
    base.train.epochs, base.train.batch_size = 1, 128
    base.optim.name, base.optim.learning_rate = "adam", 0.01
    config.study.kind = "grid"
    config.study.space = (dict(factor="C", values=(2, 4)),)
    config.study.seeds = 2
    config.study.threads = 1
    with config.ignore_type():
        config.update_from_flattened_dict(keys)
    return config


def make(data_dir=None, **keys):
    return study.make(config_of(data_dir, **keys))


def name_of(workdir):
    """Returns the name of a run, such as C2/seed-0."""
    return f"{workdir.parent.name}/{workdir.name}"


class Inline(Executor):
    """Does a call at once, in this process."""

    num_workers = 1
    lost = (ConnectionError,)

    def submit(self, fn, /, *args):
        future = Future()
        try:
            future.set_result(self.call(fn, *args))
        except Exception as error:
            future.set_exception(error)
        return future

    def call(self, fn, config, workdir, *options):
        return fn(config, workdir, *options)


class Pretended(Inline):
    """Runs that only pretend to train, and keep to the protocol.

    Args:
      accuracy: Called with the config of a run and an epoch, for its accuracy.
      outcomes: What calls of a run give instead, by its name, one after the other; an
        exception is raised.

    Attributes:
      trained: Names of the runs that were trained, once for each time.
      num_scored: Number of runs whose test images were scored.
    """

    def __init__(self, accuracy=lambda config, epoch: 0.5, outcomes=()):
        self._accuracy = accuracy
        self._outcomes = {name: [*each] for name, each in dict(outcomes).items()}
        self.trained, self.num_scored = [], 0

    def call(self, fn, config, workdir, *options):
        if fn is run.score:
            self.num_scored += 1
            (workdir / run.MEASURED).write_text('{"test_accuracy": 0.25}')
            return 0.25
        if not (workdir / "result.json").exists():
            self.trained.append(name_of(workdir))
            planned = self._outcomes.get(name_of(workdir))
            if planned and (outcome := planned.pop(0)) is not None:
                if isinstance(outcome, Exception):
                    raise outcome
                return outcome
            write(workdir, config, self._accuracy)
        return Outcome("done", run.figures(workdir))


def write(workdir, config, accuracy):
    """Writes what a run leaves: the metrics of all its epochs, and its result."""
    workdir.mkdir(parents=True, exist_ok=True)
    epochs = config.train.epochs
    with (workdir / "metrics.jsonl").open("a") as file:
        for epoch in range(1, epochs + 1):
            row = {"epoch": epoch, "split": "val", "loss": 1.0}
            row["accuracy"] = accuracy(config, epoch)
            file.write(json.dumps(row) + "\n")
    result = {
        "val": {"accuracy": accuracy(config, epochs), "loss": 1.0},
        "num_parameters": 1,
        "flops_per_image": 2000 * config.model.widths[0],
        "seconds": {"total": 61.0, "compile": 1.0},
        **{"best_epoch": 1, "images_per_second": 1.0, "device": "none"},
    }
    (workdir / "result.json").write_text(json.dumps(result))

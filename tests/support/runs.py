"""Tiny runs on the digits, within this process or as the command."""

import contextlib
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
from support.commands import environment

from cifar_jax import config as default
from cifar_jax.training import loop
from cifar_jax.training.feed import Feed

ROOT = pathlib.Path(__file__).parents[2]
COMMAND = [sys.executable, "-u", "-m", "cifar_jax.main"]
TINY_RUN = "tests/support/tiny.py"
# Ten steps in an epoch.
TINY = {
    "data.train_split": "train[:50%]",
    "model.widths": (8, 16),
    "model.stage_sizes": (1, 1),
    "model.strides": (1, 2),
    "model.stem_stride": 4,
    "train.epochs": 2,
    "train.batch_size": 64,
    "train.ema_decay": 0.9,
    "optim.learning_rate": 0.002,
    "evaluate.tta": "flip",
}


def tiny_config(digits_dir, **keys):
    """Returns the config of a tiny run; keys are such as optim__momentum."""
    config = default.get_config()
    config.data.name, config.data.dir = "digits", digits_dir
    config.augment = (dict(name="random_crop", padding=2), dict(name="random_flip"))
    changed = {key.replace("__", "."): value for key, value in keys.items()}
    for key, value in {**TINY, **changed}.items():
        section, name = key.split(".")
        config[section][name] = value
    return config


def train(config, workdir, num_devices=1, **options):
    devices = jax.devices()[:num_devices]
    return loop.train_and_evaluate(config, workdir, devices=devices, **options)


def rows(workdir):
    """Returns the rows of metrics.jsonl, without what differs from time to time."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    for row in found:
        row.pop("images_per_second", None)
    return found


def signal_before(monkeypatch, name, count, number=signal.SIGTERM):
    """Sends a signal to this process before the nth item that a run's feed yields.

    Args:
      monkeypatch: Takes it back.
      name: "epoch": before a call that trains; "every_example": before a batch that is
        evaluated.
      count: Number of that item in the session, from 1.
      number: The signal.
    """
    method, numbers = getattr(Feed, name), itertools.count(1)

    def watched(items):
        for item in items:
            if next(numbers) == count:
                os.kill(os.getpid(), number)
            yield item

    @contextlib.contextmanager
    def epoch(self, *args):
        with method(self, *args) as calls:
            yield watched(calls)

    def every_example(self, *args):
        return watched(method(self, *args))

    methods = {"epoch": epoch, "every_example": every_example}
    monkeypatch.setattr(Feed, name, methods[name])


def start(workdir, digits_dir, *flags, config="configs/quickstart.py", **variables):
    """Starts the command on a tiny run, on one device, and returns its process.

    Variables are those of its environment. TINY_RUN as the config makes it the run of
    the fixture `tiny_run`.
    """
    tiny = [f"--config.{key}={str(value).strip('()')}" for key, value in TINY.items()]
    places = [f"--workdir={workdir}", f"--config.data.dir={digits_dir}"]
    return subprocess.Popen(
        [*COMMAND, f"--config={config}", *places, *tiny, *flags],
        cwd=ROOT,
        env=environment(PYTHONPATH=f"{ROOT}:{ROOT}/tests") | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)

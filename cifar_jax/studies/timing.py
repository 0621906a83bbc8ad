"""How long runs take here: measured for a few designs, fitted for the rest."""

import dataclasses
import math
import pathlib
import tempfile
import time
from collections.abc import Sequence

import jax
import numpy as np
from scipy import optimize

from cifar_jax.data import fake, sources
from cifar_jax.studies.designs import Candidate
from cifar_jax.studies.study import Study
from cifar_jax.training import rehearsal, setup
from cifar_jax.training.engine import Engine
from cifar_jax.training.interrupt import StopRequest

NUM_MEASURED = 5
_SECONDS = 2.0  # that steps are timed for
_MOST_CALLS = 30


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of the parts of a run.

    Attributes:
      start: Until its first step: the state, and compiling.
      step: A training step.
      image: A validation image.
    """

    start: float
    step: float
    image: float


@dataclasses.dataclass(frozen=True)
class Size:
    """How much a run does.

    Attributes:
      steps: Training steps.
      images: Validation images, in all epochs.
    """

    steps: int
    images: int

    def seconds(self, times: Times, *, start: bool = True) -> float:
        """Returns how long a run takes."""
        work = self.steps * times.step + self.images * times.image
        return work + (times.start if start else 0.0)


def size(study: Study) -> Size:
    """Returns how much a run of the study does; reads the data set's length alone."""
    base = study.rules.base
    data = base.data
    source = sources.open(data.name, data.dir, image_size=data.image_size)
    table = source.open_split(data.train_split)
    held_out = base.data.validation
    num_val = round(held_out * len(table)) if held_out < 1 else int(held_out)
    steps = (len(table) - num_val) // base.train.batch_size
    validations = -(-base.train.epochs // base.evaluate.every_epochs)
    return Size(base.train.epochs * steps, validations * num_val)


def chosen(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Returns the few to measure: from the least multiply-adds to the most."""
    order = sorted(candidates, key=lambda each: each.cost.macs)
    if len(order) <= NUM_MEASURED:
        return order
    places = np.linspace(0, len(order) - 1, NUM_MEASURED).round().astype(int)
    return [order[place] for place in places]


def measure(study: Study, candidate: Candidate) -> Times:
    """Times a few steps of a design on made-up images.

    Raises:
      UserError: As its run would.
    """
    config, data = study.config(candidate, 0), study.rules.base.data
    source = sources.open(data.name, data.dir, image_size=data.image_size)
    with tempfile.TemporaryDirectory(prefix="cifar_jax-") as folder:
        path, num_val = pathlib.Path(folder), 10 * source.num_classes
        num_train = config.train.batch_size + num_val
        fake.write(source, path, num_train=num_train, num_test=source.num_classes)
        short = rehearsal.shortened(config, path, num_val)
        prepared = setup.make(short, None, lambda line: None)
    begin, engine = time.perf_counter(), Engine(prepared, config.seed)
    state = engine.first_state()
    engine.compile(state)
    start = time.perf_counter() - begin
    step = _time_step(engine, state, prepared)
    image = _time_image(engine, prepared, config)
    jax.clear_caches()
    return Times(start, step, image)


def _time_step(engine: Engine, state, prepared: setup.Setup) -> float:
    """Returns seconds; where the epoch is too short, its batches come again."""
    metrics, calls, begin = engine.empty_metrics(), -1, 0.0
    # A last step: a part of the recipe may come late.
    per_call = prepared.steps_per_dispatch
    where = dict(step=prepared.total_steps, num_steps=per_call)
    with engine.epoch(0, 0) as feed:
        data = feed(per_call)
        while calls < _MOST_CALLS:
            state, metrics = engine.train(state, metrics, lambda _: data, **where)
            jax.block_until_ready(metrics)
            calls += 1
            if not calls:  # the first call warms up
                begin = time.perf_counter()
            elif time.perf_counter() - begin > _SECONDS:
                break
    return (time.perf_counter() - begin) / calls / per_call


def _time_image(engine: Engine, prepared: setup.Setup, config) -> float:
    variables = engine.first_state().best_variables
    options = dict(batch_size=config.evaluate.batch_size, stop=StopRequest())
    engine.evaluate(prepared.val, variables, **options)
    begin = time.perf_counter()
    engine.evaluate(prepared.val, variables, **options)
    return (time.perf_counter() - begin) / len(prepared.val)


def fit(candidates: Sequence[Candidate], times: Sequence[Times]):
    """Returns a function that predicts the times of any design.

    Every time is a sum, with weights of at least 0, of 1, the number of convolutions,
    multiply-adds and numbers written; their relative errors are made small.

    Args:
      candidates: That were measured.
      times: Theirs.
    """
    rows = np.array([_features(each) for each in candidates])
    weights = {}
    for part in ("start", "step", "image"):
        seconds = np.array([getattr(each, part) for each in times])
        weights[part] = optimize.nnls(rows / seconds[:, None], np.ones(len(rows)))[0]
    return lambda each: Times(
        **{part: float(_features(each) @ weights[part]) for part in weights}
    )


def _features(each: Candidate) -> np.ndarray:
    cost = each.cost
    return np.array([1.0, cost.convolutions, cost.macs / 1e6, cost.elements / 1e6])


def fit_error(
    candidates: Sequence[Candidate], times: Sequence[Times], run: Size
) -> float | None:
    """Returns by what share the fit misses the time of a run that it does not know.

    Each of the designs is left out in turn; the mean of the errors is returned, or None
    where there are too few.
    """
    if len(times) < 3:
        return None
    errors = []
    for k, each in enumerate(candidates):
        rest = [n for n in range(len(times)) if n != k]
        predict = fit([candidates[n] for n in rest], [times[n] for n in rest])
        ratio = run.seconds(predict(each)) / run.seconds(times[k])
        errors.append(abs(math.expm1(math.log(max(ratio, 1e-9)))))
    return float(np.mean(errors))

"""Evaluates runs for a report: the test images only of those that have ended."""

from collections.abc import Sequence

from cifar_jax.evaluation.evaluation import Request, evaluate
from cifar_jax.evaluation.output import Output
from cifar_jax.reporting import commands
from cifar_jax.reporting.run import Run


def evaluate_missing(runs: Sequence[Run]) -> None:
    """Scores the best weights of runs whose evaluation is missing or older than those.

    Until its test images may be looked at, that is on its validation images; and while
    it trains its latency is not measured: the machine is at work. Evaluations of other
    weights or images are left alone.

    Args:
      runs: Any runs; records are left out.

    Raises:
      UserError: If a run cannot be evaluated.
    """
    for run in runs:
        if reason := _reason_against(run):
            print(f"{run.name} is not evaluated: {reason}")
            continue
        request = Request(
            workdir=run.path, validation=not run.may_test, speed=run.ended
        )
        evaluate(request, Output(run.path / "evaluation"))


def _reason_against(run: Run) -> str:
    if run.is_record:
        return "a record holds no weights"
    if run.evaluation and not run.evaluation.split:
        return "it has an evaluation of other weights or images"
    split = "test" if run.may_test else "val"
    if run.evaluation and run.evaluation.split == split:
        if run.evaluation.record["epoch"] == run.best_epoch:
            return "it has been"
    return commands.reason_to_wait(run)

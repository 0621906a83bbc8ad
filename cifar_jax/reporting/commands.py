"""The commands that make what a report lacks."""

import shlex

from cifar_jax.reporting.run import Run


def evaluate(run: Run) -> str:
    """Returns the command that evaluates a run's best weights, honestly.

    That is on its validation images until its test images may be looked at, and without
    the latency while it trains: the machine is at work.
    """
    words = ["python", "-m", "cifar_jax.evaluate", "--workdir", str(run.path)]
    if not run.may_test:
        words.append("--validation")
    if run.ended:
        words.append("--latency")
    return shlex.join(words)


def reason_to_wait(run: Run) -> str:
    """Returns why a run cannot be evaluated yet; nothing if it can."""
    if not run.may_test and not run.config["data"]["validation"]:
        return "it holds out no validation images, and has not ended"
    if run.best_epoch is None:
        return "its first epoch has not ended"
    return ""

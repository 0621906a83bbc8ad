"""Which epoch is shipped, and when training ends."""

from typing import Any

from ml_collections import ConfigDict

from cifar_jax import UserError
from cifar_jax.training.methods.tta import TTA

# How the best of two validations is found.
RANKS = {
    "accuracy": lambda val: (val["accuracy"], -val["loss"]),
    "loss": lambda val: (-val["loss"],),
    "last": lambda val: (val["epoch"],),
}


def is_better(by: str, val: dict[str, Any], best: dict[str, Any] | None) -> bool:
    """Tells whether a validation is better than the best one so far.

    Args:
      by: A key of `RANKS`.
      val: `epoch`, `accuracy` and `loss`.
      best: Likewise, or None.
    """
    return best is None or RANKS[by](val) > RANKS[by](best)


def is_over(
    num_closed: int, best: dict[str, Any] | None, *, num_epochs: int, patience: int
) -> bool:
    """Tells whether training ends: all epochs are done, or the last brought nothing.

    Args:
      num_closed: Epochs trained and validated.
      best: The best validation, or None.
      num_epochs: Of the run.
      patience: Epochs without a better validation that end it; 0: none do.
    """
    is_stale = best is not None and 0 < patience <= num_closed - best["epoch"]
    return is_stale or num_closed == num_epochs


def check(config: ConfigDict) -> None:
    """Refuses policies that are unknown, or that contradict each other.

    Raises:
      UserError: names the key, its value and the remedy.
    """
    evaluate, train = config.evaluate, config.train
    for key, choices in (
        ("best_by", RANKS),
        ("select_on", ("val", "test")),
        ("tta", TTA),
    ):
        if evaluate[key] not in choices:
            raise UserError(
                f"evaluate.{key} is {evaluate[key]!r}; use {', '.join(choices)}"
            )
    on_test = evaluate.select_on == "test"
    if on_test and config.data.validation:
        raise UserError(
            f"evaluate.select_on is 'test', but data.validation is "
            f"{config.data.validation}; use 0, or select_on='val'"
        )
    if not (config.data.validation or on_test):
        for key in ("patience", "reload_best"):
            if train[key]:
                raise UserError(
                    f"train.{key} is {train[key]}, but data.validation is 0; hold out "
                    "validation images"
                )
    if train.reload_best and train.ema_decay:
        raise UserError(
            f"train.reload_best needs train.ema_decay=0, not {train.ema_decay}: the "
            "best weights are averages"
        )

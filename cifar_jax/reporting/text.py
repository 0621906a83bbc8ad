"""How a report writes numbers, and the cells that hold them."""

from cifar_jax.reporting.document import Cell
from cifar_jax.reporting.groups import Sample
from cifar_jax.training.progress import clock_time

TTA = "test with augmentation"
NONZERO = "not zero"
NOTHING = "–"
DAGGER = " †"
CHOSEN_ON_TEST = (
    "† The epoch was chosen on the test images: on those, the accuracy is too high, "
    "and no honest one."
)


def accuracy(value: float) -> str:
    """Returns a share of images."""
    return f"{value:.4f}"


def gflops(flops: float) -> str:
    """Returns billions of operations."""
    return f"{flops / 1e9:.3g}"


def nothing() -> Cell:
    """Returns the cell of what there is not (yet)."""
    return Cell(NOTHING)


def number(value: float | None, form: str = ",") -> Cell:
    """Returns a cell of a number.

    Args:
      value: The number, or None.
      form: Of Python's `format`.
    """
    return nothing() if value is None else Cell(format(value, form), number=value)


def sample(values: Sample | None, form: str = ".4f", mark: str = "") -> Cell:
    """Returns a cell of a mean and its standard deviation.

    Args:
      values: The sample, or None.
      form: Of Python's `format`.
      mark: Set behind it.
    """
    if values is None:
        return nothing()
    spread = "" if values.std is None else f" ± {format(values.std, form)}"
    return Cell(f"{format(values.mean, form)}{spread}{mark}", number=values.mean)


def duration(seconds: Sample | None) -> Cell:
    """Returns a cell of a mean duration."""
    if seconds is None:
        return nothing()
    return Cell(clock_time(seconds.mean), number=seconds.mean)


def plural(count: int, noun: str) -> str:
    """Returns a count and its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def printable(text: str) -> str:
    """Returns text without what neither a page nor a picture can show."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)

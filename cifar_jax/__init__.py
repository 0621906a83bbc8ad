"""The best small residual networks for CIFAR-scale images, under a parameter budget."""

__version__ = "0.1.0"


class UserError(ValueError):
    """A mistake that the user can mend: one line with the value, the limit, the remedy.

    Commands print it without a traceback and exit with code 1. It is raised wherever
    input is refused, so docstrings name it only where that tells more.
    """

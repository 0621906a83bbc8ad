"""The states that a run keeps on disk: the latest ones, and the best by validation."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Sharding
from ml_collections import ConfigDict

from cifar_jax import UserError
from cifar_jax.training.checkpoint import Checkpoints
from cifar_jax.training.due import Timer
from cifar_jax.training.tracking import RunDirectory


class Saver:
    """Saves what training hands it, and tells when it is time to.

    A position is a step and the number of closed epochs: the same step is saved again
    when its epoch has been closed.

    Args:
      run: Where.
      options: `config.checkpoint`.
      report: Called with a line for each checkpoint that had to be passed over.
    """

    def __init__(
        self, run: RunDirectory, options: ConfigDict, report: Callable[[str], None]
    ):
        self._run = run
        self._keep = options.keep
        self._timer = Timer(options.every_seconds)
        self._position = None  # of the newest state on disk
        self._latest = Checkpoints(run.checkpoints, keep=self._keep, report=report)
        # Each latest state finds the best one that it names, and one is on its way.
        self._best = Checkpoints(run.best, keep=self._keep + 1, report=report)

    def check_space(self, tree: Any, best: Any) -> None:
        """Refuses a disk that is too small for all checkpoints of these arrays.

        Raises:
          UserError: names what is free and what is needed.
        """
        latest, best = (
            sum(leaf.nbytes for leaf in jax.tree.leaves(part)) for part in (tree, best)
        )
        # One of each kind is about to be replaced.
        self._run.check_space((self._keep + 1) * latest + (self._keep + 2) * best)

    def restore(self, tree: Any, sharding: Sharding) -> tuple[Any, dict] | None:
        """Returns the newest state and its facts, in the structure of `tree`."""
        restored = self._latest.restore(tree, sharding)
        if restored is not None:
            facts = restored[1]
            self._position = facts["step"], facts["epoch"]
        self._best.delete_after(self._position[0] if self._position else 0)
        return restored

    def is_due(self) -> bool:
        """Tells whether the last save is too long ago."""
        return self._timer.is_due()

    def has(self, step: int) -> bool:
        """Tells whether the newest state on disk is of this step."""
        return self._position is not None and self._position[0] == step

    def newest_step(self) -> int | None:
        """Returns the step of the newest state on disk."""
        return max(self._latest.steps(), default=None)

    def save(self, tree: Any, facts: dict[str, Any]) -> None:
        """Saves the state at a position, unless it is there.

        Args:
          tree: Arrays.
          facts: Plain data with `step` and `epoch`, the position.
        """
        position = facts["step"], facts["epoch"]
        if position != self._position:
            self._best.wait()  # the best state is on disk before one that names it
            self._latest.save(facts["step"], tree, facts)
        self._position = position
        self._timer.restart()

    def save_best(self, step: int, variables: Any, facts: dict[str, Any]) -> None:
        """Saves the best variables so far."""
        self._best.save(step, variables, facts)

    def restore_best(self, variables: Any, sharding: Sharding, epoch: int) -> Any:
        """Returns the best variables, which must be of this epoch.

        Raises:
          UserError: If they are gone.
        """
        found = self._best.restore(variables, sharding)
        if found is None or found[1]["epoch"] != epoch:
            raise UserError(
                f"{self._run.best} lacks the best state, of epoch {epoch}; restore the "
                "folder from a copy, or start in another --workdir"
            )
        return found[0]

    def close(self) -> None:
        """Waits until all is on disk."""
        try:
            self._latest.close()
        finally:
            self._best.close()

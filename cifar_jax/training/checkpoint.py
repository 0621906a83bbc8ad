"""Checkpoints that are verified when they are read. The only user of Orbax.

Orbax checks no data of its own (a flipped bit restores other weights without a word),
so each checkpoint carries a digest of its arrays and facts.
"""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Sharding

from cifar_jax import UserError
from cifar_jax.training import distributed


class NotFiniteError(UserError):
    """A state with NaN or infinity was to be saved; nothing was written."""


class Checkpoints:
    """The states that a run keeps in one folder.

    Args:
      folder: Where they lie; made if need be.
      keep: How many of the newest are kept; None: all, and nothing is ever changed in
        the folder, in which a run may be at work.
      report: Called with a line for each checkpoint that had to be passed over.
    """

    def __init__(
        self,
        folder: os.PathLike,
        *,
        keep: int | None,
        report: Callable[[str], None] = print,
    ):
        self._folder = pathlib.Path(folder).absolute()
        self._report = report
        self._read_only = keep is None
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=ocp.checkpoint_managers.LatestN(keep),
                cleanup_tmp_directories=not self._read_only,
                read_only=self._read_only,
                enable_async_checkpointing=True,
            ),
            item_names=("tree", "facts"),
        )

    def steps(self) -> list[int]:
        """Returns the steps that have a checkpoint, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, tree: Any, facts: dict[str, Any]) -> None:
        """Saves arrays and facts about them; returns before all is on disk.

        Args:
          step: Of the run; a checkpoint of the same step is replaced.
          tree: Arrays to save.
          facts: Plain data.

        Raises:
          NotFiniteError: If an array holds NaN or infinity.
          UserError: If this one or the one before could not be written.
        """
        host_tree = jax.device_get(tree)
        _check_finite(host_tree, step)
        facts = {**facts, "digest": digest(host_tree, facts)}
        try:
            if step in self._manager.all_steps():
                self._manager.wait_until_finished()
                self._manager.delete(step)
            written = self._manager.save(
                step,
                args=ocp.args.Composite(
                    tree=ocp.args.StandardSave(tree), facts=ocp.args.JsonSave(facts)
                ),
            )
        except Exception as error:
            raise self._unwritten(error) from error
        if not written:
            raise UserError(
                f"the state of step {step:,} was not saved: {self._folder} holds a "
                "later one; start again in another --workdir"
            )

    def wait(self) -> None:
        """Waits until all that was saved is on disk.

        Raises:
          UserError: If something could not be written.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._unwritten(error) from error

    def restore(
        self, template: Any, sharding: Sharding, step: int | None = None
    ) -> tuple[Any, dict[str, Any]] | None:
        """Returns the newest checkpoint that is whole, or None if there is none.

        Damaged ones are named, and set aside under the name damaged-STEP.

        Args:
          template: Arrays or their shapes, in the structure that was saved.
          sharding: Where the arrays are to lie.
          step: The only one that will do, or None.

        Raises:
          UserError: If there are checkpoints but none is whole; none is touched.
        """
        self._manager.wait_until_finished()
        damaged = {}
        wanted = [saved for saved in self.steps() if step in (None, saved)]
        for step in reversed(wanted):
            try:
                restored = self._read(step, template, sharding)
            except Exception as error:  # Orbax raises many kinds, and long ones
                damaged[step] = _first_line(error)
                continue
            for bad, reason in damaged.items():
                self._report(f"checkpoint {bad} is damaged ({reason}); using {step}")
                if not self._read_only:
                    with distributed.together():
                        if distributed.is_primary():
                            self._set_aside(bad)
            self._manager.reload()
            return restored
        if damaged:
            reasons = "; ".join(f"{step}: {reason}" for step, reason in damaged.items())
            raise UserError(
                f"no checkpoint in {self._folder} can be read ({reasons}); restore the "
                "folder from a copy, or start again in another --workdir"
            )
        return None

    def delete_after(self, step: int) -> None:
        """Deletes what a run saved beyond the step that it goes on from."""
        for later in self.steps():
            if later > step:
                self._manager.delete(later)

    def close(self) -> None:
        """Waits until all is on disk.

        Raises:
          UserError: If something could not be written.
        """
        try:
            self.wait()
        except UserError:
            with contextlib.suppress(Exception):  # it raises the same once more
                self._manager.close()
            raise
        self._manager.close()

    def _read(self, step: int, template: Any, sharding: Sharding):
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=sharding
            ),
            template,
        )
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                tree=ocp.args.StandardRestore(abstract), facts=ocp.args.JsonRestore()
            ),
        )
        facts = dict(restored["facts"])
        saved = facts.pop("digest", None)
        if saved != digest(jax.device_get(restored["tree"]), facts):
            raise ValueError("its digest differs: the data has changed on disk")
        return restored["tree"], facts

    def _set_aside(self, step: int) -> None:
        path = self._folder / str(step)
        target = self._folder / f"damaged-{step}"
        number = 1
        while target.exists():  # it has been damaged before
            number += 1
            target = self._folder / f"damaged-{step}-{number}"
        if path.exists():
            path.rename(target)

    def _unwritten(self, error: Exception) -> UserError:
        if isinstance(error, UserError):
            return error
        return UserError(
            f"a checkpoint cannot be written to {self._folder} ({_first_line(error)}); "
            "check the free space and permissions there, then run the command again"
        )


def digest(tree: Any, facts: dict[str, Any]) -> str:
    """Returns the SHA-256 of facts and of a tree's paths, dtypes, shapes and bytes.

    Args:
      tree: NumPy arrays.
      facts: Plain data.
    """
    sha = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        leaf = np.asarray(leaf)
        header = [jax.tree_util.keystr(path), str(leaf.dtype), leaf.shape]
        sha.update(json.dumps(header).encode())
        sha.update(leaf.tobytes())  # bfloat16 has no buffer to pass
    return sha.hexdigest()


def _check_finite(tree: Any, step: int) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not np.isfinite(leaf).all():
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise NotFiniteError(f"{name} is not finite at step {step:,}")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"

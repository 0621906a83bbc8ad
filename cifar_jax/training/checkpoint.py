"""Checkpoints of a run, verified when they are read. The only user of Orbax.

Orbax does not check the data itself (a flipped bit silently restores wrong weights), so
each checkpoint carries a digest of its arrays and metadata.
"""

import contextlib
import functools
import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Sharding
from ml_collections import ConfigDict

from cifar_jax import UserError
from cifar_jax._files import causes, explained, first_line
from cifar_jax._runtime import errors_alone
from cifar_jax.training import distributed
from cifar_jax.training.interrupt import Timer
from cifar_jax.training.results import RunMetadata
from cifar_jax.training.workdir import RunDirectory

# Beginnings of TensorStore's and XLA's messages when the machine fails, which says
# nothing about the files.
_FAULT = re.compile(
    "(ABORTED|CANCELLED|DEADLINE_EXCEEDED|PERMISSION_DENIED|RESOURCE_EXHAUSTED|"
    "UNAVAILABLE|UNKNOWN)\\b"
)


class NotFiniteError(UserError):
    """A state with NaN or infinity was to be saved; nothing was written."""


class CheckpointFolder:
    """The checkpoints in one folder, by step.

    Args:
      folder: Folder of the checkpoints, which is made if it does not exist.
      keep: Number of the newest ones that are kept; None: all, and nothing in the
        folder is ever changed, for a run may be writing to it.
    """

    def __init__(self, folder: os.PathLike, *, keep: int | None):
        self._folder = pathlib.Path(folder).absolute()
        self._read_only = keep is None
        self._explained = functools.partial(
            explained, f"a checkpoint cannot be written to {self._folder}", Exception
        )
        with errors_alone():  # it warns of options that reading does not need
            self._manager = ocp.CheckpointManager(
                self._folder,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=ocp.checkpoint_managers.LatestN(keep),
                    cleanup_tmp_directories=not self._read_only,
                    read_only=self._read_only,
                    enable_async_checkpointing=True,
                ),
                # "facts" is the metadata's name on disk.
                item_names=("tree", "facts"),
            )

    def steps(self) -> list[int]:
        """Returns the steps that have a checkpoint, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, tree: Any, metadata: Mapping[str, Any]) -> None:
        """Saves arrays and metadata; returns before all is on disk.

        Args:
          step: Step of the run; a checkpoint of the same step is replaced.
          tree: Arrays to save.
          metadata: Plain data.

        Raises:
          NotFiniteError: If an array holds NaN or infinity.
          UserError: If this one or the one before could not be written.
        """
        host_tree = jax.device_get(tree)
        for path, leaf in jax.tree_util.tree_leaves_with_path(host_tree):
            if not np.isfinite(leaf).all():
                name = jax.tree_util.keystr(path, simple=True, separator="/")
                raise NotFiniteError(f"{name} is not finite at step {step:,}")
        metadata = {**metadata, "digest": digest(host_tree, metadata)}
        old, replaced = self._folder / str(step), self._folder / f"replaced-{step}"
        replaces = step in self._manager.all_steps()
        if replaces:  # the old one stays, renamed, until the new one is on disk
            self.wait()
            self._change(lambda: old.rename(replaced))
        with self._explained():
            tree, facts = ocp.args.StandardSave(host_tree), ocp.args.JsonSave(metadata)
            args = ocp.args.Composite(tree=tree, facts=facts)
            written = self._manager.save(step, args=args)
        if not written:
            raise UserError(
                f"the state of step {step:,} was not saved: {self._folder} holds a "
                "later one; start again in another --workdir"
            )
        if replaces:
            self.wait()
            self._change(lambda: shutil.rmtree(replaced))

    def wait(self) -> None:
        """Waits until all that was saved is on disk."""
        with self._explained():
            self._manager.wait_until_finished()

    def newest_metadata(self) -> Mapping[str, Any]:
        """Returns the metadata of the newest checkpoint; empty if it cannot be read."""
        args = ocp.args.Composite(facts=ocp.args.JsonRestore())
        with contextlib.suppress(Exception):  # a run may just be deleting it
            return self._manager.restore(self.steps()[-1], args=args)["facts"]
        return {}

    def restore(
        self,
        template: Any,
        sharding: Sharding,
        step: int | None = None,
        epoch: int | None = None,
    ) -> tuple[Any, Any] | None:
        """Returns arrays and metadata of the newest undamaged checkpoint, if any.

        Damaged ones are reported, and renamed to damaged-STEP. With several processes,
        all use the one that process 0 finds undamaged.

        Args:
          template: Arrays or their shapes, in the structure that was saved.
          sharding: Sharding of the restored arrays.
          step: The only step to look at; None: all.
          epoch: Epoch that the metadata must have; None: any.

        Raises:
          UserError: If there are only others, if all are damaged, or if the machine
            fails (memory, network, permissions); no file is touched then.
        """
        self._manager.wait_until_finished()
        self._change(self._undo_replacing)
        damaged, candidates = {}, [s for s in self.steps() if step in (None, s)]
        if not self._read_only:
            candidates = json.loads(distributed.exchange(json.dumps(candidates))[0])
        for used in reversed(candidates):
            restored, reason = self._try(used, template, sharding)
            if restored is None:
                damaged[used] = reason
            elif epoch in (None, restored[1].get("epoch")):
                for bad, why in damaged.items():
                    message = f"checkpoint {bad} is damaged ({why}); using {used}"
                    distributed.log(message)
                    self._rename(bad, "damaged")
                return restored
        if damaged:
            reasons = "; ".join(f"{step}: {reason}" for step, reason in damaged.items())
            raise UserError(
                f"no checkpoint in {self._folder} can be read ({reasons}); restore the "
                "folder from a copy, or start again in another --workdir"
            )
        if steps := ", ".join(map(str, self.steps())):
            wanted = f"step {step}" if epoch is None else f"epoch {epoch}, the best"
            raise UserError(
                f"{self._folder} has no checkpoint of {wanted}; its steps are {steps}: "
                "restore the folder from a copy, or choose one with --checkpoint"
            )
        return None

    def drop_after(self, step: int, *, delete: bool) -> None:
        """Drops the checkpoints after the step that a run resumes from.

        Args:
          step: Step that the run resumes from.
          delete: Delete them; otherwise they are renamed to newer-STEP, and reported.
        """
        for later in self.steps():
            if later > step and delete:
                self._manager.delete(later)
            elif later > step:
                distributed.log(
                    f"{self._folder / str(later)} is newer than step {step}; it is "
                    f"kept as newer-{later}"
                )
                self._rename(later, "newer")

    def close(self) -> None:
        """Waits until all is on disk."""
        with self._explained(), contextlib.closing(self._manager):
            self._manager.wait_until_finished()

    def _try(
        self, step: int, template: Any, sharding: Sharding
    ) -> tuple[tuple[Any, Any] | None, str]:
        """Returns a checkpoint, or None and how it is damaged, alike in all processes.

        Raises:
          UserError: If the machine fails, or only process 0 can read it.
        """
        restored, reason = None, ""
        agreed = contextlib.nullcontext if self._read_only else distributed.all_or_none
        with agreed():
            try:
                restored = self._read(step, template, sharding)
            except Exception as error:  # Orbax raises many kinds, and long ones
                reason = f"{type(error).__name__}: {first_line(error)[:200]}"
                if _is_fault(error):
                    raise UserError(
                        f"{self._folder / str(step)} cannot be read now ({reason}); "
                        "nothing has been changed there; mend that, and resume"
                    ) from error
        if self._read_only:
            return restored, reason
        verdict = distributed.exchange(reason)[0]
        with distributed.all_or_none():
            if reason and not verdict:
                raise UserError(
                    f"{self._folder / str(step)} can be read by process 0 alone "
                    f"({reason}); check that all processes see the same files"
                )
        return (None if verdict else restored), verdict

    def _read(self, step: int, template: Any, sharding: Sharding) -> tuple[Any, Any]:
        """Returns the arrays and metadata of a checkpoint, whose digest must match."""
        tree = ocp.args.StandardRestore(distributed.abstract(template, sharding))
        args = ocp.args.Composite(tree=tree, facts=ocp.args.JsonRestore())
        restored = self._manager.restore(step, args=args)
        metadata = dict(restored["facts"])
        saved = metadata.pop("digest", None)
        if saved != digest(jax.device_get(restored["tree"]), metadata):
            raise ValueError("its digest differs: the data has changed on disk")
        return restored["tree"], metadata

    def _change(self, change: Callable[[], Any]) -> None:
        """Changes the folder in process 0; all processes then list it anew.

        Nothing is changed where all is read-only.
        """
        if self._read_only:
            return
        with distributed.all_or_none(), self._explained():
            if distributed.is_primary():
                change()
        self._manager.reload()

    def _rename(self, step: int, word: str) -> None:
        """Renames a checkpoint to WORD-STEP, or WORD-STEP-2 and so on."""
        source, target = self._folder / str(step), self._folder / f"{word}-{step}"
        number = 1
        while target.exists():
            number += 1
            target = self._folder / f"{word}-{step}-{number}"
        self._change(lambda: source.rename(target) if source.exists() else None)

    def _undo_replacing(self) -> None:
        """Renames a checkpoint back that was being replaced when the run was killed."""
        for path in self._folder.glob("replaced-*"):
            step = path.name.removeprefix("replaced-")
            if step in map(str, self._manager.all_steps()):
                shutil.rmtree(path)
            else:
                path.rename(self._folder / step)


class Checkpointer:
    """All that a run saves: its latest states, and the best weights by validation.

    A position is a step and the number of closed epochs: the same step is saved again
    when its epoch has been closed.

    Args:
      run: Run directory to save into.
      options: `config.checkpoint`.

    Attributes:
      best: Checkpoints of the best weights; their metadata is a `Best`.
      timer: Timer since the last save of a state.
    """

    def __init__(self, run: RunDirectory, options: ConfigDict):
        self._run, self._options = run, options
        self.timer = Timer(options.every_seconds)
        self._position: tuple[int, int] | None = None  # of the newest state on disk
        self._latest = CheckpointFolder(run.checkpoints, keep=options.keep)
        # Each latest state finds its best weights, and one save may be under way.
        self.best = CheckpointFolder(run.best, keep=options.keep + 1)

    def check_space(self, tree: Any, variables: Any) -> None:
        """Refuses a disk that is too small for all checkpoints of these arrays."""
        if not distributed.is_primary():
            return
        latest, best = (
            sum(leaf.nbytes for leaf in jax.tree.leaves(part))
            for part in (tree, variables)
        )
        # One of each kind is about to be replaced. Those that are here already count.
        needed = (self._options.keep + 1) * latest + (self._options.keep + 2) * best
        needed -= sum(map(_size, (self._run.checkpoints, self._run.best)))
        free = shutil.disk_usage(self._run.path).free
        if needed > free:
            raise UserError(
                f"{self._run.path} has {free / 1e6:,.0f} MB of free space, and the "
                f"checkpoints need {needed / 1e6:,.0f} MB; free some, lower "
                "checkpoint.keep, or choose another --workdir"
            )

    def restore(
        self, template: Any, sharding: Sharding
    ) -> tuple[Any, RunMetadata] | None:
        """Returns the newest state and its metadata, or None for a run without any."""
        newest = max(self._latest.steps(), default=0)
        restored = self._latest.restore(template, sharding)
        if restored is None:
            # The first state is saved before there are best weights or metrics, so a
            # run that has these has had a state.
            leftovers = {"best/": self.best.steps(), "metrics.jsonl": self._run.rows()}
            names = " and ".join(name for name, found in leftovers.items() if found)
            with distributed.all_or_none():
                if names:
                    raise UserError(
                        f"{self._run.path} holds {names} of a run, but its "
                        "checkpoints/ is missing or empty; restore checkpoints/ from a "
                        "copy, or start in another --workdir"
                    )
            return None
        step = restored[1]["step"]
        self._position = step, restored[1]["epoch"]
        # Best weights after this step were saved just before a kill, and will be made
        # again; unless a newer state is damaged: then they are all that is left of it.
        self.best.drop_after(step, delete=newest <= step)
        return restored

    @property
    def saved_step(self) -> int | None:
        """Step of the newest state that was saved or restored, or None."""
        return self._position[0] if self._position else None

    def save(self, tree: Any, metadata: RunMetadata) -> None:
        """Saves the state at a position, unless it is there."""
        position = metadata["step"], metadata["epoch"]
        if position != self._position:
            self.best.wait()  # the best weights are on disk before a state names them
            self._latest.save(metadata["step"], tree, metadata)
        if self._position is None:  # see `restore`
            self._latest.wait()
        self._position = position
        self.timer = Timer(self._options.every_seconds)

    def close(self) -> None:
        """Waits until all is on disk."""
        with contextlib.closing(self.best):
            self._latest.close()


def digest(tree: Any, metadata: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of metadata and of a tree's paths, dtypes, shapes and bytes.

    Args:
      tree: NumPy arrays.
      metadata: Plain data.
    """
    sha = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        leaf = np.asarray(leaf)
        header = [jax.tree_util.keystr(path), str(leaf.dtype), leaf.shape]
        sha.update(json.dumps(header).encode())
        sha.update(leaf.tobytes())  # bfloat16 has no buffer to pass
    return sha.hexdigest()


def _size(folder: pathlib.Path) -> int:
    """Returns the bytes in a folder, out of which Orbax may be deleting files."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += pathlib.Path(root, name).stat().st_size
    return total


def _is_fault(error: Exception) -> bool:
    """Returns whether the machine has failed, as opposed to damaged files."""
    missing = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
    return any(
        (isinstance(cause, OSError | MemoryError) and not isinstance(cause, missing))
        or _FAULT.match(str(cause))
        for cause in causes(error)
    )

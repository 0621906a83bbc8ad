"""Kills ten kinds of run at random moments: python scripts/random_kills.py --kills 300.

Each kind of run is trained once without a kill, and then again and again, each session
of it ended by SIGKILL at a random moment until the run is complete. Metrics, scores and
the whole last state must be the same, bit for bit. The digits must have been prepared.
Prints a line for each kind, and ends with 1 if anything differs.
"""

import json
import os
import pathlib
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings

from cifar_jax import UserError, _cli, _runtime

CROP = dict(name="random_crop", padding=2)
# What each kind changes in the config that they share, by dotted key.
KINDS = {
    "sgd": {},
    "adam_averaged": {"optim.name": "adamw", "train.ema_decay": 0.9},
    "muon": {"optim.name": "muon"},
    "sharpness": {"optim.sam_rho": 0.05, "train.accumulate": 2},
    "mixed": {"augment": (CROP, dict(name="cutmix", stop=0.6), dict(name="mixup"))},
    "policies": {"augment": (dict(name="trivial_augment_wide"), CROP)},
    "pruned": {"prune.sparsity": 0.5, "evaluate.best_by": "last"},
    "reloaded": {"train.reload_best": True, "train.patience": 40},
    "streamed": {"data.placement": "host", "train.repeats": 2},
    "preact_dropout": {"model.block": "preact", "model.dropout": 0.3},
}


def define_flags(flags: _cli.Flags) -> None:
    """Defines the command's flags."""
    flags.add_integer("kills", "kills, shared by the kinds", 300, lower_bound=1)
    flags.add_integer("epochs", "epochs of a run", 24, lower_bound=1)
    flags.add_integer("seed", "of the moments", 0)
    flags.add_string("data_dir", "folder of TFDS data sets")


def main(flags: _cli.Flags) -> int:
    """Kills, compares, and prints a line for each kind."""
    # Imported here, once, for all sessions: each is a fork of this process, in which
    # JAX has looked for no device yet.
    import cifar_jax.training.loop  # noqa: F401

    moments, bad = random.Random(flags.seed), 0
    per_kind = -(-flags.kills // len(KINDS))
    for kind, changes in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            changes = {
                "train.epochs": flags.epochs,
                "data.dir": flags.data_dir,
            } | changes
            _session(root / "compiled", changes)  # so that all find it compiled
            start = time.monotonic()
            code = _session(root / "whole", changes)
            longest = time.monotonic() - start
            if code:
                raise UserError(f"the run {kind} ends with {code}; see its output")
            kills = runs = 0
            same = True
            while kills < per_kind:
                runs += 1
                workdir = root / str(runs)
                while kills < per_kind:
                    code = _session(workdir, changes, moments.uniform(0, longest))
                    if code != -signal.SIGKILL:
                        break
                    kills += 1
                if code == -signal.SIGKILL:
                    code = _session(workdir, changes)
                same &= code == 0 and _content(workdir) == _content(root / "whole")
            bad += not same
            verdict = "identical" if same else "DIFFERENT"
            print(f"{kind}: {kills} kills in {runs} runs: {verdict}", flush=True)
    return 1 if bad else 0


def _session(workdir: pathlib.Path, changes: dict, seconds: float | None = None) -> int:
    """Runs or resumes a run in a process of its own; returns its exit code.

    Args:
      workdir: Run directory.
      changes: Changes of the config, by dotted key.
      seconds: Time after which it is killed; None: it is left alone.
    """
    process = os.fork()
    if not process:
        code = 1
        try:
            code = _train(workdir, changes)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    deadline = time.monotonic() + (seconds or 0)
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if seconds is not None and time.monotonic() > deadline:
            os.kill(process, signal.SIGKILL)
        time.sleep(0.002)


def _train(workdir: pathlib.Path, changes: dict) -> int:
    """Trains, and leaves the digest of the last state beside the run."""
    import jax

    from cifar_jax import config as default
    from cifar_jax.training import loop

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    _runtime.start(cpu_only=True)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    config = default.get_config()
    config.data.name, config.augment = "digits", (CROP,)
    config.model.update(widths=(8, 16), stage_sizes=(1, 1), stem_stride=2)
    config.train.batch_size, config.optim.learning_rate = 128, 0.002
    config.checkpoint.every_seconds = 0.05  # within epochs, too
    config.update_from_flattened_dict(changes)
    loop.train_and_evaluate(config, workdir)
    newest = max(workdir.glob("checkpoints/[0-9]*"), key=lambda path: int(path.name))
    _write_digest(newest, workdir / "state.txt")
    return 0


def _write_digest(checkpoint: pathlib.Path, path: pathlib.Path) -> None:
    """Writes the step and the digest of all the arrays of a state."""
    import orbax.checkpoint as ocp

    from cifar_jax.training.checkpoint import digest

    with warnings.catch_warnings(action="ignore"):  # it is read as it lies on disk
        tree = ocp.PyTreeCheckpointer().restore(checkpoint.absolute() / "tree")
    path.write_text(f"{checkpoint.name} {digest(tree, {})}")


def _content(workdir: pathlib.Path) -> list:
    """Returns what must not depend on when a run was killed."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    for row in rows:
        row.pop("images_per_second", None)
    result = json.loads((workdir / "result.json").read_text())
    keys = ("val", "test", "best_epoch", "best_digest", "epochs", "steps")
    return [rows, (workdir / "state.txt").read_text(), *map(result.get, keys)]


if __name__ == "__main__":
    _cli.run()

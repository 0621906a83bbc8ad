"""Full disks, and processes that are killed at any moment."""

import contextlib
import gc
import json
import random
import subprocess
import time

import orbax.checkpoint as ocp
import pytest
from support.runs import rows, start, tiny_config, train

from cifar_jax import UserError
from cifar_jax.training import interrupt
from cifar_jax.training.checkpoint import CheckpointFolder, digest
from cifar_jax.training.workdir import RunDirectory

# Orbax leaves threads and futures behind when the disk is full.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore::pytest.PytestUnhandledThreadExceptionWarning",
)


@pytest.fixture(scope="module", autouse=True)
def collect():
    """Keeps the warnings that are ignored here from the tests of other modules."""
    yield
    gc.collect()


@pytest.fixture
def disk(tmp_path):
    """A file system of eight megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root can mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(folder):
    """Leaves no byte free."""
    with contextlib.suppress(OSError), (folder / "filler").open("ab", 0) as file:
        for size in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    pass


def full_after(monkeypatch, owner, name, calls, folder):
    """Fills the disk before a method is called for the nth time."""
    method, count = getattr(owner, name), iter(range(1000))

    def fill_and_call(*args, **kwargs):
        if next(count) == calls:
            fill(folder)
        return method(*args, **kwargs)

    monkeypatch.setattr(owner, name, fill_and_call)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_run_resumes_later(tiny_run, digits_dir, disk):
    """Full at four moments of one run, one after the other."""
    config, workdir = tiny_config(digits_dir), disk / "run"
    moments = [
        (CheckpointFolder, "save", 0),
        (RunDirectory, "add_row", 1),
        (CheckpointFolder, "save", 1),
        (RunDirectory, "write_result", 0),
    ]
    for owner, name, calls in moments:
        with pytest.MonkeyPatch.context() as patch:
            full_after(patch, owner, name, calls, disk)
            with pytest.raises(UserError, match="No space left|space") as refused:
                train(config, workdir)
        assert "\n" not in str(refused.value)
        assert not (workdir / "result.json").exists()
        (disk / "filler").unlink()
    train(config, workdir)
    assert rows(workdir) == rows(tiny_run)


def test_a_disk_that_is_too_small_is_refused_at_once(digits_dir, disk):
    fill(disk)
    with (disk / "filler").open("ab") as file:
        file.truncate(file.tell() - (1 << 17))
    with pytest.raises(UserError, match="MB of free space, and the checkpoints need"):
        train(tiny_config(digits_dir), disk / "run")


def test_a_disk_that_cannot_be_written_is_named(digits_dir, disk):
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(UserError, match="cannot be written .Read-only file system"):
        train(tiny_config(digits_dir), disk / "run")


def test_a_clock_that_jumps_changes_nothing(
    tiny_run, digits_dir, tmp_path, monkeypatch
):
    true_time, jumps = time.time, random.Random(0)
    # Minutes, while it saves, would be a time-out for Orbax: an error in one line.
    monkeypatch.setattr(
        time, "time", lambda: true_time() - 1e8 + jumps.uniform(-50, 50)
    )
    config = tiny_config(digits_dir)
    config.checkpoint.every_seconds = 0.1
    clocks = train(config, tmp_path / "run")["seconds"]
    assert rows(tmp_path / "run") == rows(tiny_run)
    parts = [clocks[name] for name in ("compile", "train", "evaluate")]
    assert min(parts) >= 0 and sum(parts) <= clocks["total"]
    timer = interrupt.Timer(1000.0)
    monkeypatch.setattr(time, "time", lambda: true_time() + 1e6)
    assert not timer.poll()


def final_state(workdir):
    """Returns the digest of the newest checkpoint's arrays."""
    folders = (workdir / "checkpoints").glob("[0-9]*")
    newest = max(folders, key=lambda folder: int(folder.name))
    with contextlib.closing(ocp.PyTreeCheckpointer()) as checkpointer:
        tree = checkpointer.restore(newest / "tree")
    return newest.name, digest(tree, {})


def moments(workdir):
    """Returns what may happen to a run from now on, to be waited for."""

    def size(name):
        file = workdir / name
        return file.stat().st_mtime_ns if file.exists() else 0

    def newest():
        names = [path.name for path in workdir.glob("checkpoints/*")]
        return max((int(name) for name in names if name.isdigit()), default=0)

    config, rows, step = size("config.json"), size("metrics.jsonl"), newest()
    return (
        lambda: size("config.json") > config,  # it compiles
        lambda: newest() > step,  # it trains
        lambda: any(workdir.glob("checkpoints/*-tmp*")),  # it saves
        lambda: any(workdir.glob("best/*-tmp*")),
        lambda: size("metrics.jsonl") > rows,  # it has validated, or starts again
    )


# Orbax warns where a state is read as it lies on disk.
@pytest.mark.filterwarnings("ignore:Sharding info not provided:UserWarning")
@pytest.mark.slow
def test_kills_change_nothing(digits_dir, tmp_path):
    """SIGKILL at random moments: in compiling, training, saving and validating."""
    generator, kills, workdir = random.Random(0), 0, tmp_path / "run"
    flags = ["--config.train.epochs=40"]
    while kills < 8:
        moment = generator.choice(moments(workdir))
        # So that it is often saving; what follows the kills need not save each step.
        process = start(
            workdir, digits_dir, *flags, "--config.checkpoint.every_seconds=0"
        )
        begun = time.monotonic()
        while process.poll() is None and not moment():
            if time.monotonic() - begun > 10:  # a short moment may be missed
                break
            time.sleep(0.001)
        time.sleep(generator.uniform(0, 0.3))
        ended = process.poll() is not None
        process.kill()
        process.communicate()
        if ended:
            break
        kills += 1
    assert kills == 8, f"the run has ended after {kills} kills; give it more epochs"
    whole = start(tmp_path / "whole", digits_dir, *flags)
    assert whole.wait(300) == 0
    whole.communicate()
    process = start(tmp_path / "run", digits_dir, *flags)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")
    assert final_state(tmp_path / "run") == final_state(tmp_path / "whole")
    results = [
        json.loads((tmp_path / name / "result.json").read_text())
        for name in ("run", "whole")
    ]
    for key in ("val", "test", "best_epoch", "steps"):
        assert results[0][key] == results[1][key]

"""Checkpoints that come back whole, and what happens when they are damaged."""

import errno
import gc
import pathlib
import resource
import shutil
import subprocess
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import SingleDeviceSharding
from support.commands import environment, free_port

from cifar_jax import UserError
from cifar_jax.training import distributed
from cifar_jax.training.checkpoint import CheckpointFolder, NotFiniteError, digest

# Where a file is damaged, Orbax closes its event loop while TensorStore still reads.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. (None|<coroutine object _read_array_index)"
    ":pytest.PytestUnraisableExceptionWarning"
)

FACTS = {"epoch": 3, "best": None, "seconds": {"total": 0.1}, "names": ["a", "b"]}


@pytest.fixture(scope="module", autouse=True)
def collect():
    """Keeps the warnings that are ignored here from the tests of other modules."""
    yield
    gc.collect()


def replicated(num_devices=1):
    return distributed.replicated(distributed.make_mesh(jax.devices()[:num_devices]))


def make_tree(step, placement=None):
    random = np.random.default_rng(step)
    tree = {
        "params": {"kernel": random.normal(size=(16, 8)), "bias": np.zeros(8)},
        "mean": random.normal(),
    }
    tree = {**jax.tree.map(np.float32, tree), "step": np.int32(step)}
    tree["half"] = jnp.asarray(random.normal(size=5), jnp.bfloat16)
    return jax.device_put(tree, placement or replicated())


def check_tree(tree, step):
    assert digest(jax.device_get(tree), {}) == digest(
        jax.device_get(make_tree(step)), {}
    )


class Opened:
    """Checkpoints of a folder, and the lines that they report."""

    def __init__(self, folder, keep=2):
        self.lines = []
        self._log = mock.patch.object(distributed, "log", self.lines.append)
        self._log.start()
        self.checkpoints = CheckpointFolder(folder, keep=keep)

    def __enter__(self):
        return self.checkpoints, self.lines

    def __exit__(self, *error):
        self.checkpoints.close()
        self._log.stop()


def save(folder, *steps, keep=2):
    with Opened(folder, keep) as (checkpoints, _):
        for step in steps:
            checkpoints.save(step, make_tree(step), {**FACTS, "at": step})


def restore(folder):
    """Returns what is restored, and the lines that are reported."""
    with Opened(folder) as (checkpoints, lines):
        return checkpoints.restore(make_tree(0), replicated()), lines


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the checkpoints 10 and 20."""
    folder = tmp_path_factory.mktemp("saved")
    save(folder, 10, 20)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of the checkpoints 10 and 20, to be damaged."""
    return shutil.copytree(saved, tmp_path / "checkpoints")


def test_arrays_and_facts_come_back(tmp_path):
    facts = {**FACTS, "at": 7, "loss": 0.1 + 0.2, "big": 2**60, "text": "ü\n"}
    with Opened(tmp_path) as (checkpoints, _):
        assert checkpoints.restore(make_tree(0), replicated()) is None
        checkpoints.save(7, make_tree(7), facts)
    (tree, restored), lines = restore(tmp_path)
    check_tree(tree, 7)
    assert restored == facts
    assert not lines


def test_what_is_being_written_can_be_restored(tmp_path):
    with Opened(tmp_path) as (checkpoints, _):
        for step in (1, 2, 3):
            checkpoints.save(step, make_tree(step), FACTS)
            tree, _ = checkpoints.restore(make_tree(0), replicated())
            check_tree(tree, step)


@pytest.mark.parametrize(
    ("keep", "kept"), [(1, [12]), (2, [5, 12]), (9, [1, 3, 5, 12])]
)
def test_the_newest_are_kept(tmp_path, keep, kept):
    save(tmp_path, 1, 3, 5, 12, keep=keep)
    with Opened(tmp_path) as (checkpoints, _):
        assert checkpoints.steps() == kept


def test_a_step_is_replaced_when_it_is_saved_again(tmp_path):
    save(tmp_path, 1, 2)
    with Opened(tmp_path) as (checkpoints, _):
        checkpoints.save(2, make_tree(5), FACTS)
    (tree, facts), _ = restore(tmp_path)
    check_tree(tree, 5)
    assert facts == FACTS


def test_steps_beyond_one_are_deleted(folder):
    with Opened(folder) as (checkpoints, _):
        checkpoints.drop_after(20, delete=True)
        assert checkpoints.steps() == [10, 20]
        checkpoints.drop_after(15, delete=True)
        assert checkpoints.steps() == [10]


@pytest.mark.parametrize(("before", "after"), [(1, 8), (8, 1), (8, 2)])
def test_other_devices_restore_what_some_have_saved(tmp_path, before, after):
    with Opened(tmp_path) as (checkpoints, _):
        checkpoints.save(4, make_tree(4, replicated(before)), FACTS)
    with Opened(tmp_path) as (checkpoints, lines):
        tree, _ = checkpoints.restore(make_tree(0), replicated(after))
    check_tree(tree, 4)
    assert not lines
    assert all(leaf.sharding == replicated(after) for leaf in jax.tree.leaves(tree))


def test_a_state_split_over_devices_is_saved_whole(tmp_path):
    split = distributed.split(distributed.make_mesh())
    values = np.arange(32.0).reshape(16, 2)
    with Opened(tmp_path) as (checkpoints, _):
        checkpoints.save(1, jax.device_put({"x": values}, split), FACTS)
        template = {"x": jax.ShapeDtypeStruct((16, 2), np.float32)}
        one = SingleDeviceSharding(jax.devices()[3])
        tree, _ = checkpoints.restore(template, one)
    np.testing.assert_array_equal(tree["x"], values)
    assert tree["x"].sharding == one


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_never_saved(folder, bad):
    before = files(folder)
    tree = make_tree(30)
    tree["params"]["bias"] = tree["params"]["bias"].at[3].set(bad)
    with Opened(folder) as (checkpoints, _):
        with pytest.raises(
            NotFiniteError, match="params/bias is not finite at step 30"
        ):
            checkpoints.save(30, tree, FACTS)
    assert files(folder) == before
    assert restore(folder)[0][1]["at"] == 20


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


DAMAGES = [flip, truncate, empty, pathlib.Path.unlink]


@pytest.mark.parametrize("damage", DAMAGES)
def test_no_damage_goes_unnoticed(saved, tmp_path, damage):
    """Each file of the newest checkpoint: it is whole all the same, or passed over."""
    passed_over = 0
    for number, file in enumerate(files(saved / "20")):
        folder = shutil.copytree(saved, tmp_path / str(number))
        damage(folder / file.relative_to(saved))
        (tree, facts), lines = restore(folder)
        step = facts.pop("at")
        check_tree(tree, step)
        assert facts == FACTS, file
        if step == 10:
            passed_over += 1
            assert len(lines) == 1 and "\n" not in lines[0], file
            assert lines[0].startswith("checkpoint 20 is damaged ("), file
            assert lines[0].endswith("); using 10"), file
            assert (folder / "damaged-20").is_dir() and not (folder / "20").exists()
        else:
            assert not lines, file
    assert passed_over >= 3


def damage_all(folder, step):
    for file in files(folder / str(step)):
        truncate(file)


def test_a_step_that_was_damaged_can_be_saved_again(folder):
    for time in (1, 2, 3):  # even when it is damaged time after time
        damage_all(folder, 20)
        with Opened(folder) as (checkpoints, lines):
            tree, _ = checkpoints.restore(make_tree(0), replicated())
            check_tree(tree, 10)
            assert len(lines) == 1
            assert checkpoints.steps() == [10]
            checkpoints.save(20, make_tree(20), {**FACTS, "at": 20})
        assert len(list(folder.glob("damaged-20*"))) == time, "evidence is gone"
        (tree, facts), lines = restore(folder)
        check_tree(tree, 20)
        assert not lines


def test_where_none_is_whole_none_is_touched(folder):
    for step in (10, 20):
        damage_all(folder, step)
    before = files(folder)
    match = r"no checkpoint in .* can be read \(20: .*; 10: .*\); restore the folder"
    with pytest.raises(UserError, match=match) as refused:
        restore(folder)
    assert "\n" not in str(refused.value)
    assert files(folder) == before


@pytest.mark.parametrize(
    "change",
    [
        dict(params={"kernel": np.zeros((16, 9)), "bias": np.zeros(8)}),
        dict(params={"kernel": np.zeros((16, 8))}),
        dict(more=np.zeros(1)),
        dict(mean=np.int32(0)),
        dict(half=np.zeros(5, np.float32)),
    ],
)
def test_a_template_of_another_network_is_refused(folder, change):
    before = files(folder)
    template = {**make_tree(0), **jax.tree.map(jnp.asarray, change)}
    with Opened(folder) as (checkpoints, _):
        with pytest.raises(UserError, match="no checkpoint in .* can be read"):
            checkpoints.restore(template, replicated())
    assert files(folder) == before


def test_what_is_no_checkpoint_does_not_disturb(folder):
    (folder / "30").mkdir()
    (folder / "40").write_text("a file")
    (folder / "notes.txt").write_text("mine")
    shutil.copytree(folder / "20", folder / "50.orbax-checkpoint-tmp")
    (tree, _), lines = restore(folder)
    check_tree(tree, 20)
    assert all(line.endswith("; using 20") for line in lines)
    assert (folder / "notes.txt").read_text() == "mine"
    with Opened(folder) as (checkpoints, _):
        for step in (30, 50):
            checkpoints.save(step, make_tree(step), FACTS)
    check_tree(restore(folder)[0][0], 50)


def test_a_folder_that_cannot_be_written_is_named(folder, monkeypatch):
    with Opened(folder) as (checkpoints, _):

        def fail(*args, **kwargs):
            raise OSError(28, "No space left on device\nand more")

        monkeypatch.setattr(checkpoints._manager, "save", fail)
        match = r"cannot be written to .*No space left on device\); free some space"
        with pytest.raises(UserError, match=match):
            checkpoints.save(30, make_tree(30), FACTS)
    assert restore(folder)[0][1]["at"] == 20


def test_the_digest_sees_every_change():
    tree = {"a": np.zeros(4, np.float32), "b": np.zeros(2, np.int32)}
    digests = [
        digest(tree, {"epoch": 1}),
        digest(tree, {"epoch": 2}),
        digest({**tree, "a": np.zeros((2, 2), np.float32)}, {"epoch": 1}),
        digest({**tree, "a": np.zeros(4, np.int32)}, {"epoch": 1}),
        digest({**tree, "a": np.float32([0, 0, 0, -0.0])}, {"epoch": 1}),
        digest({"a": tree["a"], "c": tree["b"]}, {"epoch": 1}),
    ]
    assert len(set(digests)) == len(digests)
    assert digest(tree, {"x": (1, 2), "y": 0}) == digest(tree, {"y": 0, "x": [1, 2]})


def fail_at(monkeypatch, step, error):
    """Raises an error when the checkpoint of a step is restored."""
    restore = ocp.CheckpointManager.restore

    def restore_or_fail(self, asked, *args, **kwargs):
        if asked == step:
            raise error
        return restore(self, asked, *args, **kwargs)

    monkeypatch.setattr(ocp.CheckpointManager, "restore", restore_or_fail)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, "Input/output error"),
        OSError(errno.ESTALE, "Stale file handle"),
        PermissionError(errno.EACCES, "Permission denied"),
        MemoryError("no memory"),
        ValueError("UNKNOWN: Error reading local file: [OS error 5: EIO]"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
    ],
    ids=repr,
)
def test_a_machine_that_fails_is_no_damage(folder, monkeypatch, error):
    before = files(folder)
    with monkeypatch.context() as patch:
        fail_at(patch, 20, error)
        with pytest.raises(UserError, match="20 cannot be read now .*; nothing has"):
            restore(folder)
    assert files(folder) == before
    (tree, _), lines = restore(folder)
    check_tree(tree, 20)
    assert not lines


def test_too_many_open_files_are_no_damage(folder):
    before = files(folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Opened(folder) as (checkpoints, _):
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            with pytest.raises((UserError, OSError), match="Too many open files") as it:
                checkpoints.restore(make_tree(0), replicated())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "restore the folder from a copy" not in str(it.value)
    assert files(folder) == before


class KilledError(BaseException):
    """The process ends here."""


def test_a_kill_while_a_step_is_replaced_leaves_the_old_one(tmp_path, monkeypatch):
    save(tmp_path, 20)

    def kill(*args, **kwargs):
        raise KilledError

    with monkeypatch.context() as patch, Opened(tmp_path) as (checkpoints, _):
        patch.setattr(ocp.CheckpointManager, "save", kill)
        with pytest.raises(KilledError):
            checkpoints.save(20, make_tree(5), FACTS)
    (tree, facts), lines = restore(tmp_path)
    check_tree(tree, 20)
    assert facts["at"] == 20 and not lines
    save(tmp_path, 20)
    assert [path.name for path in tmp_path.iterdir()] == ["20"]


# Processes that share a folder, of which one finds the newest checkpoint damaged.
PROCESS = """
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp

from cifar_jax import UserError
from cifar_jax.training import distributed
from cifar_jax.training.checkpoint import CheckpointFolder

port, number, victim, folder = sys.argv[1:]
distributed.initialize(f"127.0.0.1:{port}", 2, int(number))
restore = ocp.CheckpointManager.restore

def damaged(self, step, *args, **kwargs):
    restored = restore(self, step, *args, **kwargs)
    if step == 20 and number == victim:
        raise ValueError("DATA_LOSS: planted")
    return restored

ocp.CheckpointManager.restore = damaged
placement = distributed.replicated(distributed.make_mesh())
put = lambda step: {"x": distributed.put(np.full(4, step, np.float32), placement)}
checkpoints = CheckpointFolder(folder, keep=2)
for step in (10, 20):
    checkpoints.save(step, put(step), {})
checkpoints.wait()
try:
    tree, _ = checkpoints.restore(put(0), placement)
    print("restored", np.asarray(tree["x"])[0])
    checkpoints.close()
except UserError as error:
    print("error:", error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_processes_use_the_checkpoint_of_process_0(tmp_path, victim):
    arguments = [sys.executable, "-c", PROCESS, str(free_port())]
    processes = [
        subprocess.Popen(
            [*arguments, str(number), str(victim), tmp_path / "shared"],
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in (0, 1)
    ]
    printed = [process.communicate(timeout=300)[0] for process in processes]
    if victim == 0:
        assert all("restored 10.0" in text for text in printed), printed
        assert (tmp_path / "shared" / "damaged-20").is_dir()
    else:
        assert all("can be read by process 0 alone" in text for text in printed)
        assert (tmp_path / "shared" / "20").is_dir()

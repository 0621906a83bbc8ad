"""The files of a run: who may write them, and what is left after a crash."""

import contextlib
import errno
import fcntl
import json
import multiprocessing
import os

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from cifar_jax import UserError
from cifar_jax import config as default
from cifar_jax.training import workdir
from cifar_jax.training.checkpoint import Checkpointer
from cifar_jax.training.workdir import RunDirectory


def make_config():
    config = default.get_config()
    config.data.name = "digits"
    config.model.widths, config.model.se_ratio = (8, 16), 4
    return config


def row(epoch, split="train", **numbers):
    return {"step": 10 * epoch, "epoch": epoch, "split": split, "loss": 0.5, **numbers}


@pytest.fixture
def run(tmp_path):
    """A directory with the work of a run."""
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    run.claim(make_config(), {})
    (run.checkpoints / "10").mkdir(parents=True)
    return run


def set_key(config, path, value):
    *sections, key = path.split(".")
    for section in sections:
        config = config[section]
    with config.ignore_type(), config.unlocked():
        config[key] = value


def test_a_second_run_is_kept_out(tmp_path):
    first, second = (
        RunDirectory(tmp_path / "a" / "b"),
        RunDirectory(tmp_path / "a" / "b"),
    )
    with first.lock():
        with pytest.raises(UserError, match="another run works in .*/a/b; wait, or"):
            with second.lock():
                raise AssertionError("two runs at once")
        with RunDirectory(tmp_path / "other").lock():
            pass
    with second.lock():
        pass


def hold_lock(path, connection):
    with RunDirectory(path).lock():
        connection.send("locked")
        connection.recv()


def test_a_path_that_is_not_utf_8_is_refused(tmp_path):
    path = tmp_path / os.fsdecode(b"r\xff")
    with pytest.raises(UserError, match=r"checkpoints need a path in UTF-8"):
        with RunDirectory(path).lock():
            pass
    assert not path.exists()


def test_a_file_system_without_locks_will_do(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with RunDirectory(tmp_path / "run").lock():
        assert (tmp_path / "run").exists()


def test_a_killed_process_leaves_no_lock(tmp_path):
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe()
    process = context.Process(target=hold_lock, args=(tmp_path, theirs))
    process.start()
    assert ours.recv() == "locked"
    with pytest.raises(UserError, match="another run"), RunDirectory(tmp_path).lock():
        raise AssertionError("two runs at once")
    process.kill()
    process.join()
    with RunDirectory(tmp_path).lock():
        pass


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    match = r"work directory .*/file/run cannot be written \(Not a directory\); choose"
    with (
        pytest.raises(UserError, match=match),
        RunDirectory(tmp_path / "file/run").lock(),
    ):
        raise AssertionError("there is no directory")


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("seed", 1, "seed was 0, now 1"),
        ("model.widths", (8, 24), r"model\.widths was \[8, 16\], now \[8, 24\]"),
        ("model.se_ratio", 8, r"model\.se_ratio was 4, now 8"),
        ("augment", ({"name": "flip"},), r"augment was \[\{'name': 'random_crop', "),
        ("data.name", "cifar10", r"data\.name was digits, now cifar10"),
        ("evaluate.every_epochs", 2, r"evaluate\.every_epochs was 1, now 2"),
        ("added", 3, "added was None, now 3"),
    ],
)
def test_another_config_is_refused(run, key, value, match):
    config = make_config()
    run.check(config)
    set_key(config, key, value)
    with pytest.raises(UserError, match=f"{match}.*; use the old values, or choose"):
        run.check(config)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.dir", "/elsewhere"),
        ("data.source", "/archive"),
        ("checkpoint.keep", 9),
        ("checkpoint.every_seconds", 1.0),
        ("evaluate.batch_size", 7),
        ("train.steps_per_dispatch", 50),
    ],
)
def test_what_changes_no_result_may_change(run, key, value):
    config = make_config()
    set_key(config, key, value)
    run.check(config)


@pytest.mark.parametrize("work", ["checkpoints/10", "best/10", "result.json"])
def test_a_run_without_its_config_is_refused(run, work):
    (run.checkpoints / "10").rmdir()
    (run.path / work).mkdir(parents=True)
    (run.path / "config.json").unlink()
    match = "holds a run but no config.json.*; restore config.json from a copy, or"
    with pytest.raises(UserError, match=match):
        run.check(make_config())


def test_every_difference_is_named(run):
    config = make_config()
    config.seed, config.model.se_ratio, config.checkpoint.keep = 5, 6, 7
    with pytest.raises(UserError) as refused:
        run.check(config)
    message = str(refused.value)
    assert "(model.se_ratio was 4, now 6; seed was 0, now 5)" in message
    assert "keep" not in message


def test_a_directory_without_work_may_be_taken(run):
    config = make_config()
    config.seed = 5
    (run.checkpoints / "10").rename(run.checkpoints / "damaged-10")
    run.check(config)
    RunDirectory(run.path / "new").check(config)
    run.write_result({"test": 1})
    with pytest.raises(UserError, match="seed was 0"):
        run.check(config)


def test_a_run_may_be_refused_or_insisted_on(run):
    new, config = RunDirectory(run.path / "new"), make_config()
    new.check(config, "never")
    run.check(config, "must")
    with pytest.raises(UserError, match="holds a run .--resume=never.; choose another"):
        run.check(config, "never")
    with pytest.raises(UserError, match="nothing to resume in .*/new .--resume=must"):
        new.check(config, "must")


def check_space(run, num_bytes):
    """Asks for so much room for the state, which is kept twice and once more."""
    state = np.broadcast_to(np.uint8(0), num_bytes)
    with contextlib.closing(Checkpointer(run, make_config().checkpoint)) as made:
        made.check_space(state, np.zeros(1))


def test_a_disk_without_room_is_refused(run):
    check_space(run, 1000)
    with pytest.raises(UserError, match="MB of free space, and the checkpoints need"):
        check_space(run, 10**18)


def test_files_that_vanish_meanwhile_take_no_room(run):
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    (run.checkpoints / "listed").symlink_to("deleted")
    check_space(run, 1000)


def test_what_other_processes_do_writes_nothing(tmp_path):
    run = RunDirectory(tmp_path / "run", is_writer=False)
    with run.lock():
        run.claim(make_config(), {})
        run.rewind(0, 0)
        run.add_row(row(1))
        run.write_result({"test": 1})
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_not_shared_is_refused(run, monkeypatch):
    monkeypatch.setattr(workdir, "SHARED_SECONDS", 0.2)
    with run.lock():
        run.check_shared(run.token)
        with pytest.raises(UserError, match="is not the one of process 0"):
            run.check_shared("another")


def test_a_damaged_config_is_refused(run):
    content = (run.path / "config.json").read_text()
    (run.path / "config.json").write_text(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"config\.json is damaged .*; restore it from"):
        run.check(make_config())


def test_the_result_is_read_back(run, tiny_run):
    assert run.result() is None
    result = json.loads((tiny_run / "result.json").read_text())
    result["test"]["accuracy"], result["val"] = 0.1 + 0.2, None
    run.write_result(result)
    assert run.result() == RunDirectory(run.path).result() == result


def test_a_write_that_fails_leaves_the_old_file(run, monkeypatch):
    run.write_result({"old": 1})
    with pytest.raises(TypeError):
        run.write_result({"new": object()})

    def fail(self, *args):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(UserError, match="run cannot be written .no space.; free some"):
        run.write_result({"new": 2})
    assert json.loads((run.path / "result.json").read_text()) == {"old": 1}


def test_rows_come_back_in_their_order(run):
    rows = [row(1), row(1, "val", accuracy=0.1), row(2)]
    with run.lock():
        run.rewind(0, 0)
        assert run.rows() == []
        for each in rows:
            run.add_row(each)
        assert run.rows() == rows
        run.rewind(2, 20)
        assert run.rows() == rows
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows


def test_rewinding_drops_the_epochs_that_run_again(run):
    with run.lock():
        run.rewind(0, 0)
        for epoch in (1, 2, 3):
            run.add_row(row(epoch))
            run.add_row(row(epoch, "val"))
    with run.lock():
        run.rewind(1, 10)
        assert run.rows() == [row(1), row(1, "val")]
        run.add_row(row(2, loss=0.25))
    assert run.rows() == [row(1), row(1, "val"), row(2, loss=0.25)]


@pytest.mark.parametrize("cut", [1, 5, 40, 54])
def test_a_last_line_that_was_cut_off_is_dropped(run, cut):
    """The process died while it wrote; the epoch's row is written again."""
    with run.lock():
        run.rewind(0, 0)
        run.add_row(row(1))
        with (run.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row(2))[:cut])
        assert run.rows() == [row(1)]
    with run.lock():
        run.rewind(1, 10)
        run.add_row(row(2))
    assert run.rows() == [row(1), row(2)]
    assert (run.path / "metrics.jsonl").read_text().count("\n") == 2


@pytest.mark.parametrize("line", [b'{"step": 20, "epo', b"\xff\xfe", b"[]", b"", b"7"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_damaged_line_is_named_and_nothing_is_dropped(run, line, place):
    """Only a last line without an end has been cut off by a kill."""
    metrics = run.path / "metrics.jsonl"
    lines = [json.dumps(row(epoch)).encode() for epoch in (1, 2)]
    lines.insert(place, line)
    metrics.write_bytes(b"".join(line + b"\n" for line in lines))
    before = metrics.read_bytes()
    match = rf"metrics\.jsonl is damaged in line {place + 1} .*; restore it from a copy"
    with pytest.raises(UserError, match=match), run.lock():
        run.rewind(1, 10)
    assert metrics.read_bytes() == before


def test_tensorboard_has_the_numbers(run):
    with run.lock():
        run.rewind(0, 0)
        run.add_row(row(1, accuracy=0.5))
        run.add_row(row(1, "val"))
    (events,) = (run.path / "tb").iterdir()
    content, seen = events.read_bytes(), {}
    while content:  # a length and its checksum, the event and its checksum
        size = int.from_bytes(content[:8], "little")
        event = event_pb2.Event.FromString(content[12 : 12 + size])
        seen |= {(v.tag, event.step): v.simple_value for v in event.summary.value}
        content = content[16 + size :]
    names = ("train/loss", "train/accuracy", "val/loss")
    assert seen == dict.fromkeys(((name, 10) for name in names), 0.5)


def test_an_imported_network_is_work_too(run):
    (run.best / "0").mkdir(parents=True)
    with pytest.raises(UserError, match="holds a run"):
        run.check(make_config(), "never")
    other = make_config()
    other.seed = 7
    with pytest.raises(UserError, match="another config .seed was 0, now 7"):
        run.check(other)

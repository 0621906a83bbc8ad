"""The main job as a user meets it: run directories, resumption, devices, mistakes."""

import dataclasses
import json
import re
import shutil
import signal

import jax
import pytest
from support.runs import (
    TINY_RUN,
    rows,
    signal_before,
    start,
    tiny_config,
    train,
    wait_for,
)

from cifar_jax import Stopped, UserError
from cifar_jax.training import loop, setup


@pytest.fixture
def finished(tiny_run):
    """A run that nothing has interrupted: its directory and result."""
    return tiny_run, json.loads((tiny_run / "result.json").read_text())


def test_a_run_directory_keeps_its_contract(finished):
    workdir, result = finished
    for name in ("config.json", "metrics.jsonl", "checkpoints", "best", "tb"):
        assert (workdir / name).exists(), name
    assert list((workdir / "tb").iterdir()), "TensorBoard has nothing to show"
    assert result["test"]["num_examples"] == 360
    assert result["val"]["num_examples"] == 72
    assert 0 <= result["test"]["accuracy"] <= 1
    for split in ("test", "val"):  # a mirrored digit is another digit, or none
        assert result[f"{split}_tta"]["num_examples"] == result[split]["num_examples"]
        assert result[f"{split}_tta"]["loss"] != result[split]["loss"]
    steps = (718 - 72) // 64
    assert (result["epochs"], result["steps"]) == (2, 2 * steps)
    keys = [(row["step"], row["epoch"], row["split"]) for row in rows(workdir)]
    assert keys == [
        (step, epoch, split)
        for epoch, step in ((1, steps), (2, 2 * steps))
        for split in ("train", "val")
    ]
    clocks = result["seconds"]
    parts = [clocks[name] for name in ("compile", "train", "evaluate")]
    assert min(parts) > 0 and sum(parts) <= clocks["total"]
    speed = result["steps"] * 64 / clocks["train"]
    assert result["images_per_second"] == pytest.approx(speed, rel=0.2)


def test_an_epochs_metrics_are_those_of_its_images(digits_dir, tmp_path, monkeypatch):
    counts, means = [], loop.means

    def noted(metrics):
        counts.append(int(metrics.loss.count))
        return means(metrics)

    monkeypatch.setattr(loop, "means", noted)
    train(tiny_config(digits_dir, data__validation=0), tmp_path)
    counts = [number for number in counts if number != 360]  # the test images
    half = len(counts) // 2
    assert counts[:half] == counts[half:] and counts[half - 1] == 11 * 64


def test_a_finished_run_is_left_alone(finished, digits_dir, capsys):
    workdir, result = finished
    before = (workdir / "result.json").stat().st_mtime_ns
    assert train(tiny_config(digits_dir), workdir) == result
    assert (workdir / "result.json").stat().st_mtime_ns == before
    assert "nothing is left to do" in capsys.readouterr().out


def test_a_run_that_is_stopped_again_and_again_is_the_same_bit_for_bit(
    finished, digits_dir, tmp_path
):
    """Within an epoch, in a validation, and while the test set is scored."""
    _, whole = finished
    config = tiny_config(digits_dir)
    places = [
        ("epoch", 4, 3),  # epoch 1: three steps are done
        ("every_example", 1, 10),  # its validation
        ("epoch", 1, 10),  # which is repeated, and then epoch 2 begins
        ("every_example", 1, 20),  # its validation, with no step left to train
        ("every_example", 2, 20),  # after its validation the test set
    ]
    for name, count, step in places:
        with pytest.MonkeyPatch.context() as patch:
            signal_before(patch, name, count)
            match = f"stopped by SIGTERM at step {step}, all saved"
            with pytest.raises(Stopped, match=match) as stopped:
                train(config, tmp_path)
        assert stopped.value.exit_code == 143
    resumed = train(config, tmp_path)
    for key in ("val", "test", "best_epoch", "steps"):
        assert resumed[key] == whole[key], key
    assert rows(tmp_path) == rows(finished[0])


def test_eight_devices_give_the_losses_of_one(finished, digits_dir, tmp_path):
    workdir, whole = finished
    result = train(tiny_config(digits_dir), tmp_path, num_devices=8)
    assert result["num_devices"] == 8
    assert json.loads((tmp_path / "result.json").read_text()) == result
    for one, eight in zip(rows(workdir), rows(tmp_path), strict=True):
        assert eight["loss"] == pytest.approx(one["loss"], abs=1e-4)
    assert result["test"]["loss"] == pytest.approx(whole["test"]["loss"], abs=1e-4)


def test_another_config_is_refused(finished, digits_dir):
    config = tiny_config(digits_dir)
    config.model.widths = (8, 24)
    with pytest.raises(UserError, match=r"model\.widths was \[8, 16\], now \[8, 24\]"):
        train(config, finished[0])


def test_a_network_over_the_budget_never_compiles(digits_dir, tmp_path, monkeypatch):
    config = tiny_config(digits_dir)
    config.budget.limit = 5_000

    def fail(*args, **kwargs):
        raise AssertionError("compiled before the budget was checked")

    monkeypatch.setattr(jax, "jit", fail)
    with pytest.raises(UserError, match=r"over the budget \(fewer than 5,000\)"):
        train(config, tmp_path)
    assert not (tmp_path / "config.json").exists()


@pytest.mark.parametrize("key", ["image_shape", "label_names", "mean", "std"])
def test_other_images_are_refused_and_nothing_is_lost(
    tiny_run, digits_dir, tmp_path, key
):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    (run / "result.json").unlink()
    dataset = json.loads((run / "dataset.json").read_text())
    dataset[key].reverse()
    dataset[key][0] = dataset[key][0] * 2
    (run / "dataset.json").write_text(json.dumps(dataset))
    before = contents(run)
    with pytest.raises(UserError, match=f"trained on other images: their {key} is"):
        train(tiny_config(digits_dir), run)
    assert contents(run) == before


def test_epochs_of_another_length_are_refused(
    tiny_run, digits_dir, tmp_path, monkeypatch
):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    (run / "result.json").unlink()
    make = setup.make

    def shorter(*args):
        prepared = make(*args)
        options = dataclasses.replace(prepared.options, steps_per_epoch=11)
        return dataclasses.replace(prepared, options=options)

    monkeypatch.setattr(setup, "make", shorter)
    with pytest.raises(UserError, match="another length than 11 steps"):
        train(tiny_config(digits_dir), run)


@pytest.mark.parametrize(
    ("epochs", "seconds", "expected"),
    [(1000, 0.0, {11, 22, 33, 44}), (3, 1e9, {11, 33, 44})],
)
def test_a_state_is_saved_in_time_and_after_its_epochs(
    digits_dir, tmp_path, monkeypatch, epochs, seconds, expected
):
    """Also where a call of the device is an epoch."""
    config = tiny_config(digits_dir, data__validation=0, train__epochs=4)
    config.train.steps_per_dispatch = 11
    config.checkpoint.update(every_epochs=epochs, every_seconds=seconds)
    saved, save = [], loop.Trainer._save
    monkeypatch.setattr(
        loop.Trainer, "_save", lambda self: (saved.append(self._step), save(self))
    )
    train(config, tmp_path)
    assert set(saved) == expected


def test_divergence_stops_and_keeps_the_finite_state(digits_dir, tmp_path):
    config = tiny_config(digits_dir)
    config.optim.learning_rate = 1e9
    config.checkpoint.every_seconds = 0.0
    message = (
        r"training diverged: .* by step \d+ at learning rate .*e\+0\d "
        r"\((the state of step (\d+) is kept|nothing saved)\).*lower optim"
    )
    with pytest.raises(UserError, match=message) as diverged:
        train(config, tmp_path)
    assert not (tmp_path / "result.json").exists()
    kept = [int(path.name) for path in (tmp_path / "checkpoints").glob("[0-9]*")]
    named = re.search(message, str(diverged.value))[2]
    assert max(kept, default=None) == (int(named) if named else None)
    with pytest.raises(UserError, match="training diverged"):  # the same once more
        train(config, tmp_path)


def contents(workdir):
    """Returns the bytes of the files that must not be lost."""
    files = [workdir / "metrics.jsonl", *(workdir / "best").rglob("*")]
    return {path: path.read_bytes() for path in files if path.is_file()}


@pytest.fixture
def unfinished(tiny_run, tmp_path):
    """A run without its result, as a kill leaves it."""
    ignore = shutil.ignore_patterns("result.json")
    return shutil.copytree(tiny_run, tmp_path / "run", ignore=ignore)


@pytest.mark.parametrize(
    ("kept", "emptied"),
    [
        (["best", "metrics.jsonl"], False),
        (["best", "metrics.jsonl"], True),
        (["best"], False),
        (["metrics.jsonl"], False),
    ],
)
def test_lost_checkpoints_lose_nothing_else(unfinished, digits_dir, kept, emptied):
    workdir = unfinished
    shutil.rmtree(workdir / "checkpoints")
    if emptied:
        (workdir / "checkpoints").mkdir()
    if "best" not in kept:
        shutil.rmtree(workdir / "best")
    if "metrics.jsonl" not in kept:
        (workdir / "metrics.jsonl").unlink()
    before = contents(workdir) if len(kept) == 2 else {}
    held = " and ".join(name.replace("best", "best/") for name in kept)
    match = f"holds {held} of a run, but its checkpoints/ is missing or empty; restore"
    with pytest.raises(UserError, match=match):
        train(tiny_config(digits_dir), workdir)
    assert contents(workdir).items() >= before.items()


def test_a_damaged_state_keeps_the_best_weights_that_are_newer(
    unfinished, finished, digits_dir, capsys
):
    """They may be all that is left of epochs that nobody wants to train again."""
    workdir = unfinished
    _, newest = sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())
    best = workdir / "best" / str(newest)
    if not best.exists():  # what is in it does not matter
        shutil.copytree(next((workdir / "best").iterdir()), best)
    before = (best / "tree" / "manifest.ocdbt").read_bytes()
    (workdir / "checkpoints" / str(newest) / "facts" / "metadata").unlink()
    result = train(tiny_config(digits_dir), workdir)
    aside = workdir / "best" / f"newer-{newest}"
    assert (aside / "tree" / "manifest.ocdbt").read_bytes() == before
    assert f"it is kept as newer-{newest}" in capsys.readouterr().out
    assert result["test"] == finished[1]["test"]
    assert rows(workdir) == rows(finished[0])


def test_without_validation_the_last_state_is_scored(digits_dir, tmp_path):
    config = tiny_config(digits_dir)
    config.data.validation, config.train.epochs = 0, 1
    config.augment, config.evaluate.tta = (), "none"  # to compile sooner
    config.data.mean, config.data.std = (0.3,) * 3, (0.4,) * 3  # constants do as well
    result = train(config, tmp_path)
    assert result["val"] is None
    assert result["steps"] == 718 // 64


def test_a_batch_that_devices_cannot_share_is_refused(digits_dir, tmp_path):
    config = tiny_config(digits_dir)
    config.train.batch_size = 100
    with pytest.raises(UserError, match="use 96 or 104"):
        train(config, tmp_path, num_devices=8)


@pytest.mark.slow
def test_a_process_that_is_terminated_while_it_compiles_says_so(digits_dir, tmp_path):
    process = start(tmp_path, digits_dir)
    wait_for((tmp_path / "config.json").exists, process)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 143, output
    assert "stopped by SIGTERM at step 0, all saved" in output


def test_a_killed_process_resumes_and_gives_the_rows_of_a_whole_run(
    finished, digits_dir, tmp_path, capsys
):
    often = "--config.checkpoint.every_seconds=0"
    process = start(tmp_path, digits_dir, often, config=TINY_RUN)
    saved = "checkpoints/[1-9]/_CHECKPOINT_METADATA"
    wait_for(lambda: any(tmp_path.glob(saved)), process)
    process.kill()
    process.communicate()

    train(tiny_config(digits_dir), tmp_path)
    assert "resuming at step" in capsys.readouterr().out
    whole, result = finished
    assert rows(tmp_path) == rows(whole)
    assert json.loads((tmp_path / "result.json").read_text())["test"] == result["test"]

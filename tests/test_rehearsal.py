"""--dry_run and --profile: the whole path in a few steps."""

import tempfile

import jax
import pytest
from support.commands import call
from support.runs import tiny_config

from cifar_jax import Stopped, UserError
from cifar_jax.training import dry_run, loop, setup
from cifar_jax.training.progress import NUM_PROFILED_STEPS, Profiler


def test_a_dry_run_needs_no_data_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    config = tiny_config(str(tmp_path / "nowhere"))
    config.data.name = "cifar10"
    dry_run.dry_run(config, jax.devices()[:1])
    assert list(tmp_path.iterdir()) == []
    output = capsys.readouterr().out
    assert "resuming at step 2" in output
    assert "made 148 and 50 images of noise, trained 2 steps" in output


def test_a_dry_run_that_is_stopped_keeps_nothing(monkeypatch):
    def stopped(config):
        raise Stopped("stopped by SIGTERM at step 1, all saved in a folder", 143)

    monkeypatch.setattr(dry_run, "dry_run", stopped)
    done = call("main", "--config=quickstart", "--dry_run")
    assert done.returncode == 143 and "all saved" not in done.stdout
    assert done.stdout.endswith("dry run stopped; its files are deleted\n")


def test_a_dry_run_refuses_what_the_run_would_refuse(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    config = tiny_config(str(tmp_path / "nowhere"))
    config.optim.learning_rate = 1e9
    config.model.widths = (2048, 4096)
    with pytest.raises(UserError, match="over the budget"):
        dry_run.dry_run(config, jax.devices()[:1])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_trace_of_a_few_steps_is_written(digits_dir, tmp_path):
    config = tiny_config(digits_dir)
    config.train.epochs = 1
    run = tmp_path / "run"
    loop.train_and_evaluate(config, run, devices=jax.devices()[:1], profile=True)
    (trace,) = run.glob("profile/plugins/profile/*/*.xplane.pb")
    assert b"jit_train_stored" in trace.read_bytes()
    assert (run / "result.json").exists()


@pytest.mark.parametrize("num_calls", [1, 2, 5, 30])
def test_a_trace_ends_with_a_short_run(monkeypatch, capsys, num_calls):
    calls = []
    for name in ("start_trace", "stop_trace"):
        monkeypatch.setattr(
            jax.profiler, name, lambda *_, name=name: calls.append(name)
        )
    profiler = Profiler("folder", steps_per_call=2)
    for _ in range(num_calls):
        profiler.before_call(None)
    profiler.close()
    assert calls == (["start_trace", "stop_trace"] if num_calls > 1 else [])
    output = capsys.readouterr().out
    traced = min(num_calls - 1, -(-NUM_PROFILED_STEPS // 2))
    expected = (
        f"a trace of {traced} calls is in" if traced else "no trace, as the first"
    )
    assert expected in output


@pytest.mark.parametrize("name", ["step", "cosine_restarts", "piecewise"])
def test_a_dry_run_takes_any_schedule(tmp_path, name):
    config = tiny_config(str(tmp_path / "nowhere"), schedule__name=name)
    config.schedule.update(decay_every="2%", period="10%", length="20%")
    config.schedule.milestones = (("50%", 0.1), ("75%", 0.01))
    config.init.frozen = "3 epochs"
    with dry_run._rehearsal(config, 2) as (short, _, noise):
        run = setup.make(short, jax.devices()[:1], lambda line: None, noise)
        assert not any(options.frozen for options in run.segments.values())


def test_a_plan_counts_the_images_that_are_trained_on(digits_dir, monkeypatch):
    """At an image a second, without what is held out, and with repeats."""
    done = {"seconds": {"compile": 5.0}, "images_per_second": 1.0}
    monkeypatch.setattr(loop, "train_and_evaluate", lambda *_, **__: done)
    config = tiny_config(digits_dir, data__train_split="train", train__epochs=3)
    assert dry_run.seconds(config) == pytest.approx(5 + 3 * 0.9 * 1437)
    config.train.repeats, config.data.validation = 2, 37
    assert dry_run.seconds(config) == pytest.approx(5 + 3 * 2 * 1400)

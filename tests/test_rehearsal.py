"""--dry_run and --profile: the whole path in a few steps."""

import tempfile

import jax
import pytest
from support.runs import tiny_config

from cifar_jax import UserError
from cifar_jax.training import dry_run, loop


def test_a_dry_run_needs_no_data_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    config = tiny_config(str(tmp_path / "nowhere"))
    config.data.name = "cifar10"
    dry_run.dry_run(config, jax.devices()[:1])
    assert list(tmp_path.iterdir()) == []
    output = capsys.readouterr().out
    assert "resuming at step 2" in output
    assert "made 148 and 50 images of noise, trained 2 steps" in output


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

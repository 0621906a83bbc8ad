"""Runs that start from another's weights, and that learn from a teacher."""

import json
import shutil
import tempfile

import jax
import numpy as np
import pytest
from support.runs import rows, signal_before, tiny_config, train

from cifar_jax import Stopped, UserError
from cifar_jax.training import checkpoint, dry_run, pretrained, setup


def make(config):
    return setup.make(config, jax.devices()[:1], lambda line: None)


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.fixture
def parent(tiny_run):
    """A run to learn from, and its result."""
    return tiny_run, json.loads((tiny_run / "result.json").read_text())


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_run_starts_with_the_best_weights_of_another(parent, digits_dir, ema_decay):
    workdir, result = parent
    config = tiny_config(digits_dir)
    config.init.workdir, config.train.ema_decay = str(workdir), ema_decay
    config.seed = 5
    prepared = make(config)
    first = setup.jit_create_state(prepared)(jax.random.key(0))
    state, facts = pretrained.initialize(config, prepared, first)
    best = pretrained.load_model(workdir)
    equal(state.variables, best.variables)
    assert int(state.step) == 0
    expected = checkpoint.digest(jax.device_get(best.variables), {})
    epoch = result["best_epoch"]
    assert facts == {"workdir": str(workdir), "epoch": epoch, "digest": expected}
    if ema_decay:
        equal(state.averages, best.variables)
        buffers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(state.averages)]
        weights = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(state.variables)]
        assert not {*buffers} & {*weights}  # a step takes them all


def test_other_shapes_are_refused(parent, digits_dir):
    workdir, _ = parent
    config = tiny_config(digits_dir)
    config.init.workdir, config.model.widths = str(workdir), (8, 24)
    prepared = make(config)
    first = setup.jit_create_state(prepared)(jax.random.key(0))
    with pytest.raises(UserError, match=r"32 \[16, 10\] as head/kernel.*32 \[24, 10"):
        pretrained.initialize(config, prepared, first)
    config.init.workdir = str(workdir / "nowhere")
    with pytest.raises(UserError, match="init.workdir is .*is not a run directory"):
        pretrained.initialize(config, prepared, first)


def test_a_teacher_must_know_the_same_classes(parent, digits_dir, tmp_path):
    config = tiny_config(digits_dir)
    prepared = make(config)
    assert pretrained.with_teacher(config, prepared) is prepared
    config.distill.teacher = str(tmp_path / "teacher")
    with pytest.raises(UserError, match="distill.teacher is .*is not a run directory"):
        pretrained.with_teacher(config, prepared)
    shutil.copytree(parent[0], tmp_path / "teacher")
    path = tmp_path / "teacher" / "dataset.json"
    dataset = json.loads(path.read_text())
    dataset["label_names"][0] = "zero"
    path.write_text(json.dumps(dataset))
    with pytest.raises(UserError, match=r"whose label_names are \('zero'.*not the dat"):
        pretrained.with_teacher(config, prepared)
    for key, value in (("weight", 0.0), ("weight", 1.1), ("temperature", 0.0)):
        config = tiny_config(digits_dir)
        config.distill.teacher, config.distill[key] = str(parent[0]), value
        with pytest.raises(UserError, match=f"distill.{key} is {value}; use more than"):
            pretrained.with_teacher(config, prepared)


def test_the_teacher_normalises_as_it_is_used_to(parent, digits_dir, tmp_path):
    """And it does not change: BatchNorm uses its running statistics."""
    shutil.copytree(parent[0], tmp_path / "teacher")
    path = tmp_path / "teacher" / "dataset.json"
    dataset = json.loads(path.read_text())
    dataset["mean"] = [0.9] * len(dataset["mean"])
    path.write_text(json.dumps(dataset))
    config = tiny_config(digits_dir)
    config.distill.teacher = str(tmp_path / "teacher")
    prepared = pretrained.with_teacher(config, make(config))
    images = prepared.train.images[:16]
    teacher = pretrained.load_model(tmp_path / "teacher")
    taught = prepared.options.distillation.teach(prepared.teacher.variables, images)
    np.testing.assert_allclose(taught, teacher.logits(images), rtol=1e-5, atol=1e-5)
    assert not np.allclose(
        taught, pretrained.load_model(parent[0]).logits(images), atol=1e-2
    )


def student_config(parent, digits_dir):
    config = tiny_config(digits_dir)
    config.init.workdir = config.distill.teacher = str(parent)
    config.prune.sparsity, config.train.epochs = 0.5, 1
    return config


@pytest.mark.slow
def test_a_student_resumes_with_its_teacher_alone(parent, digits_dir, tmp_path):
    source = tmp_path / "teacher"
    shutil.copytree(parent[0], source)
    whole = train(student_config(source, digits_dir), tmp_path / "whole")
    epoch = parent[1]["best_epoch"]
    assert whole["init"]["epoch"] == whole["teacher"]["epoch"] == epoch
    expected = {"num_parameters", "flops_per_image", "seconds"}
    for key in expected:
        assert whole["teacher"][key] == parent[1][key]
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        signal_before(patch, "epoch", 5)
        with pytest.raises(Stopped, match="at step 4"):
            train(student_config(source, digits_dir), run)
    shutil.move(source, tmp_path / "away")
    shutil.copytree(parent[0], source)
    checkpoints = checkpoint.CheckpointFolder(source / "best", keep=1)
    other = jax.tree.map(lambda leaf: leaf + 1, pretrained.load_model(source).variables)
    checkpoints.save(999, other, {"epoch": 9})
    checkpoints.close()
    (source / "result.json").unlink()  # they name the epoch that is best
    shutil.rmtree(source / "checkpoints")
    with pytest.raises(
        UserError, match=rf"have changed since .*\(epoch {epoch} then, 9 now"
    ):
        train(student_config(source, digits_dir), run)
    shutil.rmtree(source)
    shutil.move(tmp_path / "away", source)
    resumed = train(student_config(source, digits_dir), run)
    assert rows(run) == rows(tmp_path / "whole")
    for key in ("init", "teacher", "test", "sparsity", "num_nonzero", "best_epoch"):
        assert resumed[key] == whole[key], key
    equal(
        pretrained.load_model(run).variables,
        pretrained.load_model(tmp_path / "whole").variables,
    )


@pytest.mark.slow
def test_a_dry_run_has_its_teacher_too(parent, digits_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    config = student_config(parent[0], digits_dir)
    config.prune.stop, config.train.epochs = "2 epochs", 3
    config.data.placement = "host"
    dry_run.dry_run(config, jax.devices()[:1])
    assert list(tmp_path.iterdir()) == []


def test_other_classes_get_a_new_classifier(parent, tmp_path, capsys):
    """And until `init.frozen` nothing else is trained."""
    key = np.random.default_rng(0)
    images = key.integers(0, 256, (90, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "x.npz", images=images, labels=np.arange(90) % 3)
    config = tiny_config(None, data__name=str(tmp_path / "x.npz"), train__epochs=2)
    config.data.update(train_split="images", test_split="images")
    config.train.update(batch_size=16, ema_decay=0.0)
    config.evaluate.update(test=False, best_by="last")
    config.init.update(workdir=str(parent[0]), frozen="100%")
    train(config, tmp_path / "run")
    said = "10 classes: its classifier is replaced by a new one for 3"
    assert said in " ".join(capsys.readouterr().out.split())
    old, new = map(pretrained.load_model, (parent[0], tmp_path / "run"))
    before, after = (dict(network.variables["params"]) for network in (old, new))
    assert before.pop("head")["kernel"].shape == (16, 10)
    assert after.pop("head")["kernel"].shape == (16, 3)
    equal(before, after)
    config.init.frozen = "50%"
    segments = make(config).segments.items()
    frozen = [(start, options.frozen) for start, options in segments]
    assert frozen == [(0, True), (5, False)]
    assert not make(config).options.frozen_moments
    config.optim.name = "adamw"  # whose bias correction counts all steps
    assert make(config).options.frozen_moments

"""A run's network is read back as it was, and the run is left alone."""

import json
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from support.runs import tiny_config, train

from cifar_jax import UserError, formats
from cifar_jax.data import sources
from cifar_jax.formats import export
from cifar_jax.training import pretrained
from cifar_jax.training.checkpoint import CheckpointFolder


@pytest.fixture(scope="module")
def run(digits_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained")
    config = tiny_config(digits_dir)
    config.evaluate.best_by = "last"  # so that best/ holds both epochs
    return workdir, train(config, workdir)


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_network_scores_what_its_run_says(run, digits_dir):
    workdir, result = run
    before = files(workdir)
    network = pretrained.load_model(workdir)
    assert files(workdir) == before
    test = sources.open("digits", digits_dir).read("test")
    logits = np.asarray(jax.jit(network.logits)(test.images), np.float64)
    assert (logits.argmax(-1) == test.labels).mean() == pytest.approx(
        result["test"]["accuracy"]
    )
    losses = np.log(np.exp(logits).sum(-1)) - logits[range(len(test)), test.labels]
    assert losses.mean() == pytest.approx(result["test"]["loss"], rel=1e-5)
    assert network.epoch == result["best_epoch"]
    assert network.label_names == tuple("0123456789")


def test_a_checkpoint_that_is_being_written_is_left_alone(run, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(run[0], workdir)
    unfinished = workdir / "best" / "99.orbax-checkpoint-tmp"
    unfinished.mkdir()
    (unfinished / "part").write_text("data")
    pretrained.load_model(workdir)
    assert (unfinished / "part").exists()


def test_damage_is_told_and_not_touched(run, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(run[0], workdir)
    newest = max(workdir.glob("best/[0-9]*"), key=lambda path: int(path.name))
    shutil.copytree(newest, newest.with_name("999"))
    (newest.with_name("999") / "facts" / "metadata").write_text("{}")
    before = files(workdir)
    assert pretrained.load_model(workdir).epoch == run[1]["best_epoch"]
    assert "checkpoint 999 is damaged" in capsys.readouterr().out
    assert files(workdir) == before


def remove(best, older, newer):
    shutil.rmtree(best / newer)


def swap(best, older, newer):
    (best / newer).rename(best / "old")
    (best / older).rename(best / newer)
    (best / "old").rename(best / older)


def copy_older(best, older, newer):
    shutil.copytree(best / older, best / "99999")


def link_older(best, older, newer):
    shutil.rmtree(best / newer)
    (best / newer).symlink_to(best / older)


@pytest.mark.parametrize("has_ended", [True, False])
@pytest.mark.parametrize(
    ("change", "is_found"),
    [(remove, False), (swap, True), (copy_older, True), (link_older, False)],
)
def test_older_weights_are_never_taken_for_the_best(
    run, tmp_path, change, is_found, has_ended
):
    workdir = shutil.copytree(run[0], tmp_path / "run")
    names = sorted((path.name for path in workdir.glob("best/[0-9]*")), key=int)
    change(workdir / "best", *names)
    if not has_ended:
        (workdir / "result.json").unlink()
    if is_found and has_ended:
        network, expected = (
            pretrained.load_model(workdir),
            pretrained.load_model(run[0]),
        )
        assert network.epoch == run[1]["best_epoch"] == 2
        jax.tree.map(
            np.testing.assert_array_equal, network.variables, expected.variables
        )
        return
    with pytest.raises(UserError, match="epoch 2.* with --checkpoint") as error:
        pretrained.load_model(workdir)
    assert "\n" not in str(error.value)
    # The older ones can still be asked for.
    step = max(int(path.name) for path in workdir.glob("best/[0-9]*"))
    assert pretrained.load_model(workdir, step=step).epoch in (1, 2)


def test_the_best_weights_are_those_that_were_scored(run, tmp_path):
    workdir = shutil.copytree(run[0], tmp_path / "run")
    step = max(int(path.name) for path in workdir.glob("best/[0-9]*"))
    network = pretrained.load_model(workdir)
    best = CheckpointFolder(workdir / "best", keep=9)
    variables = jax.tree.map(lambda array: array * 2, network.variables)
    best.save(step, variables, {"epoch": 2})  # whole, by a digest of its own
    best.close()
    with pytest.raises(UserError, match="lacks the best weights.* epoch 2"):
        pretrained.load_model(workdir)


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
def test_last_and_averages_are_those_of_the_newest_state(run):
    workdir, _ = run
    newest = max(workdir.glob("checkpoints/[0-9]*"), key=lambda path: int(path.name))
    saved = ocp.PyTreeCheckpointer().restore(newest.absolute() / "tree")["state"]
    before = files(workdir)
    last = pretrained.load_model(workdir, which="last")
    average = pretrained.load_model(workdir, which="ema")
    assert files(workdir) == before
    for key in ("params", "batch_stats"):
        jax.tree.map(np.testing.assert_array_equal, last.variables[key], saved[key])
        averages = saved["averages"][key]
        jax.tree.map(np.testing.assert_array_equal, average.variables[key], averages)
    kernels = [n.variables["params"]["stem_conv"]["kernel"] for n in (last, average)]
    assert (kernels[0] != kernels[1]).any()
    assert last.epoch == 2


def test_what_lies_beside_the_best_weights_is_not_taken_for_them(run, tmp_path):
    shutil.copytree(run[0], tmp_path / "run")
    other = pretrained.load_model(run[0], which="last")
    weights = tmp_path / "run" / "model.safetensors"
    export.export(other, formats.find("safetensors"), weights)
    assert pretrained.weights_file(tmp_path / "run") is None
    assert pretrained.load_model(tmp_path / "run").result == run[1]
    assert pretrained.load_model(weights).result is None
    # The result is that of the best weights, which those of a step need not be.
    step = min(int(path.name) for path in run[0].glob("best/[0-9]*"))
    assert pretrained.load_model(run[0], step=step).result is None


def test_weights_are_asked_for_by_a_name_that_exists(run, tmp_path):
    with pytest.raises(UserError, match="which is 'averages'; use best, last, ema"):
        pretrained.load_model(run[0], which="averages")
    program = tmp_path / "model.stablehlo"
    export.export(pretrained.load_model(run[0]), formats.find("stablehlo"), program)
    assert formats.load(program, which="best").program
    with pytest.raises(UserError, match="holds one set of weights"):
        formats.load(program, which="ema")


def test_one_checkpoint_is_asked_for_by_its_step(run):
    workdir, _ = run
    older, newer = sorted(int(path.name) for path in workdir.glob("checkpoints/[0-9]*"))
    found = [
        pretrained.load_model(workdir, which="last", step=step)
        for step in (older, newer)
    ]
    # The first state is saved before its epoch is closed.
    assert [network.epoch for network in found] == [0, 2]
    kernels = [network.variables["params"]["stem_conv"]["kernel"] for network in found]
    assert (kernels[0] != kernels[1]).any()
    with pytest.raises(UserError, match=f"step 7; its steps are {older}, {newer}"):
        pretrained.load_model(workdir, which="last", step=7)


def test_a_run_without_averages_says_so(run, tmp_path):
    shutil.copytree(run[0], tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["train"]["ema_decay"] = 0.0
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="trained without averages.*ema_decay is 0"):
        pretrained.load_model(tmp_path / "run", which="ema")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(UserError, match="checkpoints does not hold a network yet"):
        pretrained.load_model(tmp_path / "run", which="last")


def test_what_is_no_run_is_refused(run, tmp_path):
    with pytest.raises(
        UserError, match="config.json does not exist.*not a run directory"
    ):
        pretrained.load_model(tmp_path)
    for name in ("config.json", "dataset.json"):
        shutil.copy(run[0] / name, tmp_path / name)
    with pytest.raises(
        UserError, match="best does not hold a network yet; wait for the first"
    ):
        pretrained.load_model(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model"]["widths"] = [0]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="widths"):
        pretrained.load_model(tmp_path)

"""The JSON of a run directory, edited at will: it is read, or refused in one line."""

import gc
import json
import math
import shutil

import pytest
from support.commands import call

from cifar_jax import UserError
from cifar_jax.training import pretrained
from cifar_jax.training.workdir import RunDirectory

# Where weights do not fit, Orbax closes its event loop while TensorStore still reads.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. (None|<coroutine object _read_array_index)"
    ":pytest.PytestUnraisableExceptionWarning"
)
WHOLE = ["[]", "null", "3", "NaN", '"text"', "{}", "", "[" * 100_000, '{"a":' * 100_000]
VALUES = [None, [], {}, 3, -1, math.nan, math.inf, "text", [[[]]], True, 10**4000]
CONFIG_KEYS = ["model", "train", "seed", "model.widths", "model.stage_sizes"]
CONFIG_KEYS += ["model.bn_epsilon", "model.pool", "train.ema_decay", "optim.name"]
CONFIG_KEYS += ["schedule.momentum_range", "augment", "data.dir", "evaluate.select_on"]
DATASET_KEYS = ["name", "image_shape", "label_names", "mean", "std"]
DATASET_KEYS += ["image_shape.0", "mean.0", "std.0", "label_names.0"]
RESULT_KEYS = ["best_epoch", "best_digest", "test", "seconds", "versions"]


@pytest.fixture(scope="module", autouse=True)
def collect():
    """Keeps the warnings that are ignored here from the tests of other modules."""
    yield
    gc.collect()


@pytest.fixture
def run(tiny_run, tmp_path):
    return shutil.copytree(tiny_run, tmp_path / "run")


def change(content, key, value):
    """Returns a JSON text with one value changed; a key may be a place in a list."""
    tree = json.loads(content)
    *path, last = (int(part) if part.isdigit() else part for part in key.split("."))
    part = tree
    for name in path:
        part = part[name]
    part[last] = value
    return json.dumps(tree)


def edits(content, keys):
    yield from WHOLE
    for key in keys:
        for value in VALUES:
            yield change(content, key, value)


def read(run, which):
    """Reads all of a run; returns whether it was refused."""
    try:
        directory = RunDirectory(run)
        directory.result(), directory.rows()
        pretrained.load_model(run, which=which)
    except UserError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 9000
        return True
    return False


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("config.json", CONFIG_KEYS),
        ("dataset.json", DATASET_KEYS),
        ("result.json", RESULT_KEYS),
        ("metrics.jsonl", []),
    ],
)
def test_an_edited_file_is_refused_in_one_line(run, name, keys):
    path = run / name
    content = path.read_text()
    changes = [(key, value) for key in keys for value in VALUES]
    for number, text in enumerate(edits(content, keys)):
        path.write_text(text + "\n")
        is_refused = read(run, "ema" if number % 5 == 0 else "best")
        if number < len(WHOLE):
            assert is_refused or name == "metrics.jsonl", text[:100]
        elif not is_refused:  # it may be null, or is of the right type
            key, value = changes[number - len(WHOLE)]
            old = json.loads(content)
            for part in key.split("."):
                old = old[int(part) if part.isdigit() else part]
            kinds = {type(old), type(value)}
            is_optional = old is None or value is None
            assert is_optional or len(kinds) == 1 or kinds <= {int, float, bool}, key
    path.write_text(content)
    assert not read(run, "best")


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("config.json", "model", [1]),
        ("config.json", "train.ema_decay", None),
        ("config.json", "model.stage_sizes", [0]),
        ("dataset.json", "mean", math.nan),
        ("dataset.json", "image_shape", [0, 8, 1]),
        ("dataset.json", "label_names", None),
    ],
)
def test_the_commands_say_so(run, name, key, value):
    (run / name).write_text(change((run / name).read_text(), key, value))
    for command, *flags in (
        ("predict", "--input=digits:test", f"--output={run}/x.csv"),
        ("evaluate",),
        ("export", "--format=safetensors"),
    ):
        done = call(command, f"--workdir={run}", *flags)
        assert done.returncode == 1, done
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1

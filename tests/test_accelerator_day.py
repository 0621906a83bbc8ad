"""The script `scripts/accelerator_day.py`: what is measured on an accelerator."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from support import scripts
from support.commands import environment

from cifar_jax.data import tfds_store
from cifar_jax.data.builders import LabelledImages

day = scripts.load("accelerator_day")
MISSING = """ {file} '{{"missing_seeds":[1]}}'"""


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Calls the script with steps that write a file each, or fail."""
    writer = tmp_path / "write.py"
    writer.write_text(
        "import pathlib, sys\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "path.parent.mkdir(parents=True, exist_ok=True)\n"
        "path.write_text(sys.argv[2])\n"
    )
    steps = (
        day.Step("a.json", f"{writer} {{run}}/result.json {{{{}}}}", "c.py"),
        day.Step("x/b.json", f"{writer}{MISSING}", "c.py"),
        day.Step("c.json", "-c 1/0", "c.py"),
        day.Step("d.json", f"{writer} {{file}} {{{{}}}}", "c.py", least_minutes=5),
    )
    monkeypatch.setattr(day, "STEPS", steps)

    def call(*arguments):
        folders = (f"--output={tmp_path}/out", f"--workdir={tmp_path}/runs")
        return scripts.call("accelerator_day", *folders, *arguments)

    call.output = tmp_path / "out"
    return call


def test_missing_files_are_made_and_others_are_kept(call):
    code, text, _ = call("--minutes=2")
    assert code == 1  # one failed
    assert json.loads((call.output / "a.json").read_text()) == {}  # a run's result
    assert "left: x/b.json, d.json\nfailed: c.json\n" in text
    (call.output / "a.json").write_text('{"kept": 1}')
    code, text, _ = call("--steps=a.json,x/b.json,d.json")
    assert code == 0 and "== a.json" not in text  # done
    assert "left: x/b.json\n" in text  # it lacks a seed
    assert json.loads((call.output / "a.json").read_text()) == {"kept": 1}
    assert (call.output / "d.json").exists()  # without a limit there is time


def test_the_list_says_what_is_there(call):
    call("--steps=a.json")
    code, text, _ = call("--list", "--set=--config.data.dir=my data")
    lines = text.splitlines()
    assert code == 0 and len(lines) == 4
    assert lines[0].startswith("done a.json: python ")
    assert lines[1].startswith("missing x/b.json: python ")
    assert lines[1].endswith("'--config.data.dir=my data'")
    writer = json.dumps(str(call.output / "my results" / "x/b.json"))[1:-1]
    code, text, _ = call("--list", f"--output={call.output}/my results")
    assert f"'{writer}'" in text
    code, _, message = call("--steps=z.json")
    assert code == 2 and "--steps has 'z.json'; use a.json" in message


@pytest.mark.parametrize("form", ["full", "tiny"])
def test_every_command_is_one_that_can_be_typed(form):
    code, text, _ = scripts.call("accelerator_day", "--list", f"--form={form}")
    folder = {"full": "runs/day", "tiny": "runs/tiny"}[form]
    workdirs = re.findall(r"--workdir[ =](\S+)", text)
    assert workdirs and all(name.startswith(folder) for name in workdirs)
    assert code == 0
    for line in text.splitlines():
        words = line.partition(": python ")[2].split()
        config = words[words.index("--config") + 1].partition(":")[0]
        assert (scripts.ROOT / config).exists()
        assert words[0] == "-m" or (scripts.ROOT / words[0]).exists()
        assert not set("{}") & set(line)


class Noise(LabelledImages, skip_registration=True):
    """Random images, like those of CIFAR-10."""

    name = "noise"
    VERSION = tfds.core.Version("1.0.0")
    image_shape = (32, 32, 3)
    labels = {"label": tuple("abcdefghij")}

    def read(self):
        splits = {}
        for split, size in (("train", 6000), ("test", 200)):
            random = np.random.default_rng(size)
            images = random.integers(0, 256, (size, *self.image_shape), dtype=np.uint8)
            splits[split] = images, {"label": np.arange(size, dtype=np.int32) % 10}
        return splits


@pytest.mark.slow
def test_the_tiny_form_runs(tmp_path):
    """The first steps of it: each kind of command once."""
    with tfds_store.quiet_tfds():
        Noise(data_dir=str(tmp_path / "data")).download_and_prepare()
    files = ("reliability/first.json", "reliability/resumed.json")
    files += ("records/minute-full.json", "benchmarks/seconds.json")
    files += ("reliability/traced/seconds.json",)
    done = subprocess.run(
        [
            *(sys.executable, "scripts/accelerator_day.py", "--form=tiny"),
            *(f"--output={tmp_path}/out", f"--workdir={tmp_path}/runs"),
            *(f"--steps={','.join(files)}", f"--set=--config.data.dir={tmp_path}/data"),
            "--set=--config.data.name=noise",
        ],
        cwd=scripts.ROOT,
        env=environment(PYTHONPATH=str(scripts.ROOT)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "left: none\nfailed: none\n" in done.stdout
    assert "resuming" in done.stdout
    for file in files:
        assert json.loads((tmp_path / "out" / file).read_text())
    assert list((tmp_path / "runs/reliability/traced/seconds/profile").rglob("*.pb"))

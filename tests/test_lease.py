import json
import pathlib
import subprocess
import sys
import time

import pytest

from cifar_jax.evaluation import lease
from cifar_jax.evaluation.lease import Step

ROOT = pathlib.Path(__file__).parent.parent
WRITE = "import json, sys; open(sys.argv[1], 'w').write(json.dumps({args}))"


def writing(path, name="step", content="{'n': len(sys.argv)}", **options):
    code = WRITE.format(args=content)
    return Step(name, ("-c", code, str(path)), output=path, **options)


def test_steps_that_are_done_are_not_run_again(tmp_path, capfd):
    steps = [Step("check", ("-c", "print('checked')"), limit=False)]
    steps.append(writing(tmp_path / "a.json", "a"))
    found = lease.run(steps, minutes=0)
    assert found == {"done": ["check", "a"], "left": [], "failed": []}
    assert "checked" in capfd.readouterr().out
    (tmp_path / "a.json").write_text('{"n": "mine"}')
    assert lease.run(steps, minutes=0) == found
    assert "checked" not in capfd.readouterr().out  # what was measured here shows it
    assert json.loads((tmp_path / "a.json").read_text()) == {"n": "mine"}


@pytest.mark.parametrize("key", ["missing_seeds", "missing"])
def test_a_file_that_is_not_whole_is_gone_on_with(tmp_path, key):
    step = writing(tmp_path / "a.json", content=f"{{'{key}': [1]}}")
    assert lease.run([step], minutes=0)["left"] == ["step"]
    step = writing(tmp_path / "a.json", content=f"{{'{key}': []}}")
    assert lease.run([step], minutes=0)["done"] == ["step"]


def test_a_step_is_told_the_time_that_is_left(tmp_path):
    content = "{'given': sys.argv[2:]}"
    long = writing(tmp_path / "long.json", "long", least_minutes=3)
    none = writing(tmp_path / "none.json", "none", content, limit=False)
    told = writing(tmp_path / "told.json", "told", content)
    found = lease.run([long, none, told], minutes=2)
    assert found == {"done": ["none", "told"], "left": ["long"], "failed": []}
    assert json.loads((tmp_path / "none.json").read_text()) == {"given": []}
    (flag,) = json.loads((tmp_path / "told.json").read_text())["given"]
    minutes = float(flag.removeprefix("--minutes="))
    assert 1 < minutes < 2 - lease.RESERVE_SECONDS / 60


def test_a_step_that_fails_or_hangs_does_not_keep_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "RESERVE_SECONDS", 0.0)
    monkeypatch.setattr(lease, "PATIENCE_SECONDS", -0.5)
    steps = [
        Step("fails", ("-c", "raise SystemExit(1)")),
        Step("hangs", ("-c", "import time; time.sleep(60)")),
        writing(tmp_path / "a.json", "a"),
    ]
    start = time.monotonic()
    found = lease.run(steps, minutes=1.5 / 60)
    assert time.monotonic() - start < 20
    assert found["failed"][:2] == ["fails", "hangs"]
    monkeypatch.setattr(lease, "PATIENCE_SECONDS", 30.0)
    found = lease.run(steps[2:], minutes=1)
    assert found["done"] == ["a"]


def test_the_commands_of_the_plan_are_understood(tmp_path):
    """Each command parses its flags: one that it does not know is refused first."""
    recipe = "from cifar_jax.config import get_config as default\n"
    recipe += "def get_config(form=None):\n    return default()\n"
    for name in lease.SEEDS:
        (tmp_path / f"{name}.py").write_text(recipe)
    steps = lease.plan(tmp_path, tmp_path / "out", tmp_path / "runs", note="a copy")
    assert len({step.name for step in steps}) == len(steps)
    outputs = [step.output for step in steps if step.output]
    assert len(set(outputs)) == len(outputs) == len(steps) - 1
    scripts = {}
    for step in steps:
        scripts.setdefault(step.command[0], step)
    assert len(scripts) == 5
    for step in scripts.values():
        limit = ["--minutes=1"] if step.limit else []
        command = [sys.executable, *step.command, *limit, "surplus"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: unexpected argument 'surplus'")


def test_the_list_of_the_plan(tmp_path):
    command = [sys.executable, "scripts/lease.py", "--list", "--form=tiny"]
    command += [
        f"--output={tmp_path}",
        "--source=DIR",
        "--steps=prepare,records best-tiny",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first.endswith("-m cifar_jax.prepare --dataset=cifar10 --source=DIR")
    assert "configs/records/best.py:tiny" in second and "--seeds=0,1" in second
    command[-1] = "--steps=none such"
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "use prepare, check, peers best-tiny" in done.stderr


def test_records_are_those_of_all_images_then_those_that_validate(tmp_path):
    folders = (tmp_path / name for name in ("configs", "out", "runs"))
    steps = lease.plan(*folders)
    records = [step.output.stem for step in steps if step.name.startswith("records")]
    assert records == ["seconds-full", "minute-full", "best-full", "seconds", "minute"]
    for step in steps:
        if step.output:
            form = ":full" if step.output.stem.endswith("-full") else ""
            assert step.command[1].endswith(f".py{form}")

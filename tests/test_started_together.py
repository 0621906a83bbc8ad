"""Commands that are started at the same time on a machine without data."""

import subprocess
import sys

import pytest
from support.commands import environment, free_port
from support.runs import ROOT, TINY


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-u", "-m", *map(str, arguments)],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def outputs(processes):
    """Returns what all have printed; none may have failed."""
    texts = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(texts), texts
    return texts


def test_several_prepare_one_data_set(tmp_path):
    flags = ["--dataset=digits", f"--data_dir={tmp_path}"]
    texts = outputs([start("cifar_jax.prepare", *flags) for _ in range(3)])
    folder = tmp_path / "digits" / "1.0.0"
    assert all(f"digits is in {folder} (" in text for text in texts)
    assert sum("Preparing digits" in text for text in texts) == 1
    assert [path.name for path in folder.parent.iterdir()] == ["1.0.0"]


@pytest.mark.slow
@pytest.mark.parametrize("is_one_run", [False, True])
def test_several_runs_prepare_their_data(tmp_path, is_one_run):
    """Two tasks of an array, or the two processes of one run, as the docs show it."""
    flags = [
        "--config=configs/quickstart.py",
        f"--config.data.dir={tmp_path / 'tfds'}",
        *(f"--config.{key}={str(value).strip('()')}" for key, value in TINY.items()),
    ]
    pair = [f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2"]
    processes = []
    for number in range(2):
        workdir = f"--workdir={tmp_path / ('run' if is_one_run else f'run{number}')}"
        one = [*pair, f"--process_id={number}"] if is_one_run else []
        processes.append(start("cifar_jax.main", *flags, workdir, *one))
    texts = outputs(processes)
    assert sum("Preparing digits" in text for text in texts) <= 1
    assert list(tmp_path.glob("run*/result.json"))

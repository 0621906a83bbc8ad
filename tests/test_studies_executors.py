"""Where runs are done: processes of this machine, Ray, Dask."""

import functools
import importlib.util
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
from support.calls import facts, pause
from support.commands import environment
from support.studying import config_of

from cifar_jax import UserError, _runtime
from cifar_jax.studies import executors
from cifar_jax.studies.driver import run_study

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def pool(tmp_path):
    """Two local processes."""
    pool = _runtime.Processes(2, 1, tmp_path / "logs")
    yield pool
    pool.shutdown(cancel_futures=True)


def test_calls_are_done_by_processes_of_their_own(pool, tmp_path):
    pids = {pool.submit(pause, 2).result for _ in range(2)}
    pids = {result() for result in pids}
    assert len(pids) == 2 and os.getpid() not in pids
    pid, threads, folder = pool.submit(facts).result()
    assert pid in pids and threads == "1" and folder == os.getcwd()
    with pytest.raises(ZeroDivisionError):
        pool.submit(divmod, 1, 0).result()
    pool.submit(functools.partial(print, "said", flush=True)).result()
    logs = [path.read_text() for path in (tmp_path / "logs").iterdir()]
    assert len(logs) == 2 and sum("said" in text for text in logs) == 1


def test_a_process_that_dies_is_replaced(pool):
    with pytest.raises(_runtime.WorkerDied, match="signal 9; see .*worker-.*log"):
        pool.submit(os.kill, 0, signal.SIGKILL).result()
    with pytest.raises(_runtime.WorkerDied, match="exit code 3"):
        pool.submit(os._exit, 3).result()
    assert pool.submit(abs, -2).result() == 2


CHILD = """
import pathlib, sys, time
from cifar_jax import _runtime
from support import calls
if __name__ == "__main__":
    pool = _runtime.Processes(1, 1, pathlib.Path(sys.argv[1]))
    call = pool.submit(calls.save_when_asked, 0.5)
    if sys.argv[2] == "idle":
        logs = pathlib.Path(sys.argv[1])
        while not any("begun" in log.read_text() for log in logs.glob("*.log")):
            time.sleep(0.05)
        pool.interrupt()
        call.result()
    time.sleep(60)
"""


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_processes_end_with_a_driver_that_is_killed(tmp_path, state):
    (tmp_path / "child.py").write_text(CHILD)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "child.py"), str(tmp_path), state],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
    )
    deadline = time.monotonic() + 60

    def wait_for(condition):
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def said():
        return "".join(path.read_text() for path in tmp_path.glob("worker-*.log"))

    wait_for(lambda: ("saved" if state == "idle" else "begun") in said())
    time.sleep(0.2)
    process.kill()
    process.wait()
    pid = re.search(r"begun (\d+)", said())[1]
    wait_for(lambda: not pathlib.Path(f"/proc/{pid}").exists())
    assert "saved" in said()


def test_without_ray_there_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    options = config_of().study
    with pytest.raises(UserError, match=r"needs Ray.*pip install 'cifar-jax\[ray\]'"):
        executors.make("ray", 0, options, tmp_path)


def test_without_a_cluster_there_is_one_line(tmp_path):
    pytest.importorskip("ray")
    options = config_of().study
    with pytest.raises(UserError, match="no Ray cluster at 127.0.0.1:1 .*ray start"):
        executors.make("ray=127.0.0.1:1", 0, options, tmp_path)


@pytest.fixture(scope="module")
def expected(digits_dir, tmp_path_factory):
    """The table of a study that local processes have done, and its winner."""
    path = tmp_path_factory.mktemp("local")
    run_study(config_of(digits_dir), path, workers=2)
    return [(path / name).read_text() for name in ("table.md", "winner.json")]


def needs(name):
    """Skips a test without a package before its fixtures are made."""
    missing = importlib.util.find_spec(name) is None
    return pytest.mark.skipif(missing, reason=f"{name} is not installed")


@pytest.mark.slow
@needs("ray")
def test_ray_loses_a_machine_and_gives_the_same_table(digits_dir, tmp_path, expected):
    script = ROOT / "tests" / "support" / "ray_study.py"
    out = subprocess.run(
        [sys.executable, str(script), digits_dir, str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment(PYTHONPATH=f"{ROOT}:{ROOT}/tests"),
    )
    assert out.returncode == 0, out.stdout + out.stderr
    assert "a machine is gone" in out.stdout
    texts = [(tmp_path / name).read_text() for name in ("table.md", "winner.json")]
    assert texts == expected


@pytest.mark.slow
@needs("distributed")
def test_dask_gives_the_same_table(digits_dir, tmp_path, expected):
    import distributed

    options = dict(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with distributed.Client(**options) as client:
        run_study(config_of(digits_dir), tmp_path, executor=client.get_executor())
    texts = [(tmp_path / name).read_text() for name in ("table.md", "winner.json")]
    assert texts == expected

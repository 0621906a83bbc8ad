"""Several processes on this machine that make one run, and what befalls them."""

import json
import os
import pathlib
import re
import runpy
import signal
import subprocess
import sys
import time
from unittest import mock

import jax
import pytest
from support.commands import environment, free_port
from support.runs import ROOT, TINY, tiny_config

from cifar_jax import UserError, _runtime
from cifar_jax.training import distributed, loop, setup

COMMAND = [sys.executable, "-u", "-m", "cifar_jax.main"]
QUICKSTART = ROOT / "configs/quickstart.py"
# Fifty steps, after which rounding is amplified.
RUN = {
    **TINY,
    "data.train_split": "train",
    "model.stem_stride": 2,
    "train.batch_size": 128,
    "train.epochs": 5,
    "optim.learning_rate": 0.05,
}
HEARTBEAT = 10
# A kink in the path, of ReLU or a rounded coordinate, makes much of little rounding.
PLAIN = """
import runpy

def get_config():
    config = runpy.run_path({path!r})["get_config"]()
    config.augment = (dict(name="random_crop", padding=3),)
    config.model.activation = "silu"
    config.model.zero_init = False
    config.optim.name = "sgd"
    return config
"""


def plain(folder):
    """Returns the config file of all runs here."""
    file = folder / "plain.py"
    file.write_text(PLAIN.format(path=str(QUICKSTART)))
    return file


class Pair:
    """Two processes of four devices each, in one run."""

    def __init__(self, folder, digits_dir, **config):
        self.workdir, self.logs, self.file = folder / "run", [], plain(folder)
        config = {"data.dir": digits_dir, **RUN, **config}
        self.port, self.processes = free_port(), []
        for number in (0, 1):
            log = folder / f"{time.monotonic_ns()}-{number}.log"
            values = {k: self.of(v, number) for k, v in config.items()}
            self.logs.append(log)
            self.processes.append(self.start(number, log, values))

    @staticmethod
    def of(value, number):
        """A list has a value for each process."""
        value = value[number] if isinstance(value, list) else value
        return str(value).strip("()")

    def start(self, number, log, values):
        workdir = values.pop("workdir", self.workdir)
        flags = [
            f"--coordinator=127.0.0.1:{self.port}",
            "--num_processes=2",
            f"--process_id={number}",
            f"--heartbeat_seconds={values.pop('heartbeat', HEARTBEAT)}",
            f"--workdir={workdir}",
            *(f"--config.{key}={value}" for key, value in values.items()),
        ]
        with log.open("w") as file:
            return subprocess.Popen(
                [*COMMAND, f"--config={self.file}", *flags],
                cwd=ROOT,
                env=environment(num_devices=4),
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def log(self, number):
        """What a process has printed, without the lines of Gloo."""
        lines = self.logs[number].read_text().splitlines()
        return "\n".join(line for line in lines if not line.startswith("[Gloo]"))

    def wait(self, seconds=400):
        """Returns the exit codes."""
        deadline = time.monotonic() + seconds
        try:
            return [p.wait(deadline - time.monotonic()) for p in self.processes]
        finally:
            self.end()

    def wait_for(self, condition, seconds=400):
        deadline = time.monotonic() + seconds
        while not condition():
            codes = [process.poll() for process in self.processes]
            if codes != [None, None] or time.monotonic() > deadline:
                self.end()
                raise AssertionError((codes, self.log(0), self.log(1)))
            time.sleep(0.02)

    def end(self):
        for process in self.processes:
            process.kill()
            process.wait()

    def first_checkpoint(self):
        folder = self.workdir / "checkpoints"
        found = folder.glob("*/_CHECKPOINT_METADATA")
        return any(path.parent.name.isdigit() for path in found)


def rows(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def check_rows(workdir, expected):
    """Equal but for rounding."""
    for one, other in zip(rows(workdir), rows(expected), strict=True):
        for key in ("step", "epoch", "split"):
            assert one[key] == other[key]
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5), one
        assert one["accuracy"] == pytest.approx(other["accuracy"], abs=0.02), one


def train_alone(workdir, digits_dir, num_devices=8):
    config = runpy.run_path(plain(workdir.parent))["get_config"]()
    for key, value in {**RUN, "data.dir": digits_dir}.items():
        section, name = key.split(".")
        config[section][name] = value
    return loop.train_and_evaluate(config, workdir, devices=jax.devices()[:num_devices])


@pytest.fixture(scope="module")
def alone(made_once, digits_dir):
    """The directory of the run that one process makes, of eight devices."""
    return made_once("alone", lambda folder: train_alone(folder / "run", digits_dir))


@pytest.mark.slow
def test_fifty_steps_are_the_same_on_any_processes_and_devices(
    alone, digits_dir, tmp_path
):
    pair = Pair(tmp_path, digits_dir)
    train_alone(tmp_path / "one device", digits_dir, 1)
    assert pair.wait() == [0, 0], pair.log(0) + pair.log(1)
    for expected in (alone / "run", tmp_path / "one device"):
        check_rows(pair.workdir, expected)
    result, of_one = (
        json.loads((workdir / "result.json").read_text())
        for workdir in (pair.workdir, alone / "run")
    )
    assert (result["num_processes"], result["num_devices"]) == (2, 8)
    for part in ("val", "test"):
        assert result[part] == pytest.approx(of_one[part], abs=1e-5)
    assert "test accuracy" in pair.log(0)
    assert pair.log(1) == "", "process 0 speaks for all"
    assert len(list((pair.workdir / "tb").iterdir())) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "codes"), [(signal.SIGTERM, [143, 143]), (signal.SIGINT, [130, 130])]
)
def test_a_signal_to_one_stops_both_at_the_same_step(
    alone, digits_dir, tmp_path, number, codes
):
    pair = Pair(tmp_path, digits_dir)
    pair.wait_for(pair.first_checkpoint)
    pair.processes[1].send_signal(number)
    assert pair.wait() == codes, pair.log(0) + pair.log(1)
    (step,) = re.findall(r"stopped by SIG.* at step (\S+), all saved", pair.log(0))
    kept = pair.workdir / "checkpoints" / step.replace(",", "")
    assert (kept / "_CHECKPOINT_METADATA").exists()

    train_alone(pair.workdir, digits_dir)
    check_rows(pair.workdir, alone / "run")


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_death_ends_the_other_and_a_restart_resumes(
    alone, digits_dir, tmp_path, victim
):
    pair = Pair(tmp_path, digits_dir, **{"checkpoint.every_seconds": 0.5})
    pair.wait_for(pair.first_checkpoint)
    pair.processes[victim].kill()
    start = time.monotonic()
    codes = pair.wait(seconds=HEARTBEAT + 10)
    print(f"the survivor ended after {time.monotonic() - start:.1f} s: {codes}")
    assert codes[1 - victim] == 1
    # One true line: no dump of a stack, nothing about the disk.
    last = pair.log(1 - victim).splitlines()[-1]
    assert last.startswith("error: another process has ended (")
    assert "free space" not in last

    # No more saves every half second: Orbax's barriers may then meet each other.
    pair = Pair(tmp_path, digits_dir, **{"data.placement": "host"})
    assert pair.wait() == [0, 0], pair.log(0) + pair.log(1)
    assert "resuming at step" in pair.log(0)
    check_rows(pair.workdir, alone / "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"data.name": "nothing", "data.dir": ["", "/nowhere"]},
            "is neither a path nor a data set in",
        ),
        ({"workdir": True}, "process 1: work directory .* is not the one of process 0"),
        (
            {"optim.learning_rate": [0.05, 0.02]},
            "process 1: it differs from process 0 .optim.learning_rate was 0.05, now",
        ),
        (  # a run may resume with another value, but its processes stop together
            {"train.max_seconds": [0, 100]},
            "process 1: it differs from process 0 .train.max_seconds was 0.*, now 100",
        ),
    ],
)
def test_the_mistake_of_one_ends_both(digits_dir, tmp_path, config, message):
    if "workdir" in config:
        config = {"workdir": [tmp_path / "run", tmp_path / "other"]}
    elif "data.name" in config:
        config = {"data.name": ["digits", "nothing"]}
    start = time.monotonic()
    pair = Pair(tmp_path, digits_dir, **config)
    assert pair.wait() == [1, 1], pair.log(0) + pair.log(1)
    print(f"both ended after {time.monotonic() - start:.1f} s")
    assert re.fullmatch(rf"error: .*{message}.*", pair.log(0).splitlines()[-1])


@pytest.mark.parametrize(
    "key",
    [
        "versions",
        "training images",
        "training labels",
        "data.placement",
        "stem",
        "teacher",
    ],
)
def test_processes_that_differ_do_not_train(digits_dir, monkeypatch, key):
    config = tiny_config(digits_dir)
    prepared = setup.make(config, jax.devices()[:1], lambda line: None)

    def exchange(text):
        if not text.startswith("{"):  # an error, or none
            return [text]
        return [json.dumps(json.loads(text) | {key: "other"}), text]

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(distributed, "exchange", exchange)
    with pytest.raises(UserError, match=f"{key}: other there"):
        loop._check_alike(config, prepared)


@pytest.mark.slow
def test_a_process_that_hangs_is_noticed(digits_dir, tmp_path):
    config = {"train.epochs": 1000, "train.watchdog_seconds": 30, "heartbeat": 1000}
    pair = Pair(tmp_path, digits_dir, **config)
    pair.wait_for(pair.first_checkpoint)
    pair.processes[1].send_signal(signal.SIGSTOP)
    try:
        assert pair.processes[0].wait(90) == 1
    finally:
        pair.end()
    assert "error: no step has ended for 30 seconds" in pair.log(0)


def test_gpus_are_numbered_as_cuda_does(monkeypatch):
    """A container with two of a host's GPUs may keep the names of their files."""
    files = [pathlib.Path("/dev/nvidia4"), pathlib.Path("/dev/nvidia5")]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(pathlib.Path, "glob", lambda *_: files)
    found = [each["CUDA_VISIBLE_DEVICES"] for each in _runtime.visible_accelerators()]
    assert found == ["0", "1"]


def test_a_part_of_the_flags_is_refused():
    with pytest.raises(UserError, match="--coordinator, --num_processes and"):
        distributed.initialize("127.0.0.1:1", None, 0)


def test_one_process_agrees_with_itself():
    assert distributed.exchange("a") == ["a"]
    with pytest.raises(UserError, match="^mine$"), distributed.all_or_none():
        raise UserError("mine")
    assert distributed.is_primary()
    assert sys.modules["jax"].process_count() == 1


@pytest.mark.parametrize(
    ("tasks", "nodes", "gpus", "devices"),
    [(2, 2, 8, list(range(8))), (8, 2, 4, None), (8, 1, 1, [0]), (2, 2, 0, None)],
)
def test_a_task_of_srun_takes_the_devices_that_are_its_own(
    monkeypatch, tasks, nodes, gpus, devices
):
    called = {}
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    monkeypatch.setattr(distributed.ctypes, "CDLL", mock.MagicMock())
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **k: called.update(k))
    monkeypatch.setattr(_runtime, "visible_accelerators", lambda: [{}] * gpus)
    facts = {"STEP_NODELIST": "a", "NTASKS": tasks, "STEP_NUM_NODES": nodes}
    ports = set()
    for step in (0, 1):
        monkeypatch.delenv("JAX_COORDINATOR_PORT", raising=False)
        for name, value in {**facts, "JOB_ID": 7, "STEP_ID": step}.items():
            monkeypatch.setenv(f"SLURM_{name}", str(value))
        distributed.initialize()
        ports.add(os.environ["JAX_COORDINATOR_PORT"])
    assert called["local_device_ids"] == devices
    assert len(ports) == 2  # two steps of one job


@pytest.mark.parametrize(("hosts", "joins"), [("a", False), ("a,b", True)])
def test_only_several_hosts_with_tpus_join(monkeypatch, hosts, joins):
    kind = mock.Mock(opt_in_only_method=False)
    kind.get_process_count.return_value = len(hosts.split(","))
    monkeypatch.setattr(distributed.ClusterEnv, "_cluster_types", [kind])
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    monkeypatch.setattr(distributed.importlib.util, "find_spec", lambda _: True)
    monkeypatch.setattr(_runtime, "visible_accelerators", lambda: [{}])
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    assert (distributed._cluster() is not None) is joins
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert distributed._cluster() is None


@pytest.mark.parametrize(
    ("message", "ends"), [("INTERNAL: gone", True), ("RESOURCE_EXHAUSTED: 1 GB", False)]
)
def test_a_lack_of_memory_is_not_the_death_of_another(monkeypatch, message, ends):
    ended = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(distributed, "_end", ended.append)
    distributed.exit_if_peer_died(jax.errors.JaxRuntimeError(message))
    assert bool(ended) is ends

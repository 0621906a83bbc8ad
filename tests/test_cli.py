"""Mistakes on the command line: one line, the right exit code, no traceback."""

import errno
import subprocess
import sys

import pytest
from support.commands import ROOT, call

from cifar_jax import _cli, _packaged

CONFIG = ["--config", "configs/quickstart.py"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "--config FILE is missing"),
        (["--config", "configs/quickstrt.py"], 2, "did you mean quickstart?"),
        ([*CONFIG, "--config.train.epoch=3"], 2, "did you mean train.epochs?"),
        ([*CONFIG, "--config.train.epochs=many"], 2, "train.epochs"),
        ([*CONFIG, "--wrkdir=x"], 2, "wrkdir"),
        ([*CONFIG, "stray"], 2, "'stray'"),
        ([*CONFIG, "--resume=maybe"], 2, "resume"),
        ([*CONFIG, "--resume=must"], 1, "there is nothing to resume in"),
        ([*CONFIG, "--process_id=1"], 1, "--process_id go together"),
        ([*CONFIG, "--config.model.widths=512,1024,2048"], 1, "over the budget"),
        (["--config.seed=x", *CONFIG], 2, "config.seed"),
        ([*CONFIG, "--config.augment[9].name=crop"], 2, "index"),
        ([*CONFIG, "--config.data.validation=nan"], 1, "is nan; use at least 0"),
        ([*CONFIG, "--config.data.name=imagenet"], 1, "use cifar10, cifar100, digits"),
        ([*CONFIG, "--config.augment[0].name=crop"], 1, "random_crop"),
    ],
)
def test_a_mistake_is_one_line(arguments, code, message, tmp_path):
    if arguments:
        arguments = [*arguments, f"--workdir={tmp_path}"]
    done = call("main", *arguments)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")


# A config file that sets a key which does not exist.
OLD = """from cifar_jax.config import get_config as default
def get_config():
    config = default()
    config.{} = 2
    return config
"""


@pytest.mark.parametrize(
    ("text", "form", "message"),
    [
        (
            "def get_config():\n    return 1 / 0\n",
            "",
            "ZeroDivisionError: division by zero (line 2)",
        ),
        (
            "def get_config(form):\n    raise ValueError(form)\n",
            ":huge",
            "broken.py:huge cannot be read: ValueError: huge",
        ),
        ("def get_config()\n", "", "SyntaxError: expected ':'"),
        ("", "", "no attribute 'get_config'"),
        ("def get_config():\n    return {}\n", "", "returns dict, not a ConfigDict"),
        (
            OLD.format("train.views"),
            "",
            "the key views does not exist; did you mean train.repeats? (line 4)",
        ),
        (
            OLD.format("train.epoch"),
            "",
            "the key epoch does not exist; did you mean train.epochs? (line 4)",
        ),
    ],
)
def test_a_broken_config_file_is_one_line(text, form, message, tmp_path):
    config = tmp_path / "broken.py"
    config.write_text(text)
    done = call("main", f"--config={config}{form}")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert f"broken.py{form} cannot be read: " in done.stderr
    assert message in done.stderr


def test_a_config_file_may_have_a_dot_in_its_name(tmp_path):
    text = "from . import base\n\ndef get_config():\n    return base.get_config()\n"
    (tmp_path / "lr0.1.py").write_text(text)
    (tmp_path / "base.py").write_text("from cifar_jax.config import get_config\n")
    assert _packaged.read_config(str(tmp_path / "lr0.1.py")).is_locked


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("export", ["--format=onnx"], "--workdir RUN is missing"),
        ("export", ["--workdir=runs/x"], "--format is missing"),
        ("evaluate", ["--workdir=x", "--last", "--ema"], "one of --last and --ema"),
        ("evaluate", ["--workdir=x", "--checkpoint=x/best/3"], "not both"),
        ("evaluate", ["--checkpoint=runs/x/best"], "RUN/checkpoints/STEP"),
        ("evaluate", ["--checkpoint=x/best/3", "--ema"], "no weights for --ema"),
        ("predict", ["--workdir=x"], "--input is missing"),
        ("export", ["--workdir=runs/x", "--format=keras"], "stablehlo"),
        ("import_torch", ["--weights=x.pt"], "--mean is missing"),
        ("report", [], "RUN is missing"),
        ("report", ["cifar10_cpu", "--output=x.html"], "is a folder of files; give"),
        ("evaluate", ["runs/x"], "unexpected argument 'runs/x'; options start with --"),
        ("__main__", ["train"], "a command is a module, such as python -m cifar_jax.m"),
    ],
)
def test_wrong_usage_is_one_line(module, arguments, message):
    done = call(module, *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert message in done.stderr


@pytest.mark.parametrize(
    "module",
    ["main", "prepare", "budget", "export", "import_torch", "report"],
)
def test_help_names_the_flags(module):
    done = call(module, "--help")
    assert done.returncode == 0
    assert f"python -m cifar_jax.{module}" in done.stdout
    flag = "--checkpoint: " if module == "export" else "  --"
    assert flag in done.stdout


def test_prepare_names_a_source_that_is_not_there(tmp_path):
    done = call("prepare", f"--data_dir={tmp_path}", "--source=nowhere")
    assert done.returncode == 1
    assert done.stderr.startswith("error: nowhere does not exist")


def raiser(error):
    """Returns a command that raises an error."""

    def main(flags):
        raise error

    command = type(sys)("command", "What it does.")
    command.define_flags, command.main = lambda flags: None, main
    return command


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EACCES, "check its permissions"),
        (errno.ENOENT, "check the path"),
        (errno.ECONNRESET, "check the connection"),
    ],
)
def test_an_error_of_the_system_has_its_remedy(number, remedy, capsys):
    assert _cli.run_command(raiser(OSError(number, "What", "x.bin")), []) == 1
    *_, line = capsys.readouterr().err.splitlines()
    assert line == f"error: [Errno {number}] What: 'x.bin'; {remedy}"


def test_an_error_that_nobody_can_help_keeps_its_traceback():
    with pytest.raises(OSError, match="damaged"):
        _cli.run_command(raiser(OSError("damaged")), [])


def test_a_process_exits_with_the_code_and_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "cifar_jax.main", *CONFIG, "--wrkdir=x"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == "error: Unknown command line flag 'wrkdir'. Did you mean: workdir ?\n"
    )

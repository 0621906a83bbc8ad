"""The walk in docs/architecture.md is the one that a run takes."""

import inspect
import pathlib
import re
import sys
import threading

from cifar_jax import _cli, main

ROOT = pathlib.Path(__file__).parent.parent
STOP = re.compile(r"^\d+\. `(cifar_jax/[\w/]+\.py)`, `([\w.]+)`", re.MULTILINE)


def documented():
    """Returns the files of the walk, each with the function to read first."""
    return STOP.findall((ROOT / "docs" / "architecture.md").read_text())


def test_a_run_enters_the_files_in_the_documented_order(digits_dir, tmp_path):
    """A tiny run is watched: modules by their first call, functions by any call."""
    walk = documented()
    files = {str(ROOT / name): name for name, _ in walk}
    modules, functions = [], set()

    def watch(frame, event, argument):
        code = frame.f_code
        name = files.get(code.co_filename)
        # Bodies of modules and classes run at import, and are not optimised.
        if event == "call" and name and code.co_flags & inspect.CO_OPTIMIZED:
            functions.add((name, code.co_qualname))
            if name not in modules:
                modules.append(name)

    arguments = [
        f"--config={ROOT / 'configs' / 'quickstart.py'}",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.dir={digits_dir}",
        "--config.data.train_split=train[:20%]",
        "--config.model.widths=(8,)",
        "--config.model.stage_sizes=(1,)",
        "--config.model.strides=(1,)",
        "--config.model.stem_stride=4",
        "--config.train.epochs=1",
        "--config.train.cpu_devices=0",
    ]
    threading.setprofile(watch)  # the step is traced where it is compiled
    sys.setprofile(watch)
    try:
        assert _cli.run_command(main, arguments) == 0
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    assert modules == [name for name, _ in walk]
    assert set(walk) <= functions, set(walk) - functions


def test_the_gradient_is_five_hops_from_the_command():
    """Each function of the chain names the next one, in three files."""
    chain = (
        ("main.py", "loop.train_and_evaluate("),
        ("training/loop.py", "trainer.train_epoch()"),
        ("training/loop.py", "steps.train"),
        ("training/steps.py", "def loss_fn("),
        ("training/steps.py", "jax.grad(loss_fn"),
    )
    for name, text in chain:
        assert text in (ROOT / "cifar_jax" / name).read_text(), (name, text)

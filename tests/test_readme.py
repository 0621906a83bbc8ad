"""The README is short, and what .ci/run takes from it is there."""

import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_it_is_short_and_ends_with_the_licence():
    lines = README.splitlines()
    assert len(lines) <= 150
    assert lines[-1] == "No licence has been chosen yet."


def test_ci_runs_the_first_two_commands():
    awk = re.search(r"awk '(.+?)' README", (ROOT / ".ci/run").read_text(), re.S)[1]
    found = subprocess.run(
        ["awk", awk, "README.md"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()[:2]
    assert found[0].startswith("pip install -e . && python -m cifar_jax.main")
    assert found[1].startswith("pip install -e '.[test]' && python -m pytest")

"""The layout's one rule: imports only go down."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "cifar_jax"
# What all rooms may use, and which uses nothing of ours: the error for users' mistakes,
# the default config, process set-up, and files that appear whole.
GROUND = {"UserError", "_files", "_runtime", "config"}
# Each room, with the rooms that it may use.
ROOMS = {
    "models": {"models"},
    "data": {"data"},
    "training": {"training", "data", "models"},
    "formats": {"formats", "training", "data", "models"},
    "evaluation": {"evaluation", "training", "data", "models"},
    "reporting": {"reporting", "evaluation", "training", "data", "models"},
    "studies": {"studies", "evaluation", "training", "data", "models"},
}


def imported(path):
    """Yields the dotted names that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_down(room):
    files = list((PACKAGE / room).rglob("*.py"))
    assert files
    for path in files:
        for name in imported(path):
            parts = name.split(".")
            if parts[0] == "cifar_jax":
                assert parts[1] in ROOMS[room] | GROUND, f"{path} imports {name}"


@pytest.mark.parametrize("name", ["__init__", "_files", "_runtime", "config"])
def test_the_ground_stands_on_nothing_of_ours(name):
    names = imported(PACKAGE / f"{name}.py")
    names = [name for name in names if name.startswith("cifar_jax")]
    assert set(names) <= {"cifar_jax.UserError"}


def test_only_models_use_linen():
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] != "models":
            assert not {"flax.linen", "flax.nnx"} & set(imported(path)), path

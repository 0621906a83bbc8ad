"""The structure of the package: its size, its rooms, its imports, and its English."""

import ast
import functools
import io
import itertools
import pathlib
import re
import tokenize

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "cifar_jax"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.read_text().strip())

# Of the package; the second without comments and docstrings, which are to be free.
MAX_LINES = 17_500
MAX_CODE_LINES = 11_670
MAX_MODULES = 115
MAX_MODULES_IN_A_FOLDER = 15  # __init__ and __main__ are not counted
MAX_FUNCTIONS_PER_1000_LINES = 45
MAX_FUNCTION_LINES = 50

# What all rooms may use: the error for users' mistakes, the default config, files that
# appear whole, what comes with the package, processes.
GROUND = {"Stopped", "UserError", "_files", "_packaged", "_runtime", "config"}
# Each room, with the rooms below it. A room in a room stands below that one, too.
ROOMS = {
    "models": set(),
    "data": set(),
    "training": {"data", "models"},
    "formats": {"training", "data", "models"},
    "evaluation": {"formats", "training", "data", "models"},
    "reporting": {"evaluation", "training", "data", "models"},
    "studies": {"evaluation", "training", "data", "models"},
}
# Rooms in rooms that use nothing of the room around them.
LEAVES = ("data/augment", "training/methods")
# Interfaces that a library calls private, each with the one file that uses it.
PRIVATE = {
    "jax._src.distributed": "training/distributed.py",
    "jax._src.clusters.ClusterEnv": "training/distributed.py",
    "ClusterEnv._cluster_types": "training/distributed.py",
    "pool._processes": "_runtime.py",
    "trial._trial_id": "studies/journal.py",
}
PUBLIC = {"_exit", "_replace"}  # of os and of named tuples, in spite of their names
# Plain words instead of these: "is not a", "resumes", and a noun phrase with its noun.
PHRASES = re.compile(
    r"\b(?:is|are) no [a-z]|[Gg]o(?:es|ne)? on with|: (?:Likewise|See there)\."
    r"|^\s+\w+: Of (?:the|a|all|these)\b",
    re.MULTILINE,
)


@functools.cache
def nodes_of(path):
    """Returns all nodes of a file's syntax tree, parsed once for all tests."""
    return list(ast.walk(ast.parse(path.read_text())))


def functions(path):
    """Yields each function of a file, also those within others."""
    for node in nodes_of(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def code_lines(path):
    """Returns the number of lines with code: no comments, no docstrings."""
    text = path.read_text()
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in (
            tokenize.COMMENT,
            tokenize.NL,
            tokenize.NEWLINE,
            tokenize.INDENT,
            tokenize.DEDENT,
            tokenize.ENDMARKER,
        ):
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in nodes_of(path):
        documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            lines.difference_update(
                range(node.body[0].lineno, node.body[0].end_lineno + 1)
            )
    return len(lines)


def imported(path):
    """Yields the dotted names that a file imports, within functions too."""
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def graph():
    """Returns the modules of the package, each with those that it imports."""
    names = {module_name(path) for path in PACKAGE.rglob("*.py")}
    edges = {}
    for path in FILES:
        targets = set()
        for name in imported(path):
            # `from package import module` names a module, or something in one.
            parent = name.rpartition(".")[0]
            targets |= {name} & names or {parent} & names
        edges[module_name(path)] = targets - {module_name(path), "cifar_jax"}
    return edges


def test_the_package_is_small():
    lines = sum(len(path.read_text().splitlines()) for path in FILES)
    code = sum(map(code_lines, FILES))
    assert lines <= MAX_LINES, f"{lines} lines"
    assert code <= MAX_CODE_LINES, f"{code} lines of code"
    assert len(FILES) <= MAX_MODULES, f"{len(FILES)} modules"


def test_no_folder_is_crowded():
    for folder in {path.parent for path in FILES}:
        modules = [p for p in folder.glob("*.py") if not p.name.startswith("__")]
        assert len(modules) <= MAX_MODULES_IN_A_FOLDER, folder


def test_functions_are_whole_thoughts():
    number = sum(len(list(functions(path))) for path in FILES)
    lines = sum(len(path.read_text().splitlines()) for path in FILES)
    assert 1000 * number <= MAX_FUNCTIONS_PER_1000_LINES * lines, (
        f"{1000 * number / lines:.1f} functions in 1,000 lines"
    )
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {length} lines"
        for path, node in ((p, n) for p in FILES for n in functions(p))
        if (length := node.end_lineno - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert not long, "\n".join(long)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_down(room):
    files = list((PACKAGE / room).rglob("*.py"))
    assert files
    for path in files:
        for name in imported(path):
            parts = name.split(".")
            if parts[0] == "cifar_jax":
                assert parts[1] in {room} | ROOMS[room] | GROUND, f"{path}: {name}"


@pytest.mark.parametrize("leaf", LEAVES)
def test_a_leaf_uses_nothing_of_the_room_around_it(leaf):
    room, _, inner = leaf.partition("/")
    for path in (PACKAGE / leaf).glob("*.py"):
        for name in imported(path):
            if name.startswith(f"cifar_jax.{room}"):
                assert name.startswith(f"cifar_jax.{room}.{inner}"), f"{path}: {name}"


@pytest.mark.parametrize(
    "name", ["__init__", "_files", "_packaged", "_runtime", "config"]
)
def test_the_ground_stands_on_the_ground(name):
    names = [n for n in imported(PACKAGE / f"{name}.py") if n.startswith("cifar_jax")]
    # The package itself has the Python door, imported at its first use.
    if name == "__init__":
        names = [n for n in names if not n.startswith("cifar_jax.evaluation.api.")]
    assert all(n.split(".")[1] in GROUND for n in names), names


def test_no_import_circle():
    edges, done = graph(), set()

    def visit(module, path):
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for target in sorted(edges.get(module, ())):
                visit(target, [*path, module])
            done.add(module)

    for module in edges:
        visit(module, [])


def private(path):
    """Yields what a file uses of others that call it private."""
    for node in nodes_of(path):
        if isinstance(node, ast.Attribute) and re.match("_[^_]", node.attr):
            owner = ast.unparse(node.value)
            if owner not in ("self", "cls") and node.attr not in PUBLIC:
                yield f"{owner}.{node.attr}"
    for name in imported(path):
        if "._" in name and not name.startswith("cifar_jax."):
            yield name


def test_private_interfaces_have_one_place_each():
    found = [(name, str(p.relative_to(PACKAGE))) for p in FILES for name in private(p)]
    assert sorted(found) == sorted(PRIVATE.items())


def test_private_interfaces_are_those_of_these_versions():
    optuna = pytest.importorskip("optuna")
    study = optuna.create_study()
    trial = study.ask()
    again = optuna.Trial(study, study.get_trials(deepcopy=False)[0]._trial_id)
    again.report(0.5, 1)
    assert study.trials[trial.number].intermediate_values == {1: 0.5}

    from jax._src import distributed
    from jax._src.clusters import ClusterEnv
    from jax._src.lib import _jax

    assert distributed.global_state.client is None  # one process
    for method in ("key_value_set", "blocking_key_value_get"):
        assert callable(getattr(_jax.DistributedRuntimeClient, method))
    for kind in ClusterEnv._cluster_types:
        assert kind.opt_in_only_method in (True, False)
        assert callable(kind.is_env_present) and callable(kind.get_process_count)
    assert ClusterEnv._cluster_types


def test_only_models_use_linen():
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] != "models":
            assert not {"flax.linen", "flax.nnx"} & set(imported(path)), path


def test_plain_english():
    hits = []
    for path in FILES:
        text = path.read_text()
        for match in PHRASES.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            hits.append(f"{path.relative_to(ROOT)}:{line}: {match[0].strip()!r}")
    assert not hits, "\n".join(hits)


def test_one_docstring_layout():
    """Sections are indented by two, and their entries begin with a capital letter."""
    wrong = []
    sections = ("Args:", "Attributes:", "Returns:", "Raises:", "Yields:")
    for path in FILES:
        nodes = nodes_of(path)
        classes = (n for n in nodes if isinstance(n, ast.ClassDef))
        for node in itertools.chain(functions(path), classes):
            lines = (ast.get_docstring(node) or "").splitlines()
            for head, entry in itertools.pairwise(lines):
                if head not in sections:
                    continue
                indent = len(entry) - len(entry.lstrip())
                name, _, text = entry.strip().partition(": ")
                lower = head in ("Args:", "Attributes:") and text[:1].islower()
                dtype = re.match(r"(u?int|b?float|bool|str)\d*\b", text)
                if indent != 2 or (lower and not dtype):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {entry}")
    assert not wrong, "\n".join(wrong)

"""What README.md, CONTRIBUTING.md and the pages in docs/ say is so.

Commands are parsed, not run: their flags, configs and keys exist. Links and paths lead
somewhere, tables are complete, and published numbers come from their files.
"""

import ast
import functools
import importlib
import importlib.util
import inspect
import json
import pathlib
import re
import shlex
import shutil
import sys
import textwrap
from unittest import mock

import pytest
from support import scripts

from cifar_jax import _cli, _packaged, config
from cifar_jax.data.augment.pipeline import CONTEXT, TRANSFORMS
from cifar_jax.models import count, design

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
RECORDS = sorted(ROOT.glob("results/**/README.md"))
COMMANDS = sorted(
    path.stem
    for path in ROOT.glob("cifar_jax/[a-z]*.py")
    if "\ndef define_flags(" in path.read_text()
)

_FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"python (-m cifar_jax\.\w+|scripts/\w+\.py)((?: [^&;|#\n]*)?)")
_PATH = re.compile(r"(?:configs|scripts|results|cifar_jax|tests|docs|\.ci)/[\w./*-]*")


def blocks(text: str, language: str) -> list[str]:
    """Returns the fenced blocks of a page in a language, long lines joined."""
    return [
        textwrap.dedent(code).replace("\\\n", " ")
        for _, kind, code in _FENCE.findall(text)
        if kind == language
    ]


def inline_code(text: str) -> list[str]:
    """Returns what stands between single backticks."""
    return re.findall(r"`([^`\n]+)`", _FENCE.sub("", text))


def commands(text: str) -> list[tuple[str, list[str]]]:
    """Returns each command of a page, with its arguments."""
    pairs = []
    for code in blocks(text, "bash") + inline_code(text):
        for target, arguments in _COMMAND.findall(code):
            # The end of a command in quotes, or of a shell variable.
            if arguments.count('"') % 2:
                arguments = arguments.rstrip().removesuffix('"')
            pairs.append((target, shlex.split(re.sub(r"\$\w+", "0", arguments))))
    return pairs


def rows(text: str, *, start: str = "| `") -> list[list[str]]:
    """Returns the cells of all rows of tables that start so."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith(start)
    ]


def load_command(target: str):
    """Imports the module of `-m cifar_jax.NAME` or of `scripts/NAME.py`."""
    if target.startswith("-m "):
        return importlib.import_module(target.removeprefix("-m "))
    spec = importlib.util.spec_from_file_location("script", ROOT / target)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_config(path: pathlib.Path):
    """Returns the config of a file, and its docstring."""
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    return _packaged.read_config(str(path)), docstring


@functools.cache
def known_keys() -> set[str]:
    """Returns all keys and sections of the configs of runs and studies."""
    keys = set()
    for default in (config.get_config(), config.get_study_config()):
        for key in config.flatten(config.config_to_dict(default)):
            names = key.split(".")
            keys |= {".".join(names[:end]) for end in range(1, len(names) + 1)}
    return keys


@pytest.mark.parametrize(
    "page", PAGES + RECORDS, ids=lambda p: str(p.relative_to(ROOT))
)
def test_commands_are_accepted(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT / "scripts")  # as Python has it for a script
    for target, arguments in commands(page.read_text()):
        module = load_command(target) if target.startswith("-m") else None
        if module is None:
            assert (ROOT / target).exists(), target
            if "def define_flags(" not in (ROOT / target).read_text():
                continue  # a script of its own kind
            module = load_command(target)
        if arguments:
            flags = _cli.Flags(arguments)
            module.define_flags(flags)
            flags.parse()  # raises a UsageError that names what is wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_flags_in_the_text_exist(page):
    known = {"help"}
    for name in COMMANDS:
        flags = _cli.Flags([])
        importlib.import_module(f"cifar_jax.{name}").define_flags(flags)
        known |= set(flags.values)
    for path in ROOT.glob("scripts/*.py"):
        known |= set(re.findall(r'flags\.add_\w+\(\s*"(\w+)"', path.read_text()))
    for code in inline_code(page.read_text()):
        for flag in re.findall(r"(?<!\S)--(\w+)", code):
            assert flag in known or flag.removeprefix("no") in known, f"--{flag}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_config_keys_exist(page):
    text = page.read_text()
    sections = "|".join({key.split(".")[0] for key in known_keys() if "." in key})
    patterns = (rf"(?<![\w./])((?:{sections})(?:\.[a-z]\w*)+)", r"--config\.([\w.]*\w)")
    code = inline_code(text) + blocks(text, "bash")
    keys = {key for part in code for p in patterns for key in re.findall(p, part)}
    files = {key for key in keys if key.endswith(".json")}
    assert keys - files - {"KEY"} <= known_keys()


@pytest.mark.parametrize(
    "page", PAGES + RECORDS, ids=lambda p: str(p.relative_to(ROOT))
)
def test_links_and_paths_lead_somewhere(page):
    text = page.read_text()
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", text):
        path = page.parent / target if target else page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
            slugs = [
                re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings
            ]
            assert anchor in slugs, f"{target}#{anchor}"
    for code in inline_code(text):
        if _PATH.fullmatch(code):
            assert list(ROOT.glob(code)), code


def test_all_pages_are_linked_from_the_readme():
    text = (ROOT / "README.md").read_text()
    for page in PAGES[1:]:
        assert f"]({page.relative_to(ROOT)})" in text, page.name


def test_examples_in_python(monkeypatch):
    """Those that are configs are run; of all others the imports of ours are tried."""
    monkeypatch.syspath_prepend(ROOT)
    examples = [code for page in PAGES for code in blocks(page.read_text(), "python")]
    assert examples
    for code in examples:
        if "def get_config" in code:
            namespace = {}
            exec(code, namespace)
            namespace["get_config"]()
            continue
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and not node.module.startswith("dask"):
                exec(ast.unparse(node), {})


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_trackers_are_told_of_each_epoch(name, monkeypatch):
    tracker, scores = mock.MagicMock(), {"loss": 1.0, "accuracy": 0.5}
    monkeypatch.setitem(sys.modules, name, tracker)

    def train(config, workdir, *, on_epoch):
        on_epoch({"epoch": 1, "train": scores, "val": None})
        return {"test": scores}

    monkeypatch.setattr("cifar_jax.train", train, raising=False)
    examples = blocks((ROOT / "docs/python.md").read_text(), "python")
    (code,) = (code for code in examples if f"import {name}" in code)
    exec(code, {})
    if name == "wandb":
        run = tracker.init.return_value.__enter__.return_value
        run.log.assert_called_once_with({"train": scores}, step=1)
    else:
        tracker.log_metric.assert_any_call("train/loss", 1.0, step=1)


@pytest.mark.slow
def test_the_tour_runs(tmp_path, digits_dir, monkeypatch):
    nbclient, nbformat = map(pytest.importorskip, ("nbclient", "nbformat"))
    monkeypatch.setenv("TFDS_DATA_DIR", digits_dir)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "docs/tour.ipynb", as_version=4)
    nbformat.validate(notebook)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
    texts = [
        output.get("text", "") + str(output.get("data", {}).get("text/plain", ""))
        for cell in notebook.cells
        for output in cell.get("outputs", ())
    ]
    assert any("epoch 15/15" in text for text in texts)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_tables_of_configs_have_their_parameters(page):
    for path, *cells in rows(page.read_text(), start="| `configs/"):
        if cells[0]:
            path = ROOT / path.strip("`")
            options, docstring = read_config(path)
            network = design.resolve(options.model.to_dict())
            parameters = count.closed_form(network, (32, 32, 3), num_classes=10)
            assert cells[0] == f"{parameters:,}", path
            assert cells[0] in docstring


def test_all_configs_are_in_a_table():
    text = "".join(page.read_text() for page in PAGES)
    for path in ROOT.glob("configs/**/*.py"):
        # Some only hold what others share.
        if "\ndef get_config(" in path.read_text():
            assert re.search(rf"^\|.*`[\w/]*\b{path.name}`", text, re.MULTILINE), path


def test_recipes_have_their_epochs():
    for path, _, _, epochs in rows(
        (ROOT / "docs/accelerators.md").read_text(), start="| `configs/"
    ):
        assert int(epochs) == read_config(ROOT / path.strip("`"))[0].train.epochs


def test_the_keys_that_may_change_are_listed():
    text = (ROOT / "docs/training.md").read_text()
    listed = re.search(r"Only these keys may change.*?\)\): (.*?)\n\n", text, re.S)[1]
    keys = {key.rstrip(".") for key in config.RESUMABLE_KEYS}
    assert set(re.findall(r"`([\w.]+)`", listed)) == keys


def test_the_reports_recipes_and_claims():
    text = (ROOT / "docs/reports.md").read_text()
    recipes = rows(text, start="| 00")
    assert len(recipes) == 5
    for number, optimizer, _, epochs, batch, augment, _ in recipes:
        options, _ = read_config(ROOT / f"configs/reports/report_{number}.py")
        name, rate = optimizer.lower().split(", ")
        assert (name, float(rate)) == (options.optim.name, options.optim.learning_rate)
        assert int(epochs) == options.train.epochs
        assert int(batch) == options.train.batch_size
        assert len(augment.split(", ")) == len(options.augment)
    for path, *cells in rows(text, start="| `configs/"):
        path = ROOT / path.strip("`")
        base = path.with_name(path.name.replace("_as_coded", ""))
        docstrings = " ".join((read_config(path)[1] + read_config(base)[1]).split())
        for claim in re.findall(r"[\d.]+ %", " ".join(cells)):
            assert claim in docstrings, f"{path.name}: {claim}"


def test_all_commands_are_in_the_readme():
    text = (ROOT / "README.md").read_text()
    names = [row[0] for row in rows(text, start="| `cifar_jax.")]
    assert sorted(names) == [f"`cifar_jax.{name}`" for name in COMMANDS]


def test_all_transforms_are_in_their_table():
    table = {}
    for name, _, options in rows(
        (ROOT / "docs/training.md")
        .read_text()
        .split("### Augmentation")[1]
        .split("##")[0]
    ):
        table[name.strip("`")] = set(re.findall(r"`(\w+)`", options))
    given = {"key", "images", "labels", *CONTEXT}
    assert table == {
        name: set(inspect.signature(function).parameters) - given
        for name, function in TRANSFORMS.items()
    }


def test_all_export_formats_are_in_their_table():
    from cifar_jax import export

    flags = _cli.Flags([])
    export.define_flags(flags)
    text = (ROOT / "docs/export.md").read_text().split("## Import")[0]
    names = [row[0].strip("`") for row in rows(text)]
    assert sorted(names) == sorted(flags.values["format"].parser.enum_values)


def accuracies(content) -> set[str]:
    """Returns all accuracies of a run or a record, as they are published."""
    if isinstance(content, list):
        return set().union(*map(accuracies, content))
    if not isinstance(content, dict):
        return set()
    own = content.get("accuracy", content.get("mean"))  # of one run, of several seeds
    numbers = {f"{own:.4f}"} if isinstance(own, float) else set()
    return numbers.union(*map(accuracies, content.values()))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_published_accuracies_come_from_result_files(page):
    folders = ". comparisons compression finetuning records records/evaluations"
    files = [
        path
        for folder in folders.split()
        for path in ROOT.glob(f"results/{folder}/*.json")
    ]
    known = set().union(*(accuracies(json.loads(f.read_text())) for f in files))
    text = page.read_text()
    # The images that differ from the official files bound an accuracy's difference.
    known |= {f"{int(n) / 1e4:.4f}" for n in re.findall(r"(\d+) of the test\s", text)}
    # The generated tables have tests of their own.
    text = re.sub(r"<!-- (\w+):begin -->.*<!-- \1:end -->", "", text, flags=re.S)
    text = re.sub(r"\([-\d. ]+\)", "", re.sub(r"`[^`]+`", "", _FENCE.sub("", text)))
    published = set(re.findall(r"\b0\.\d{4}\b", text))
    assert published <= known
    assert published or page.name not in ("training.md", "export.md")


def test_the_accuracies_beside_others_are_those_of_the_script(tmp_path):
    code, table, message = scripts.call(
        "accuracy_chart", f"--folder={ROOT / 'results'}", f"--output={tmp_path}/a.png"
    )
    assert code == 0, message
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert table.strip() in (ROOT / "docs/accuracy.md").read_text()
    code, _, message = scripts.call("accuracy_chart", f"--folder={tmp_path}")
    assert code and "has no records; give the folder results" in message


def test_the_compression_comes_from_its_file():
    record = json.loads((ROOT / "results/compression/cifar10_cpu.json").read_text())
    page = (ROOT / "docs/export.md").read_text()
    for variant in record["variants"]:
        (row,) = rows(page, start=f"| `{variant['file']}")
        test, val = variant["test"], variant["val"]
        change = f"{100 * test['difference']:+.2f} ({test['p_value']:.2g})"
        assert row[1:] == [
            f"{variant['num_nonzero']:,}",
            f"{variant['bytes'] / 1000:,.0f}",
            f"{variant['gzip_bytes'] / 1000:,.0f}",
            f"{variant['latency_ms']['median']:.3f}",
            f"{val['accuracy']:.4f}",
            f"{test['accuracy']:.4f}",
            change if test["difference"] else "",
        ]
        assert test["num_examples"] == 10_000


@pytest.mark.parametrize(
    "page",
    [*PAGES, *RECORDS, ROOT / "CHANGELOG.md"],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_plain_english(page):
    text = _FENCE.sub("", page.read_text())
    for phrase in (r"\b(is|are) no [a-z]", r"\b[Gg]o(es|ne|ing)?\s+on\s+with\b"):
        assert not re.search(phrase, text), re.search(rf".*{phrase}.*", text)[0]


def test_what_is_named_in_the_architecture_exists():
    text = (ROOT / "docs/architecture.md").read_text()
    for path, name in re.findall(r"`(cifar_jax/[\w/]+\.py)`, `([\w.]+)`", text):
        names = set()
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
        assert set(name.split(".")) <= names, f"{path}: {name}"


@pytest.mark.slow
def test_the_examples_of_the_readme_run(tiny_run, digits_dir, tmp_path, monkeypatch):
    shutil.copytree(tiny_run, tmp_path / "runs/quickstart")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", digits_dir)
    text = (ROOT / "README.md").read_text().split("after the quickstart:")[1]
    examples = commands(text.split("## Configs")[0])
    assert len(examples) >= 6
    for target, arguments in examples:
        assert _cli.run_command(load_command(target), arguments) == 0, target
    for file in ("predictions.csv", "runs/quickstart/report.html"):
        assert (tmp_path / file).exists()

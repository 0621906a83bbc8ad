"""What the README says is so."""

import ast
import json
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def definitions(path):
    """Returns the names of a file's functions, classes and methods."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            functions = (f for f in node.body if isinstance(f, ast.FunctionDef))
            names |= {f"{node.name}.{function.name}" for function in functions}
    return names


def test_every_stop_of_the_walk_exists():
    stops = re.findall(r"`(cifar_jax/[\w/]+\.py):([\w.]+)`", README)
    assert len(stops) >= 12
    for path, name in stops:
        assert name in definitions(ROOT / path), f"{path}:{name}"


@pytest.mark.parametrize("path", re.findall(r"`(configs/\w+\.py)`", README))
def test_every_config_exists_and_says_its_parameters(path):
    namespace = {}
    exec(compile((ROOT / path).read_text(), path, "exec"), namespace)
    config = namespace["get_config"]()
    from cifar_jax.models import count, resnet

    shape = (32, 32, 3)
    model = resnet.create(num_classes=10, image_shape=shape, **config.model.to_dict())
    parameters = f"{count.num_parameters(model, shape):,}"
    assert parameters in namespace["__doc__"], f"{path} has {parameters} parameters"
    row = next(line for line in README.splitlines() if line.startswith(f"| `{path}`"))
    assert parameters in row


def test_ci_runs_the_first_two_commands():
    awk = re.search(r"awk '(.+?)' README", (ROOT / ".ci/run").read_text(), re.S)[1]
    found = subprocess.run(
        ["awk", awk, "README.md"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()[:2]
    assert found[0].startswith("pip install -e . && python -m cifar_jax.main")
    assert found[1].startswith("pip install -e '.[test]' && python -m pytest")


def test_published_accuracies_come_from_result_files():
    results = [json.loads(path.read_text()) for path in ROOT.glob("results/*.json")]
    accuracies = {f"{result['test']['accuracy']:.4f}" for result in results}
    published = re.findall(r"test accuracy (?:is |of )?\**(0\.\d{4})", README)
    assert published, "the README shows no result"
    assert set(published) <= accuracies


def test_the_compression_comes_from_its_file():
    record = json.loads((ROOT / "results/compression/cifar10_cpu.json").read_text())
    for variant in record["variants"]:
        (row,) = (
            r for r in README.splitlines() if r.startswith(f"| `{variant['file']}")
        )
        test, val = variant["test"], variant["val"]
        change = f"{100 * test['difference']:+.2f} ({test['p_value']:.2g})"
        assert [cell.strip() for cell in row.split("|")[2:-1]] == [
            f"{variant['num_nonzero']:,}",
            f"{variant['bytes'] / 1000:,.0f}",
            f"{variant['gzip_bytes'] / 1000:,.0f}",
            f"{variant['latency_ms']['median']:.3f}",
            f"{val['accuracy']:.4f}",
            f"{test['accuracy']:.4f}",
            change if test["difference"] else "",
        ]
        assert test["num_examples"] == 10_000


def test_published_speeds_come_from_their_file():
    name = "results/benchmarks/cifar10_cpu.json"
    contenders = json.loads((ROOT / name).read_text())["contenders"].values()
    medians = {
        f"{each[kind]['images_per_second']['median']:,.0f}"
        for each in contenders
        for kind in ("train", "infer")
    }
    (paragraph,) = (part for part in README.split("\n\n") if name in part)
    assert medians <= set(re.findall(r"[\d,]*\d", paragraph))
    assert set(re.findall(r"\d,\d{3}", paragraph)) <= medians

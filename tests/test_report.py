"""Reports of runs: what they say, of what, and what they must not say."""

import dataclasses
import datetime
import html.parser
import json
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest
from chromium import Page, needed
from made_runs import (
    NAMES,
    make_config,
    make_evaluation,
    make_record,
    make_result,
    make_run,
)
from support.commands import call
from test_end_to_end import tiny_config, train

from cifar_jax import UserError
from cifar_jax.evaluation import efficiency
from cifar_jax.reporting import (
    build,
    evaluating,
    markdown,
    palette,
    svg,
    tradeoffs,
)
from cifar_jax.reporting.document import Cell, Charts, Note, Table
from cifar_jax.reporting.evaluated import Evaluation
from cifar_jax.reporting.groups import group
from cifar_jax.reporting.networks import Networks
from cifar_jax.reporting.runs import read_all

NOW = datetime.datetime(2026, 5, 4, 3, 2)


def made(*paths):
    """Returns the report of runs."""
    return build.make(read_all(paths), NOW)


def tables(document):
    """Returns the texts of all tables: by caption, lists of rows by column."""
    return {
        block.caption: [
            dict(zip(block.columns, (cell.text for cell in row), strict=True))
            for row in block.rows
        ]
        for block in document.blocks()
        if isinstance(block, Table)
    }


def table(document, start):
    return next(
        rows for name, rows in tables(document).items() if name.startswith(start)
    )


def notes(document):
    blocks = [block for block in document.blocks() if isinstance(block, Note)]
    return "\n".join(f"{block.text}\n{block.command}" for block in blocks)


def facts(document):
    (block,) = (b for b in document.blocks() if b.kind == "facts")
    return {fact.name: (fact.value, fact.detail) for fact in block.items}


def written(document, folder):
    build.write(document, folder)
    return (folder / "report.html").read_text(), (folder / "report.md").read_text()


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    """Two configs, three seeds each; the second one has a wider network."""
    folder = tmp_path_factory.mktemp("runs")
    accuracies = {"a": (0.70, 0.72, 0.77), "b": (0.80, 0.81, 0.79)}
    for name, tests in accuracies.items():
        width = 4 if name == "a" else 8
        for seed, test in enumerate(tests):
            make_run(
                folder / f"{name}_seed{seed}",
                seed=seed,
                test=test,
                val=test + 0.01,
                model__widths=(width, 2 * width),
            )
    return folder, accuracies


def test_seeds_are_one_group_with_mean_and_standard_deviation(six):
    folder, accuracies = six
    rows = table(made(*sorted(folder.iterdir())), "Configs")
    assert [row["config"] for row in rows] == ["a", "b"]
    for row, tests in zip(rows, accuracies.values(), strict=True):
        mean, std = np.mean(tests), np.std(tests, ddof=1)
        assert row["test accuracy"] == f"{mean:.4f} ± {std:.4f}"
        assert row["validation accuracy"] == f"{mean + 0.01:.4f} ± {std:.4f}"
        assert row["seeds"] == "3"
    assert [row["parameters"] for row in rows] == ["8,000", "16,000"]


def test_two_runs_of_one_seed_are_one_sample(tmp_path):
    for name, seed, test in (("x0", 0, 0.6), ("again", 0, 0.9), ("x1", 1, 0.8)):
        make_run(tmp_path / name, seed=seed, test=test)
    document = made(*(tmp_path / name for name in ("x0", "again", "x1", "x0")))
    (row,) = table(document, "Configs")
    assert row["test accuracy"] == f"0.7000 ± {np.std([0.6, 0.8], ddof=1):.4f}"
    assert "again has the config and the seed of x0" in notes(document)
    assert len(table(document, "Runs")) == 3  # x0 was given twice


def test_where_a_run_computes_and_how_fast_does_not_tell_groups_apart(tmp_path):
    make_run(tmp_path / "a", seed=0, data__dir="/x", train__steps_per_dispatch=5)
    make_run(tmp_path / "b", seed=1, data__dir="/y")
    make_run(tmp_path / "c", seed=2, data__split_seed=1)
    groups = group(read_all([tmp_path / name for name in "abc"]))
    assert [len(each.runs) for each in groups] == [2, 1]
    document = made(*(tmp_path / name for name in "abc"))
    (row,) = table(document, "1 setting that differ")
    assert row == {"setting": "data.split_seed", "a, b": "0", "c": "1"}


def test_a_run_in_training_has_curves_and_no_test_accuracy(tmp_path):
    run = make_run(tmp_path / "run", done=2, epochs=5, val=0.61)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "epoch": 3, "spl')  # is being written
    document = made(run)
    shown = facts(document)
    assert shown["Test accuracy"][0] == "not yet"
    assert shown["Validation accuracy so far"][0] == "0.6100"
    assert shown["Epochs"][0] == "2 of 5"
    assert [row["epoch"] for row in table(document, "Epochs")] == ["1", "2 *"]
    said = notes(document)
    assert f"evaluate --workdir {run} --validation" in said
    assert "--latency" not in said  # the machine is at work
    (charts,) = (b for b in document.blocks() if isinstance(b, Charts))
    losses = {m.name: m.y.tolist() for m in charts.charts["loss"].marks}
    assert losses == {"training": [2.0, 1.0], "validation": [1.5, 0.75]}


def test_a_run_before_its_first_epoch_is_reported(tmp_path):
    run = make_run(tmp_path / "run", done=0)
    (run / "metrics.jsonl").unlink()
    document = made(run)
    assert facts(document)["Epochs"] == ("0 of 3", "")
    assert "No epoch has ended yet." in notes(document)
    assert table(document, "Parts of the network")


def test_imported_weights_have_no_curves_and_no_end_to_wait_for(tmp_path):
    run = make_run(tmp_path / "run", done=0)
    (run / "best" / "0").mkdir(parents=True)  # as import_torch leaves it
    document = made(run)
    said = notes(document)
    assert "The weights were imported" in said and "has not ended" not in said
    assert f"evaluate --workdir {run} --latency" in said
    make_evaluation(run, epoch=0)
    scores = read_all([run])[0].evaluation.record["scores"]
    assert facts(made(run))["Test accuracy"][0] == f"{scores['accuracy']:.4f}"


def test_runs_that_have_not_ended_are_left_out_of_means(tmp_path):
    paths = [make_run(tmp_path / f"s{k}", seed=k, test=0.5 + k / 10) for k in range(2)]
    paths.append(make_run(tmp_path / "s2", seed=2, done=1))
    document = made(*paths)
    (row,) = table(document, "Configs")
    assert row["seeds"] == "2 of 3"
    assert row["test accuracy"] == f"0.5500 ± {np.std([0.5, 0.6], ddof=1):.4f}"
    assert "s2 has not ended" in notes(document)


def test_accuracies_that_were_chosen_on_test_images_are_marked(tmp_path):
    options = dict(evaluate__select_on="test", data__validation=0, val=None)
    chosen = make_run(tmp_path / "chosen", split="test", **options)
    honest = make_run(tmp_path / "honest", test=0.6)
    for document in (made(chosen), made(chosen, honest)):
        assert "no honest one" in notes(document)
        for text in written(document, tmp_path / "report"):
            assert "0.7000 †" in text and "0.6000 †" not in text
    document = made(chosen, honest)
    row = table(document, "Runs")[0]
    assert row["chosen by"] == "accuracy on the test images"
    assert row["test accuracy"] == "0.7000 †"
    groups = group(read_all([chosen, honest]))
    (charts,) = (b for b in tradeoffs.charts(groups, Networks()) if b.kind == "charts")
    names = [m.name for m in charts.charts["accuracy_by_parameters"].marks]
    assert names == ["honest"]
    assert "no honest accuracy" in "\n".join(build.lines(read_all([chosen])))


def test_a_run_that_leaves_its_test_images_alone_is_evaluated_without_them(tmp_path):
    run = make_run(tmp_path / "run", test=None, evaluate__test=False)
    document = made(run)
    assert facts(document)["Test accuracy"][0] == "not scored"
    assert f"evaluate --workdir {run} --validation --latency" in notes(document)
    (row,) = table(made(run, make_run(tmp_path / "x", epochs=2)), "Configs")[:1]
    assert (row["validation accuracy"], row["test accuracy"]) == ("0.7500", "–")


def test_accuracies_with_augmentation_and_pruned_weights_have_columns(tmp_path):
    plain, run = make_run(tmp_path / "a"), make_run(tmp_path / "b", epochs=2)
    assert "not zero" not in table(made(plain, run), "Configs")[0]
    more = {"test_tta": {"accuracy": 0.74}, "num_nonzero": 800, "sparsity": 0.9}
    change(run / "result.json", **more)
    first, second = table(made(plain, run), "Configs")
    assert first["test with augmentation"] == first["not zero"] == "–"
    assert (second["test with augmentation"], second["not zero"]) == ("0.7400", "800")
    assert facts(made(run))["Test accuracy, augmented"][0] == "0.7400"


def test_epochs_before_all_is_pruned_are_not_the_best(tmp_path):
    options = dict(prune__sparsity=0.5, prune__stop="50%", epochs=4, done=3)
    run = make_run(tmp_path / "run", **options)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    first = json.loads(lines[1]) | {"accuracy": 0.99}
    (run / "metrics.jsonl").write_text(
        "\n".join([lines[0], json.dumps(first), *lines[2:]])
    )
    assert read_all([run])[0].best_epoch == 3


def test_points_are_where_accuracy_and_cost_are(six, tmp_path):
    folder, accuracies = six
    run = make_run(tmp_path / "live", done=2, val=0.66, model__widths=(2, 4))
    speed = {"latency_ms": 2.0, "device": "cpu", "num_devices": 1}
    measured, *others = read_all([*sorted(folder.iterdir()), run])
    evaluation = Evaluation({"efficiency": speed}, None, None)
    measured = dataclasses.replace(measured, evaluation=evaluation)
    groups = group([measured, *others])
    charts = tradeoffs.charts(groups, Networks())
    by_name = {
        name: {m.name: (m.x[0], m.y[0]) for m in chart.marks}
        for name, chart in charts[0].charts.items()
    }
    means = {name: np.mean(tests) for name, tests in accuracies.items()}
    parameters = by_name["accuracy_by_parameters"]
    assert parameters["a"] == (8_000, pytest.approx(means["a"]))
    assert parameters["b"] == (16_000, pytest.approx(means["b"]))
    assert parameters["live"][1] == pytest.approx(0.66)
    assert by_name["accuracy_by_flops"]["a"] == (3e6, pytest.approx(means["a"]))
    assert by_name["accuracy_by_latency"] == {"a": (0.002, pytest.approx(means["a"]))}
    assert "for each of b_seed0:" in charts[1].text


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A run that has ended and is evaluated, and its confusion matrix."""
    run = make_run(tmp_path_factory.mktemp("evaluated") / "run")
    return run, make_evaluation(run, latency=1.25)


@pytest.fixture
def copied(evaluated, tmp_path):
    """The same, to be changed."""
    return shutil.copytree(evaluated[0], tmp_path / "bad")


def test_the_confusion_matrix_and_the_errors_are_those_of_the_evaluation(evaluated):
    run, matrix = evaluated
    document = made(run)
    found = [[int(row[name]) for name in NAMES] for row in table(document, "Confusion")]
    np.testing.assert_array_equal(found, matrix)
    wrong = matrix - np.diag(np.diag(matrix))
    first = table(document, "Most frequent")[0]
    assert int(first["images"]) == wrong.max()
    truth, given = NAMES.index(first["true class"]), NAMES.index(first["label given"])
    assert wrong[truth, given] == wrong.max()
    (gallery,) = (b for b in document.blocks() if b.kind == "gallery")
    assert len(gallery.tiles) == min(wrong.sum(), 24)
    assert "(95% interval" in notes(document)
    assert facts(document)["Latency"][0] == "1.25 ms"


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_files_of_an_earlier_evaluation_are_not_shown(copied):
    path = copied / "evaluation" / "evaluation.json"
    change(path, data="corrupted", files=["corruptions.csv"])
    document = made(copied)
    assert not any(name.startswith("Confusion") for name in tables(document))
    assert "has no confusion matrix" in notes(document)


def test_an_evaluation_of_an_earlier_epoch_says_so(copied):
    (copied / "result.json").unlink()
    change(copied / "evaluation" / "evaluation.json", split="val", epoch=1)
    said = notes(made(copied))
    assert "The best epoch is now 3; this is of an earlier state." in said
    assert "The epoch was chosen on these images" in said


def test_many_classes_are_a_picture_and_a_folded_table(tmp_path):
    names = [f"class{k}" for k in range(21)]
    run = make_run(tmp_path / "run", names=names)
    make_evaluation(run, names=names)
    document = made(run)
    page, text = written(document, tmp_path / "report")
    assert "plots/confusion.png" in text and "data:image/png" in page
    assert len(table(document, "Classes")) == 21


def test_a_record_of_an_earlier_version_is_a_run(tmp_path):
    run = make_run(tmp_path / "run")
    document = made("results/cifar10_cpu.json", run)
    row, other = table(document, "Runs")
    result = json.loads(pathlib.Path("results/cifar10_cpu.json").read_text())
    assert row["run"] == "cifar10_cpu.json" and other["run"] == "run"
    assert row["test accuracy"] == f"{result['test']['accuracy']:.4f}"
    alone = made("results/cifar10_cpu.json")
    assert facts(alone)["Parameters"][0] == "661,618"


def test_each_seed_of_a_record_of_several_is_a_run(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(make_record((0.9, 0.92, 0.91))))
    (row,) = table(made(path), "Configs")
    std = np.std([0.9, 0.92, 0.91], ddof=1)
    assert (row["test accuracy"], row["seeds"]) == (f"0.9100 ± {std:.4f}", "3")


def luminance(colour):
    """Relative luminance of WCAG 2.2, of sRGB in [0, 1]."""
    linear = [
        v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in colour
    ]
    return np.dot([0.2126, 0.7152, 0.0722], linear)


def contrast(first, second):
    low, high = sorted(map(luminance, (first, second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(
    ("colours", "place"), [(palette.LIGHT, 0), (palette.DARK, 1)], ids=["light", "dark"]
)
def test_colours_can_be_told_from_their_background(colours, place):
    rgb = {
        name: np.array([int(value[k : k + 2], 16) / 255 for k in (1, 3, 5)])
        for name, value in colours.items()
    }
    paper, ink = rgb["paper"], rgb["ink"]
    assert min(contrast(paper, rgb[name]) for name in ("ink", "muted")) >= 4.5
    assert min(contrast(paper, c) for n, c in rgb.items() if "series" in n) >= 4.5
    css = pathlib.Path(palette.__file__).with_name("page.css").read_text()
    depth = float(re.findall(r"--depth: ([\d.]+)", css)[place])
    deepest = depth * rgb["series-0"] + (1 - depth) * paper
    assert contrast(deepest, ink) >= 4.5


HOSTILE = '<script>alert("x")</script>|`a`*b* $\\frac$ \x07'


def test_names_are_shown_as_they_are_and_never_run(tmp_path):
    names = [HOSTILE, "<img src=x onerror=alert(1)>", "cat & dog"]
    options = dict(names=names, data__name=HOSTILE.strip("\x07"))
    run = make_run(tmp_path / "</title><b>run</b>", **options)
    make_evaluation(run, names=names)
    page, text = written(made(run), tmp_path / "report")
    seen = Tags(page)
    assert seen.count("script") == 1 and not seen.count("b", without="figcaption")
    assert "onerror" not in seen.attributes
    assert HOSTILE.replace("\x07", "�") in seen.text
    for line in text.splitlines():
        if line.startswith("| ") and not line.startswith("| ---"):
            cells = re.split(r"(?<!\\)\|", line)
            assert "<" not in line and len(cells) > 2


class Tags(html.parser.HTMLParser):
    """What a page holds, by a parser that is not ours."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.stack, self.text, self.attributes = [], [], "", {}
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, tuple(self.stack)))
        self.stack.append(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, []).append(value)

    def handle_endtag(self, tag):
        while tag in self.stack and self.stack.pop() != tag:
            pass

    def handle_data(self, data):
        self.text += data

    def count(self, tag, without=None):
        return sum(tag == name and without not in above for name, above in self.tags)


def test_the_page_holds_all_it_needs(six, tmp_path):
    folder, _ = six
    page, text = written(made(*sorted(folder.iterdir())), tmp_path / "report")
    seen = Tags(page)
    for name in ("src", "href"):
        for value in seen.attributes.get(name, ()):
            assert value.startswith(("#", "data:image/png;base64,")), value
    assert not re.search(r"@import|url\((?!#)", page)
    assert not seen.count("link") and "https:" not in page
    ids = seen.attributes["id"]
    assert len(ids) == len(set(ids))
    targets = re.findall(r'(?:xlink:href="|href="|url\()#([\w-]+)', page)
    assert targets and set(targets) <= set(ids)
    for name in re.findall(r"\]\((plots/\w+\.png)\)", text):
        assert (tmp_path / "report" / name).stat().st_size > 1000
    assert text.count("](plots/") == len(list((tmp_path / "report/plots").iterdir()))


def test_html_and_markdown_have_the_same_tables(six, tmp_path):
    folder, _ = six
    document = made(*sorted(folder.iterdir()))
    page, text = written(document, tmp_path / "report")
    for rows in tables(document).values():
        for value in (value for row in rows for value in row.values() if value):
            assert markdown.escape(value) in text
            assert value.replace('"', "&#34;").replace("'", "&#39;") in page


def test_markdown_keeps_a_table_in_its_columns():
    rows = [[Cell("a|b\nc"), Cell("1", number=1.0)]]
    lines = markdown.table(Table("", ["x", "y"], rows)).splitlines()
    assert lines == ["| x | y |", "| --- | ---: |", "| a\\|b c | 1 |"]


def test_the_values_under_the_pointer_are_where_the_picture_has_them(tmp_path):
    run = make_run(tmp_path / "run", epochs=4)
    (charts,) = (b for b in made(run).blocks() if isinstance(b, Charts))
    chart = charts.charts["loss"]
    picture = svg.inline(chart, "loss")
    (line,) = (each for each in svg.points(chart) if each["name"] == "training")
    path = re.search(r'<path d="([^"]+)"[^>]*stroke-dasharray[^>]*--series-1', picture)
    drawn = np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", path[1]), float)
    places = np.array([point[:2] for point in line["points"]])
    np.testing.assert_allclose(places, drawn, atol=0.06)
    assert line["points"][3][2:] == ["epoch 4", "0.5000"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: run.joinpath("config.json").unlink(), "is no run directory"),
        (lambda run: run.joinpath("config.json").write_text("{"), "is damaged"),
        (lambda run: run.joinpath("config.json").write_text("{}"), "it lacks seed"),
        (lambda run: run.joinpath("result.json").write_text("[]"), "it lacks config"),
        (lambda run: run.joinpath("metrics.jsonl").write_bytes(b"\xff\xfe"), "damaged"),
        (
            lambda run: run.joinpath("evaluation/confusion.csv").write_text("x\n1,a"),
            "confusion.csv is damaged",
        ),
        (
            lambda run: run.joinpath("evaluation/errors.npz").write_bytes(b"PK\x03"),
            "errors.npz is damaged",
        ),
        (
            lambda run: run.joinpath("evaluation/evaluation.json").write_text("{}"),
            "evaluation.json is none",
        ),
    ],
)
def test_a_damaged_run_is_named_even_among_others(damage, message, copied, tmp_path):
    good = make_run(tmp_path / "good")
    damage(copied)
    with pytest.raises(UserError, match=message) as caught:
        read_all([good, copied])
    assert "bad" in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_no_run_is_refused(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"contenders": {}}))
    (tmp_path / "y.json").write_text(
        json.dumps(make_result(make_config()) | {"test": {}})
    )
    for path, message in (
        (tmp_path / "missing", "does not exist"),
        (tmp_path, "is no run directory"),
        (tmp_path / "x.json", "holds no accuracy of a run"),
        (tmp_path / "y.json", "it lacks test.accuracy"),
    ):
        with pytest.raises(UserError, match=message):
            made(path)


@pytest.fixture(scope="module")
def real(digits_dir, tmp_path_factory):
    """A real run."""
    folder = tmp_path_factory.mktemp("real") / "run"
    config = tiny_config(digits_dir)
    config.train.ema_decay, config.augment = 0.0, ()
    jax.config.update("jax_disable_most_optimizations", True)
    train(config, folder)
    yield folder
    jax.config.update("jax_disable_most_optimizations", False)


def test_a_real_run_is_evaluated_and_reported(real, capsys, monkeypatch):
    monkeypatch.setattr(efficiency, "BATCH_SIZES", (64,))
    monkeypatch.setattr(efficiency, "REPEATS", 3)
    before = read_all([real])
    evaluating.evaluate_missing(before)
    (run,) = read_all([real])
    assert run.evaluation.record["scores"]["accuracy"] == run.result["test"]["accuracy"]
    assert run.latency > 0
    document = build.make([run], NOW)
    matrix = table(document, "Confusion")
    count = sum(int(v) for row in matrix for k, v in row.items() if k != "true class")
    assert count == run.result["test"]["num_examples"]
    rows = tables(document)["Parts of the network"]
    parameters = sum(int(row["parameters"].replace(",", "")) for row in rows)
    assert parameters == run.result["num_parameters"]
    stamp = (real / "evaluation" / "evaluation.json").stat().st_mtime_ns
    evaluating.evaluate_missing([run])
    assert (real / "evaluation" / "evaluation.json").stat().st_mtime_ns == stamp
    assert "it has been" in capsys.readouterr().out


def test_before_its_end_a_run_is_evaluated_on_validation_images(real, tmp_path):
    live = tmp_path / "live"
    shutil.copytree(real, live, ignore=shutil.ignore_patterns("evaluation", "report*"))
    result = json.loads((live / "result.json").read_text())
    (live / "result.json").unlink()
    evaluating.evaluate_missing(read_all([live]))
    (run,) = read_all([live])
    record = run.evaluation.record
    assert record["split"] == "val" and run.latency is None
    assert record["scores"]["num_examples"] == result["val"]["num_examples"]
    assert record["scores"]["accuracy"] == pytest.approx(result["val"]["accuracy"])


def test_the_command(six, tmp_path):
    folder, _ = six
    run = folder / "a_seed0"
    done = call("report", str(run), str(folder / "b_seed0"), f"--output={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert "a_seed0: 1 seed of 1 ended" in done.stdout
    assert (tmp_path / "report.html").exists() and (tmp_path / "plots").is_dir()


@needed
def test_a_browser_shows_all_parts_without_an_error(six, evaluated, tmp_path):
    folder, _ = six
    paths = sorted(folder.glob("b*"))
    written(made(evaluated[0], *paths), tmp_path / "report")
    page = Page(tmp_path / "report" / "report.html", tmp_path)
    assert page.console == [] and page.requests == []
    assert '<html lang="en" data-ready="yes">' in page.dom  # its script ran to the end
    for part in ("Comparison", "Curves", "Errors", "Parameters", "Settings"):
        assert f">{part}</h2>" in page.dom
    for name in ("loss", "accuracy", "learning_rate", "accuracy_by_latency"):
        assert re.search(rf'<figure class="chart" id="{name}".*?<svg', page.dom, re.S)
    assert 'class="matrix"' in page.dom and 'class="gallery"' in page.dom
    assert page.dom.count('<th scope="col"><button>') > 5  # tables can be sorted


@needed
def test_a_pointer_over_a_chart_reads_its_values(tmp_path):
    run = make_run(tmp_path / "run", epochs=4)
    text, _ = written(made(run), tmp_path / "report")
    act = """
      const chart = document.querySelector("#loss svg");
      const box = chart.getBoundingClientRect();
      const place = {clientX: box.right - 9, clientY: box.top + 60};
      chart.dispatchEvent(new PointerEvent("pointermove", place));
      const table = [...document.querySelectorAll("table.sortable")]
        .find((each) => each.caption.textContent.startsWith("Epochs"));
      const button = table.tHead.rows[0].cells[2].querySelector("button");
      button.click();
      document.title = [...table.tBodies[0].rows].map((r) => r.cells[2].textContent);
    """
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    path = tmp_path / "acted.html"
    path.write_text(text.replace("</body>", f"<script>{act}</script></body>"))
    page = Page(path, tmp_path)
    assert page.console == []
    readout = re.search(r'<div id="readout".*?</div></div>', page.dom, re.S)[0]
    assert "epoch 4" in readout and "validation: 0.3750" in readout
    title = re.search(r"<title>(.*?)</title>", page.dom)[1]
    assert title == "0.5000,0.6667,1.0000,2.0000"


@needed
def test_the_browser_would_tell_of_errors_and_requests(tmp_path):
    path = tmp_path / "bad.html"
    path.write_text(
        "<!doctype html><img src='https://images.invalid/x.png'>"
        "<script>console.error('oh'); nothing()</script>"
    )
    page = Page(path, tmp_path)
    assert any("oh" in line for line in page.console)
    assert any("nothing is not defined" in line for line in page.console)
    assert page.requests == ["https://images.invalid/x.png"]

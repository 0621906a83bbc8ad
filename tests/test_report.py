"""Reports of runs: what the page says, of what, and what it must not say."""

import contextlib
import datetime
import html.parser
import json
import pathlib
import re
import shutil
from unittest import mock

import jinja2
import numpy as np
import pytest
from support.chromium import Page, needed
from support.commands import call
from support.made_runs import (
    NAMES,
    change,
    make_config,
    make_evaluation,
    make_record,
    make_result,
    make_run,
)

from cifar_jax import UserError, report
from cifar_jax.evaluation import efficiency
from cifar_jax.models import design
from cifar_jax.reporting import charts, page, runs, tables
from cifar_jax.reporting.runs import read_all

NOW = datetime.datetime(2026, 5, 4, 3, 2)


class Seen(html.parser.HTMLParser):
    """A page as a reader sees it, by a parser that is not ours.

    Attributes:
      text: All text.
      tables: By caption, a dict of texts by column for each row.
      facts: By name, value and detail.
      attributes: All values of each attribute.
      tags: Each tag with those around it.
      lines: By chart, the points of each line: x, y, and two texts.
    """

    def __init__(self, text):
        super().__init__()
        self.source, self.text, self.tags, self.attributes = text, "", [], {}
        self.tables, self.facts, self.lines = {}, {}, {}
        self._stack, self._cells, self._facts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, tuple(self._stack)))
        if tag not in ("meta", "img"):
            self._stack.append(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, []).append(value)
        attrs = dict(attrs)
        if tag == "tr":
            self._cells.append([])
        elif tag in ("td", "th"):
            self._cells[-1].append("")
        elif tag in ("dt", "dd"):
            self._facts += [["", "", ""]] if tag == "dt" else []
            self._fact = ["dt", "value", "detail"].index(attrs.get("class", "dt"))
        elif attrs.get("class") == "chart":
            lines = json.loads(attrs["data-lines"])
            self.lines[attrs["id"]] = {each["name"]: each["points"] for each in lines}

    def handle_endtag(self, tag):
        if tag in self._stack:
            while self._stack.pop() != tag:
                pass
        if tag == "table":
            columns, *rows = self._cells
            rows = [dict(zip(columns, row, strict=True)) for row in rows]
            self.tables[self._caption] = rows
            self._cells = []
        elif tag == "dl":
            self.facts = {name: (value, detail) for name, value, detail in self._facts}

    def handle_data(self, data):
        self.text += data
        if "caption" in self._stack:
            self._caption = data
        elif self._cells and {"td", "th"} & set(self._stack):
            self._cells[-1][-1] += data
        elif "dl" in self._stack and {"dt", "dd"} & set(self._stack):
            self._facts[-1][self._fact] += data

    def table(self, start):
        """Returns the rows of the table whose caption starts so."""
        return next(v for name, v in self.tables.items() if name.startswith(start))

    def count(self, tag, without=None):
        return sum(tag == name and without not in above for name, above in self.tags)


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """Compiles the template of the page once for all tests."""
    made = []

    def environment(make=jinja2.Environment, **options):
        made[:] = made or [make(**options)]
        return made[0]

    with mock.patch.object(jinja2, "Environment", environment):
        yield


def made(*paths, drawn=False):
    """Returns the page of a report as a reader sees it, its charts drawn or empty."""
    with contextlib.ExitStack() as stack:
        if not drawn:
            empty = mock.patch.object(charts.Chart, "svg", lambda chart: "<svg></svg>")
            stack.enter_context(empty)
            layout = mock.patch.object(charts.ConstrainedLayoutEngine, "execute")
            stack.enter_context(layout)
        return Seen(page.make(read_all(paths), NOW).html)


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


@pytest.fixture(scope="module")
def comparison(six):
    """The report of those."""
    return page.make(read_all(sorted(six[0].iterdir())), NOW)


def test_seeds_are_one_group_with_mean_and_standard_deviation(six, comparison):
    rows = Seen(comparison.html).table("Configs")
    assert [row["config"] for row in rows] == ["a", "b"]
    for row, tests in zip(rows, six[1].values(), strict=True):
        mean, std = np.mean(tests), np.std(tests, ddof=1)
        assert row["test accuracy"] == f"{mean:.4f} ± {std:.4f}"
        assert row["validation accuracy"] == f"{mean + 0.01:.4f} ± {std:.4f}"
        assert row["seeds"] == "3"
    assert [row["parameters"] for row in rows] == ["8,000", "16,000"]


def test_two_runs_of_one_seed_are_one_sample_and_two_seeds_have_no_deviation(tmp_path):
    for name, seed, test in (("x0", 0, 0.6), ("again", 0, 0.9), ("x1", 1, 0.8)):
        make_run(tmp_path / name, seed=seed, test=test)
    seen = made(*(tmp_path / name for name in ("x0", "again", "x1", "x0")))
    (row,) = seen.table("Configs")
    assert row["test accuracy"] == "0.7000 (0.6000, 0.8000)"
    assert "again has the config and the seed of x0" in seen.text
    assert len(seen.table("Runs")) == 3  # x0 was given twice


def test_where_a_run_computes_and_how_fast_does_not_tell_groups_apart(tmp_path):
    make_run(tmp_path / "a", seed=0, data__dir="/x", train__steps_per_dispatch=5)
    make_run(tmp_path / "b", seed=1, data__dir="/y")
    make_run(tmp_path / "c", seed=2, data__split_seed=1)
    # A run of an older version: what its config lacks has the default.
    older = json.loads((tmp_path / "b" / "config.json").read_text())
    del older["data"]["split_seed"]
    change(tmp_path / "b" / "config.json", **older)
    seen = made(*(tmp_path / name for name in "abc"))
    assert [row["config"] for row in seen.table("Configs")] == ["a, b", "c"]
    (row,) = seen.table("1 setting by which")
    assert row == {"setting": "data.split_seed", "a, b": "0", "c": "1"}


def test_of_many_configs_each_is_a_row_and_few_are_named(tmp_path):
    folders = [make_run(tmp_path / f"w{n}", model__widths=(n, 8)) for n in range(1, 7)]
    seen = made(*folders)
    table = seen.table("1 setting by which")
    assert table[0] == {"config": "w1", "model.widths": "(1, 8)"} and len(table) == 6
    assert "Not evaluated yet: w1, w2 and 4 more. For each of them" in seen.text


def test_each_data_set_has_a_comparison_of_its_own(tmp_path):
    for name, data, width in (("a", "x", 4), ("b", "x", 8), ("c", "y", 4)):
        settings = dict(data__name=data, model__widths=(width, 2 * width))
        make_run(tmp_path / name, **settings)
    seen = made(*(tmp_path / name for name in "abc"))
    assert "their accuracies cannot be compared" in seen.text
    assert re.findall(r"<h3>(\w)</h3>", seen.source)[:4] == ["x", "y", "x", "y"]
    assert list(seen.lines["accuracy_by_parameters_1"]) == ["a", "b"]
    assert list(seen.lines["loss_1"])[0] == "a, training"
    assert list(seen.lines["loss_2"]) == ["training", "validation"]
    assert "accuracy_by_parameters_2" not in seen.lines  # it would have one point


def test_a_run_in_training_has_curves_and_no_test_accuracy(tmp_path):
    run = make_run(tmp_path / "run", done=2, epochs=5, val=0.61)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "epoch": 3, "spl')  # is being written
    seen = made(run)
    assert seen.facts["Test accuracy"][0] == "not yet"
    assert seen.facts["Validation accuracy so far"][0] == "0.6100"
    assert seen.facts["Epochs"][0] == "2 of 5"
    assert [row["epoch"] for row in seen.table("Epochs")] == ["1", "2 *"]
    assert f"evaluate --workdir {run} --validation" in seen.text
    assert "--latency" not in seen.text  # the machine is busy
    values = {k: [p[3] for p in points] for k, points in seen.lines["loss"].items()}
    assert values == {
        "training": ["2.000", "1.000"],
        "validation": ["1.500", "0.7500, best"],
    }


def test_a_run_before_its_first_epoch_is_reported(tmp_path):
    run = make_run(tmp_path / "run", done=0)
    (run / "metrics.jsonl").unlink()
    seen = made(run)
    assert seen.facts["Epochs"] == ("0 of 3", "")
    assert "A curve needs two epochs" in seen.text and not seen.lines
    assert seen.table("Parts of the network")


def test_imported_weights_have_no_curves_and_no_end_to_wait_for(tmp_path):
    run = make_run(tmp_path / "run", done=0)
    (run / "best" / "0").mkdir(parents=True)  # as import_torch leaves it
    seen = made(run)
    assert "The weights were imported" in seen.text
    assert "has not ended" not in seen.text
    assert f"evaluate --workdir {run} --latency" in seen.text
    make_evaluation(run, epoch=0)
    scores = json.loads((run / "evaluation" / "evaluation.json").read_text())["scores"]
    assert made(run).facts["Test accuracy"][0] == f"{scores['accuracy']:.4f}"


def test_runs_that_have_not_ended_are_left_out_of_means(tmp_path):
    tests = (0.5, 0.6, 0.55)
    paths = [make_run(tmp_path / f"s{k}", seed=k, test=tests[k]) for k in range(3)]
    seen = made(*paths, make_run(tmp_path / "s3", seed=3, done=1))
    (row,) = seen.table("Configs")
    assert row["seeds"] == "3 of 4"
    assert row["test accuracy"] == f"0.5500 ± {np.std(tests, ddof=1):.4f}"
    assert "s3 has not ended" in seen.text
    # So they are out of the points of a chart, whose values the table has.
    options = dict(evaluate__test=False, test=None)
    paths = [make_run(tmp_path / f"v{k}", seed=k, val=0.7, **options) for k in (0, 1)]
    paths.append(make_run(tmp_path / "v2", seed=2, val=0.1, done=1, **options))
    (group,) = runs.group_runs(runs.read_all(paths))
    found, split = group.best_known()
    assert split == "validation" and found.values == [0.7, 0.7]


def test_accuracies_that_were_selected_on_test_images_are_marked(tmp_path):
    options = dict(evaluate__select_on="test", data__validation=0, val=None)
    selected = make_run(tmp_path / "selected", split="test", **options)
    honest = [
        make_run(tmp_path / name, test=0.6, model__widths=(width, 8))
        for name, width in (("honest", 8), ("wide", 16))
    ]
    alone, beside = made(selected), made(selected, *honest)
    assert alone.facts["Test accuracy"][0] == "0.7000 †"
    for seen in (alone, beside):
        assert "too high to compare with" in seen.text and "0.6000 †" not in seen.text
    row = beside.table("Runs")[0]
    assert row["selected by"] == "accuracy on the test images"
    assert row["test accuracy"] == "0.7000 †"
    assert list(beside.lines["accuracy_by_parameters"]) == ["honest", "wide"]
    assert "too high to compare with" in "\n".join(page.summary(read_all([selected])))


def test_a_run_that_leaves_its_test_images_alone_is_evaluated_without_them(tmp_path):
    run = make_run(tmp_path / "run", test=None, evaluate__test=False)
    seen = made(run)
    assert seen.facts["Test accuracy"][0] == "not scored"
    assert f"evaluate --workdir {run} --validation --latency" in seen.text
    (row,) = made(run, make_run(tmp_path / "x", epochs=2)).table("Configs")[:1]
    assert (row["validation accuracy"], row["test accuracy"]) == ("0.7500", "–")


def test_accuracies_with_augmentation_and_pruned_weights_have_columns(tmp_path):
    plain, run = make_run(tmp_path / "a"), make_run(tmp_path / "b", epochs=2)
    assert "nonzero" not in made(plain, run).table("Configs")[0]
    scores = {"accuracy": 0.74, "loss": 0.6, "num_examples": 200}
    more = {"test_tta": scores, "num_nonzero": 800, "sparsity": 0.9}
    change(run / "result.json", **more)
    first, second = made(plain, run).table("Configs")
    assert first["test with augmentation"] == first["nonzero"] == "–"
    assert (second["test with augmentation"], second["nonzero"]) == ("0.7400", "800")
    assert made(run).facts["Test accuracy, augmented"][0] == "0.7400"


def test_the_best_epoch_is_that_of_the_weights_that_are_kept(tmp_path):
    run = make_run(tmp_path / "run", epochs=4, done=3)
    assert read_all([run])[0].best_epoch == 3
    (run / "best" / "30").rename(run / "best" / "20")
    (run / "best" / "40").mkdir()  # its row is still to be written
    (best,) = read_all([run])
    assert (best.best_epoch, best.validation) == (2, pytest.approx(0.65))


def test_points_are_where_accuracy_and_cost_are(six, tmp_path):
    folder, accuracies = six
    run = make_run(tmp_path / "live", done=2, val=0.66, model__widths=(2, 4))
    first, second = (
        shutil.copytree(folder / f"{name}_seed0", tmp_path / f"{name}_seed0")
        for name in "ab"
    )
    make_evaluation(first, latency=2.0)
    others = [path for path in sorted(folder.iterdir()) if path.name[-1] != "0"]
    seen = made(first, second, *others, run)
    labels = {
        name: {line: point[2:] for line, (point,) in lines.items()}
        for name, lines in seen.lines.items()
        if name.startswith("accuracy_by")
    }
    shown = {
        name: f"test {np.mean(tests):.4f} ± {np.std(tests, ddof=1):.4f}"
        for name, tests in accuracies.items()
    }
    parameters = labels["accuracy_by_parameters"]
    assert parameters["a"] == ["8000 parameters", shown["a"]]
    assert parameters["b"] == ["1.6e+04 parameters", shown["b"]]
    assert parameters["live"][1] == "validation 0.6600"
    assert labels["accuracy_by_flops"]["a"] == ["3e+06 FLOPs", shown["a"]]
    assert "accuracy_by_latency" not in labels  # only one was measured
    assert "for each of them" in seen.text
    make_evaluation(second, latency=3.0)
    lines = made(first, second, *others, run).lines["accuracy_by_latency"]
    assert {name: point[2] for name, (point,) in lines.items()} == {
        "a": "0.002s latency",
        "b": "0.003s latency",
    }


def test_a_legend_has_all_lines_even_where_their_short_names_are_one():
    chart = charts.Chart("x", "x", "x", "y", "x")
    names = [f"a_design_with_{n}0000_and_a_long_common_end" for n in (1, 2)]
    for number, name in enumerate(names):
        chart.line(name, {1: 0.5, 2: 0.6}, number)
        chart.name_line(name, number)
    chart.finish()
    (legend,) = chart.figure.legends
    assert len(legend.get_texts()) == 2
    assert all("…" in text.get_text() for text in legend.get_texts())


def test_a_legend_for_all_colours_leaves_the_chart_its_size():
    heights, legends = [], []
    for num_lines in (6, 11, 12):  # the first make three rows
        chart = charts.Chart("x", "x", "x", "y", "x")
        for number in range(num_lines):
            name = f"a_design_of_number_{number}"
            chart.line(name, {1: 0.5, 2: 0.6}, number)
            chart.name_line(name, number)
        chart.finish()
        chart.figure.draw_without_rendering()
        heights.append(chart.axes.get_window_extent().height)
        legends.append([len(x.get_texts()) for x in chart.figure.legends])
    assert legends == [[6], [11], []]
    assert heights[1] == pytest.approx(heights[0], rel=0.05)


def test_a_chart_that_has_nothing_to_say_is_left_out(tmp_path):
    paths = [
        make_run(tmp_path / name, epochs=1, optim__learning_rate=rate)
        for name, rate in (("a", 0.1), ("b", 0.2))
    ]
    seen = made(*paths)
    # One epoch is not a curve, and one size not a trade-off.
    assert not seen.lines and "A curve needs two epochs" in seen.text
    # An axis of accuracies ends at 1, and a legend names what is drawn.
    run = make_run(tmp_path / "perfect", val=1.0)
    (run / "metrics.jsonl").write_text(
        "".join(
            json.dumps({"step": k, "epoch": k, "split": "val", "accuracy": 1.0}) + "\n"
            for k in (1, 2, 3)
        )
    )
    make_evaluation(run)
    seen = made(run, drawn=True)
    bars = ["class_accuracy", "class_counts"]
    assert list(seen.lines) == ["accuracy", *bars, "reliability"]
    svg = seen.source.partition('id="accuracy"')[2].partition("</svg>")[0]
    ticks = [float(text) for text in re.findall(r">(\d\.\d+)</text>", svg)]
    assert max(ticks) <= 1 and "training" not in svg and "best epoch" in svg


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
    seen = made(run)
    rows = [[int(row[name]) for name in NAMES] for row in seen.table("Confusion")]
    np.testing.assert_array_equal(rows, matrix)
    wrong = matrix - np.diag(np.diag(matrix))
    first = seen.table("Most frequent")[0]
    assert int(first["images"]) == wrong.max()
    pair = first["true class"], first["predicted class"]
    assert wrong[tuple(map(NAMES.index, pair))] == wrong.max()
    assert seen.count("img") == min(wrong.sum(), 24) + min(matrix.sum(), 24)
    assert "(95% interval" in seen.text
    assert seen.facts["Latency"][0] == "1.25 ms"
    bins = json.loads((run / "evaluation" / "evaluation.json").read_text())
    filled = [each for each in bins["calibration"]["bins"] if each["count"]]
    points = seen.lines["reliability"]["accuracy"]
    assert [point[3] for point in points] == [
        f"{each['accuracy']:.4f} of {each['count']} images" for each in filled
    ]


def test_classes_have_bars_and_counts(evaluated):
    (run,) = read_all([evaluated[0]])
    rows = run.evaluation.record["classes"]
    accuracy, counts = charts.classes(rows, "")
    found = {p[2]: p[3] for line in accuracy.lines for p in line["points"]}
    expected = {row["name"]: f"{row['accuracy']:.4f}" for row in rows}
    assert found == expected
    values = {(li["name"], p[2]): p[3] for li in counts.lines for p in li["points"]}
    for row in rows:
        assert values["true", row["name"]] == f"{row['num_examples']:,}"
        assert values["predicted", row["name"]] == f"{row['times_predicted']:,}"
    assert charts.classes(rows[:1], "") == charts.classes(rows * 8, "") == []


def test_a_network_is_drawn_from_its_design():
    def drawn(**options):
        shape = (32, 32, 3)
        return tables.drawing(design.resolve(options), shape, 10)

    parts = drawn(stage_sizes=(13, 13, 13), widths=(32, 64, 128))
    assert [part.times for part in parts] == [1, 1, 13, 1, 12, 1, 12, 1]
    names = [part.name for part in parts]
    assert names[3:5] == ["stage 2, block 1", "stage 2, block 2"]
    assert [part.output for part in parts] == (
        ["32x32x3", "32x32x32", "32x32x32", *["16x16x64"] * 2, *["8x8x128"] * 2, "10"]
    )
    shortcuts = [part.shortcut for part in parts[2:5]]
    assert shortcuts == ["identity", "1x1 projection", "identity"]
    parts = drawn(stage_sizes=(1, 1), widths=(8, 16), downsample="pool")
    assert [part.name for part in parts[2:4]] == ["stage 1, pool", "stage 1, block 1"]
    assert {part.shortcut for part in parts if part.shortcut} == {"identity"}
    parts = drawn(stage_sizes=(1, 1), widths=(8, 16), shortcut="padding", se_ratio=4)
    assert parts[3].shortcut == "padding"
    assert parts[3].detail.endswith("stride 2, squeeze-and-excitation")


def test_a_run_that_has_ended_is_not_said_to_go_on(tmp_path):
    keys = dict(evaluate__test=False, data__validation=0)
    text = made(make_run(tmp_path / "run", val=None, test=None, **keys)).text
    assert "it holds out no validation images, and none are tested" in text
    assert "has not ended" not in text


def test_files_of_an_earlier_evaluation_are_not_shown(copied):
    path = copied / "evaluation" / "evaluation.json"
    change(path, data="corrupted", files=["corruptions.csv"])
    seen = made(copied)
    assert not any(name.startswith("Confusion") for name in seen.tables)
    assert "has no confusion matrix" in seen.text


def test_an_evaluation_of_an_earlier_epoch_says_so(copied):
    (copied / "result.json").unlink()
    change(copied / "evaluation" / "evaluation.json", split="val", epoch=1)
    text = made(copied).text
    assert "The best epoch is now 3; this is of an earlier state." in text
    assert "The best epoch was selected on these images" in text


def test_many_classes_are_a_picture_and_a_folded_table(tmp_path):
    names = [f"class{k}" for k in range(21)]
    run = make_run(tmp_path / "run", names=names)
    make_evaluation(run, names=names)
    seen = made(run)
    picture = (run / "evaluation" / "confusion.png").read_bytes()
    assert page.picture_address(picture) in seen.attributes["src"]
    assert len(seen.table("Classes")) == 21
    assert not any(name.startswith("Confusion") for name in seen.tables)


def test_a_record_of_an_earlier_version_is_a_run(tmp_path):
    run = make_run(tmp_path / "run", data__name="cifar10")
    path = "results/comparisons/cifar10_cpu_strides.json"
    row, other = made(path, run).table("Runs")
    result = json.loads(pathlib.Path(path).read_text())
    assert row["run"] == "cifar10_cpu_strides.json" and other["run"] == "run"
    assert row["test accuracy"] == f"{result['test']['accuracy']:.4f}"
    alone = made(path)
    assert alone.facts["Parameters"][0] == "661,618"


def test_each_seed_of_a_record_of_several_is_a_run(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(make_record((0.9, 0.92, 0.91))))
    (row,) = made(path).table("Configs")
    std = np.std([0.9, 0.92, 0.91], ddof=1)
    assert (row["test accuracy"], row["seeds"]) == (f"0.9100 ± {std:.4f}", "3")


def test_settings_are_shown_as_a_config_file_has_them_the_changed_ones_first(six):
    seen = made(six[0] / "b_seed0")
    changed, settings = (
        {row["setting"]: row["value"] for row in rows}
        for name, rows in seen.tables.items()
        if " settings of " in name
    )
    assert changed["model.widths"] == settings["model.widths"] == "(8, 16)"
    assert changed["train.epochs"] == "3" and "optim.name" not in changed
    crop = "(random_crop(padding=4, mode=zero), random_flip())"
    assert settings["augment"] == crop


def luminance(colour):
    """Relative luminance of WCAG 2.2, of sRGB in [0, 1]."""
    linear = [
        v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in colour
    ]
    return np.dot([0.2126, 0.7152, 0.0722], linear)


def contrast(first, second):
    low, high = sorted(map(luminance, (first, second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("index", [0, 1], ids=["light", "dark"])
def test_colours_can_be_told_from_their_background(index):
    rgb = {
        name: np.array([int(values[index][k : k + 2], 16) / 255 for k in (1, 3, 5)])
        for name, values in charts.PALETTE.items()
    }
    paper, ink = rgb["paper"], rgb["ink"]
    assert min(contrast(paper, rgb[name]) for name in ("ink", "muted")) >= 4.5
    assert min(contrast(paper, c) for n, c in rgb.items() if "series" in n) >= 4.5
    css = pathlib.Path(page.__file__).with_name("page.css").read_text()
    depth = float(re.findall(r"--depth: ([\d.]+)", css)[index])
    deepest = depth * rgb["series-0"] + (1 - depth) * paper
    assert contrast(deepest, ink) >= 4.5


def test_names_leave_out_what_they_all_end_in(tmp_path):
    paths = [make_run(tmp_path / name / "seed-0") for name in ("a", "b/c", "d/c")]
    assert [run.name for run in read_all(paths)] == ["a", "b/c", "d/c"]
    paths[0] = make_run(tmp_path / "a" / "seed-1")
    names = [run.name for run in read_all(paths)]
    assert names == ["seed-1", "b/c/seed-0", "d/c/seed-0"]
    assert [run.name for run in read_all(paths[:1])] == ["seed-1"]
    same = [paths[0], paths[0] / "result.json"]
    assert [run.name for run in read_all(same)] == ["seed-1", "seed-1"]


HOSTILE = '<script>alert("x")</script>|`a`*b* $\\frac$ \x07'


def test_names_are_shown_as_they_are_and_never_run(tmp_path):
    names = [HOSTILE, "<img src=x onerror=alert(1)>", "cat & dog"]
    options = dict(names=names, data__name=HOSTILE.strip("\x07"))
    # Runs of one name get the folders above, too: here "</title><b>run".
    run = make_run(tmp_path / "<" / "title><b>run", **options)
    make_evaluation(run, names=names)
    other = make_run(tmp_path / "<i>" / "title><b>run", data__name="<u>y</u>", seed=1)
    report = page.make(read_all([run, other, make_run(tmp_path / "z", seed=2)]), NOW)
    seen = Seen(report.html)
    assert seen.count("script") == 1 and not seen.count("b", without="figcaption")
    assert not seen.count("i") and not seen.count("u")
    assert "onerror" not in seen.attributes
    assert HOSTILE.replace("\x07", "�") in seen.text
    assert "</title><b>run" in seen.text and "<i>/title><b>run" in seen.text
    assert "<u>y</u>" in seen.text
    report.write(tmp_path / "report")
    pictures = (tmp_path / "report" / "plots").iterdir()
    assert {path.stem for path in pictures} == set(seen.lines)


def test_the_page_holds_all_it_needs(comparison, tmp_path):
    files = comparison.write(tmp_path)
    text = (tmp_path / "report.html").read_text()
    seen = Seen(text)
    for name in ("src", "href"):
        for value in seen.attributes.get(name, ()):
            assert value.startswith(("#", "data:image/png;base64,")), value
    assert not re.search(r"@import|url\((?!#)", text)
    assert not seen.count("link") and "https:" not in text
    ids = seen.attributes["id"]
    assert len(ids) == len(set(ids))
    targets = re.findall(r'(?:xlink:href="|href="|url\()#([\w-]+)', text)
    assert targets and set(targets) <= set(ids)
    pictures = [f"plots/{name}.png" for name in seen.lines]
    assert files == ["report.html", *pictures]
    assert all((tmp_path / name).stat().st_size > 1000 for name in pictures)


def test_the_values_under_the_pointer_are_where_the_picture_has_them(tmp_path):
    seen = made(make_run(tmp_path / "run", epochs=4), drawn=True)
    svg = seen.source.partition('id="loss"')[2].partition("</svg>")[0]
    path = re.search(r'<path d="([^"]+)"[^>]*stroke-dasharray[^>]*--series-1', svg)
    drawn = np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", path[1]), float)
    points = seen.lines["loss"]["training"]
    places = np.array([point[:2] for point in points])
    np.testing.assert_allclose(places, drawn, atol=0.06)
    assert points[3][2:] == ["epoch 4", "0.5000"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "is not a run directory"),
        ("config.json", b"{", "is damaged"),
        ("config.json", b"{}", "'seed' is missing"),
        ("dataset.json", b'{"name": 3}', "'name' is missing or has the wrong"),
        ("result.json", b"[]", "is not a JSON object"),
        ("metrics.jsonl", b"\xff\xfe\n", "damaged"),
        ("evaluation/confusion.csv", b"x\n1,a", "confusion.csv is damaged"),
        ("evaluation/errors.npz", b"PK\x03", "errors.npz is damaged"),
        ("evaluation/evaluation.json", b"{}", r"evaluation.json: '\w+' is missing"),
    ],
)
def test_a_damaged_run_is_named_even_among_others(
    name, content, message, copied, tmp_path
):
    good = make_run(tmp_path / "good")
    if content is None:
        (copied / name).unlink()
    else:
        (copied / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_all([good, copied])
    assert "bad" in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_not_a_run_is_refused(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"contenders": {}}))
    (tmp_path / "y.json").write_text(
        json.dumps(make_result(make_config()) | {"test": {}})
    )
    for path, message in (
        (tmp_path / "missing", "does not exist"),
        (tmp_path, "run directory"),
        (tmp_path / "x.json", "does not hold the accuracy of a run"),
        (tmp_path / "y.json", "'test.accuracy' is missing"),
    ):
        with pytest.raises(UserError, match=message):
            read_all([path])


@pytest.fixture(scope="module")
def real(tiny_run, tmp_path_factory):
    """A real run."""
    return shutil.copytree(tiny_run, tmp_path_factory.mktemp("real") / "run")


def test_a_real_run_is_evaluated_and_reported(real, capsys, monkeypatch):
    monkeypatch.setattr(efficiency, "BATCH_SIZES", (64,))
    monkeypatch.setattr(efficiency, "SECONDS", 0.01)
    report.evaluate_missing(read_all([real]))
    (run,) = read_all([real])
    assert run.evaluation.record["scores"]["accuracy"] == run.result["test"]["accuracy"]
    assert run.latency > 0
    seen = made(real)
    matrix = seen.table("Confusion")
    count = sum(int(v) for row in matrix for k, v in row.items() if k != "true class")
    assert count == run.result["test"]["num_examples"]
    *rows, total = seen.tables["Parts of the network"]
    parameters = [int(row["parameters"].replace(",", "")) for row in (*rows, total)]
    assert sum(parameters[:-1]) == parameters[-1] == run.result["num_parameters"]
    stamp = (real / "evaluation" / "evaluation.json").stat().st_mtime_ns
    report.evaluate_missing([run])
    assert (real / "evaluation" / "evaluation.json").stat().st_mtime_ns == stamp
    assert "its evaluation is up to date" in capsys.readouterr().out


def test_before_its_end_a_run_is_evaluated_on_validation_images(real, tmp_path):
    live = tmp_path / "live"
    shutil.copytree(real, live, ignore=shutil.ignore_patterns("evaluation", "report*"))
    result = json.loads((live / "result.json").read_text())
    (live / "result.json").unlink()
    report.evaluate_missing(read_all([live]))
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
    runs = read_all([evaluated[0], *paths])
    page.make(runs, NOW).write(tmp_path / "report")
    shown = Page(tmp_path / "report" / "report.html", tmp_path)
    assert shown.console == [] and shown.requests == []
    assert '<html lang="en" data-ready="yes">' in shown.dom  # its script ran to the end
    for part in ("Comparison", "Curves", "Errors", "Parameters", "Settings"):
        assert f">{part}</h2>" in shown.dom
    for name in ("loss", "accuracy", "learning_rate", "accuracy_by_parameters"):
        assert re.search(rf'<figure class="chart" id="{name}".*?<svg', shown.dom, re.S)
    assert 'class="matrix"' in shown.dom and 'class="gallery"' in shown.dom
    assert shown.dom.count('<th scope="col"><button>') > 5  # tables can be sorted


@needed
def test_a_pointer_over_a_chart_reads_its_values(tmp_path):
    text = page.make(read_all([make_run(tmp_path / "run", epochs=4)]), NOW).html
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
    shown = Page(path, tmp_path)
    assert shown.console == []
    readout = re.search(r'<div id="readout".*?</div></div>', shown.dom, re.S)[0]
    assert "epoch 4" in readout and "validation: 0.3750" in readout
    title = re.search(r"<title>(.*?)</title>", shown.dom)[1]
    assert title == "0.5000,0.6667,1.0000,2.0000"


@needed
def test_the_browser_would_tell_of_errors_and_requests(tmp_path):
    path = tmp_path / "bad.html"
    path.write_text(
        "<!doctype html><img src='https://images.invalid/x.png'>"
        "<script>console.error('oh'); nothing()</script>"
    )
    shown = Page(path, tmp_path)
    assert any("oh" in line for line in shown.console)
    assert any("nothing is not defined" in line for line in shown.console)
    assert shown.requests == ["https://images.invalid/x.png"]


def test_packaged_weights_are_reported(tmp_path):
    (run,) = read_all(["cifar10_cpu"])
    assert run.name == "cifar10_cpu" and not run.has_directory
    seen = made("cifar10_cpu")
    assert seen.facts["Parameters"][0] == "1,060,426"
    assert "cifar_jax.evaluate" not in seen.text
    assert "--output of their own" in run.reason_not_to_evaluate()

"""Tables, fronts and times of studies, on figures that are made up."""

import io
import statistics

import pytest
import rich.console
from support.studying import make

from cifar_jax.studies import plots, table
from cifar_jax.studies.console import View

STUDY = {
    "study.seeds": 2,
    "study.space": (dict(factor="C", values=(2, 4, 6, 8)),),
}


def run(name, seed, accuracy=None, error=None, **figures):
    """Returns a run of one of the designs of `made`, done or failed."""

    def of(made):
        (design,) = (each for each in made.candidates if each.name == name)
        if accuracy is None:
            return table.Run(design, seed, state="failed", error=error or "")
        known = {"accuracy": accuracy, "loss": 1.0, "seconds": 61.0}
        known["macs"] = 1000 * design.widths[0]
        values = {1: accuracy}
        return table.Run(design, seed, "done", values, known | figures)

    return of


def rows_of(made, runs):
    return table.rows(made.candidates, [each(made) for each in runs])


@pytest.fixture
def shown():
    """C6 has one lucky seed, C8 is the best of the whole ones, C4 has failed."""
    study = make(**STUDY)
    trials = [
        *(run("C2", 0, 0.5), run("C2", 1, 0.6)),
        *(run("C4", 0, error="no good"), run("C4", 1, error="no good")),
        *(run("C6", 0, 0.9), run("C6", 1, error="too bad")),
        *(run("C8", 0, 0.7), run("C8", 1, 0.8)),
    ]
    return study, rows_of(study, trials)


def test_a_lucky_seed_does_not_lead(shown):
    study, rows = shown
    names = [row.candidate.name for row in table.ranked(study, rows)]
    assert names == ["C8", "C2", "C6", "C4"]


def test_errors_are_over_seeds(shown):
    _, rows = shown
    best = rows[3]
    assert best.values("accuracy") == [0.7, 0.8]
    assert f"± {statistics.stdev([0.7, 0.8]):.4f}" in table.spread([0.7, 0.8])
    assert table.spread(best.values("accuracy")) == "0.7500 ± 0.0707"
    assert table.spread(rows[2].values("accuracy")) == "0.9000"
    assert table.spread(rows[1].values("accuracy")) == "-"


def test_a_table_says_what_failed(shown):
    study, rows = shown
    text = table.markdown(study, rows)
    assert "| 1 | C8 | 8 | 8-16 |" in text
    assert "- C4, seed 0: no good" in text and "- C6, seed 1: too bad" in text
    assert "| 1, 1 failed |" in text


def test_test_time_augmentation_stands_beside_the_plain_figure(shown):
    study, rows = shown
    assert "TTA" not in table.markdown(study, rows)
    trials = [run("C2", n, 0.5, accuracy_tta=0.6 + n / 10) for n in range(2)]
    rows = rows_of(study, trials)
    header, _, first, *_ = table.markdown(study, rows).splitlines()
    assert header.endswith("| validation accuracy | loss | accuracy with TTA |")
    assert first.endswith("| 0.5000 ± 0.0000 | 1.0000 ± 0.0000 | 0.6500 ± 0.0707 |")
    names, lines = table.csv(rows)
    column = names.index("accuracy_tta")
    assert [line[column] for line in lines] == [0.6, 0.7]


def test_the_front_is_what_no_other_design_beats(shown):
    _, rows = shown
    both = make(**STUDY, **{"study.objectives": ("accuracy", "macs")})
    # C4 has no accuracy; C8 costs more than C6, which is better
    assert [row.candidate.name for row in table.front(both, rows)] == ["C2", "C6"]
    assert table.markdown(both, rows).count("| yes |") == 2


def test_one_factor_is_shown_at_a_time():
    keys = {"study.kind": "one_at_a_time", "study.seeds": 1}
    keys["study.space"] = (
        dict(factor="C", values=(8, 4, 2)),
        dict(factor="optim.name", values=("sgd", "adam")),
    )
    study = make(**keys)
    names = [each.name for each in study.candidates]
    assert names == ["base", "C8", "C2", "sgd"]  # C=4 and adam are the base
    rows = rows_of(study, [run(n, 0, 0.5) for n in names])
    by_width = table.variation(rows, "C")
    assert [row.candidate.name for row in by_width] == ["C2", "base", "C8"]
    assert [row.candidate.value("C") for row in by_width] == [2, 4, 8]
    text = table.markdown(study, rows)
    assert "Variation of C:" in text and "| base | adam |" in text
    assert [name for name, _ in plots.draw(study, rows)][:2] == [
        "accuracy_C",
        "accuracy_optim",
    ]


def told(study, runs, earlier=0, **options):
    """Returns what a person sees of a study whose runs end, after earlier ones."""
    console = rich.console.Console(file=io.StringIO(), width=120, **options)
    view = View(study, runs[:earlier], console)
    with view.live:
        for each in runs[earlier:]:
            view.ended(each)
        view.show(table.rows(study.candidates, runs))
    return console.file.getvalue()


def test_what_was_written_and_chosen_is_told(shown, tmp_path):
    study, rows = shown
    for done, winner, words in (
        ([], None, "nothing yet"),
        (rows, {"design": "C8", "test": [0.75, 0.85]}, "results.csv, winner.json"),
    ):
        console = rich.console.Console(file=io.StringIO(), width=120)
        View(study, console=console).show(done, tmp_path, winner)
        out = console.file.getvalue()
        assert f"{tmp_path}: {words}\n" in out
        assert ("accuracy" in out) == bool(done)  # no table without a row
        for name in ("results.csv", "winner.json"):
            (tmp_path / name).touch()
    assert "Chosen on validation: C8. Its test accuracy: 0.8000 ± 0.0707" in out


def test_ends_of_runs_are_told(shown):
    study, rows = shown
    runs = sorted((each for row in rows for each in row.runs), key=lambda r: r.seed)
    out = told(study, runs, earlier=4)
    assert "0:00  4/8 runs (1 failed)  resuming" in out
    assert out.count("C8, seed 1: accuracy 0.8000 (5,266 parameters, 1:01)") == 1
    assert out.count("C6, seed 1: failed: too bad") == 1
    assert "C8, seed 0" not in out  # told as a whole


def test_a_terminal_shows_the_best_designs_and_what_runs(shown):
    study, rows = shown
    running = table.Run(rows[0].candidate, 2, "running", {1: 0.75})
    runs = [*rows[0].runs, *rows[3].runs, running]
    out = told(study, runs, force_terminal=True)
    assert "C8" in out and "0.7500 ± 0.0707" in out
    assert "C2, seed 2: epoch 1/1 0.7500" in out


def test_a_run_that_was_pruned_says_when(shown):
    study, rows = shown
    pruned = table.Run(rows[0].candidate, 0, "pruned", {1: 0.25, 2: 0.125})
    assert "C2, seed 0: pruned at epoch 2 with 0.1250" in told(study, [pruned])
    row = table.Row(rows[0].candidate, (pruned,))
    assert "| 0, 1 pruned |" in table.markdown(study, [row])


@pytest.mark.parametrize("kind", ["list", "grid"])
def test_figures_are_drawn(kind):
    space = {
        "list": tuple(
            dict(name=f"C{c}", change={"model.widths": (c,)}) for c in (2, 4)
        ),
        "grid": (dict(factor="C", values=(2, 4)),),
    }[kind]
    study = make(**{"study.kind": kind, "study.space": space})
    rows = rows_of(study, [run("C2", 0, 0.5), run("C4", 0, 0.6), run("C4", 1, 0.7)])
    names = [name for name, _ in plots.draw(study, rows)]
    first = {"list": "accuracy", "grid": "accuracy_C"}[kind]
    assert names == [first, "pareto_parameters", "pareto_macs"]


def test_a_bar_in_a_cell_is_escaped():
    grid = table.grid({"a": lambda row: "x|y", "b": lambda row: row}, ["1"])
    assert grid.splitlines()[-1] == r"| x\|y | 1 |"

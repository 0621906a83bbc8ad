"""Tables, fronts and times of studies, on figures that are made up."""

import io
import statistics

import pytest
import rich.console
from optuna.trial import TrialState, create_trial
from support.studying import make

from cifar_jax.studies import designs, live, plots, results, table, timing

STUDY = {
    "study.seeds": 2,
    "study.space": (dict(factor="C", values=(2, 4, 6, 8)),),
}


def trial(name, seed, accuracy=None, error=None, **result):
    attrs = {"candidate": name, "seed": seed}
    if accuracy is None:
        attrs |= {"error": error}
        return create_trial(state=TrialState.FAIL, user_attrs=attrs)
    attrs["result"] = {"accuracy": accuracy, "loss": 1.0, "seconds": 61.0, **result}
    return create_trial(
        state=TrialState.COMPLETE,
        values=[accuracy],
        user_attrs=attrs,
        intermediate_values={1: accuracy},
    )


@pytest.fixture
def shown():
    """C6 has one lucky seed, C8 is the best of the whole ones, C4 has failed."""
    study = make(**STUDY)
    trials = [
        *(trial("C2", 0, 0.5), trial("C2", 1, 0.6)),
        *(trial("C4", 0, error="no good"), trial("C4", 1, error="no good")),
        *(trial("C6", 0, 0.9), trial("C6", 1, error="too bad")),
        *(trial("C8", 0, 0.7), trial("C8", 1, 0.8)),
    ]
    return study, table.rows(study, study.candidates, trials)


def test_a_lucky_seed_does_not_lead(shown):
    study, rows = shown
    names = [row.candidate.name for row in table.ranked(study, rows)]
    assert names == ["C8", "C2", "C6", "C4"]


def test_errors_are_over_seeds(shown):
    _, rows = shown
    best = rows[3]
    assert best.mean("accuracy") == pytest.approx(0.75)
    assert best.std("accuracy") == pytest.approx(statistics.stdev([0.7, 0.8]))
    assert table.spread(best, "accuracy") == "0.7500 ± 0.0707"
    assert table.spread(rows[2], "accuracy") == "0.9000"
    assert table.spread(rows[1], "accuracy") == "-"


def test_a_table_says_what_failed(shown):
    study, rows = shown
    text = results.markdown(study, rows)
    assert "| 1 | C8 | 8 | 8-16 |" in text
    assert "- C4, seed 0: no good" in text and "- C6, seed 1: too bad" in text
    assert "| 1, 1 failed |" in text


def test_test_time_augmentation_stands_beside_the_plain_figure(shown):
    study, rows = shown
    assert "TTA" not in results.markdown(study, rows)
    trials = [trial("C2", n, 0.5, accuracy_tta=0.6 + n / 10) for n in range(2)]
    rows = table.rows(study, study.candidates, trials)
    header, _, first, *_ = results.markdown(study, rows).splitlines()
    assert header.endswith("| validation accuracy | loss | accuracy with TTA |")
    assert first.endswith("| 0.5000 ± 0.0000 | 1.0000 ± 0.0000 | 0.6500 ± 0.0707 |")
    names, lines = results.csv(rows)
    column = names.index("accuracy_tta")
    assert [line[column] for line in lines] == [0.6, 0.7]


def test_the_front_is_what_no_other_design_beats(shown):
    _, rows = shown
    both = make(**STUDY, **{"study.objectives": ("accuracy", "macs")})
    # C4 has no accuracy; C8 costs more than C6, which is better
    assert [row.candidate.name for row in table.front(both, rows)] == ["C2", "C6"]
    assert results.markdown(both, rows).count("| yes |") == 2


def test_one_factor_is_shown_at_a_time():
    keys = {"study.kind": "one_at_a_time", "study.seeds": 1}
    keys["study.space"] = (
        dict(factor="C", values=(8, 4, 2)),
        dict(factor="optim.name", values=("sgd", "adam")),
    )
    study = make(**keys)
    names = [each.name for each in study.candidates]
    assert names == ["base", "C8", "C2", "sgd"]  # C=4 and adam are the base
    rows = table.rows(study, study.candidates, [trial(n, 0, 0.5) for n in names])
    by_width = table.variation(rows, "C")
    assert [row.candidate.name for row in by_width] == ["C2", "base", "C8"]
    assert [table.factor(row, "C") for row in by_width] == [2, 4, 8]
    text = results.markdown(study, rows)
    assert "Variation of C:" in text and "| base | adam |" in text
    assert [name for name, _ in plots.draw(study, rows)][:2] == [
        "accuracy_C",
        "accuracy_optim",
    ]


def test_ends_of_runs_are_told_once(shown):
    study, rows = shown
    console = rich.console.Console(file=io.StringIO(), width=100)
    view = live.View(study, console)
    before = [table.Row(row.candidate, row.runs[:1]) for row in rows]
    with view:
        view.show(before)
        view.show(rows)
        view.show(rows)
    out = console.file.getvalue()
    assert out.count("C8, seed 1: accuracy 0.8000") == 1
    assert out.count("C6, seed 1: failed: too bad") == 1
    assert "C8, seed 0" not in out  # of before: told as a whole
    assert "going on: 0:00  4/8 runs (1 failed)" in out


def test_times_are_fitted():
    """What is a sum of convolutions, multiply-adds and numbers written is found."""
    made = make(
        **{
            "study.space": (
                dict(factor="C", values=(2, 8, 32)),
                dict(factor="B", values=(1, 2, 4)),
            )
        }
    ).candidates

    def truth(each):
        cost = each.cost
        work = 1e-3 + 2e-4 * cost.convolutions + cost.macs * 1e-9 + cost.elements * 1e-8
        return timing.Times(start=5.0 + cost.convolutions, step=work, image=work / 50)

    few = timing.chosen(made)
    assert len(few) == timing.NUM_MEASURED
    assert few[0].cost.macs == min(each.cost.macs for each in made)
    assert few[-1].cost.macs == max(each.cost.macs for each in made)
    predict, run = timing.fit(few, [truth(each) for each in few]), timing.Size(100, 500)
    for each in made:
        expected = run.seconds(truth(each))
        assert run.seconds(predict(each)) == pytest.approx(expected, rel=0.02)
    assert timing.fit_error(few, [truth(each) for each in few], run) < 0.1
    assert timing.fit_error(few[:2], [truth(each) for each in few[:2]], run) is None


def test_a_time_is_measured(digits_dir, compile_fast):
    study = make(digits_dir)
    run = timing.size(study)
    assert (run.steps, run.images) == (5, 144)
    times = timing.measure(study, study.candidates[0])
    assert 0 < times.image < times.step < times.start
    assert isinstance(study.candidates[0], designs.Candidate)

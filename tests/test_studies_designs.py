"""What a study lays out before it runs: spaces, the budget rule, and costs."""

import csv
import importlib
import math
import pathlib

import pytest

from cifar_jax import UserError, search
from cifar_jax import config as default
from cifar_jax.models import count, design
from cifar_jax.studies import designs, study

CIFAR = (32, 32, 3)
FOLDER = pathlib.Path(__file__).parents[1] / "configs" / "search"
STUDIES = sorted(
    path.stem
    for path in FOLDER.glob("*.py")
    if path.stem not in ("components", "small", "report_004_base")
)
# Largest C below 5,000,000 parameters, by N and then B from 1 to 7. In report 004's
# Table 8 seven of the cells have one to three channels fewer.
WIDEST = {
    2: (259, 174, 140, 120, 107, 97, 90),
    3: (129, 85, 68, 59, 52, 47, 44),
    4: (64, 42, 34, 29, 26, 23, 21),
    5: (32, 21, 17, 14, 13, 11, 10),
}


def config_of(name, variant="full"):
    return importlib.import_module(f"configs.search.{name}").get_config(variant)


def rules(**options):
    base = default.get_config()
    base.model.update(stage_sizes=(1, 1), widths=(8, 16))
    return designs.Rules(base, CIFAR, 10, **options)


def parameters(stages, blocks, width):
    options = dict(stage_sizes=(blocks,) * stages, widths=(width,))
    return count.closed_form(design.resolve(options), CIFAR, 10)


def test_table_8_has_the_largest_widths_that_fit():
    found = {each.name: each for each in study.make(config_of("table_8")).candidates}
    assert len(found) == 28
    for stages, widths in WIDEST.items():
        for blocks, width in enumerate(widths, 1):
            each = found[f"N{stages}-B{blocks}"]
            assert each.widths == tuple(width * 2**stage for stage in range(stages))
            assert each.num_parameters == parameters(stages, blocks, width) < 5_000_000
            assert parameters(stages, blocks, width + 1) >= 5_000_000


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("variant", ["full", "small"])
def test_every_study_keeps_its_budget(name, variant):
    made = study.make(config_of(name, variant))
    limit = made.rules.base.budget.limit
    found = made.candidates or search.examples(made)
    assert found and not any(each.skip_reason for each in found)
    assert all(limit is None or each.num_parameters < limit for each in found)
    if made.candidates:
        assert set(dict(made.options.reported)) <= {each.name for each in found}
    record = importlib.import_module(f"configs.search.{name}").__doc__
    assert f"configs/search/{name}.py" in record and "small:" in record


@pytest.mark.parametrize("variant", ["full", "small"])
def test_components_are_compared_under_the_budget(variant):
    found = study.make(config_of("components", variant)).candidates
    assert len(found) > 15 and found[0].name == "base"
    assert not any(each.skip_reason for each in found)


def test_reports_first_tables_are_their_designs():
    """The printed counts of Tables 1 to 6; F=5 without the stem's kernel of 1x1."""
    made = study.make(config_of("tables_1_to_6"))
    found = {each.name: each.num_parameters for each in made.candidates}
    assert found["base"] == 11_173_962
    assert (found["N2"], found["N6"]) == (676_682, 178_992_202)
    assert (found["B1"], found["B10"]) == (4_903_242, 61_339_722)
    assert (found["C2"], found["C256"]) == (11_420, 178_585_866)
    assert (found["F1"], found["F5"]) == (1_407_562, 30_706_762)
    assert (found["P1"], found["P2"], found["P3"]) == (11_250_762, 11_189_322, 11173962)
    assert (found["K3"], found["K5"]) == (12_550_218, 15_302_730)
    assert len(found) == 28  # each other value of N, B, C, F, P and K once


@pytest.mark.parametrize("name", ["components", *STUDIES])
def test_an_unknown_variant_is_refused(name):
    with pytest.raises(ValueError, match="variant 'smal' is unknown; use full,? .*"):
        config_of(name, "smal")


@pytest.mark.parametrize("multiple", [1, 8])
@pytest.mark.parametrize("growth", [1.5, 2])
def test_budget_rule_against_brute_force(multiple, growth):
    limit = 60_000
    law = rules(widest=True, multiple=multiple)
    law.base.budget.limit = limit
    each = designs.candidate(law, {"N": 3, "B": 1, "growth": growth})
    start = tuple(round(8 * growth**stage) for stage in range(3))

    def size(first):
        widths = (max(1, first * w // 8 // multiple) * multiple for w in start)
        options = dict(stage_sizes=(1, 1, 1), widths=tuple(widths))
        return count.closed_form(design.resolve(options), CIFAR, 10)

    best = max(w for w in range(multiple, 200, multiple) if size(w) < limit)
    assert each.widths[0] == best
    assert each.num_parameters == size(best) < limit
    assert all(width % multiple == 0 for width in each.widths)


def test_the_widest_design_has_the_parameters_of_its_config():
    law = rules(widest=True)
    law.base.budget.limit, law.base.model.stem_width = 60_000, 8
    each = designs.candidate(law, {"N": 3, "B": 1, "C": 8})
    assert each.config.model.stem_width == each.widths[0] > 8
    trained = design.resolve(each.config.model.to_dict())
    assert count.closed_form(trained, CIFAR, 10) == each.num_parameters


def test_designs_over_the_budget_are_refused_with_a_reason():
    law = rules()
    law.base.budget.limit = 10_000
    fits, over = designs.fixed("grid", [dict(factor="C", values=(4, 64))], law)
    assert fits.skip_reason is None
    number = f"{over.num_parameters:,}"
    assert over.num_parameters >= 10_000 and over.skip_reason.startswith(number)
    law = rules(widest=True)
    law.base.budget.limit = 20
    assert "no width has fewer than 20" in designs.candidate(law, {"N": 2}).skip_reason


def test_letters_and_keys_are_set():
    base = default.get_config()
    changed = designs.with_factors(
        base, {"N": 3, "B2": 4, "C": 10, "growth": 1.5, "F": 5, "optim.momentum": 0.8}
    )
    assert changed.model.stage_sizes == (1, 4, 1)
    assert changed.model.widths == (10, 15, 22)
    assert changed.model.kernel_sizes == (5,)
    assert changed.optim.momentum == 0.8
    assert base.model.stage_sizes == (1, 1, 1, 1)
    found = designs.Candidate("changed", {}, changed)
    assert found.value("B2") == 4
    assert found.value("B") == (1, 4, 1)
    assert found.value("optim.momentum") == 0.8


def test_a_dict_in_a_change_sets_the_keys_that_it_has():
    base = default.get_config()
    base.model.activation = "silu"
    changed = designs.with_factors(base, {"model": {"widths": (2, 4)}})
    assert changed.model.widths == (2, 4)
    changed.model.widths = base.model.widths
    assert changed.to_dict() == base.to_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optim.learnin_rate": 1.0}, "did you mean optim.learning_rate"),
        ({"model": 3}, "model cannot be 3"),
        ({"train.epochs.more": 3}, "unknown factor"),
        ({"N": "3"}, "factor N cannot be '3'"),
        ({"B": 0}, "factor B cannot be 0"),
        ({"train.epochs": "many"}, "train.epochs cannot be 'many'"),
        ({"evaluate.test": True}, "the same for all designs"),
        ({"evaluate": {"test": True}}, "evaluate.test is the same for all designs"),
        ({"model": {"width": 3}}, "did you mean model.widths"),
        ({"C": 8, "growth": math.inf}, "factor growth cannot be inf"),
        ({"train.cpu_devices": 2}, "the same for all designs; set base.train.cpu_dev"),
    ],
)
def test_wrong_factors_are_named(change, message):
    with pytest.raises(UserError, match=message):
        designs.with_factors(default.get_config(), change)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"study.kind": "random"}, "study.kind is 'random'; use list, grid"),
        ({"study.space": ()}, "study.space is empty"),
        ({"study.space": (dict(factor="N"),)}, "factor N of study.space has no values"),
        ({"study.space": (1,)}, "study.space holds 1"),
        (
            {"study.space": (dict(factor=3, values=(1,)),)},
            "each needs factor: a text as",
        ),
        (
            {"study.kind": "list", "study.space": (dict(name=64, change={}),)},
            "each needs change and name: a text as name",
        ),
        (
            {"study.kind": "list", "study.space": (dict(name="a", change=None),)},
            "each needs change and name: a text as name",
        ),
        ({"study.reported": (("N2", "0.91"),)}, "study.reported is ..'N2', '0.91'"),
        (
            {"study.space": (dict(factor="N", values=3),)},
            "factor N of study.space has n",
        ),
        ({"base.train.repeats": 3}, "is not a multiple of train.repeats"),
        (
            {"study.pruner": "halving", "study.objectives": ("seconds",)},
            "accuracy or loss",
        ),
        ({"study.objectives": ("speed",)}, "use some of accuracy"),
        ({"study.seeds": 0}, "study.seeds is 0; use at least 1"),
        ({"base.data.validation": 0.0}, "chooses on validation images"),
        ({"base.train.max_seconds": 5.0}, "runs of a study have all their epochs"),
        ({"base.budget.limit": 10}, "no design of the study can run: N2"),
        (
            {"study.pruner": "halving", "study.objectives": ("accuracy", "macs")},
            "give a single one",
        ),
        (
            {"study.kind": "sample", "study.space": (dict(factor="N", low=3, high=2),)},
            "goes from 3 to 2",
        ),
        (
            {
                "study.kind": "sample",
                "study.space": (dict(factor="N", low=None, high=2),),
            },
            "goes from None to 2",
        ),
        (
            {"study.kind": "sample", "study.space": (dict(factor="X", values=(1,)),)},
            "unknown factor 'X'",
        ),
        (
            {"study.space": (dict(factor="data.name", values=("digits", "cifar10")),)},
            "data.name is the same for all designs; set base.data.name",
        ),
    ],
)
def test_wrong_studies_are_refused(keys, message):
    config = default.get_study_config()
    config.base.data.name = "digits"
    config.study.kind = "grid"
    config.study.space = (dict(factor="N", values=(2, 3)),)
    for key, value in keys.items():
        config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=message):
        study.make(config)


def test_a_number_is_drawn_as_what_its_key_is():
    config = default.get_study_config()
    config.base.data.name, config.study.kind = "digits", "sample"
    config.study.space = (
        dict(factor="optim.momentum", low=0.0, high=0.9),
        dict(factor="optim.weight_decay", low=0, high=1),
        dict(factor="train.batch_size", low=1, high=9),
    )
    kinds = {k: type(d).__name__ for k, d in study.make(config).distributions.items()}
    assert kinds == {
        "optim.momentum": "FloatDistribution",
        "optim.weight_decay": "FloatDistribution",
        "train.batch_size": "IntDistribution",
    }


def test_names_are_those_of_folders():
    names = [
        designs.candidate(rules(), each).name
        for each in (
            {"N": 2, "B": 7},
            {"optim.learning_rate": 1e-4, "schedule.name": "constant"},
            {"model.widths": (8, 16)},
            {"data.train_split": "a/b c"},
            {},
        )
    ]
    assert names[:3] == ["N2-B7", "learning_rate0.0001-constant", "widths8x16"]
    assert names[3:] == ["a_b_c", "base"]
    with pytest.raises(UserError, match="is called 'a/b'"):
        designs.fixed("list", [dict(name="a/b", change={})], rules())
    for names in (("a", "a"), ("a b", "a, b")):
        items = [dict(name=name, change={}) for name in names]
        with pytest.raises(UserError, match="two designs of study.space are called a"):
            designs.fixed("list", items, rules())


def test_published_table_8_is_of_its_config():
    """Each cell with each seed, and one worker or two the same."""
    path = FOLDER.parents[1] / "results" / "studies" / "table_8_small"
    made = study.make(config_of("table_8", "small"))
    expected = [
        (each.name, str(each.num_parameters), str(seed), "done")
        for each in made.candidates
        for seed in range(made.options.seeds)
    ]
    scores = []
    for name in ("results.csv", "results_of_two_workers.csv"):
        with (path / name).open(newline="") as file:
            lines = list(csv.DictReader(file))
        keys = ("design", "parameters", "seed", "state")
        assert [tuple(line[key] for key in keys) for line in lines] == expected
        scores.append([(line["accuracy"], line["loss"]) for line in lines])
    assert len(expected) == 84 and scores[0] == scores[1]

"""What the pages of the studies say of differences is what their results carry."""

import csv
import json
import pathlib
import re
import statistics
from collections import defaultdict

from scipy import stats

from cifar_jax import _packaged

STUDIES = pathlib.Path(__file__).parents[1] / "results/studies"


def accuracies(study):
    """Returns by design: validation accuracies of its seeds."""
    seeds = defaultdict(list)
    with open(STUDIES / study / "results.csv", newline="") as file:
        for row in csv.DictReader(file):
            seeds[row["design"]].append(float(row["accuracy"] or "nan"))
    return seeds


def differences(study):
    """Returns by design: difference from the first one, and corrected p of Welch."""
    base, *others = seeds = accuracies(study)
    found = {}
    for name in others:
        if len(seeds[name]) > 1:
            p = stats.ttest_ind(seeds[base], seeds[name], equal_var=False).pvalue
            difference = statistics.fmean(seeds[name]) - statistics.fmean(seeds[base])
            found[name] = difference, min(len(others) * p, 1.0)
    return found


def table(page, columns):
    rows = re.findall(r"^\| (.+) \|$", (STUDIES / page).read_text(), flags=re.M)
    cells = [[cell.strip("` ") for cell in row.split(" | ")] for row in rows]
    return [row for row in cells if len(row) == columns and "---" not in row[0]][1:]


def test_the_small_studies_show_what_their_page_lists_and_no_more():
    shown = {
        (path.parent.name, design, f"{difference:+.3f}", f"{p:.3f}")
        for path in STUDIES.glob("*_small/results.csv")
        for design, (difference, p) in differences(path.parent.name).items()
        if p < 0.05
    }
    listed = {
        (study, design, difference, p)
        for study, _, design, difference, p in table("README.md", 5)
    }
    assert listed == shown


def test_the_components_are_those_of_their_table():
    found = {
        (design, f"{difference:+.3f}", f"{p:.3f}")
        for design, (difference, p) in differences("components").items()
        if p < 0.11
    }
    assert {tuple(row) for row in table("components/README.md", 3)} == found


def test_twice_the_epochs_are_better_and_no_teacher_is_shown():
    found = differences("distillation")
    better = {name for name, (_, p) in found.items() if p < 0.05}
    assert better == {"base, twice the epochs"}
    page = (STUDIES / "distillation/README.md").read_text()
    difference, p = found["base, twice the epochs"]
    assert f"{difference:.3f} better than the base (p = {p:.3f})" in page


def test_the_rates_of_large_batches_are_those_of_their_table():
    found = accuracies("many_chips")
    mean = {name: statistics.fmean(values) for name, values in found.items()}
    rules = ("batch 512, rate x sqrt(8)", "batch 512, rate x 8")
    designs = ("batch 64", "batch 64, rate x 2", "batch 512", *rules)
    expected = []
    for name in ("sgd", "adamw", "muon"):
        pair = (found[f"{name}, {rule}"] for rule in rules)
        p = 3 * stats.ttest_ind(*pair, equal_var=False).pvalue
        scores = [f"{mean[f'{name}, {design}']:.3f}" for design in designs]
        expected.append([name, *scores, f"{min(p, 1):.3f}"])
    assert table("many_chips/README.md", 7) == expected


def test_no_setting_near_muons_is_shown_to_differ():
    found = differences("muon")
    assert len(found) == 7 and min(p for _, p in found.values()) > 0.05
    page = (STUDIES / "muon/README.md").read_text()
    for name in ("learning_rate0.1", "lr_multipliers_._bn._bias_4.0_"):
        difference, p = found[name]
        assert f"({difference:+.3f}, p = {p:.3f})" in page


def test_the_five_systems_have_the_curves_of_their_table():
    study = _packaged.read_config("configs/search/five_systems.py").study
    expected = {}
    for path in (STUDIES / "five_systems/curves").glob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        scores = [f"{row['accuracy']:.4f}" for row in rows if row["split"] == "val"]
        reported = dict(study.reported)[path.stem]
        expected[path.stem] = [f"{rows[-1]['step']:,}", *scores, f"{reported:g}"]
        config = STUDIES.parents[1] / f"configs/reports/{path.stem}.py"
        assert f"validation\naccuracy {scores[-1]} " in config.read_text()
    found = table("five_systems/README.md", 11)
    assert {name: cells[2:-1] for name, *cells in found} == expected
    assert len(expected) == 6 and all(len(cells) == 7 for cells in expected.values())

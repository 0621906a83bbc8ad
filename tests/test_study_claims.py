"""What the pages of the studies say of differences is what their results carry."""

import csv
import pathlib
import re
import statistics
from collections import defaultdict

from scipy import stats

STUDIES = pathlib.Path(__file__).parents[1] / "results/studies"


def differences(study):
    """Returns by design: difference from the first one, and corrected p of Welch."""
    seeds = defaultdict(list)
    with open(STUDIES / study / "results.csv", newline="") as file:
        for row in csv.DictReader(file):
            seeds[row["design"]].append(float(row["accuracy"] or "nan"))
    base, *others = seeds
    found = {}
    for name in others:
        if len(seeds[name]) > 1:
            p = stats.ttest_ind(seeds[base], seeds[name], equal_var=False).pvalue
            difference = statistics.fmean(seeds[name]) - statistics.fmean(seeds[base])
            found[name] = difference, min(1.0, len(others) * p)
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

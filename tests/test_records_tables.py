"""The table of records in README.md: made from their files, and up to date."""

import json
import pathlib
import re

import numpy as np
import pytest
from support import scripts
from support.made_runs import make_config, make_record, make_result

from cifar_jax import UserError

tables = scripts.load("records_tables")
ROOT = pathlib.Path(__file__).parent.parent
PAGE = f"# Title\n\nbefore\n\n{tables.BEGIN}\nold\n{tables.END}\n\nafter\n"


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    (folder / "seeds").mkdir(parents=True)
    for seed, test in enumerate((0.91, 0.93, 0.95)):
        result = make_result(make_config(seed=seed), test=test)
        (folder / "seeds" / f"{seed}.json").write_text(json.dumps(result))
    record = make_record((0.80, 0.84, 0.81))
    (folder / "recipe.json").write_text(json.dumps(record))
    (folder / "speed.json").write_text(json.dumps({"contenders": {}}))
    for page in (tmp_path / "README.md", folder / "README.md"):
        page.write_text(PAGE)
    return folder


def rows(page, table=0):
    """Returns the rows of one of a page's tables."""
    found = re.findall(r"(?:^\| .*\n)+", page, re.M)[table]
    header, _, *rest = (
        [cell.strip() for cell in line.split("|")[1:-1]] for line in found.splitlines()
    )
    return [dict(zip(header, row, strict=True)) for row in rest]


def test_every_record_has_a_row_and_every_row_its_files(results):
    pages = tables.pages(results)
    assert list(pages) == [results.parent / "README.md", results / "README.md"]
    for path, page in pages.items():
        assert page.startswith("# Title\n\nbefore") and page.endswith("\n\nafter\n")
        assert "\nold\n" not in page
        first, second = rows(page)
        links = re.findall(r"\]\((.+?)\)", first["record"])
        assert [pathlib.Path(link).stem for link in links] == ["0", "1", "2"]
        assert all((path.parent / link).is_file() for link in links)
        assert (path.parent / re.search(r"\((.+)\)", second["record"])[1]).is_file()
        std = np.std([0.91, 0.93, 0.95], ddof=1)
        assert (first["test accuracy"], first["seeds"]) == (f"0.9300 ± {std:.4f}", "3")
        std = np.std([0.80, 0.84, 0.81], ddof=1)
        assert second["test accuracy"] == f"0.8167 ± {std:.4f}"
        assert second["seeds"] == "3"


def test_the_table_is_stale_when_a_record_changes(results):
    page = results / "README.md"
    page.write_text(tables.pages(results)[page])
    assert tables.pages(results)[page] == page.read_text()
    record = make_record((0.80, 0.84, 0.82))
    (results / "recipe.json").write_text(json.dumps(record))
    assert tables.pages(results)[page] != page.read_text()


def test_records_on_other_devices_have_rows_of_their_own(results):
    other = make_result(make_config(seed=9)) | {"device": "gpu (made)"}
    (results / "other.json").write_text(json.dumps(other))
    assert len(rows(tables.pages(results)[results / "README.md"])) == 3


def test_a_record_that_chose_on_test_is_marked(results):
    config = make_config(seed=3, evaluate__select_on="test", data__validation=0)
    result = make_result(config, test=0.99, val=None)
    (results / "chosen.json").write_text(json.dumps(result))
    page = tables.pages(results)[results / "README.md"]
    assert "0.9900 †" in page and "too high to compare" in page


def test_clocks_and_the_note_on_the_data_stand_beside_a_record(results):
    page = tables.pages(results)[results / "README.md"]
    assert "Data of recipe: made, 3 images differ." in page
    (row,) = rows(page, 1)
    assert row.pop("record").startswith("[recipe](")
    assert row == {
        "training": "5.0",
        "with evaluation": "6.1",
        "cold process": "70.2",
        "images/s": "12,346",
        "TFLOP/s": "250",
        "of the peak": "34.6%",
        "device": "1 x gpu",
    }


def test_speeds_stand_beside_those_of_peers(results):
    def measured(rate, faster):
        rates = {"images_per_second": {"median": rate}}
        return {**rates, "ours_is_faster": {"median": faster}}

    ours = {"train": measured(200.4, 1.0), "infer": measured(900, 1.0), "device": "gpu"}
    torch = {"train": measured(100, 2.004), "infer": measured(100, 9.0)}
    peers = {"ours": ours, "torch": torch}
    (results / "speed.json").write_text(json.dumps({"contenders": peers}))
    ours = {"train": measured(300, 1.0), "device": "tpu"}
    peers = {"ours": ours, "plain_flax": {"train": measured(400, 0.75)}}
    (results / "other.json").write_text(json.dumps({"contenders": peers}))
    page = tables.pages(results)[results / "README.md"]
    found = [list(row.values())[1:] for row in rows(page, 2)]
    assert list(rows(page, 2)[0])[2:-1] == ["ours", "plain flax", "torch"]
    assert found == [
        ["training", "300 (1.00)", "400 (0.75)", "–", "tpu"],
        ["training", "200 (1.00)", "–", "100 (2.00)", "gpu"],
        ["inference", "900 (1.00)", "–", "100 (9.00)", "gpu"],
    ]


def test_what_studies_have_chosen_is_shown(results):
    winner = {"design": "N3-B2", "parameters": 44_370, "seeds": [0, 1, 2]}
    winner |= {"validation": [0.5, 0.7, 0.6], "test": [0.4, 0.6]}
    folder = results / "studies" / "table_8"
    folder.mkdir(parents=True)
    (folder / "winner.json").write_text(json.dumps(winner))
    (folder / "table.md").write_text("")
    page = tables.pages(results)[results / "README.md"]
    (row,) = rows(page, 2)
    assert row.pop("study") == "[table\\_8](studies/table_8/table.md)"
    accuracies = ["0.6000 ± 0.1000", "0.5000 (0.4000, 0.6000)"]
    assert list(row.values()) == ["N3-B2", "44,370", "3", *accuracies]
    winner |= {"design": "t0012", "factors": {"N": 3, "optim.name": "sgd"}}
    (folder / "winner.json").write_text(json.dumps(winner))
    page = tables.pages(results)[results / "README.md"]
    assert rows(page, 2)[0]["selected"] == "N 3, name sgd"


def test_what_recipes_were_chosen_by_is_apart_from_the_records(results):
    (results / "comparisons").mkdir()
    tried = json.dumps(make_record((0.7, 0.7)))
    (results / "comparisons" / "tried.json").write_text(tried)
    above, own = tables.pages(results).values()
    assert "tried" not in above and len(rows(own)) == 2
    (row,) = rows(own[own.index(tables.COMPARED) :])
    assert row["record"] == "[tried](comparisons/tried.json)"


@pytest.mark.parametrize("page", ["", tables.BEGIN, tables.END + tables.BEGIN])
def test_pages_without_both_markers_are_refused(results, page):
    (results / "README.md").unlink()
    (results.parent / "README.md").write_text(page)
    with pytest.raises(UserError, match="records:begin"):
        tables.pages(results)


def test_a_folder_without_records_changes_no_page(results):
    with pytest.raises(UserError, match="no records; give the folder results"):
        tables.pages(results.parent / "result")


def test_damaged_records_are_refused(results):
    (results / "recipe.json").write_text('{"recipe": ')
    with pytest.raises(UserError, match="recipe.json is damaged"):
        tables.pages(results)


def test_the_pages_of_this_project_are_up_to_date():
    pages = tables.pages(ROOT / "results")
    assert set(pages) == {ROOT / "README.md", ROOT / "results" / "README.md"}
    for path, page in pages.items():
        assert path.read_text() == page, "run python scripts/records_tables.py"


def test_the_script_writes_what_is_stale(results):
    page = results / "README.md"
    code, _, message = scripts.call("records_tables", f"--folder={results}", "--check")
    assert code == 1 and f"{page} not up to date" in message
    code, text, _ = scripts.call("records_tables", f"--folder={results}")
    assert code == 0 and f"{page}: written" in text
    code, text, _ = scripts.call("records_tables", f"--folder={results}", "--check")
    assert code == 0 and f"{page}: up to date" in text

"""The networks of runs: their layers, their size, and what they cost."""

from collections.abc import Sequence

from cifar_jax import UserError
from cifar_jax.models import count
from cifar_jax.reporting.document import Cell, Note, Section, Table
from cifar_jax.reporting.groups import Group
from cifar_jax.reporting.run import Run
from cifar_jax.training import pretrained


class Networks:
    """Layer tables, each made once."""

    def __init__(self):
        self._rows: dict[str, Sequence[count.Row] | UserError] = {}

    def rows(self, run: Run) -> Sequence[count.Row] | UserError | None:
        """Returns the layers of a run's network.

        A record has none: what its images were is not in it. A network of another
        version of the package may be one that this one does not know: its error.
        """
        if run.is_record:
            return None
        key = self.key(run)
        if key not in self._rows:
            try:
                network = pretrained.abstract_model(run.config, run.dataset)
                rows = count.layer_table(network.model, network.image_shape)
                self._rows[key] = rows
            except UserError as error:
                self._rows[key] = error
        return self._rows[key]

    def key(self, run: Run) -> str:
        """Returns what runs of one network have in common."""
        shape, names = run.dataset["image_shape"], run.dataset["label_names"]
        return repr((run.config["model"], shape, len(names)))

    def parameters(self, run: Run) -> int | None:
        """Returns the trainable parameters."""
        if run.result:
            return run.result["num_parameters"]
        rows = self.rows(run)
        return count.total(rows).parameters if isinstance(rows, list) else None

    def flops(self, run: Run) -> int | None:
        """Returns the FLOPs for one image: two for a multiply-add."""
        if run.result:
            return run.result["flops_per_image"]
        rows = self.rows(run)
        return 2 * count.total(rows).macs if isinstance(rows, list) else None


def section(groups: Sequence[Group], networks: Networks) -> Section:
    """Returns the parameter tables, one for each network."""
    runs = {}
    for group in groups:
        for run in group.runs:
            if not run.is_record:
                runs.setdefault(networks.key(run), []).append((group, run))
    blocks = []
    for members in runs.values():
        names = dict.fromkeys(group.name for group, _ in members)
        parts = _tables(members[0][1], networks)
        single = len(runs) == 1
        blocks += parts if single else [Section(", ".join(names), parts)]
    if not blocks:
        blocks = [Note("A record holds no class names and no image shape: no layers.")]
    return Section("Parameters", blocks)


def _tables(run: Run, networks: Networks) -> list:
    rows = networks.rows(run)
    if isinstance(rows, UserError):
        return [Note(f"This version cannot rebuild the network: {rows}", warns=True)]
    sums, limit = count.total(rows), run.setting("budget.limit")
    shape = "x".join(map(str, run.dataset["image_shape"]))
    note = Note(
        f"{count.budget_line(sums.parameters, limit)}. For an image of {shape}: "
        f"{sums.macs:,} multiply-adds of convolutions and linear layers, twice as many "
        "FLOPs."
    )
    stages = _table("Parts of the network", "part", count.by_stage(rows), sums)
    layers = _table("Layers", "layer", rows, sums)
    return [note, stages, Section(f"All {len(rows)} layers", [layers], folded=True)]


def _table(caption: str, what: str, rows: Sequence[count.Row], sums) -> Table:
    columns = [what, "output", "parameters", "share", "multiply-adds", "share"]
    lines = [_line(row, sums) for row in rows]
    return Table(caption, columns, lines, total=_line(sums, sums))


def _line(row: count.Row, sums: count.Row) -> list[Cell]:
    shape = "x".join(map(str, row.output_shape)) if row is not sums else ""
    cells = [Cell(row.name), Cell(shape)]
    for value, whole in ((row.parameters, sums.parameters), (row.macs, sums.macs)):
        share = value / whole
        cells += [Cell(f"{value:,}", value), Cell(f"{share:.1%}", share)]
    return cells

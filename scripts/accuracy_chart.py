"""Draws test accuracy against training operations and parameters, beside others'.

python scripts/accuracy_chart.py --output docs/accuracy.png

Ours come from the records in a folder. The others are what their authors or the named
sources published, on CIFAR-10; nobody reran them here. Prints a table of all.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

from cifar_jax import UserError, _cli

SIX_VIEWS = "six views"


@dataclasses.dataclass(frozen=True)
class Point:
    """A network and what it reached on the test images.

    Attributes:
      name: Name of the network, and of its recipe.
      parameters: Number of trainable parameters, in millions.
      gflops: Forward pass of an image, in GFLOPs; a multiply-add is two operations.
      epochs: Number of epochs.
      accuracy: Test accuracy; the mean, of several seeds.
      views: How the test images were shown.
      source: Where this is published.
      images: Number of training images that an epoch shows.
    """

    name: str
    parameters: float
    gflops: float
    epochs: float
    accuracy: float
    views: str
    source: str
    images: float = 50_000

    @property
    def petaflops(self) -> float:
        """Operations of the training, in 10^15: a backward pass is two forward ones."""
        return 3 * self.images * self.epochs * self.gflops / 1e6


HE = "He et al., 2015, arXiv:1512.03385"
AIRBENCH = "Jordan, 2024, arXiv:2404.00498"
HYSTS = "hysts/pytorch_image_classification, one run"
KAKAO = "Lim et al., 2019, arXiv:1905.00397"
# Operations are computed from the architectures; accuracies are the sources'.
PUBLISHED = (
    Point("ResNet-20", 0.27, 0.082, 164, 0.9125, "plain", HE),
    Point("ResNet-56", 0.85, 0.251, 164, 0.9303, "plain", HE),
    Point("WRN-40-2", 2.24, 0.655, 200, 0.947, "plain", KAKAO),
    Point("WRN-40-2, cutout", 2.24, 0.655, 200, 0.959, "plain", KAKAO),
    Point("WRN-40-2, AutoAugment", 2.24, 0.655, 200, 0.963, "plain", KAKAO),
    Point("WRN-22-4", 4.33, 1.295, 200, 0.9509, "plain", HYSTS),
    Point("WRN-22-4, RICAP", 4.33, 1.295, 400, 0.9689, "plain", HYSTS),
    Point("airbench94", 1.97, 0.242, 9.9, 0.9401, SIX_VIEWS, AIRBENCH),
    Point("airbench95", 4.61, 0.603, 15, 0.9501, SIX_VIEWS, AIRBENCH),
    Point("airbench96", 9.92, 0.885, 37, 0.9603, SIX_VIEWS, AIRBENCH),
)

# On which side of a point its name stands, and how many points above it, where the
# usual place (right, 0) is taken: by axis and name.
LEFT, RIGHT = -1, 1
PLACES = {
    "petaflops": {
        "resnet_4p9m": (LEFT, 2),
        "seconds": (LEFT, 0),
        "seconds-cpu": (RIGHT, 3),
        "minute": (RIGHT, 0),
        "airbench94": (LEFT, 0),
        "airbench96": (LEFT, 0),
        "cifar10_cpu": (LEFT, 0),
        "cifar10_cpu_hour": (RIGHT, -6),
    },
    "parameters": {
        "best": (LEFT, 0),
        "WRN-40-2": (LEFT, 0),
        "WRN-40-2, cutout": (LEFT, 0),
        "WRN-40-2, AutoAugment": (LEFT, 0),
        "WRN-22-4": (LEFT, 5),
        "WRN-22-4, RICAP": (LEFT, 0),
        "airbench94": (LEFT, 0),
        "airbench95": (RIGHT, -6),
        "minute": (RIGHT, -5),
        "seconds": (RIGHT, 5),
        "seconds-cpu": (RIGHT, -5),
        "resnet_4p9m": (RIGHT, 3),
        "cifar10_cpu": (LEFT, 0),
        "cifar10_cpu_hour": (RIGHT, -13),
    },
}


def define_flags(flags: _cli.Flags) -> None:
    """Defines the command's flags."""
    flags.add_string("folder", "folder with the records of CIFAR-10", "results")
    flags.add_string("output", "picture", "docs/accuracy.png")


def main(flags: _cli.Flags) -> None:
    """Draws the picture and prints the table."""
    ours = read(pathlib.Path(flags.folder))
    draw(ours, pathlib.Path(flags.output))
    print(table([*ours, *PUBLISHED]))


def read(folder: pathlib.Path) -> list[Point]:
    """Returns what the records in a folder reached, plain and with six views.

    Raises:
      UserError: If there is none.
    """
    points = []
    for path in sorted(folder.glob("records/*.json")):
        record = json.loads(path.read_text())
        config = record["config"]
        epochs = config["train"]["epochs"]
        scores = {"test": "plain"}
        if config["evaluate"].get("tta") == "multicrop":
            scores["test_tta"] = SIX_VIEWS
        for key, views in scores.items():
            points.append(
                Point(
                    path.stem.removesuffix("-full"),
                    record["num_parameters"] / 1e6,
                    record["flops_per_image"] / 1e9,
                    epochs,
                    record[key]["mean"],
                    views,
                    path.relative_to(folder.parent).as_posix(),
                    record["seeds"][0]["steps"]
                    * config["train"]["batch_size"]
                    / epochs,
                )
            )
    if not points:
        raise UserError(f"{folder} has no records; give the folder results")
    return points


def table(points: Sequence[Point]) -> str:
    """Returns the points as a Markdown table, the most accurate first."""
    lines = [
        "| network | parameters, M | GFLOPs an image | epochs | training, PFLOP "
        "| test images | accuracy | source |",
        "| --- | ---: | ---: | ---: | ---: | --- | ---: | --- |",
    ]
    for point in sorted(points, key=lambda point: -point.accuracy):
        source = point.source
        if point not in PUBLISHED:
            source = f"[ours](../{source})"
        lines.append(
            f"| {point.name} | {point.parameters:.2f} | {point.gflops:.3f} | "
            f"{point.epochs:g} | {point.petaflops:.2g} | {point.views} | "
            f"{point.accuracy:.4f} | {source} |"
        )
    return "\n".join(lines)


def draw(ours: Sequence[Point], path: pathlib.Path) -> None:
    """Draws accuracy against operations and against parameters into a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    labels = {
        "petaflops": "operations of the training, PFLOP",
        "parameters": "parameters, millions (dotted: the budget)",
    }
    for ax, (key, label) in zip(axes, labels.items(), strict=True):
        for point in [*PUBLISHED, *ours]:
            color = "#767676" if point in PUBLISHED else "#0b62a4"
            side, above = PLACES[key].get(point.name, (RIGHT, 0))
            place = (getattr(point, key), point.accuracy)
            filled = color if point.views == "plain" else "white"
            ax.plot(*place, "o", color=color, mfc=filled, ms=6)
            ax.annotate(
                point.name,
                place,
                xytext=(7 * side, above),
                textcoords="offset points",
                ha="left" if side == RIGHT else "right",
                va="center",
                fontsize=8,
                color=color,
            )
        ax.set(xscale="log", xlabel=label)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.margins(x=0.4)
        ax.grid(alpha=0.25)
    axes[1].axvline(5, color="#b00020", lw=1, ls=":")
    axes[0].set_ylabel("test accuracy on CIFAR-10")
    figure.suptitle(
        "Blue: ours. Grey: published. Open circles: mean of six views of each image",
        fontsize=10,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    _cli.run()

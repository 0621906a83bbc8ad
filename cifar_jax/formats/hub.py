"""A folder that a model hub takes as it is: weights, config, and a card to read."""

import pathlib

from cifar_jax._files import OutputFolder
from cifar_jax.formats import safetensors_file
from cifar_jax.formats.export import Card, Format
from cifar_jax.training.pretrained import LoadedModel
from cifar_jax.training.results import wilson_interval


def write(network: LoadedModel, path: pathlib.Path, card: Card) -> None:
    """Writes model.safetensors and README.md; config.json is the card.

    hub_card.md is what README.md is made of.
    """
    folder = OutputFolder(path)
    with folder.file("model.safetensors") as file:
        safetensors_file.write(network, file, card)
    dataset, lines = card["dataset"], []
    name = dataset["name"]
    if name.startswith(("/", "~", ".")) or pathlib.Path(name).exists():
        name = pathlib.Path(name).expanduser().resolve().name
    chosen_on = card["config"]["evaluate"]["select_on"]
    for split in ("val", "test"):
        scores = (card["result"] or {}).get(split)
        if scores:
            total = scores["num_examples"]
            mark = ", which chose the epoch" if split == chosen_on == "test" else ""
            low, high = wilson_interval(round(scores["accuracy"] * total), total)
            lines.append(
                f"- {split} accuracy {scores['accuracy']:.4f} (95% interval {low:.4f} "
                f"to {high:.4f}, {total:,} images{mark})"
            )
    template = pathlib.Path(__file__).with_name("hub_card.md").read_text("utf-8")
    text = template.format(
        name=f"cifar_jax network for {name}",
        dataset=name,
        num_parameters=card["num_parameters"],
        shape="x".join(map(str, dataset["image_shape"])),
        classes=", ".join(dataset["label_names"]),
        scores="\n".join(lines) or "Its accuracy is not known.",
    )
    folder.text("README.md", text)


FORMAT = Format("", write, safetensors_file.read)

"""Labels images: python -m cifar_jax.predict --workdir RUN --input X --output FILE.

X is any source, labelled or not: a folder of images, one image, .npy, .npz, a pickled
batch, an archive, a TFDS data set. FILE is CSV with the header ID,Labels; an image that
cannot be read gets an empty label and its error.
"""

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cifar_jax import UserError, _cli, _runtime
from cifar_jax.config import TTA_NAMES

if TYPE_CHECKING:
    from cifar_jax.evaluation import predictions


def define_flags(flags: _cli.Flags) -> None:
    """Defines the command's flags."""
    _cli.define_network(flags)
    flags.add_string("input", "source of images, such as a folder")
    flags.add_string("output", "CSV file to write")
    flags.add_string("data_dir", "folder of TFDS data sets")
    flags.add_integer(
        "topk", "also write the most likely classes and their probabilities", 0
    )
    flags.add_bool("probabilities", "also write the probability of each class")
    flags.add_bool("spreadsheet", "put ' before IDs that begin like formulas: = + - @")
    flags.add_enum("tta", "test-time augmentation", "none", enum_values=TTA_NAMES)
    flags.add_bool("resize", "resize images of another size (bicubic)")
    flags.add_bool("overwrite", "replace the output if it exists")
    flags.add_integer("batch_size", "images in a call", 500, lower_bound=1)


def main(flags: _cli.Flags) -> None:
    """Writes the predictions, and prints what they are."""
    network = _cli.chosen_network(flags)
    for name in ("input", "output"):
        if not getattr(flags, name):
            raise _cli.UsageError(f"--{name} is missing; see --help")
    network["workdir"] = _cli.trained(network["workdir"])
    # slow to import: not for --help
    from cifar_jax.data import sources

    sources.check(flags.input)
    _runtime.start()
    from cifar_jax.evaluation import inference, predictions

    output = pathlib.Path(flags.output)
    predictions.check_path(output, flags.overwrite)
    predictor = inference.Predictor(
        **network, batch_size=flags.batch_size, tta=flags.tta
    )
    dataset = sources.open_split(
        flags.input,
        flags.data_dir or predictor.network.config["data"]["dir"],
        image_shape=predictor.network.image_shape,
        resize=flags.resize,
    )
    with inference.progress("labelling", len(dataset)) as advance:
        summary = predictions.write(
            predictor,
            dataset,
            output,
            top_k=flags.topk,
            probabilities=flags.probabilities,
            spreadsheet=flags.spreadsheet,
            advance=advance,
        )
    _show(summary, predictor.network.label_names, output)


def _show(
    summary: "predictions.Summary", names: Sequence[str], output: pathlib.Path
) -> None:
    """Prints how many images got each label, or refuses a source of errors alone."""
    first_error = next(iter(summary.errors.values()), None)
    if len(summary.errors) == summary.num_images:
        raise UserError(
            f"none of the {summary.num_images:,} images can be read, the first one: "
            f"{first_error}"
        )
    width, num_labelled = max(map(len, names)), max(1, summary.counts.sum())
    for label, (name, count) in enumerate(zip(names, summary.counts, strict=True)):
        share = count / num_labelled
        print(f"{label:>4}  {name:<{width}}  {count:>9,}  {share:6.1%}")
    speed = summary.num_images / summary.seconds
    print(f"{output}: {summary.num_images:,} images, {speed:,.0f} images/s")
    if summary.errors:
        print(
            f"{len(summary.errors):,} of them could not be read and got an error, not "
            f"a label; the first: {first_error}"
        )


if __name__ == "__main__":
    _cli.run()

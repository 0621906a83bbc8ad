"""Labels images: python -m cifar_jax.predict --workdir RUN --input X --output FILE.

X is any source, labelled or not: a folder of images, one image, .npy, .npz, a pickled
batch, an archive, a TFDS data set. FILE is CSV with the header ID,Labels; an image that
cannot be read gets an empty label and its error.
"""

import pathlib

from cifar_jax import UserError, _cli, _runtime, formats
from cifar_jax.config import TTA_NAMES


def define_flags(flags: _cli.Flags) -> None:
    """Defines the command's flags."""
    _cli.define_network(flags)
    flags.add_string("input", "source of images, such as a folder", required=True)
    flags.add_string("output", "CSV file to write", required=True)
    flags.add_string("data_dir", "folder of TFDS data sets")
    flags.add_integer("topk", "also write the likeliest classes", 0, lower_bound=0)
    flags.add_bool("probabilities", "also write the probability of each class")
    flags.add_bool("spreadsheet", "put ' before IDs that begin like formulas: = + - @")
    flags.add_enum("tta", "test-time augmentation", "none", enum_values=TTA_NAMES)
    flags.add_bool("resize", "resize images of another size (bicubic)")
    flags.add_bool("overwrite", "replace the output if it exists")
    flags.add_integer("batch_size", "images in a call", 500, lower_bound=1)


def main(flags: _cli.Flags) -> None:
    """Writes the predictions, and prints what they are."""
    chosen = _cli.chosen_network(flags)
    output = pathlib.Path(flags.output)
    if output.exists() and not (flags.overwrite and output.is_file()):
        raise UserError(
            f"{output} exists; give another --output, or --overwrite for a file"
        )
    # slow to import: not for --help
    from cifar_jax.data import sources

    sources.check(flags.input)
    _runtime.start()
    from cifar_jax.evaluation import predictions
    from cifar_jax.evaluation.inference import Predictor

    network = formats.load(**chosen)
    dataset = sources.open_split(
        flags.input,
        flags.data_dir or network.config["data"]["dir"],
        image_shape=network.image_shape,
        resize=flags.resize,
    )
    summary = predictions.write(
        Predictor(network, batch_size=flags.batch_size, tta=flags.tta),
        dataset,
        output,
        top_k=flags.topk,
        probabilities=flags.probabilities,
        spreadsheet=flags.spreadsheet,
    )
    print(summary.text(network.label_names))
    print(f"{output}: {summary.num_images:,} images of {dataset.name}")


if __name__ == "__main__":
    _cli.run()

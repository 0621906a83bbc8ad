"""Labels images: python -m cifar_jax.predict --workdir RUN --input X --output FILE.

X is any source, labelled or not: a folder of images, one image, .npy, .npz, a pickled
batch, an archive, a TFDS data set. FILE is CSV with the header ID,Labels; an image that
cannot be read gets an empty label and its error.
"""

import pathlib

from absl import flags

from cifar_jax import UserError, _cli, _runtime

_NETWORK = _cli.define_network()
_INPUT = flags.DEFINE_string("input", None, "source of images, such as a folder")
_OUTPUT = flags.DEFINE_string("output", None, "CSV file to write")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "folder of TFDS data sets")
_TOP_K = flags.DEFINE_integer(
    "topk", 0, "also write the most likely classes and their probabilities"
)
_PROBABILITIES = flags.DEFINE_bool(
    "probabilities", False, "also write the probability of each class"
)
_TTA = flags.DEFINE_enum(
    "tta", "none", ["none", "flip", "multicrop"], "test-time augmentation"
)
_RESIZE = flags.DEFINE_bool("resize", False, "resize images of another size (bicubic)")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "replace the output if it exists")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 500, "images in a call", lower_bound=1)


def main() -> int:
    """Writes the predictions, and prints how many images got each label."""
    network = _NETWORK()
    for flag in (_INPUT, _OUTPUT):
        if not flag.value:
            raise _cli.UsageError(f"--{flag.name} is missing; see --help")
    # slow to import: not for --help
    from cifar_jax.data import sources
    from cifar_jax.evaluation import inference, predictions, progress

    _runtime.start()
    output = pathlib.Path(_OUTPUT.value)
    predictions.check_path(output, _OVERWRITE.value)
    predictor = inference.Predictor(
        **network, batch_size=_BATCH_SIZE.value, tta=_TTA.value
    )
    table = sources.open_split(
        _INPUT.value,
        _DATA_DIR.value or predictor.network.config["data"]["dir"],
        image_shape=predictor.network.image_shape,
        resize=_RESIZE.value,
    )
    with progress.progress("labelling", len(table)) as advance:
        summary = predictions.write(
            predictor,
            table,
            output,
            top_k=_TOP_K.value,
            probabilities=_PROBABILITIES.value,
            advance=advance,
        )
    print(_histogram(summary, predictor.network.label_names))
    speed = summary.num_images / summary.seconds
    print(f"{output}: {summary.num_images:,} images, {speed:,.0f} images/s")
    if summary.num_failed == summary.num_images:
        raise UserError(
            f"none of the {summary.num_images:,} images can be read, the first one: "
            f"{summary.first_error}"
        )
    if summary.num_failed:
        print(
            f"{summary.num_failed:,} of them could not be read and got an error, not a "
            f"label; the first: {summary.first_error}"
        )
    return 0


def _histogram(summary, label_names) -> str:
    """Returns a line for each class: how many images got its label."""
    width, total = max(map(len, label_names)), max(1, summary.counts.sum())
    return "\n".join(
        f"{label:>4}  {name:<{width}}  {count:>9,}  {count / total:6.1%}"
        for label, (name, count) in enumerate(
            zip(label_names, summary.counts, strict=True)
        )
    )


if __name__ == "__main__":
    _cli.run(main, __doc__)

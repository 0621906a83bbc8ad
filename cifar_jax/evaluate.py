"""Scores a run on labelled images: python -m cifar_jax.evaluate --workdir RUN.

--data takes any labelled source, such as cifar10:test, a folder with a sub-folder for
each class, or one laid out as CIFAR-10-C. Prints the figures, and writes
evaluation.json, tables and pictures.
"""

import pathlib

from absl import flags

from cifar_jax import _cli, _runtime

_NETWORK = _cli.define_network()
_DATA = flags.DEFINE_string("data", None, "labelled source [the run's own test images]")
_VALIDATION = flags.DEFINE_bool(
    "validation", False, "the images that the run held out, instead of --data"
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "folder of TFDS data sets [that of the run]"
)
_RESIZE = flags.DEFINE_bool("resize", False, "resize images of another size (bicubic)")
_TTA = flags.DEFINE_enum(
    "tta",
    "none",
    ["none", "flip", "multicrop"],
    "test-time augmentation, scored beside the plain images",
)
_TEMPERATURE = flags.DEFINE_bool(
    "temperature", False, "fit a temperature on the run's own validation images"
)
_CORRUPTIONS = flags.DEFINE_bool(
    "corruptions", False, "also score under nine corruptions of five strengths"
)
_SEED = flags.DEFINE_integer("seed", 0, "of the corruptions' noise", lower_bound=0)
_COMPARE = flags.DEFINE_multi_string(
    "compare", [], "another run, compared by McNemar's test; may be repeated"
)
_LATENCY = flags.DEFINE_bool("latency", False, "also measure latency and throughput")
_OUTPUT = flags.DEFINE_string("output", None, "folder [evaluation, in the run's]")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 500, "images in a call", lower_bound=1)


def main() -> None:
    """Evaluates, and prints the figures."""
    network = _NETWORK()
    # slow to import: not for --help
    from cifar_jax.evaluation import evaluation, summary
    from cifar_jax.evaluation.output import Output

    _runtime.start()
    request = evaluation.Request(
        **network,
        data=_DATA.value,
        validation=_VALIDATION.value,
        data_dir=_DATA_DIR.value,
        resize=_RESIZE.value,
        tta=_TTA.value,
        temperature=_TEMPERATURE.value,
        corruptions=_CORRUPTIONS.value,
        seed=_SEED.value,
        compare=_COMPARE.value,
        speed=_LATENCY.value,
        batch_size=_BATCH_SIZE.value,
    )
    output = Output(pathlib.Path(_OUTPUT.value or network["workdir"] / "evaluation"))
    record = evaluation.evaluate(request, output)
    print(summary.lines(record))
    print(f"{output.folder}: {', '.join(output.files)}")


if __name__ == "__main__":
    _cli.run(main, __doc__)

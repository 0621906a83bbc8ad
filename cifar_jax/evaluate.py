"""Scores a run on labelled images: python -m cifar_jax.evaluate --workdir RUN.

--data takes any labelled source, such as cifar10:test, a folder with a sub-folder for
each class, or one laid out as CIFAR-10-C. Prints the figures, and writes
evaluation.json, tables and pictures.
"""

import dataclasses

from cifar_jax import _cli, _runtime
from cifar_jax._files import OutputFolder
from cifar_jax.config import TTA_NAMES


def define_flags(flags: _cli.Flags) -> None:
    """Defines the command's flags."""
    _cli.define_network(flags)
    flags.add_string("data", "labelled source [the run's own test images]")
    flags.add_bool("validation", "the images that the run held out, instead of --data")
    flags.add_string("data_dir", "folder of TFDS data sets [that of the run]")
    flags.add_bool("resize", "resize images of another size (bicubic)")
    flags.add_enum(
        "tta",
        "test-time augmentation, scored beside the plain images",
        "none",
        enum_values=TTA_NAMES,
    )
    flags.add_bool(
        "temperature", "fit a temperature on the run's own validation images"
    )
    flags.add_bool("corruptions", "also score under nine corruptions of five strengths")
    flags.add_integer("seed", "of the corruptions' noise", 0, lower_bound=0)
    flags.add_multi_string(
        "compare", "another run, compared by McNemar's test; may be repeated"
    )
    flags.add_bool("latency", "also measure latency and throughput")
    flags.add_string("output", "folder [evaluation, in the run directory]")
    flags.add_integer("batch_size", "images in a call", 500, lower_bound=1)


def main(flags: _cli.Flags) -> None:
    """Evaluates, and prints the figures."""
    network = _cli.chosen_network(flags)
    folder = _cli.output_folder(flags, network["workdir"], "evaluation")
    # slow to import: not for --help
    from cifar_jax.data import sources

    if flags.data:
        sources.check(flags.data)
    _runtime.start()
    from cifar_jax.evaluation import evaluate

    # The other fields of a request are named as the flags.
    fields = [field.name for field in dataclasses.fields(evaluate.Request)]
    options = {name: getattr(flags, name) for name in fields if name not in network}
    output = OutputFolder(folder)
    record = evaluate.evaluate(evaluate.Request(**network, **options), output)
    print(evaluate.summary(record))
    print(f"{output.path}: {', '.join(output.files)}")


if __name__ == "__main__":
    _cli.run()

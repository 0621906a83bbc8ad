"""Makes a network smaller: python -m cifar_jax.compress --workdir RUN --prune=0.5.

--prune trains the network for a few more epochs while its smallest weights become zero;
--int8 writes it with arithmetic of 8 bits. All forms are written as ONNX files and
compared in size, time and accuracy. Rerun the command to resume an interrupted one.
"""

from cifar_jax import UserError, _cli, _runtime
from cifar_jax import config as default
from cifar_jax._files import OutputFolder


def define_flags(flags: _cli.Flags) -> None:
    """Defines the command's flags."""
    flags.add_string("workdir", _cli.NETWORK)
    flags.add_float(
        "prune",
        "share of the weights in the blocks' kernels that become zero",
        0.0,
        lower_bound=0,
        upper_bound=0.99,
    )
    flags.add_integer(
        "epochs", "to prune in [a fifth of the run's, at least 2]", lower_bound=1
    )
    flags.add_float(
        "learning_rate", "to prune with, at its peak [a quarter of the run's]"
    )
    flags.add_bool("int8", "also write the networks with 8 bits")
    flags.add_string("output", "folder [compression, in the run's]")
    flags.add_string("data_dir", "folder of TFDS data sets [that of the run]")


def main(flags: _cli.Flags) -> None:
    """Makes the networks, and prints the table."""
    if not flags.workdir:
        raise _cli.UsageError("--workdir RUN is missing, such as runs/cifar10_cpu")
    if not (flags.prune or flags.int8):
        raise _cli.UsageError("nothing to do; give --prune, --int8, or both")
    if not flags.prune and (flags.epochs or flags.learning_rate is not None):
        raise _cli.UsageError("--epochs and --learning_rate need --prune")
    workdir = _cli.trained(flags.workdir)
    folder = _cli.output_folder(flags, workdir, "compression")
    # slow to import: not for --help
    from cifar_jax import formats
    from cifar_jax.training import pretrained

    card = pretrained.read_card(workdir)
    config = default.config_from_dict(card["config"], workdir)
    config.data.dir = flags.data_dir or config.data.dir
    formats.find("onnx")  # before an hour of training: the extra may be missing
    _runtime.start(config.train.cpu_devices)
    from cifar_jax.evaluation import compression

    pruning = None
    if flags.prune:
        pruning = compression.pruning_config(
            config,
            workdir,
            card["dataset"],
            sparsity=flags.prune,
            epochs=flags.epochs,
            learning_rate=flags.learning_rate,
        )
    try:
        record = compression.compress(config, workdir, folder, pruning, int8=flags.int8)
    except UserError as error:  # of the run that prunes, whose folder is in the output
        raise UserError(str(error).replace("--workdir", "--output")) from error
    table, output = compression.table(record), OutputFolder(folder)
    output.json("compression.json", record)
    output.text("compression.md", table + "\n")
    print(table)
    print(f"{folder}: compression.json, compression.md, and the networks")


if __name__ == "__main__":
    _cli.run()

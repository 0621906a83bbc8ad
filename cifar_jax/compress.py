"""Makes a network smaller: python -m cifar_jax.compress --workdir RUN --prune=0.5.

--prune trains the network on for a few epochs while its smallest weights become zero;
--int8 writes it with arithmetic of 8 bits. All forms are written as ONNX files and
compared in size, time and accuracy. Typed again, an interrupted command goes on.
"""

import json
import pathlib

from cifar_jax import _cli, _runtime, formats
from cifar_jax import config as default


def define_flags(flags: _cli.Flags) -> None:
    """Defines the command's flags."""
    flags.add_string("workdir", "run directory")
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


def main(flags: _cli.Flags) -> int:
    """Makes the networks, and prints the table."""
    if not flags.workdir:
        raise _cli.UsageError("--workdir RUN is missing, such as runs/cifar10_cpu")
    if not (flags.prune or flags.int8):
        raise _cli.UsageError("nothing to do; give --prune, --int8, or both")
    # slow to import: not for --help
    from cifar_jax.training import interrupt, loop
    from cifar_jax.training.workdir import RunDirectory

    workdir = pathlib.Path(flags.workdir)
    output = pathlib.Path(flags.output or workdir / "compression")
    run = RunDirectory(workdir)
    config = default.config_from_dict(run.config())
    config.data.dir = flags.data_dir or config.data.dir
    names = ["onnx", "onnx-int8"] if flags.int8 else ["onnx"]
    kinds = [formats.find(formats.MODULES[name]) for name in names]
    _runtime.start(config.train.cpu_devices)
    networks, record = {"original": workdir}, {"workdir": str(workdir)}
    if flags.prune:
        networks["pruned"] = output / "pruned"
        fine_tuning = _fine_tuning(flags, config, workdir, run.dataset())
        try:
            result = loop.train_and_evaluate(fine_tuning, networks["pruned"])
        except interrupt.Stopped as stopped:
            print(stopped)
            return stopped.exit_code
        record["pruned"] = result
    variants = [
        _write(name, folder, kind, output, config.data.dir)
        for name, folder in networks.items()
        for kind in kinds
    ]
    _compare(variants, config, record, output)
    return 0


def _compare(variants, config, record: dict, output: pathlib.Path) -> None:
    """Prints the table of all forms, and writes it and the record."""
    from cifar_jax._files import replacing
    from cifar_jax.evaluation import compression
    from cifar_jax.training import distributed, results, setup

    source = setup.open_source(config)
    _, val = setup.read_train_and_val(config, source)
    test = source.read(config.data.test_split)
    record |= results.environment(distributed.make_mesh())
    record["versions"] |= results.versions(("onnx", "onnxruntime"))
    record |= compression.compare(variants, val=val, test=test)
    text = compression.table(record)
    with replacing(output / "compression.json") as path:
        path.write_text(json.dumps(record, indent=2) + "\n")
    with replacing(output / "compression.md") as path:
        path.write_text(text + "\n")
    print(text)
    print(f"{output}: compression.json, compression.md, and the networks")


def _fine_tuning(flags: _cli.Flags, config, workdir: pathlib.Path, dataset: dict):
    """Returns the config of the run that prunes: short, and gentle to the weights."""
    pruned = config.copy_and_resolve_references()
    pruned.init.workdir = str(workdir)
    pruned.prune.update(sparsity=flags.prune, start="0%", stop="50%")
    pruned.data.update(mean=tuple(dataset["mean"]), std=tuple(dataset["std"]))
    pruned.schedule = default.get_config().schedule
    pruned.optim.learning_rate = flags.learning_rate or config.optim.learning_rate / 4
    pruned.train.update(
        epochs=flags.epochs or max(2, config.train.epochs // 5),
        patience=0,
        reload_best=False,
    )
    # Nothing is chosen on the test set: the table alone has it, at the end.
    pruned.evaluate.update(every_epochs=1, select_on="val", test=False)
    return pruned


def _write(name: str, folder: pathlib.Path, kind, output: pathlib.Path, data_dir):
    """Exports one form of one network."""
    import jax

    from cifar_jax.evaluation.compression import Variant
    from cifar_jax.formats import artifact
    from cifar_jax.training import pretrained

    cpu = jax.devices("cpu")[0]
    path = output / f"{name}{kind.SUFFIX}"
    with jax.default_device(cpu):  # a file is proved in float32
        network = pretrained.load_model(folder, jax.sharding.SingleDeviceSharding(cpu))
        network.config["data"]["dir"] = data_dir
        card = artifact.export(network, kind, path, overwrite=True)
    facts = {key: card[key] for key in ("num_parameters", "num_nonzero", "check")}
    return Variant(path, kind.read(path), facts)


if __name__ == "__main__":
    _cli.run(define_flags, main, __doc__)

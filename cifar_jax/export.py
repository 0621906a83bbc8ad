"""Ships a network: python -m cifar_jax.export --workdir RUN --format FORMAT.

stablehlo: the network with its weights, for JAX alone. onnx: for ONNX runtimes.
onnx-int8: likewise, with arithmetic of 8 bits. pt2: for PyTorch alone.
torch: the weights, for cifar_jax.models.torch_resnet. safetensors: the weights by their
Flax paths. Images go in as raw uint8 [B, H, W, C].

What was written is read back and compared with the network, in float32 on the CPU,
before it gets its name. FILE.json beside it holds class names, image shape and SHA-256.
"""

import pathlib

from cifar_jax import _cli, _runtime, formats


def define_flags(flags: _cli.Flags) -> None:
    """Defines the command's flags."""
    _cli.define_network(flags)
    flags.add_enum("format", list(formats.MODULES), "what to write")
    flags.add_string("output", "file [RUN/export/model and its suffix]")
    flags.add_bool("overwrite", "replace an older file")


def main(flags: _cli.Flags) -> None:
    """Writes the file and says what it was proved with."""
    chosen = _cli.chosen_network(flags)
    if flags.format is None:
        raise _cli.UsageError("--format is missing; see --help")
    # slow to import: not for --help
    _runtime.start(cpu_only=True)  # a file is proved in float32
    from cifar_jax.formats import artifact
    from cifar_jax.training import pretrained

    kind = formats.find(formats.MODULES[flags.format])
    default = chosen["workdir"] / "export" / f"model{kind.SUFFIX}"
    path = pathlib.Path(flags.output or default)
    if not path.name.endswith(kind.SUFFIX):
        raise _cli.UsageError(f"--output is {path}; it needs a name in {kind.SUFFIX}")
    network = pretrained.load_model(**chosen)
    card = artifact.export(network, kind, path, overwrite=flags.overwrite)
    print(f"{path}: {path.stat().st_size:,} bytes; {artifact.summary(card['check'])}")


if __name__ == "__main__":
    _cli.run(define_flags, main, __doc__)

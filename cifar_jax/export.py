"""Ships a network: python -m cifar_jax.export --workdir RUN --format FORMAT.

stablehlo: the network with its weights, for JAX alone. onnx: for ONNX runtimes.
onnx-int8: the same with arithmetic of 8 bits. pt2: for PyTorch alone.
torch: the weights, for cifar_jax.models.torch_resnet. safetensors: the weights by their
Flax paths; safetensors-float16: in half the bytes. hub: a folder for a model hub, with
the weights and a README. Images go in as raw uint8 [B, H, W, C].

Each file is reloaded and compared with the network, in float32 on the CPU, before it
gets its name. FILE.json beside it holds class names, image shape and SHA-256.
"""

import pathlib

from cifar_jax import _cli, _runtime, formats


def define_flags(flags: _cli.Flags) -> None:
    """Defines the command's flags."""
    _cli.define_network(flags)
    names = list(formats.FORMATS)
    flags.add_enum("format", "what to write", enum_values=names, required=True)
    flags.add_string("output", "file, or folder [RUN/export/model and its suffix]")
    flags.add_bool("overwrite", "replace an older file")


def main(flags: _cli.Flags) -> None:
    """Writes the file and prints how it was verified."""
    chosen = _cli.chosen_network(flags)
    default = _cli.output_folder(flags, chosen["workdir"], "export")
    _runtime.start(cpu_only=True)  # a file is verified in float32
    # slow to import: not for --help
    from cifar_jax.formats import export
    from cifar_jax.training import pretrained

    kind = formats.find(flags.format)
    path = pathlib.Path(flags.output or default / f"model{kind.suffix}")
    if not path.name.endswith(kind.suffix):
        raise _cli.UsageError(f"--output is {path}; it needs a name in {kind.suffix}")
    network = pretrained.load_model(**chosen)
    card = export.export(network, kind, path, overwrite=flags.overwrite)
    size = (pretrained.weights_file(path) or path).stat().st_size
    print(f"{path}: {size:,} bytes; {export.summary(card['check'])}")


if __name__ == "__main__":
    _cli.run()

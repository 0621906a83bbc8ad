"""Takes in PyTorch's weights: python -m cifar_jax.import_torch --weights FILE.pt ...

--preset names the network (cifar_jax/models/presets.py), --data what it classifies, and
--mean and --std what its images were normalised with, of pixels in [0, 1]. The weights
have the names of the usual PyTorch ResNets for CIFAR; each must find its place.

The run directory that is made can be evaluated and exported like any other.
"""

import pathlib

from cifar_jax import _cli, _runtime, formats
from cifar_jax.models.presets import PRESETS


def define_flags(flags: _cli.Flags) -> None:
    """Defines the command's flags."""
    flags.add_string("weights", "a state_dict, written by torch.save")
    flags.add_string("preset", "network, such as resnet18")
    flags.add_list("mean", "of each channel, such as 0.49,0.48,0.45")
    flags.add_list("std", "of each channel")
    flags.add_string("data", "data set: class names and image shape", "cifar10")
    flags.add_string("workdir", "run directory to make")


def main(flags: _cli.Flags) -> None:
    """Makes the run directory and says how it was verified."""
    for name in ("weights", "preset", "mean", "std", "workdir"):
        if getattr(flags, name) is None:
            raise _cli.UsageError(f"--{name} is missing; see --help")
    if flags.preset not in PRESETS:
        raise _cli.UsageError(
            f"--preset is {flags.preset}; use one of {', '.join(PRESETS)}"
        )
    print(f"reading {flags.weights}", flush=True)
    # slow to import: not for --help
    from cifar_jax import config as default
    from cifar_jax.data import sources
    from cifar_jax.formats import export

    _runtime.start(cpu_only=True)  # the weights are verified in float32
    pytorch_import = formats.import_module("pytorch_import")
    source = sources.open(flags.data)
    config = default.get_config()
    config.model.update(PRESETS[flags.preset])
    config.budget.limit = None  # holds for what is trained here
    config.data.name = flags.data
    config.data.mean = mean = _channels("mean", flags.mean, source.image_shape[-1])
    config.data.std = std = _channels("std", flags.std, source.image_shape[-1])
    if min(std) <= 0:
        raise _cli.UsageError(f"--std is {','.join(flags.std)}; use values above 0")
    dataset = {
        "name": source.name,
        "image_shape": list(source.image_shape),
        "label_names": list(source.label_names),
        "mean": list(mean),
        "std": list(std),
    }
    weights, workdir = pathlib.Path(flags.weights), pathlib.Path(flags.workdir)
    check = pytorch_import.import_weights(weights, config, dataset, workdir)
    print(f"{workdir}: {flags.preset}; {export.summary(check)}")


def _channels(name: str, texts: list[str], count: int) -> tuple[float, ...]:
    try:
        values = tuple(map(float, texts))
    except ValueError:
        values = ()
    if len(values) != count:
        raise _cli.UsageError(f"--{name} is {','.join(texts)}; give {count} numbers")
    return values


if __name__ == "__main__":
    _cli.run(define_flags, main, __doc__)

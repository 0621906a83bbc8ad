"""Takes in PyTorch's weights: python -m cifar_jax.import_torch --weights FILE.pt ...

--preset names the network (cifar_jax/models/presets.py), --data what it classifies, and
--mean and --std what its images were normalised with, of pixels in [0, 1]. The weights
have the names of the usual PyTorch ResNets for CIFAR; each must find its place.

The run directory that is made can be evaluated and exported like any other.
"""

import pathlib

from absl import flags

from cifar_jax import _cli, _runtime, formats

_WEIGHTS = flags.DEFINE_string("weights", None, "a state_dict, written by torch.save")
_PRESET = flags.DEFINE_string("preset", None, "network, such as resnet18")
_MEAN = flags.DEFINE_list("mean", None, "of each channel, such as 0.49,0.48,0.45")
_STD = flags.DEFINE_list("std", None, "of each channel")
_DATA = flags.DEFINE_string("data", "cifar10", "data set: class names and image shape")
_WORKDIR = flags.DEFINE_string("workdir", None, "run directory to make")


def main() -> None:
    """Makes the run directory and says what it was proved with."""
    for flag in (_WEIGHTS, _PRESET, _MEAN, _STD, _WORKDIR):
        if flag.value is None:
            raise _cli.UsageError(f"--{flag.name} is missing; see --help")
    # slow to import: not for --help
    from cifar_jax import config as default
    from cifar_jax.data import sources
    from cifar_jax.formats import artifact
    from cifar_jax.models.presets import PRESETS

    _runtime.start(cpu_only=True)  # the weights are proved in float32
    torch_import = formats.find("torch_import")
    if _PRESET.value not in PRESETS:
        raise _cli.UsageError(
            f"--preset is {_PRESET.value}; use one of {', '.join(PRESETS)}"
        )
    source = sources.open(_DATA.value)
    config = default.get_config()
    config.model.update(PRESETS[_PRESET.value])
    config.budget.limit = None  # holds for what is trained here
    config.data.name = _DATA.value
    config.data.mean = mean = _channels(_MEAN, source.image_shape[-1])
    config.data.std = std = _channels(_STD, source.image_shape[-1])
    if min(std) <= 0:
        raise _cli.UsageError(f"--std is {','.join(_STD.value)}; use values above 0")
    dataset = {
        "name": source.name,
        "image_shape": list(source.image_shape),
        "label_names": list(source.label_names),
        "mean": list(mean),
        "std": list(std),
    }
    weights, workdir = pathlib.Path(_WEIGHTS.value), pathlib.Path(_WORKDIR.value)
    check = torch_import.import_weights(weights, config, dataset, workdir)
    print(f"{workdir}: {_PRESET.value}; {artifact.summary(check)}")


def _channels(flag: flags.FlagHolder, count: int) -> tuple[float, ...]:
    try:
        values = tuple(float(value) for value in flag.value)
    except ValueError:
        values = ()
    if len(values) != count:
        raise _cli.UsageError(
            f"--{flag.name} is {','.join(flag.value)}; give {count} numbers"
        )
    return values


if __name__ == "__main__":
    _cli.run(main, __doc__)

"""Takes in PyTorch's weights: python -m cifar_jax.import_torch --weights FILE.pt ...

The weights have the names of the usual PyTorch ResNets for CIFAR; each must find its
place. The network is --preset (cifar_jax/models/presets.py), changed to what names and
shapes tell, such as the blocks, and then by --config.model.KEY=VALUE. They do not tell
strides, pools, activation and BatchNorm's epsilon: give --check.

--data is what the network classifies, and --mean and --std are what its images were
normalised with, of pixels in [0, 1]. The run directory that is made can be evaluated
and exported like any other.
"""

import pathlib

from ml_collections import config_flags

from cifar_jax import UserError, _cli, _runtime, formats
from cifar_jax import config as default
from cifar_jax._files import on_disk
from cifar_jax.models.presets import PRESETS


def define_flags(flags: _cli.Flags) -> None:
    """Defines the command's flags."""
    flags.add_string("weights", "a state_dict, written by torch.save", required=True)
    flags.add_enum("preset", "network [what the weights tell]", enum_values=[*PRESETS])
    _cli.define_config(flags, default.get_config)
    flags.add_string(
        "check", "FILE.npz with `images` (uint8) and the original's `logits` for them"
    )
    flags.add_list("mean", "of each channel, such as 0.49,0.48,0.45", required=True)
    flags.add_list("std", "of each channel", required=True)
    flags.add_string("data", "data set: class names and image shape", "cifar10")
    flags.add_string("workdir", "run directory to make", required=True)


NOT_VERIFIED = (
    "not verified: that the options are the original's. Strides, pools, activation, "
    "bn_epsilon and normalisation cannot be told from weights; give --check FILE.npz"
)


def main(flags: _cli.Flags) -> None:
    """Makes the run directory and says how it was verified."""
    print(f"reading {flags.weights}", flush=True)
    # slow to import: not for --help
    from cifar_jax.data import arrays, sources
    from cifar_jax.formats import export
    from cifar_jax.models import torch_names
    from cifar_jax.training import results

    _runtime.start(cpu_only=True)  # the weights are verified in float32
    pytorch_import = formats.import_module("pytorch_import")
    config, weights, data = flags.config, pathlib.Path(flags.weights), flags.config.data
    source = sources.open(flags.data, data.dir, image_size=data.image_size)
    told = torch_names.detect(pytorch_import.read(weights))
    if not (flags.preset or told):
        raise UserError(
            f"{weights} has other names than those of the usual ResNets; give --preset"
        )
    config.model.update(PRESETS.get(flags.preset, {}))
    config.model.update(told)
    overrides = config_flags.get_override_values(flags.values["config"])
    # What it was trained on is not known: no images count as held out.
    config.update_from_flattened_dict({"data.validation": 0.0} | overrides)
    config.budget.limit = None  # holds for what is trained here
    data.name = flags.data
    data.mean = mean = _channels("mean", flags.mean, source.image_shape[-1])
    data.std = std = _channels("std", flags.std, source.image_shape[-1])
    dataset = results.describe(source.name, source, mean, std)
    workdir, file = on_disk(flags.workdir, "--workdir"), flags.check
    original = arrays.read_npz(pathlib.Path(file), "images", "logits") if file else None
    check = pytorch_import.import_weights(weights, config, dataset, workdir, original)
    words = (f"{key}={config.model[key]}" for key in told)
    print(f"{workdir}: {flags.preset or 'a network'} with {', '.join(words)}")
    print(f"beside the same options in PyTorch: {export.summary(check)}")
    if original:
        print(f"it gives the original's logits for the {len(original[0]):,} images")
    else:
        print(NOT_VERIFIED)


def _channels(name: str, texts: list[str], count: int) -> tuple[float, ...]:
    try:
        values = tuple(map(float, texts))
    except ValueError:
        values = ()
    least = 1e-9 if name == "std" else -1
    if len(values) != count or not all(least <= value <= 1 for value in values):
        remedy = f"give {count} numbers, of pixels from 0 to 1, of std above 0"
        raise _cli.UsageError(f"--{name} is {','.join(texts)}; {remedy}")
    return values


if __name__ == "__main__":
    _cli.run()

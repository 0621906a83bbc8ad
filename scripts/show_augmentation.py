"""Draws augmentation: python scripts/show_augmentation.py --config FILE --output FILE.

A few training images of the config's data set, as they are, after each transform of
`augment` alone, and after all of them, with their labels. Other draws: --config.seed=1.
"""

import pathlib

from cifar_jax import UserError, _cli
from cifar_jax import config as config_lib


def define_flags(flags: _cli.Flags) -> None:
    """Defines the command's flags."""
    _cli.define_config(flags)
    flags.add_string("output", "picture to write", "augmentations.png")
    flags.add_integer("images", "how many images", 8, lower_bound=1)
    flags.add_float(
        "progress", "share of the run, for transforms with start, stop or ramp", 0.5
    )


def main(flags: _cli.Flags) -> None:
    """Writes the picture and says what is in it."""
    config_lib.check(flags.config)
    # slow to import: not for --help
    import _augment_sheet

    from cifar_jax.data import augment
    from cifar_jax.training import setup

    config, output = flags.config, pathlib.Path(flags.output)
    if output.suffix != ".png":
        raise UserError(f"--output is {output}; it needs a name that ends in .png")
    if not 0 <= flags.progress < 1:
        raise UserError(f"--progress is {flags.progress}; use 0 or more, below 1")
    data, source = config.data, setup.open_source(config)
    if source.image_shape[-1] not in (1, 3):
        raise UserError(
            f"the images of {data.name} have {source.image_shape[-1]} channels; only "
            "1 (gray) and 3 (RGB) can be drawn"
        )
    augment.make_pipeline(config.augment, image_shape=source.image_shape)
    examples = source.read(data.train_split)
    rows = _augment_sheet.stages(
        config.augment,
        examples[_augment_sheet.choose(examples, flags.images)],
        num_classes=source.num_classes,
        seed=config.seed,
        progress=flags.progress,
    )
    _augment_sheet.draw(rows, source.label_names).save(output)
    titles = ", ".join(row.title.splitlines()[0] for row in rows)
    print(f"{output}: {len(rows[0].labels)} images of {data.name}: {titles}")


if __name__ == "__main__":
    _cli.run()

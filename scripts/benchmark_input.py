"""Images a second of each transform and of each report's augmentation.

python scripts/benchmark_input.py [--batch_size 512] [--repeats 7] [--json PATH]

Ours, jitted on the default device, against the way of torchvision: PIL, image by image,
on one core (and tf.data's crop and flip, where TensorFlow is installed). The ways take
turns; the table shows medians over the repeats, and theirs is timed on fewer images.
"""

import argparse
import json
import math
import pathlib
import random
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from cifar_jax.data import augment
from cifar_jax.data.augment import policy_tables as tables

SIDE = 32
NUM_PIL_IMAGES = 128
CROP_FLIP = (dict(name="random_crop"), dict(name="random_flip"))
JITTER = dict(name="color_jitter", brightness=0.2, contrast=0.2, saturation=0.2)
AFFINE = dict(name="random_affine", shear=(10, 0), scale=(0.8, 1.2))
OPTIONS = {"color_jitter": JITTER, "random_affine": AFFINE}
CHAINS = {
    "crop, flip, rotate": (*CROP_FLIP, dict(name="random_rotation")),
    "report 000": (*CROP_FLIP, dict(name="auto_augment")),
    "report 001": (*CROP_FLIP, dict(name="random_rotation")),
    "report 002": (
        *CROP_FLIP,
        dict(name="auto_augment", policy="imagenet"),
        dict(name="random_erasing"),
    ),
    "report 003": CROP_FLIP,
    "report 004": (
        CROP_FLIP[0],
        AFFINE,
        dict(name="random_rotation"),
        JITTER,
        CROP_FLIP[1],
    ),
    "crop, flip, trivial": (*CROP_FLIP, dict(name="trivial_augment_wide")),
}


def main():
    """Prints the table, a line at a time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=pathlib.Path, help="also write the rates here")
    args = parser.parse_args()
    singles = {
        name: (OPTIONS.get(name, dict(name=name)),) for name in augment.TRANSFORMS
    }
    images = smooth_images(args.batch_size)
    rates = {}
    print(f"{'images/s':24}{'ours':>12}{'PIL':>12}{'tf.data':>12}   ({device_name()})")
    for name, transforms in (singles | CHAINS).items():
        ways = {
            "ours": ours(transforms, images),
            "pil": pil(transforms, images[:NUM_PIL_IMAGES]),
            "tf_data": tf_data(transforms, images),
        }
        rates[name] = measure({k: v for k, v in ways.items() if v}, args.repeats)
        cells = (rates[name].get(way) for way in ways)
        cells = (f"{rate:12,.0f}" if rate else f"{'-':>12}" for rate in cells)
        print(f"{name:24}{''.join(cells)}", flush=True)
    if args.json:
        record = dict(device=device_name(), images_per_second=rates, **vars(args))
        args.json.write_text(json.dumps(record, indent=1, default=str) + "\n")


def device_name() -> str:
    """Returns what the rates hold for."""
    return f"{jax.devices()[0].device_kind}, jax {jax.__version__}"


def smooth_images(count: int) -> np.ndarray:
    """uint8 [count, 32, 32, 3] with the smooth colours of a photograph."""
    small = np.random.default_rng(0).integers(0, 256, (count, 5, 5, 3), np.uint8)
    size = (SIDE, SIDE)
    return np.stack([np.asarray(Image.fromarray(x).resize(size, 3)) for x in small])


def measure(ways: dict, repeats: int) -> dict[str, float]:
    """Median images a second of functions that return how many they made."""
    for run in ways.values():
        run()
    rates = {name: [] for name in ways}
    for _ in range(repeats):
        for name, run in ways.items():
            start = time.perf_counter()
            count = run()
            rates[name].append(count / (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in rates.items()}


def ours(transforms, images):
    """Returns a function that runs our chain a few times and counts the images."""
    pipeline = jax.jit(augment.make_pipeline(transforms))
    labels = jax.nn.one_hot(jnp.arange(len(images)) % 10, 10)
    batch = jnp.asarray(images), labels
    index, epoch = jnp.arange(len(images)), jnp.int32(0)

    def run(num_batches=4):
        for seed in range(num_batches):
            key = jax.random.key(seed)
            made = pipeline(key, *batch, epoch=epoch, index=index)
        jax.block_until_ready(made)
        return num_batches * len(images)

    return run


def pil(transforms, images):
    """The chain on PIL images, or None where a transform works on whole batches."""
    if any(transform["name"] not in PIL for transform in transforms):
        return None
    chain = [(PIL[t["name"]], {k: t[k] for k in t if k != "name"}) for t in transforms]
    pictures = [Image.fromarray(image) for image in images]

    def run():
        for picture in pictures:
            for function, options in chain:
                picture = function(picture, **options)
            np.asarray(picture)
        return len(pictures)

    return run


def tf_data(transforms, images):
    """Crop and flip in tf.data, or None for other chains or without TensorFlow."""
    try:
        import tensorflow as tf
    except ImportError:
        return None
    if tuple(transforms) != CROP_FLIP:
        return None

    def transform(image):
        padded = tf.image.resize_with_crop_or_pad(image, SIDE + 8, SIDE + 8)
        return tf.image.random_flip_left_right(
            tf.image.random_crop(padded, image.shape)
        )

    data = tf.data.Dataset.from_tensor_slices(images).cache().repeat(4)
    data = data.map(transform, tf.data.AUTOTUNE).batch(len(images)).prefetch(2)
    return lambda: sum(len(batch) for batch in data.as_numpy_iterator())


def crop(picture, padding=4):
    """As RandomCrop(32, padding=4)."""
    padded = ImageOps.expand(picture, padding)
    x, y = (random.randint(0, 2 * padding) for _ in "xy")
    return padded.crop((x, y, x + SIDE, y + SIDE))


def flip(picture, p=0.5):
    """As RandomHorizontalFlip()."""
    mirrored = random.random() < p
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else picture


def affine(picture, scale=(1, 1), shear=(0, 0)):
    """As RandomAffine(0, scale=scale, shear=shear[0])."""
    zoom = random.uniform(*scale)
    slope = math.tan(math.radians(random.uniform(-shear[0], shear[0])))
    return slant(picture, 1 / zoom, slope / zoom, 0, 1 / zoom)


def slant(picture, a, b, c, d, shift=(0, 0)):
    """Samples at a linear map about the centre, and a shift."""
    centre = SIDE / 2
    x, y = centre - (a + b) * centre - shift[0], centre - (c + d) * centre - shift[1]
    return picture.transform(picture.size, Image.Transform.AFFINE, (a, b, x, c, d, y))


def jitter(picture, **strengths):
    """As ColorJitter(...)."""
    for name in random.sample(sorted(strengths), len(strengths)):
        low, high = 1 - strengths[name], 1 + strengths[name]
        picture = ENHANCERS[name](picture).enhance(random.uniform(low, high))
    return picture


def erase(picture, p=0.5):
    """As RandomErasing()."""
    if random.random() >= p:
        return picture
    for _ in range(10):
        area = SIDE**2 * random.uniform(0.02, 0.33)
        ratio = math.exp(random.uniform(math.log(0.3), math.log(3.3)))
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if h < SIDE and w < SIDE:
            x, y = random.randint(0, SIDE - w), random.randint(0, SIDE - h)
            picture = picture.copy()
            picture.paste(0, (x, y, x + w, y + h))
            break
    return picture


def cut(picture, size=16):
    """Cutout."""
    x, y = (random.randrange(SIDE) - size // 2 for _ in "xy")
    picture = picture.copy()
    picture.paste(0, (x, y, x + size, y + size))
    return picture


def operate(picture, name, level, table):
    """As torchvision's _apply_op."""
    magnitude = float(table[tables.OPERATIONS.index(name), level])
    if name in tables.SIGNED and random.random() < 0.5:
        magnitude = -magnitude
    return OPERATIONS[name](picture, magnitude)


def auto(picture, policy="cifar10"):
    """As AutoAugment(policy)."""
    table = MAGNITUDES["auto"]
    operations, probabilities, levels = tables.SUB_POLICIES[policy]
    k = random.randrange(len(operations))
    for i, p, level in zip(operations[k], probabilities[k], levels[k], strict=True):
        if random.random() < p:
            picture = operate(picture, tables.OPERATIONS[i], level, table)
    return picture


def rand(picture, num_ops=2, magnitude=9):
    """As RandAugment()."""
    for name in random.choices(tables.UNIFORM_CHOICES, k=num_ops):
        picture = operate(picture, name, magnitude, MAGNITUDES["rand"])
    return picture


def trivial(picture):
    """As TrivialAugmentWide()."""
    name, level = random.choice(tables.UNIFORM_CHOICES), random.randrange(31)
    return operate(picture, name, level, MAGNITUDES["trivial"])


MAGNITUDES = {
    "auto": tables.magnitudes(tables.AUTO_AUGMENT, height=SIDE, width=SIDE),
    "rand": tables.magnitudes(tables.RAND_AUGMENT, height=SIDE, width=SIDE),
    "trivial": tables.magnitudes(tables.TRIVIAL_AUGMENT_WIDE, height=SIDE, width=SIDE),
}
ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "saturation": ImageEnhance.Color,
    "sharpness": ImageEnhance.Sharpness,
}
OPERATIONS = {
    "identity": lambda picture, m: picture,
    "shear_x": lambda picture, m: slant(picture, 1, m, 0, 1),
    "shear_y": lambda picture, m: slant(picture, 1, 0, m, 1),
    "translate_x": lambda picture, m: slant(picture, 1, 0, 0, 1, (m, 0)),
    "translate_y": lambda picture, m: slant(picture, 1, 0, 0, 1, (0, m)),
    "rotate": lambda picture, m: picture.rotate(m),
    "posterize": lambda picture, m: ImageOps.posterize(picture, int(m)),
    "solarize": ImageOps.solarize,
    "autocontrast": lambda picture, m: ImageOps.autocontrast(picture),
    "equalize": lambda picture, m: ImageOps.equalize(picture),
    "invert": lambda picture, m: ImageOps.invert(picture),
}
OPERATIONS |= {
    name: lambda picture, m, enhancer=enhancer: enhancer(picture).enhance(1 + m)
    for name, enhancer in ENHANCERS.items()
}
PIL = {
    "random_crop": crop,
    "random_flip": flip,
    "random_rotation": lambda picture: picture.rotate(random.uniform(-10, 10)),
    "random_affine": affine,
    "color_jitter": jitter,
    "cutout": cut,
    "random_erasing": erase,
    "auto_augment": auto,
    "rand_augment": rand,
    "trivial_augment_wide": trivial,
}


if __name__ == "__main__":
    main()

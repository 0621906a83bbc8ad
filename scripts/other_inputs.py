"""The other ways to augment: PIL, image by image as torchvision, and tf.data.

Each way is a dict of the transforms that it has, by our names, with our options.
"""

import math
import random

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from cifar_jax.data.augment import policy_tables as tables

SIDE = 32


def pil(transforms, images):
    """Returns a function that runs a chain and counts, or None where PIL lacks one."""
    chain = chain_of(PIL, transforms)
    pictures = [Image.fromarray(image) for image in images]

    def run():
        for picture in pictures:
            for function, options in chain:
                picture = function(picture, **options)
            np.asarray(picture)
        return len(pictures)

    return chain and run


def tf_data(transforms, images):
    """As `pil`, on all cores; None without TensorFlow too."""
    tf = tensorflow()
    chain = tf and chain_of(tf_transforms(tf), transforms)
    if not chain:
        return None

    def apply(image):
        for function, options in chain:
            image = function(image, **options)
        return image

    data = tf.data.Dataset.from_tensor_slices(images).cache().repeat(4)
    data = data.map(apply, tf.data.AUTOTUNE).batch(len(images)).prefetch(2)
    return lambda: sum(len(batch) for batch in data.as_numpy_iterator())


def chain_of(way, transforms):
    """Returns pairs of a function and its options, or None if the way lacks one."""
    if any(transform["name"] not in way for transform in transforms):
        return None
    return [(way[t["name"]], {k: t[k] for k in t if k != "name"}) for t in transforms]


def tensorflow():
    """Returns the module, or None."""
    try:
        import tensorflow
    except ImportError:
        return None
    return tensorflow


def tf_transforms(tf):
    """Returns what tf.image has of ours; one raw operation samples affine maps."""
    uniform = tf.random.uniform

    def crop(image, padding=4):
        padded = tf.pad(image, [[padding, padding], [padding, padding], [0, 0]])
        return tf.image.random_crop(padded, image.shape)

    def affine(image, degrees=0.0, shear=(0, 0), scale=(1, 1)):
        angle, slant = (
            uniform([], -limit, limit) * math.pi / 180 for limit in (degrees, shear[0])
        )
        zoom = uniform([], *map(float, scale))
        cos, sin, slope = tf.cos(angle), tf.sin(angle), tf.tan(slant)
        a, b, c, d = cos, cos * slope - sin, sin, sin * slope + cos
        centre = (SIDE - 1) / 2
        x, y = centre - (a + b) / zoom * centre, centre - (c + d) / zoom * centre
        row = tf.stack([a / zoom, b / zoom, x, c / zoom, d / zoom, y, 0.0, 0.0])
        moved = tf.raw_ops.ImageProjectiveTransformV3(
            images=image[None],
            transforms=row[None],
            output_shape=[SIDE, SIDE],
            fill_value=0.0,
            interpolation="NEAREST",
        )
        return moved[0]

    def jitter(image, brightness, contrast, saturation):
        image = tf.image.random_brightness(image, brightness)
        image = tf.image.random_contrast(image, 1 - contrast, 1 + contrast)
        return tf.image.random_saturation(image, 1 - saturation, 1 + saturation)

    def cut(image, size=16):
        place, centre = tf.range(SIDE), uniform([2], 0, SIDE, tf.int32)
        rows, columns = (
            (place >= centre[i] - size // 2) & (place < centre[i] + size // 2)
            for i in (0, 1)
        )
        mask = rows[:, None] & columns[None]
        return tf.where(mask[..., None], tf.zeros_like(image), image)

    return {
        "random_crop": crop,
        "random_flip": tf.image.random_flip_left_right,
        "random_rotation": lambda image, degrees=10.0: affine(image, degrees),
        "random_affine": affine,
        "color_jitter": jitter,
        "cutout": cut,
    }


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


def rotate(picture, degrees=10.0):
    """As RandomRotation(degrees)."""
    return picture.rotate(random.uniform(-degrees, degrees))


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
    "random_rotation": rotate,
    "random_affine": affine,
    "color_jitter": jitter,
    "cutout": cut,
    "random_erasing": erase,
    "auto_augment": auto,
    "rand_augment": rand,
    "trivial_augment_wide": trivial,
}

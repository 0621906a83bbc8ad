"""Natural images, and PIL's versions of the transforms as torchvision calls it."""

import functools
import math
import os
import pathlib

import numpy as np
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_image

SIDE = 32
FILTERS = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR}


@functools.cache
def natural_images(count: int = 64) -> np.ndarray:
    """uint8 [count, 32, 32, 3]: CIFAR-10 from CIFAR10_DIR, or pieces of photographs."""
    folder = os.environ.get("CIFAR10_DIR")
    if folder:
        path = next(pathlib.Path(folder).rglob("data_batch_1.bin"))
        records = np.fromfile(path, np.uint8, count * 3073).reshape(count, 3073)
        return records[:, 1:].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1).copy()
    pieces = []
    for name in ("china.jpg", "flower.jpg"):
        photo = Image.fromarray(load_sample_image(name)).reduce(2)
        corners = (
            range(0, photo.height - SIDE, SIDE),
            range(0, photo.width - SIDE, SIDE),
        )
        pieces += [
            np.asarray(photo.crop((x, y, x + SIDE, y + SIDE)))
            for y in corners[0]
            for x in corners[1]
        ]
    return np.stack(pieces)[:: len(pieces) // count][:count]


def affine_coefficients(angle, translate, scale, shear, centre):
    """Output-to-input coefficients of a map, from its factors rather than closed form.

    Shift to the centre, turn, shear along y and then x, scale, and shift back, inverted
    numerically: torchvision documents this product.
    """
    a, sx, sy = (math.radians(v) for v in (angle, *shear))

    def shift(x, y):
        return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]])

    turn = np.array(
        [[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]]
    )
    shear_y = np.array([[1, 0, 0], [-math.tan(sy), 1, 0], [0, 0, 1]])
    shear_x = np.array([[1, -math.tan(sx), 0], [0, 1, 0], [0, 0, 1]])
    zoom = np.diag([scale, scale, 1])
    x, y = centre
    forward = shift(*translate) @ shift(x, y) @ turn @ shear_y @ shear_x @ zoom
    return np.linalg.inv(forward @ shift(-x, -y))[:2].ravel()


def pil_affine(image, coefficients, interpolation="nearest", fill=(0, 0, 0)):
    picture = Image.fromarray(image)
    return np.asarray(
        picture.transform(
            picture.size,
            Image.Transform.AFFINE,
            tuple(coefficients),
            FILTERS[interpolation],
            fillcolor=fill,
        )
    )


def _affine_operation(angle=0.0, translate=(0, 0), shear=(0.0, 0.0), centre=(0, 0)):
    return lambda picture: Image.fromarray(
        pil_affine(
            np.asarray(picture),
            affine_coefficients(angle, translate, 1.0, shear, centre),
        )
    )


def _degrees(slope):
    return math.degrees(math.atan(slope))


# Operations of the policies by name: what torchvision does to a PIL image.
PIL_OPERATIONS = {
    "identity": lambda m: lambda picture: picture,
    "shear_x": lambda m: _affine_operation(shear=(_degrees(m), 0)),
    "shear_y": lambda m: _affine_operation(shear=(0, _degrees(m))),
    "translate_x": lambda m: _affine_operation(translate=(int(m), 0)),
    "translate_y": lambda m: _affine_operation(translate=(0, int(m))),
    "rotate": lambda m: lambda picture: picture.rotate(m, FILTERS["nearest"]),
    "brightness": lambda m: lambda p: ImageEnhance.Brightness(p).enhance(1 + m),
    "saturation": lambda m: lambda p: ImageEnhance.Color(p).enhance(1 + m),
    "contrast": lambda m: lambda p: ImageEnhance.Contrast(p).enhance(1 + m),
    "sharpness": lambda m: lambda p: ImageEnhance.Sharpness(p).enhance(1 + m),
    "posterize": lambda m: lambda p: ImageOps.posterize(p, int(m)),
    "solarize": lambda m: lambda p: ImageOps.solarize(p, m),
    "autocontrast": lambda m: ImageOps.autocontrast,
    "equalize": lambda m: ImageOps.equalize,
    "invert": lambda m: ImageOps.invert,
}


def pil_operation(name, image, magnitude):
    return np.asarray(PIL_OPERATIONS[name](float(magnitude))(Image.fromarray(image)))


def pil_hue(image, shift):
    hue, saturation, value = Image.fromarray(image).convert("HSV").split()
    turned = (np.asarray(hue).astype(int) + int(shift * 255)) % 256
    hue = Image.fromarray(turned.astype(np.uint8))
    return np.asarray(Image.merge("HSV", (hue, saturation, value)).convert("RGB"))

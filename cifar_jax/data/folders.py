"""Folders of images, decoded by PIL in pieces: a bad image is an error of its own."""

import io
import os
import pathlib
import re
import stat
import warnings

import numpy as np
from PIL import Image, ImageOps

from cifar_jax import UserError
from cifar_jax._files import first_line
from cifar_jax.data.dataset import Batch, Dataset, ImageShape

# Larger images are not decoded: a small file can claim to be a huge one.
MAX_PIXELS = 50_000_000
MAX_BYTES = 1 << 28
# Pixels times scans of a JPEG: each scan of a progressive one is a pass over them all.
_MAX_WORK = 10 * MAX_PIXELS

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = frozenset(
    ".png .jpg .jpeg .jfif .webp .bmp .gif .tif .tiff .ppm .pgm .pbm .pnm".split()
)


class _BadImage(Exception):
    """An image that cannot be used, and why."""


def open_folder(
    path: pathlib.Path, *, image_shape: ImageShape | None = None, resize: bool = False
) -> Dataset:
    """Opens the images of a folder, or of one file, in the order of their names.

    Sub-folders are classes; a folder without them has no labels. Hidden files and files
    without the suffix of an image are skipped.

    Args:
      path: The folder or file.
      image_shape: Height, width and 3 channels; None: those of the first image.
      resize: Whether images of another size are resized to it (bicubic); otherwise
        each of them is an error.
    """
    if path.is_file():
        root, names, labels, label_names = path.parent, [path.name], None, None
    else:
        root, (names, labels, label_names) = path, _list(path)
    if image_shape is None:
        image_shape = _first_shape(root, names)
    elif image_shape[2] != 3:
        raise UserError(
            f"{path} is read as RGB, but {image_shape[2]} channels are wanted; save "
            "the images as an array, in .npy"
        )
    height, width, _ = image_shape

    def read(start: int, stop: int) -> Batch:
        images, errors = np.zeros((stop - start, height, width, 3), np.uint8), {}
        for k, name in enumerate(names[start:stop]):
            try:
                images[k] = _decode(root / name, (height, width), resize)
            except _BadImage as error:
                errors[k] = f"{_printable(root / name)} {error}"
        return Batch(images, None if labels is None else labels[start:stop], errors)

    ids = [_printable(name) for name in names]
    return Dataset(str(path), image_shape, len(names), read, label_names, ids)


def _printable(name: str | pathlib.Path) -> str:
    """Escapes new lines in a file name, and bytes that are not Unicode."""
    name = str(name).replace("\n", "\\n").replace("\r", "\\r")
    return name.encode("utf-8", "backslashreplace").decode()


def _list(
    folder: pathlib.Path,
) -> tuple[list[str], np.ndarray | None, tuple[str, ...] | None]:
    """Returns the names of the images, their labels, and the names of the classes."""
    images, folders = _entries(folder)
    if images and not folders:
        return images, None, None
    if images:
        raise UserError(
            f"{folder} holds images ({_printable(images[0])}) beside folders "
            f"({_printable(folders[0])}); put all images into such folders"
        )
    if all(name.isdecimal() for name in folders):
        folders.sort(key=int)  # so that 10 comes after 9
    names, labels = [], []
    for label, name in enumerate(folders):
        images, deeper = _entries(folder / name)
        if deeper:
            raise UserError(
                f"{_printable(folder / name)} holds the folder {_printable(deeper[0])}"
                "; put the images of a class right into its folder"
            )
        names += [f"{name}/{image}" for image in images]
        labels += [label] * len(images)
    if not names:
        raise UserError(
            f"{folder} holds no images; give a folder of "
            f"{', '.join(sorted(SUFFIXES))} files, or of sub-folders with them"
        )
    return names, np.array(labels, np.int32), tuple(map(_printable, folders))


def _entries(folder: pathlib.Path) -> tuple[list[str], list[str]]:
    """Returns the names of the images and of the folders in a folder, sorted."""
    images, folders = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith((".", "__MACOSX")):
                    continue
                # `is_dir` alone would raise for a loop of links.
                is_linked_folder = entry.is_symlink() and os.path.isdir(entry.path)
                if entry.is_dir(follow_symlinks=False) or is_linked_folder:
                    folders.append(entry.name)
                elif pathlib.PurePath(entry.name).suffix.lower() in SUFFIXES:
                    images.append(entry.name)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be listed ({error.strerror}); check its permissions"
        ) from error
    return sorted(images), sorted(folders)


def _first_shape(root: pathlib.Path, names: list[str]) -> ImageShape:
    reasons = []
    for name in names:
        try:
            height, width, channels = _decode(root / name).shape
            return height, width, channels
        except _BadImage as error:
            reasons.append(f"{_printable(name)} {error}")
    raise UserError(
        f"none of the {len(names):,} images in {root} can be read: {reasons[0]}"
    )


def _check_image(image: Image.Image, content: bytes) -> None:
    """Refuses an image, of which only the header has been read, that costs too much."""
    kinds = f"{image.format} {image.info.get('compression')}"
    is_jpeg = re.search("jpeg|mpo", kinds, re.IGNORECASE)
    scans = content.count(b"\xff\xda") if is_jpeg else 1
    if scans * image.width * image.height > _MAX_WORK:
        raise _BadImage(f"has {scans:,} scans; save it with fewer")
    if image.width * image.height > MAX_PIXELS:
        raise _BadImage(
            f"has {image.width}x{image.height} pixels; at most {MAX_PIXELS:,} are read"
        )
    if image.mode.startswith(("I", "F")):
        raise _BadImage(f"has more than 8 bits a pixel ({image.mode}); save it with 8")


def upright(image: Image.Image) -> Image.Image:
    """Returns an image as its EXIF data turn it, on white where it is transparent."""
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return white
    return image


def _decode(
    path: pathlib.Path, size: tuple[int, int] | None = None, resize: bool = False
) -> np.ndarray:
    """Returns an image of a height and width (None: any) as uint8 [H, W, 3], upright.

    Raises:
      _BadImage: If it is damaged, or of another kind or size, and not resized.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
            raise _BadImage("is not a regular file; give an image")
        if path.stat().st_size > MAX_BYTES:
            raise _BadImage(f"has more than {MAX_BYTES:,} bytes; save it smaller")
        content = path.read_bytes()
        with warnings.catch_warnings(action="ignore"):
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # Opening reads the header only; the pixels are decoded when converted.
            image: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
            with image:
                _check_image(image, content)
                image = upright(image).convert("RGB")
    except _BadImage:
        raise
    except Exception as error:  # PIL's decoders raise many kinds
        # What was opened is said already.
        reason = first_line(error).replace(f": {str(path)!r}", "").split(" <_io.")[0]
        raise _BadImage(
            f"cannot be read ({reason[:150]}); replace or remove it"
        ) from error
    if size is not None and (image.height, image.width) != size:
        if not resize:
            raise _BadImage(
                f"has {image.height}x{image.width} pixels (height x width) instead of "
                f"{size[0]}x{size[1]}; use --resize, resize=True or data.image_size"
            )
        image = image.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.asarray(image)

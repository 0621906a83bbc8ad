"""The script `scripts/show_augmentation.py`, and the picture it writes."""

import numpy as np
import pytest
from PIL import Image
from support import scripts
from support.augment_images import natural_images

from cifar_jax.data import sources
from cifar_jax.data.sources import Examples

augment_sheet = scripts.load("_augment_sheet")
NAMES = ("cat", "ship", "automobile")


def call(digits_dir, *arguments):
    config = ["--config=configs/quickstart.py", f"--config.data.dir={digits_dir}"]
    return scripts.call("show_augmentation", *config, *arguments)


def test_it_writes_the_images_pixel_by_pixel(digits_dir, tmp_path):
    output = tmp_path / "digits.png"
    code, text, message = call(digits_dir, f"--output={output}", "--images=3")
    assert code == 0, message
    rows = "original, random_crop, random_rotation, all of them"
    assert text == f"{output}: 3 images of digits: {rows}\n"
    picture = np.asarray(Image.open(output))
    examples = sources.open("digits", digits_dir).read("train")
    images = examples.images[augment_sheet.choose(examples, 3)]
    height = images.shape[1]
    scale = augment_sheet.CELL // height
    side = height * scale
    left = picture.shape[1] - 3 * (side + augment_sheet.GAP)
    for column, image in enumerate(images):
        x = left + column * (side + augment_sheet.GAP)
        cell = picture[augment_sheet.GAP :, x:][:side, :side]
        blocks = cell.reshape(height, scale, height, scale, 3)
        np.testing.assert_array_equal(blocks.max(axis=(1, 3)), image)
        np.testing.assert_array_equal(blocks.min(axis=(1, 3)), image)
    # Original, crop, rotation, both: four rows of an image and a label.
    row = side + 2 + augment_sheet.LINE + augment_sheet.GAP
    assert picture.shape[0] == augment_sheet.GAP + 4 * row


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--output=picture"], "--output is picture; it needs a name that ends in"),
        (["--output=none/x.png"], "No such file or directory: 'none/x.png'"),
        (["--progress=1"], "--progress is 1.0; use 0 or more, below 1"),
        (["--config.augment[0].name=random_corp"], "did you mean random_crop?"),
    ],
)
def test_a_mistake_is_one_line(digits_dir, arguments, message):
    code, _, text = call(digits_dir, *arguments, "--images=1")
    assert code == 1
    assert text.startswith("error: ") and message in text
    assert len(text.splitlines()) == 1


def test_captions_name_the_shares_of_mixed_labels():
    def caption(*shares):
        return augment_sheet.caption(np.array(shares), NAMES)

    assert caption(0, 1, 0) == "ship"
    assert caption(0.3, 0.7, 0) == "ship 0.70\ncat 0.30"
    assert caption(0.001, 0.2, 0.799) == "automobile 0.80\nship 0.20"


def test_stages_are_each_transform_alone_and_all_of_them():
    images = natural_images(3)
    examples = Examples(images, np.arange(3, dtype=np.int32))
    transforms = (
        dict(name="cutout", size=64, value=9, stop=0.1),
        dict(name="random_flip", p=1.0),
        dict(name="mixup", alpha=1.0),
    )
    options = dict(num_classes=3, seed=0)
    original, cut, flipped, mixed, late = augment_sheet.stages(
        transforms, examples, progress=0.5, **options
    )
    np.testing.assert_array_equal(original.images, images)
    np.testing.assert_array_equal(original.labels, np.eye(3))
    assert (cut.images == 9).all()  # alone it acts, though its time has passed
    np.testing.assert_array_equal(flipped.images, images[:, :, ::-1])
    assert mixed.images.dtype == np.uint8
    assert ((mixed.labels > 0).sum(axis=1) == 2).all()
    assert (late.images != 9).any()
    assert cut.title == "cutout\nsize=64\nvalue=9\nstop=0.1"
    assert late.title == "all of them\nat 0.5 of the run"
    picture = augment_sheet.draw([original, cut, flipped, mixed, late], NAMES)
    left = picture.width - augment_sheet.CELL - augment_sheet.GAP
    assert picture.getpixel((left, augment_sheet.GAP)) == tuple(images[2, 0, 0])


def test_the_images_are_those_that_a_run_would_see(tmp_path):
    for label in ("a", "b"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        image = Image.fromarray(natural_images(1)[0]).resize((40, 40))
        image.save(tmp_path / "photos" / label / "1.png")
    code, text, message = scripts.call(
        "show_augmentation",
        *("--config=configs/quickstart.py", f"--config.data.name={tmp_path}/photos"),
        *("--config.data.train_split=images", "--config.data.image_size=(16, 16)"),
        f"--output={tmp_path}/x.png",
    )
    assert code == 0, message
    side = 16 * (augment_sheet.CELL // 16)
    row = side + 2 + augment_sheet.LINE + augment_sheet.GAP
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.height == augment_sheet.GAP + 4 * row


def test_the_half_that_is_mirrored_first_follows_the_seed():
    images = natural_images(8)
    examples = Examples(images, np.arange(8, dtype=np.int32))

    def mirrored(seed):
        _, row = augment_sheet.stages(
            [dict(name="alternating_flip")],
            examples,
            num_classes=8,
            seed=seed,
            progress=0.5,
        )
        return [(a == b).all() for a, b in zip(row.images, images, strict=True)]

    assert len({tuple(mirrored(seed)) for seed in range(4)}) > 1


def test_one_image_of_each_class_comes_first():
    examples = Examples(np.zeros((6, 2, 2, 1)), np.array([1, 1, 0, 1, 2, 0]))
    assert augment_sheet.choose(examples, 2).tolist() == [0, 2]
    assert augment_sheet.choose(examples, 5).tolist() == [0, 2, 4, 1, 3]
    assert augment_sheet.choose(examples, 9).tolist() == [0, 2, 4, 1, 3, 5]

"""Images a second of augmentation, and the share of a training step that it takes.

python scripts/benchmark_input.py [--batch_size 512] [--repeats 7] [--json FILE]

Ours, jitted on the default device, against the way of torchvision (PIL, image by image,
on one core) and tf.data, where TensorFlow is installed; of each transform and of each
report's chain. Then training steps with a chain and without. The ways take turns; all
figures are medians over the repeats. Exit code 1 if a figure misses its limit.
"""

import argparse
import functools
import json
import pathlib
import runpy
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for the configs, which import each other

import other_inputs  # noqa: E402

from cifar_jax.data import augment  # noqa: E402
from cifar_jax.models import resnet  # noqa: E402
from cifar_jax.training import optim, sharding  # noqa: E402
from cifar_jax.training.state import Metrics, create_state  # noqa: E402
from cifar_jax.training.steps import StepOptions, train_step  # noqa: E402

NUM_PIL_IMAGES = 128
OPTIONS = {  # of transforms that do nothing by default
    "color_jitter": dict(brightness=0.2, contrast=0.2, saturation=0.2),
    "random_affine": dict(shear=(10, 0), scale=(0.8, 1.2)),
}
CROP_FLIP = (dict(name="random_crop"), dict(name="random_flip"))
# Images a second that each must reach on two cores, and the largest share of a step.
LEAST = {"report_000": 20_000, "trivial_augment_wide": 5_000}
LARGEST_SHARE = 0.15


def main() -> int:
    """Prints the tables, a line at a time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--step_config", default="configs/resnet_4p9m.py")
    parser.add_argument("--step_augment", default="configs/reports/report_000.py")
    parser.add_argument("--step_batch_size", type=int, default=64)
    parser.add_argument("--json", type=pathlib.Path, help="also write the figures here")
    args = parser.parse_args()
    print(f"{device_name()}, medians of {args.repeats}")
    if other_inputs.tensorflow() is None:
        print("tf.data is left out: TensorFlow is missing; pip install 'cifar-jax[tf]'")
    rates = measure_rates(args.batch_size, args.repeats)
    step = measure_step(args)
    if args.json:
        record = dict(device=device_name(), images_per_second=rates, step=step)
        options = {k: str(v) for k, v in vars(args).items()}
        args.json.write_text(json.dumps(record | options, indent=1) + "\n")
    return verdict(rates, step)


def device_name() -> str:
    """Returns what the figures hold for."""
    return (
        f"{jax.device_count()} x {jax.devices()[0].device_kind}, jax {jax.__version__}"
    )


def chains() -> dict:
    """Returns the transforms alone, and the chains of the reports' configs."""
    singles = {
        name: (dict(name=name, **OPTIONS.get(name, {})),) for name in augment.TRANSFORMS
    }
    reports = {
        path.stem: config_of(path).augment
        for path in sorted(ROOT.glob("configs/reports/*.py"))
    }
    reports["crop, flip, trivial"] = (*CROP_FLIP, dict(name="trivial_augment_wide"))
    distinct = {repr(chain): name for name, chain in reversed(reports.items()) if chain}
    return singles | {name: reports[name] for name in sorted(distinct.values())}


def config_of(path):
    """Returns the config that a file makes."""
    return runpy.run_path(str(path))["get_config"]()


def smooth_images(count: int) -> np.ndarray:
    """uint8 [count, 32, 32, 3] with the smooth colours of a photograph."""
    small = np.random.default_rng(0).integers(0, 256, (count, 5, 5, 3), np.uint8)
    size = (other_inputs.SIDE,) * 2
    return np.stack([np.asarray(Image.fromarray(x).resize(size, 3)) for x in small])


def measure_rates(batch_size: int, repeats: int) -> dict:
    """Prints and returns images a second by chain and way."""
    images, rates = smooth_images(batch_size), {}
    print(f"{'images/s':24}{'ours':>12}{'PIL':>12}{'tf.data':>12}")
    for name, transforms in chains().items():
        ways = {
            "ours": ours(transforms, images),
            "pil": other_inputs.pil(transforms, images[:NUM_PIL_IMAGES]),
            "tf_data": other_inputs.tf_data(transforms, images),
        }
        seconds = measure({k: v for k, v in ways.items() if v}, repeats)
        rates[name] = {way: round(1 / each) for way, each in seconds.items()}
        cells = (rates[name].get(way) for way in ways)
        cells = (f"{rate:12,}" if rate else f"{'-':>12}" for rate in cells)
        print(f"{name:24}{''.join(cells)}", flush=True)
    return rates


def measure(ways: dict, repeats: int) -> dict[str, float]:
    """Median seconds for each thing that a function does; it returns how many."""
    for run in ways.values():
        run()
    seconds = {name: [] for name in ways}
    for _ in range(repeats):
        for name, run in ways.items():
            start = time.perf_counter()
            count = run()
            seconds[name].append((time.perf_counter() - start) / count)
    return {name: statistics.median(values) for name, values in seconds.items()}


def ours(transforms, images, num_batches=4):
    """Returns a function that runs our chain a few times and counts the images."""
    pipeline = jax.jit(augment.make_pipeline(transforms))
    labels = jax.nn.one_hot(jnp.arange(len(images)) % 10, 10)
    batch = jnp.asarray(images), labels
    context = dict(epoch=0, index=jnp.arange(len(images)), progress=0.5)

    def run():
        for seed in range(num_batches):
            made = pipeline(jax.random.key(seed), *batch, **context)
        jax.block_until_ready(made)
        return num_batches * len(images)

    return run


def measure_step(args) -> dict:
    """Prints and returns seconds of a step with a chain, without, and of it alone."""
    config = config_of(ROOT / args.step_config)
    transforms = config_of(ROOT / args.step_augment).augment
    images = smooth_images(args.step_batch_size)
    chain_alone = ours(transforms, images, num_batches=1)
    ways = {
        "with": training_step(config, transforms, images),
        "without": training_step(config, (), images),
        "alone": lambda: chain_alone() // len(images),
    }
    seconds = measure(ways, args.repeats)
    added = seconds["with"] - seconds["without"]
    shares = {
        "alone": seconds["alone"] / seconds["without"],
        "added": added / seconds["with"],
    }
    print(f"a step of {args.step_config}, {len(images)} images, {args.step_augment}:")
    print(f"  without the chain {seconds['without']:.3f} s")
    print(f"  with the chain    {seconds['with']:.3f} s, {shares['added']:+.1%} of it")
    print(f"  the chain alone   {seconds['alone']:.4f} s, {shares['alone']:.2%}")
    return dict(seconds=seconds, shares=shares)


def training_step(config, transforms, images):
    """Returns a function that trains for one step and returns 1."""
    shape, mesh = images.shape[1:], sharding.make_mesh(jax.devices()[:1])
    options = config.optim.to_dict()
    schedule = optim.make_schedule(
        "constant",
        options.pop("learning_rate"),
        warmup_steps=0,
        total_steps=1000,
        initial_factor=1.0,
        final_factor=1.0,
    )
    state = create_state(
        jax.random.key(0),
        resnet.create(num_classes=10, image_shape=shape, **config.model.to_dict()),
        optim.make_optimizer(schedule=schedule, **options),
        image_shape=shape,
        average=False,
        sharding=sharding.replicated(mesh),
    )
    step_options = StepOptions(
        num_classes=10,
        batch_size=len(images),
        steps_per_epoch=1,
        total_steps=1000,
        augment=augment.make_pipeline(transforms),
        mean=np.full(3, 0.5),
        std=np.full(3, 0.25),
        label_smoothing=0.0,
        ema_decay=0.0,
        split=sharding.split(mesh),
    )
    call = jax.jit(functools.partial(train_step, options=step_options))
    index = jnp.arange(len(images))
    data = (Metrics.empty(), jnp.asarray(images), index % 10, index, jax.random.key(1))

    def run():
        jax.block_until_ready(call(state, *data))
        return 1

    return run


def verdict(rates: dict, step: dict) -> int:
    """Prints what must be reached, and returns the exit code."""
    checks = [
        (
            f"{name}: {rates[name]['ours']:,} images/s, of at least {least:,}",
            rates[name]["ours"] >= least,
        )
        for name, least in LEAST.items()
    ]
    share = step["shares"]["added"]
    checks.append(
        (
            f"share of a step: {share:.1%}, of at most {LARGEST_SHARE:.0%}",
            share <= LARGEST_SHARE,
        )
    )
    for line, reached in checks:
        print(f"{'reached' if reached else 'MISSED'}: {line}")
    return int(not all(reached for _, reached in checks))


if __name__ == "__main__":
    sys.exit(main())

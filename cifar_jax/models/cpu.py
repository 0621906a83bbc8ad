"""A convolution whose gradient is fast on a CPU. Skip this; read `resnet` first."""

import functools

import jax
from jax import lax

# Images of one device in one convolution of the kernel's gradient. Chunks of 1 MiB of
# maps, which the cache holds, train two small networks 0.88 and 0.91 times as fast, and
# one of 0.5 GFLOPs an image as fast (two cores, jaxlib 0.10.2).
CHUNK = 32
MAX_CHUNKS = 32  # each is compiled on its own; beyond, they are larger


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    window_strides,
    padding,
    *,
    num_devices: int,
    **options,
) -> jax.Array:
    """As `lax.conv_general_dilated`, but for how the kernel's gradient is summed.

    XLA:CPU computes that gradient as a convolution whose window is the whole batch of
    maps, and the larger the batch, the more of it falls out of the cache. Here it is
    the sum over chunks of the batch.

    Args:
      x: [B, H, W, C], maps of a batch.
      kernel: [K, K, C, width], filters.
      window_strides: Strides, as `lax.conv_general_dilated` takes them.
      padding: Padding, as it takes it.
      num_devices: Number of devices that share the batch.
      **options: Its other arguments; the batch is the first axis on both sides.

    Returns:
      [B, H', W', width].
    """
    plain = functools.partial(
        lax.conv_general_dilated,
        window_strides=window_strides,
        padding=padding,
        **options,
    )
    conv = jax.custom_vjp(plain)

    def backward(saved, gradient):
        x, kernel = saved
        _, pull_x = jax.vjp(lambda x: plain(x, kernel), x)
        kernel_gradient = 0
        batches = (chunks(maps, num_devices) for maps in (x, gradient))
        for x_chunk, gradient_chunk in zip(*batches, strict=True):
            _, pull_kernel = jax.vjp(functools.partial(plain, x_chunk), kernel)
            kernel_gradient += pull_kernel(gradient_chunk)[0]
        return *pull_x(gradient), kernel_gradient

    # The forward pass saves its inputs.
    conv.defvjp(lambda x, kernel: (plain(x, kernel), (x, kernel)), backward)
    return conv(x, kernel)


def chunks(batch: jax.Array, num_devices: int) -> list[jax.Array]:
    """Returns [B, ...] in parts with CHUNK images, or fewer, of each device.

    Every part has images of every device, so that no image is sent to another device. A
    batch that cannot be divided evenly stays whole.
    """
    per_device, rest = divmod(batch.shape[0], num_devices)
    size = max(CHUNK, -(-per_device // MAX_CHUNKS))
    if rest or per_device <= size:
        return [batch]
    by_device = batch.reshape(num_devices, per_device, *batch.shape[1:])
    parts = (by_device[:, at : at + size] for at in range(0, per_device, size))
    return [part.reshape(-1, *batch.shape[1:]) for part in parts]

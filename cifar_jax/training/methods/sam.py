"""Sharpness-aware minimisation: the gradient where the loss is worst nearby."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

# Keeps the radius of small weights above zero, as in the paper's experiments.
_ASAM_FLOOR = 0.01


def ascend(params: Any, grads: Any, rho: float, adaptive: bool) -> Any:
    """Returns the parameters moved by `rho` along the gradient: uphill.

    Foret et al. (2021, arXiv:2010.01412). Adaptive: each weight's step is in
    proportion to its square, which makes the radius a share of the weight (ASAM: Kwon
    et al., 2021, arXiv:2102.11600).

    Args:
      params: Tree of arrays.
      grads: Gradient of the whole batch's loss at these parameters.
      rho: Radius.
      adaptive: Whether to use ASAM.
    """
    if not adaptive:
        scale = rho / (optax.tree.norm(grads) + 1e-12)
        return jax.tree.map(lambda w, g: w + scale * g, params, grads)
    sizes = jax.tree.map(lambda w: jnp.abs(w) + _ASAM_FLOOR, params)
    scaled = jax.tree.map(jnp.multiply, sizes, grads)
    scale = rho / (optax.tree.norm(scaled) + 1e-12)
    return jax.tree.map(lambda w, t, g: w + scale * t * g, params, sizes, scaled)

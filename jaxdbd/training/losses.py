"""The joint loss: focus and depth, on the fused output and on every side output.

Every function returns one value per image, so that padding rows can be weighted out.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxdbd.network.convolutions import conv
from jaxdbd.network.model import Output

PerImage = Float[Array, " b"]
Maps = Float[Array, "b h w 1"]


def bce(logits: Maps, target: Maps) -> PerImage:
    """Binary cross-entropy of logits against a target in [0, 1], averaged over pixels."""
    return optax.sigmoid_binary_cross_entropy(logits, target).mean(axis=(1, 2, 3))


def soft_iou(logits: Maps, target: Maps) -> PerImage:
    """1 - intersection / union of the probabilities and the target, both smoothed by one pixel."""
    p = jax.nn.sigmoid(logits)
    intersection = (p * target).sum(axis=(1, 2, 3))
    union = (p + target - p * target).sum(axis=(1, 2, 3))
    return 1 - (intersection + 1) / (union + 1)


def dof_edge(logits: Maps, target: Maps) -> PerImage:
    """Half the Dice loss between the borders of the predicted and the true depth of field (D-DFFNet, ICME 2023).

    Borders by the 3x3 Laplacian K (ones, centre -8): of the label [K*y != 0], of the prediction e / (e + 1) with
    e = (K * probability)^2; Dice with smoothing 1 and squared denominator. Edge pixels are repeated outwards (ours), so
    that the frame of a sharp photograph is no border.
    """
    kernel = jnp.ones((3, 3, 1, 1)).at[1, 1].set(-8.0)

    def laplacian(x):
        return conv(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge"), kernel, padding="VALID")

    label = (jnp.abs(laplacian((target > 0.5).astype(jnp.float32))) > 0.5).astype(jnp.float32)
    e = laplacian(jax.nn.sigmoid(logits)) ** 2
    edge = e / (e + 1)
    overlap = (edge * label).sum(axis=(1, 2, 3))
    size = (edge**2).sum(axis=(1, 2, 3)) + (label**2).sum(axis=(1, 2, 3))
    return 0.5 * (1 - (2 * overlap + 1) / (size + 1))


def l1(depth: Maps, target: Maps) -> PerImage:
    """Mean absolute difference."""
    return jnp.abs(depth - target).mean(axis=(1, 2, 3))


def l2(depth: Maps, target: Maps) -> PerImage:
    """Mean squared difference."""
    return jnp.square(depth - target).mean(axis=(1, 2, 3))


def scale_shift_invariant(depth: Maps, target: Maps) -> PerImage:
    """Mean absolute difference after each map was centred on its median and divided by its mean absolute deviation.

    Ranftl et al., "Towards Robust Monocular Depth Estimation" (MiDaS), TPAMI 2020, eq. 5 to 7, without trimming.
    """

    def align(x):
        centred = x - jnp.median(x, axis=(1, 2, 3), keepdims=True)
        return centred / (jnp.abs(centred).mean(axis=(1, 2, 3), keepdims=True) + 1e-6)

    return jnp.abs(align(depth) - align(target)).mean(axis=(1, 2, 3))


# A focus loss is a sum of terms; each is logged under its own name.
FOCUS_LOSSES: dict[str, tuple[Callable, ...]] = {
    "bce": (bce,),
    "bce+iou": (bce, soft_iou),
    "bce+dof_edge": (bce, dof_edge),
}
DEPTH_LOSSES: dict[str, Callable] = {"l1": l1, "l2": l2, "ssi": scale_shift_invariant}


def shrink_to(target: Maps, size: tuple[int, int]) -> Float[Array, "b h2 w2 1"]:
    """Averages a map over whole blocks down to `size`: the soft label of a side output."""
    b, h, w, c = target.shape
    (sh, sw) = size
    return target.reshape(b, sh, h // sh, sw, w // sw, c).mean(axis=(2, 4))


def joint_loss(
    output: Output,
    mask: Maps,
    depth: Maps | None,
    weight: PerImage,
    *,
    focus_loss: str,
    depth_loss: str,
    gamma: float | Float[Array, ""],
    side_weights: Sequence[float],
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Focus loss + gamma * depth loss, each on the fused output and, by `side_weights`, on the side outputs.

    Args:
      output: of the network, for a batch.
      mask: 1 = in focus.
      depth: the teacher's nearness in [0, 1], or None to leave out the depth term.
      weight: 0 for rows that are padding.
      focus_loss: a key of `FOCUS_LOSSES`.
      depth_loss: a key of `DEPTH_LOSSES`.
      gamma: weight of the depth term.
      side_weights: of the side outputs, coarse to fine; the fused output has weight 1. The paper states neither the
        functions nor the weights; equal weights are our reading of its figure.

    Returns:
      The loss, averaged over the images that count, and its terms by name.
    """

    def average(per_image):
        return (per_image * weight).sum() / jnp.maximum(weight.sum(), 1)

    def over_outputs(term, fused, sides, target):
        total = term(fused, target)
        for side, side_weight in zip(sides, side_weights, strict=True):
            total = total + side_weight * term(side, shrink_to(target, side.shape[1:3]))
        return average(total)

    terms = {f.__name__: over_outputs(f, output.focus, output.side_focus, mask) for f in FOCUS_LOSSES[focus_loss]}
    loss = sum(terms.values())
    if depth is not None and output.depth is not None:
        terms["depth"] = over_outputs(DEPTH_LOSSES[depth_loss], output.depth, output.side_depth, depth)
        loss = loss + gamma * terms["depth"]
    return loss, {"loss": loss, **terms}

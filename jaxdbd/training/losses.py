"""The joint loss: focus, depth and blur, on the fused output and on every side output.

Every term returns one value per image. `known` is 1 where a pixel counts and 0 where it does not: the border between
sharp and blurred of refocused photographs, holes in a teacher's depth, and where nobody knows the blur.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxdbd.network.model import BLUR_SIDE, Output, log_diameter
from jaxdbd.network.plain import conv

PerImage = Float[Array, " b"]
Maps = Float[Array, "b h w 1"]

TRIMMED = 0.2  # share of the largest residuals that `midas` leaves out (Ranftl et al., section 5)
GRADIENT_WEIGHT = 0.5  # of its gradient term (Ranftl et al., eq. 12)
GRADIENT_SCALES = 4  # (Ranftl et al., eq. 11)
SAMPLE_SIDE = 64  # choice of ours: medians of larger maps are taken over a grid of at most about so many pixels a side


def mean_over(values: Maps, known: Maps | None) -> PerImage:
    """Mean over the pixels that are known; 0 where none is."""
    if known is None:
        return values.mean(axis=(1, 2, 3))
    return (values * known).sum(axis=(1, 2, 3)) / jnp.maximum(known.sum(axis=(1, 2, 3)), 1e-6)


# --- Focus ---


def bce(logits: Maps, target: Maps, known: Maps | None = None) -> PerImage:
    """Binary cross-entropy of logits against a target in [0, 1], averaged over pixels."""
    return mean_over(optax.sigmoid_binary_cross_entropy(logits, target), known)


def soft_iou(logits: Maps, target: Maps, known: Maps | None = None) -> PerImage:
    """1 - intersection / union of the probabilities and the target, both smoothed by one pixel."""
    p = jax.nn.sigmoid(logits)
    both, either = p * target, p + target - p * target
    if known is not None:
        both, either = both * known, either * known
    return 1 - (both.sum(axis=(1, 2, 3)) + 1) / (either.sum(axis=(1, 2, 3)) + 1)


def dof_edge(logits: Maps, target: Maps, known: Maps | None = None) -> PerImage:
    """Half the Dice loss between the borders of the predicted and the true depth of field (D-DFFNet, ICME 2023).

    Borders by the 3x3 Laplacian K (ones, center -8): of the label [K*y != 0], of the prediction e / (e + 1) with
    e = (K * probability)^2; Dice with smoothing 1 and squared denominator. Edge pixels are repeated outwards (ours), so
    that the frame of a sharp photograph is no border.
    """
    kernel = jnp.ones((3, 3, 1, 1)).at[1, 1].set(-8.0)

    def laplacian(x):
        return conv(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge"), kernel, padding="VALID")

    label = (jnp.abs(laplacian((target > 0.5).astype(jnp.float32))) > 0.5).astype(jnp.float32)
    e = laplacian(jax.nn.sigmoid(logits)) ** 2
    edge = e / (e + 1)
    if known is not None:
        label, edge = label * known, edge * known
    overlap = (edge * label).sum(axis=(1, 2, 3))
    size = (edge**2).sum(axis=(1, 2, 3)) + (label**2).sum(axis=(1, 2, 3))
    return 0.5 * (1 - (2 * overlap + 1) / (size + 1))


# --- Depth ---


def l1(depth: Maps, target: Maps, known: Maps | None = None) -> PerImage:
    """Mean absolute difference."""
    return mean_over(jnp.abs(depth - target), known)


def scale_shift_invariant(depth: Maps, target: Maps, known: Maps | None = None) -> PerImage:
    """Mean absolute difference after each map was centered on its median and divided by its mean absolute deviation.

    Ranftl et al., "Towards Robust Monocular Depth Estimation" (MiDaS), TPAMI 2020, eq. 5 to 7, without trimming.
    """
    return mean_over(jnp.abs(aligned(depth, known) - aligned(target, known)), known)


def midas(depth: Maps, target: Maps, known: Maps | None = None) -> PerImage:
    """What MiDaS trains with: `scale_shift_invariant` trimmed of the largest residuals, and a gradient term.

    Ranftl et al., TPAMI 2020, eq. 8 and 11. The gradient term is averaged over pixels at each of its scales.
    """
    residual = aligned(depth, known) - aligned(target, known)
    size = jnp.abs(residual)
    inside = jnp.ones_like(size) if known is None else known
    limit = jax.lax.stop_gradient(_quantile(size, inside, 1 - TRIMMED))
    trimmed = mean_over(size * (size <= limit), inside)
    gradient = jnp.zeros_like(trimmed)
    for scale in range(GRADIENT_SCALES):
        r, k = (x[:, :: 2**scale, :: 2**scale] for x in (residual, inside))
        if min(r.shape[1:3]) < 2:
            break
        gradient += mean_over(jnp.abs(r[:, 1:] - r[:, :-1]), k[:, 1:] * k[:, :-1])
        gradient += mean_over(jnp.abs(r[:, :, 1:] - r[:, :, :-1]), k[:, :, 1:] * k[:, :, :-1])
    return trimmed + GRADIENT_WEIGHT * gradient


def aligned(x: Maps, known: Maps | None = None) -> Maps:
    """A map less its median over the known pixels, over their mean absolute deviation from it."""
    inside = jnp.ones_like(x) if known is None else known
    middle = _quantile(x, inside, 0.5)
    centered = jnp.where(inside > 0, x - middle, 0)
    return centered / (mean_over(jnp.abs(centered), inside)[:, None, None, None] + 1e-6)


def _quantile(x: Maps, inside: Maps, q: float) -> Float[Array, "b 1 1 1"]:
    """A quantile of each image's known pixels, linear between the two nearest; 0 where none is known."""
    # Sorting a whole map costs more than the rest of the loss.
    rows, columns = (max(1, n // SAMPLE_SIDE) for n in x.shape[1:3])
    x, inside = (a[:, ::rows, ::columns, 0].reshape(len(a), -1) for a in (x, inside))
    count = (inside > 0).sum(axis=1, keepdims=True)
    ordered = jnp.sort(jnp.where(inside > 0, x, jnp.inf), axis=1)
    place = q * jnp.maximum(count - 1, 0).astype(x.dtype)
    low = jnp.floor(place).astype(jnp.int32)
    values = [jnp.take_along_axis(ordered, i, axis=1) for i in (low, jnp.minimum(low + 1, jnp.maximum(count - 1, 0)))]
    share = place - low
    between = (1 - share) * values[0] + share * values[1]
    return jnp.where(count > 0, between, 0)[:, :, None, None]


# --- Blur ---


def l1_of_batch(log: Maps, target: Maps, known: Maps) -> PerImage:
    """Absolute difference, so divided that its mean over the images is that over all known pixels of the batch.

    A photograph of which little is known counts little. All 0 where nothing is known.
    """
    per_image = jnp.maximum(known.sum() / len(known), 1e-6)
    return (jnp.abs(log - target) * known).sum(axis=(1, 2, 3)) / per_image


# A focus loss is a sum of terms; each is logged under its own name.
FOCUS_LOSSES: dict[str, tuple[Callable, ...]] = {
    "bce": (bce,),
    "bce+iou": (bce, soft_iou),
    "bce+dof_edge": (bce, dof_edge),
}
DEPTH_LOSSES: dict[str, Callable] = {"l1": l1, "ssi": scale_shift_invariant, "midas": midas}


# --- All, on all outputs ---


def shrink_to(target: Maps, size: tuple[int, int]) -> Float[Array, "b h2 w2 1"]:
    """Averages a map over whole blocks down to `size`: the soft label of a side output."""
    b, h, w, c = target.shape
    (sh, sw) = size
    return target.reshape(b, sh, h // sh, sw, w // sw, c).mean(axis=(2, 4))


def shrink_known(
    target: Maps, known: Maps, size: tuple[int, int]
) -> tuple[Float[Array, "b h2 w2 1"], Float[Array, "b h2 w2 1"]]:
    """`shrink_to` over the known pixels of each block alone, and the share of a block that is known."""
    share = shrink_to(known, size)
    return shrink_to(target * known, size) / jnp.maximum(share, 1e-6), share


def where_known(target: Maps) -> tuple[Maps, Maps]:
    """A map with 0 for its NaN, and 1 where it was known, 0 where it was not."""
    known = jnp.isfinite(target)
    return jnp.where(known, target, 0), known.astype(jnp.float32)


def joint_loss(
    output: Output,
    mask: Maps,
    depth: Maps | None,
    valid: Maps | None = None,
    blur: Maps | None = None,
    *,
    focus_loss: str,
    depth_loss: str,
    gamma: float,
    side_weights: Sequence[float],
    blur_weight: float = 0.0,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Focus loss + gamma * depth loss + blur_weight * blur loss, each on the fused output and on the side outputs.

    Args:
      output: of the network, for a batch.
      mask: 1 = in focus.
      depth: the teacher's nearness in [0, 1], NaN in its holes; or None to leave out the depth term.
      valid: 1 where the mask counts, 0 where it does not; None where it counts everywhere.
      blur: diameter of the circle of confusion as a share of the image's side, NaN where it is not known; or None to
        leave out the blur term: `l1_of_batch` of what `Output.blur` is.
      focus_loss: a key of `FOCUS_LOSSES`.
      depth_loss: a key of `DEPTH_LOSSES`.
      gamma: weight of the depth term.
      side_weights: of the side outputs, coarse to fine; the fused output has weight 1. The paper states neither the
        functions nor the weights; equal weights are our reading of its figure.
      blur_weight: weight of the blur term.

    Returns:
      The loss, averaged over the images, and its terms by name.
    """

    def over_outputs(term, fused, sides, target, known):
        def of(map_):
            size = map_.shape[1:3]
            if size == target.shape[1:3]:
                return term(map_, target, known)
            small = (shrink_to(target, size), None) if known is None else shrink_known(target, known, size)
            return term(map_, *small)

        total = of(fused)
        for side, side_weight in zip(sides, side_weights, strict=True):
            total = total + side_weight * of(side)
        return total.mean()

    terms = {
        f.__name__: over_outputs(f, output.focus, output.side_focus, mask, valid) for f in FOCUS_LOSSES[focus_loss]
    }
    loss: Any = sum(terms.values())
    if depth is not None and output.depth is not None:
        near, known = where_known(depth)
        terms["depth"] = over_outputs(DEPTH_LOSSES[depth_loss], output.depth, output.side_depth, near, known)
        loss = loss + gamma * terms["depth"]
    if blur is not None and output.blur is not None:
        share, known = where_known(blur)
        target = log_diameter(share * (blur.shape[1] / BLUR_SIDE))
        terms["blur"] = over_outputs(l1_of_batch, output.blur, output.side_blur, target, known)
        loss = loss + blur_weight * terms["blur"]
    return loss, {"loss": loss, **terms}

"""Every random number of a row, drawn at once: its augmentation is a plain function of them."""

from math import prod

import jax
from jaxtyping import Array, Float32, Key

Draws = dict[str, Float32[Array, "..."]]

# What the numbers decide, and their shapes. Those of one row are independent of each other.
SHAPES: dict[str, tuple[int, ...]] = {
    "kind": (),  # whether a row becomes a part in focus, is blurred as a whole or in a region, or none of these
    "window": (5,),  # area, aspect, left and top of what is shown, and whether it is mirrored
    "tiles": (5,),  # whether there are tiles, of a part in focus or of all, their scale, where the first begins
    "boxes": (4, 256),  # heights, widths, tops and lefts of boxes in which focus is looked for
    "sky": (9,),  # whether there is one, its height and colors
    "skyline": (18,),  # hills or roofs, the number of knots, and the knots
    "clouds": (4, 6),  # knots
    "layer": (2,),  # whether another photograph is laid over, and how blurred
    "blur": (2,),  # the share and the blur of a region
    "region": (4, 4),  # knots
    "shrink": (2,),  # whether, and to which side
    "color": (4,),  # brightness, contrast, saturation, and whether it becomes gray
    "noise": (2,),  # what its values are hashed with, and how strong it is
    "jpeg": (2,),  # whether, and at which quality
}


def draw(key: Key[Array, ""]) -> Draws:
    """Numbers evenly spread over [0, 1), of the shapes that `SHAPES` has under the same names."""
    numbers = jax.random.uniform(key, (sum(map(prod, SHAPES.values())),))
    found, start = {}, 0
    for name, shape in SHAPES.items():
        found[name] = numbers[start : start + prod(shape)].reshape(shape)
        start += prod(shape)
    return found


def between(share: Float32[Array, "*s"], low: float, high: float) -> Float32[Array, "*s"]:
    """Evenly spread over [0, 1) to evenly spread over [low, high)."""
    return low + share * (high - low)


def centered(share: Float32[Array, "*s"]) -> Float32[Array, "*s"]:
    """Evenly spread over [0, 1) to a mean of 0 and a standard deviation of 1."""
    return (share - 0.5) * 12**0.5

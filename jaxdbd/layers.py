"""The few layers whose plain form XLA runs slowly somewhere: same weights and results, a faster form per platform.

Each computes what the layer of the same name in any framework computes; docs/performance.md has the timings.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

he_normal = nn.initializers.he_normal()


def max_pool_2x2(x: Float[Array, "b h w c"]) -> Float[Array, "b h//2 w//2 c"]:
    """2x2 max-pooling with stride 2, as the maximum of four strided views: on a CPU its gradient is 20 times faster."""
    return jnp.maximum(
        jnp.maximum(x[:, ::2, ::2], x[:, ::2, 1::2]),
        jnp.maximum(x[:, 1::2, ::2], x[:, 1::2, 1::2]),
    )


def upsample_nearest(x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c"]:
    """Repeats every pixel twice along height and width."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def upsample_conv(x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]) -> Float[Array, "b 2*h 2*w d"]:
    """Nearest x2 upsampling followed by a 3x3 convolution with zero padding, without building the upsampled map.

    Two of every three kernel rows meet the same low-resolution row, so each of the four output parities is a 2x2
    convolution of the small map with summed kernel entries: 4/9 of the multiplications.
    """
    b, h, w, _ = x.shape
    d = kernel.shape[-1]
    # Rows (w0, w1 + w2) serve even output rows, (w0 + w1, w2) odd ones; then the same along columns.
    rows = jnp.stack([jnp.stack([kernel[0], kernel[1] + kernel[2]]), jnp.stack([kernel[0] + kernel[1], kernel[2]])])
    parts = jnp.stack(
        [
            jnp.stack([rows[:, :, 0], rows[:, :, 1] + rows[:, :, 2]], axis=2),
            jnp.stack([rows[:, :, 0] + rows[:, :, 1], rows[:, :, 2]], axis=2),
        ],
        axis=1,
    )  # [row parity, column parity, 2, 2, c, d]
    merged = jnp.transpose(parts, (2, 3, 4, 0, 1, 5)).reshape(2, 2, -1, 4 * d)
    y = conv(x, merged, padding=((1, 1), (1, 1))).reshape(b, h + 1, w + 1, 2, 2, d)
    even, odd = y[:, :h, :, 0], y[:, 1:, :, 1]
    grid = jnp.stack(
        [jnp.stack([p[:, :, :w, 0], p[:, :, 1:, 1]], axis=3) for p in (even, odd)], axis=2
    )  # [b, h, row parity, w, column parity, d]
    return grid.reshape(b, 2 * h, 2 * w, d)


def conv(x, kernel, *, stride=1, padding, dilation=1, groups=1):
    """A 2-D convolution, NHWC with HWIO kernels; `padding` is 'SAME' or ((top, bottom), (left, right))."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        rhs_dilation=(dilation, dilation),
        feature_group_count=groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def dilated_conv(x: Float[Array, "b h w c"], kernel: Float[Array, "k k c d"], dilation: int) -> Float[Array, "b h w d"]:
    """A dilated convolution of unchanged size that leaves out the kernel taps lying wholly in the zero padding.

    At 10x10, a 7x7 kernel of rate 7 reaches only its 3x3 middle: the others would multiply zeros.
    """
    k = kernel.shape[0]
    reach = [min(k // 2, (side - 1) // dilation) for side in x.shape[1:3]]
    kernel = kernel[k // 2 - reach[0] : k // 2 + reach[0] + 1, k // 2 - reach[1] : k // 2 + reach[1] + 1]
    return conv(x, kernel, padding=tuple((dilation * r, dilation * r) for r in reach), dilation=dilation)


def same_padding(size: int, k: int, stride: int) -> tuple[int, int]:
    """TensorFlow's 'SAME' rule along one axis: (before, after), the odd pixel after."""
    total = max((-(-size // stride) - 1) * stride + k - size, 0)
    return total // 2, total - total // 2


def shifted_depthwise(x, kernel, stride):
    """Depthwise convolution with 'SAME' padding as k*k shifted multiply-adds, which XLA fuses into one loop."""
    _, h, w, _ = x.shape
    k = kernel.shape[0]
    out_h, out_w = -(-h // stride), -(-w // stride)
    padded = jnp.pad(x, ((0, 0), same_padding(h, k, stride), same_padding(w, k, stride), (0, 0)))
    total = None
    for i in range(k):
        for j in range(k):
            view = padded[:, i : i + (out_h - 1) * stride + 1 : stride, j : j + (out_w - 1) * stride + 1 : stride]
            term = view * kernel[i, j, 0]
            total = term if total is None else total + term
    return total


def grouped_depthwise(x, kernel, stride):
    """Depthwise convolution with 'SAME' padding as the grouped convolution that accelerators have kernels for."""
    return conv(x, kernel, stride=stride, padding="SAME", groups=x.shape[-1])


@partial(jax.jit, static_argnames="stride")
def depthwise_conv(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k 1 c"], stride: int = 1
) -> Float[Array, "b h2 w2 c"]:
    """Depthwise convolution with TensorFlow's 'SAME' padding; the form is chosen when the program is lowered."""
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=partial(shifted_depthwise, stride=stride),
        default=partial(grouped_depthwise, stride=stride),
    )

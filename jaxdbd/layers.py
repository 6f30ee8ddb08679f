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


def upsample_conv(x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]) -> Float[Array, "b 2*h 2*w d"]:
    """Nearest x2 upsampling followed by a 3x3 convolution with zero padding, without building the upsampled map.

    Two of every three kernel rows meet the same low-resolution row, so each of the four output parities is a 2x2
    convolution of the small map with summed kernel entries: 4/9 of the multiplications.
    """
    b, h, w, _ = x.shape
    # Rows (w0, w1 + w2) serve the even output rows, (w0 + w1, w2) the odd ones; the same along columns.
    halves = [jnp.stack([kernel[0], kernel[1] + kernel[2]]), jnp.stack([kernel[0] + kernel[1], kernel[2]])]
    rows = []
    for i, half in enumerate(halves):
        quarters = [
            jnp.stack([half[:, 0], half[:, 1] + half[:, 2]], axis=1),
            jnp.stack([half[:, 0] + half[:, 1], half[:, 2]], axis=1),
        ]
        columns = [conv(x, q, padding=((1 - i, i), (1 - j, j))) for j, q in enumerate(quarters)]
        rows.append(jnp.stack(columns, axis=3))
    return jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, -1)


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


def shifted_views(padded, k, stride, out_h, out_w):
    """The k*k views of a padded map that meet each kernel entry, row by row."""
    return [
        padded[:, i : i + (out_h - 1) * stride + 1 : stride, j : j + (out_w - 1) * stride + 1 : stride]
        for i in range(k)
        for j in range(k)
    ]


def shifted_depthwise(x, kernel, stride):
    """Depthwise convolution with 'SAME' padding as k*k shifted multiply-adds, which XLA fuses into one loop."""
    _, h, w, c = x.shape
    k = kernel.shape[0]
    padded = jnp.pad(x, ((0, 0), same_padding(h, k, stride), same_padding(w, k, stride), (0, 0)))
    views = shifted_views(padded, k, stride, -(-h // stride), -(-w // stride))
    return sum(view * tap for view, tap in zip(views, kernel.reshape(k * k, 1, 1, 1, c), strict=True))


def shifted_depthwise_gradient(x, kernel, dy, stride):
    """Gradient of `shifted_depthwise`. Autodiff would keep all k*k views, and reduce them one after another."""
    _, h, w, c = x.shape
    k = kernel.shape[0]
    (top, bottom), (left, right) = same_padding(h, k, stride), same_padding(w, k, stride)
    views = shifted_views(jnp.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0))), k, stride, *dy.shape[1:3])
    # One reduction with k*k operands reads x and dy once; the sum over images comes after, so that a sharded batch
    # reduces on its own device first.
    products = tuple((view * dy).astype(jnp.float32) for view in views)
    sums = jax.lax.reduce(products, (jnp.float32(0),) * (k * k), lambda a, b: tuple(map(jax.lax.add, a, b)), (1, 2))
    d_kernel = jnp.stack([s.sum(axis=0) for s in sums]).reshape(k, k, 1, c).astype(kernel.dtype)
    # Input row r meets kernel row i in output row (r + top - i) / stride: spread dy out, then correlate with the
    # flipped kernel.
    spread_h, spread_w = ((n - 1) * stride + 1 for n in dy.shape[1:3])
    config = [
        (0, 0, 0),
        (k - 1 - top, h + top - spread_h, stride - 1),
        (k - 1 - left, w + left - spread_w, stride - 1),
        (0, 0, 0),
    ]
    spread = jax.lax.pad(dy, jnp.zeros((), dy.dtype), config)
    views = shifted_views(spread, k, 1, h, w)
    flipped = kernel[::-1, ::-1].reshape(k * k, 1, 1, 1, c)
    return sum(view * tap for view, tap in zip(views, flipped, strict=True)), d_kernel


def grouped_depthwise(x, kernel, stride):
    """Depthwise convolution with 'SAME' padding as the grouped convolution that accelerators have kernels for."""
    return conv(x, kernel, stride=stride, padding="SAME", groups=x.shape[-1])


def grouped_depthwise_gradient(x, kernel, dy, stride):
    """Gradient of `grouped_depthwise`."""
    return jax.vjp(partial(grouped_depthwise, stride=stride), x, kernel)[1](dy)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise_conv(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k 1 c"], stride: int = 1
) -> Float[Array, "b h2 w2 c"]:
    """Depthwise convolution with TensorFlow's 'SAME' padding; the form is chosen when the program is lowered."""
    return jax.lax.platform_dependent(
        x, kernel, cpu=partial(shifted_depthwise, stride=stride), default=partial(grouped_depthwise, stride=stride)
    )


def _depthwise_forward(x, kernel, stride):
    return depthwise_conv(x, kernel, stride), (x, kernel)


def _depthwise_backward(stride, residuals, dy):
    return jax.lax.platform_dependent(
        *residuals,
        dy,
        cpu=partial(shifted_depthwise_gradient, stride=stride),
        default=partial(grouped_depthwise_gradient, stride=stride),
    )


depthwise_conv.defvjp(_depthwise_forward, _depthwise_backward)

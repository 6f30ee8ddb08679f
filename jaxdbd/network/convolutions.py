"""The few layers whose plain form XLA runs slowly somewhere: same weights and results, a faster form per platform.

Each computes what the layer of the same name in any framework computes; docs/performance.md has the timings.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxdbd.network.per_platform import Forms, per_platform
from jaxdbd.network.winograd import winograd_conv, winograd_input_gradient, winograd_kernel_gradient

he_normal = nn.initializers.he_normal()


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


class ConvParameters(nn.Module):
    """The parameters of an `nn.Conv`, under its names, for a convolution that is computed in another form."""

    in_features: int
    features: int
    kernel: int

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "k k c d"], Float[Array, " d"]]:
        """Returns kernel [k, k, in, out] and bias [out], float32."""
        shape = (self.kernel, self.kernel, self.in_features, self.features)
        return self.param("kernel", he_normal, shape), self.param("bias", nn.initializers.zeros, (self.features,))


# --- 1x1 and 3x3 convolutions ---


def pointwise_gradient(x, kernel, dy):
    """Gradient of x @ kernel over all pixels at once. Autodiff's form of it has XLA transpose a whole map first."""
    c, d = kernel.shape
    return jnp.dot(dy, kernel.T), jnp.dot(x.reshape(-1, c).T, dy.reshape(-1, d))


class PointwiseConv(nn.Module):
    """A 1x1 convolution, which is a matrix product; the parameters and their start are those of `nn.Dense`."""

    features: int
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w {self.features}"]:
        """Maps [B, H, W, C] to [B, H, W, features]."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features)).astype(self.dtype)
        x = per_platform(x.astype(self.dtype), kernel, Forms(jnp.dot, jnp.dot, pointwise_gradient))
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            x = x + bias.astype(self.dtype)[None, None, None]
        return x


# Our choices, from docs/performance.md: on maps of more pixels, XLA has the kernel's gradient slide a window of their
# size; with fewer channels or pixels, Winograd's sums cost more than the products they save, in that gradient later.
LARGE = 64 * 64
WIDE, GRADIENT_WIDE, ENOUGH = 128, 64, 16 * 16


def same_conv(x, kernel):
    """A convolution of unchanged size."""
    return conv(x, kernel, padding="SAME")


def product_conv_gradient(x, kernel, dy):
    """Gradient of a 3x3 `same_conv`, that of the kernel as one matrix product over all pixels."""
    c, d = kernel.shape[2:]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    views = jnp.concatenate(shifted_views(padded, 3, 1, *dy.shape[1:3]), axis=-1)
    d_kernel = jnp.dot(views.reshape(-1, 9 * c).T, dy.reshape(-1, d))
    return input_gradient(kernel, dy), d_kernel.reshape(3, 3, c, d)


def input_gradient(kernel, dy):
    """Gradient of `same_conv` by its input: a convolution by the kernel turned by 180 degrees."""
    return same_conv(dy, kernel[::-1, ::-1].transpose(0, 1, 3, 2))


def winograd_gradient(x, kernel, dy):
    """Gradient of a 3x3 `same_conv` of a map with even sides."""
    x, dy = jax.lax.optimization_barrier((x, dy))  # or XLA computes what leads to them again for each of the 16 patches
    by_input = winograd_input_gradient if min(kernel.shape[2:]) >= WIDE else input_gradient
    return by_input(kernel, dy), winograd_kernel_gradient(x, dy)


def conv_3x3(x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]) -> Float[Array, "b h w d"]:
    """A 3x3 convolution of unchanged size, zeros outside the map."""
    _, h, w, c = x.shape
    narrowest = min(c, kernel.shape[-1])
    fits = h * w >= ENOUGH and h % 2 == w % 2 == 0 and x.dtype == jnp.float32
    forward = winograd_conv if fits and narrowest >= WIDE else same_conv
    gradient = product_conv_gradient if h * w >= LARGE else None
    gradient = winograd_gradient if fits and narrowest >= GRADIENT_WIDE else gradient
    return per_platform(x, kernel, Forms(forward, same_conv, gradient))


# --- Pooling and upsampling ---


def max_pool_2x2(x: Float[Array, "b h w c"]) -> Float[Array, "b h//2 w//2 c"]:
    """2x2 max-pooling with stride 2, as the maximum of four strided views: on a CPU its gradient is 20 times faster."""
    return jnp.maximum(
        jnp.maximum(x[:, ::2, ::2], x[:, ::2, 1::2]),
        jnp.maximum(x[:, 1::2, ::2], x[:, 1::2, 1::2]),
    )


def upsampled_conv(x, kernel):
    """Nearest x2 upsampling, then a 3x3 convolution, as written."""
    return conv(x.repeat(2, axis=1).repeat(2, axis=2), kernel, padding="SAME")


def shift(x, down, right):
    """A map moved by whole pixels, zeros coming in."""
    _, h, w, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (max(down, 0), max(-down, 0)), (max(right, 0), max(-right, 0)), (0, 0)))
    return padded[:, max(-down, 0) :][:, :h, max(-right, 0) :][:, :, :w]


def product_upsample_conv(x, kernel):
    """`upsampled_conv` in a quarter of its multiplications: one matrix product of the small map per kernel entry.

    Output row 2y + a meets kernel row i in row 2y + a + i - 1 of the upsampled map, which is row y + (a + i - 1) // 2
    of the small one: so each of the nine products, once computed, is only moved and added.
    """
    b, h, w, _ = x.shape
    products = [[jnp.dot(x, kernel[i, j]) for j in range(3)] for i in range(3)]

    def output(a, e):
        return sum(shift(products[i][j], -((a + i - 1) // 2), -((e + j - 1) // 2)) for i in range(3) for j in range(3))

    rows = [jnp.stack([output(a, e) for e in range(2)], axis=3) for a in range(2)]
    return jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, -1)


def product_upsample_conv_gradient(x, kernel, dy):
    """Gradient of `product_upsample_conv`, its products side by side: two large matrix products instead of eighteen."""
    b, h, w, c = x.shape
    d = kernel.shape[-1]
    parts = dy.reshape(b, h, 2, w, 2, d)

    def d_product(i, j):
        return sum(shift(parts[:, :, a, :, e], (a + i - 1) // 2, (e + j - 1) // 2) for a in range(2) for e in range(2))

    d_products = jnp.concatenate([d_product(i, j) for i in range(3) for j in range(3)], axis=-1)
    d_x = jnp.dot(d_products, kernel.transpose(0, 1, 3, 2).reshape(9 * d, c))
    d_kernel = jnp.dot(x.reshape(-1, c).T, d_products.reshape(-1, 9 * d))
    return d_x, d_kernel.reshape(c, 3, 3, d).transpose(1, 2, 0, 3)


def upsample_conv(x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]) -> Float[Array, "b 2*h 2*w d"]:
    """Nearest x2 upsampling followed by a 3x3 convolution with zero padding."""
    return per_platform(x, kernel, Forms(product_upsample_conv, upsampled_conv, product_upsample_conv_gradient))


# --- Dilated convolutions ---


def within_reach(x, kernel, dilation):
    """A dilated kernel without the entries that meet nothing but padding: at 10x10, 7x7 of rate 7 leaves 3x3."""
    k = kernel.shape[0]
    rows, columns = (min(k // 2, (side - 1) // dilation) for side in x.shape[1:3])
    return kernel[k // 2 - rows : k // 2 + rows + 1, k // 2 - columns : k // 2 + columns + 1]


def padded_dilated_conv(x, kernel, dilation):
    """A dilated convolution of unchanged size, as one convolution over a padded map."""
    kernel = within_reach(x, kernel, dilation)
    return conv(x, kernel, padding=tuple((dilation * (n // 2),) * 2 for n in kernel.shape[:2]), dilation=dilation)


def unpadded_dilated_conv(x, kernel, dilation):
    """The same as one matrix product per kernel entry, over those pixels alone where it meets the map."""
    b, h, w, _ = x.shape
    kernel = within_reach(x, kernel, dilation)
    out = jnp.zeros((b, h, w, kernel.shape[-1]), x.dtype)
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            # Output (y, x) meets this entry at (y + down, x + right).
            down, right = dilation * (i - kernel.shape[0] // 2), dilation * (j - kernel.shape[1] // 2)
            met = x[:, max(down, 0) : h + min(down, 0), max(right, 0) : w + min(right, 0)]
            rows, columns = slice(max(-down, 0), h - max(down, 0)), slice(max(-right, 0), w - max(right, 0))
            out = out.at[:, rows, columns].add(jnp.dot(met, kernel[i, j]))
    return out


def share_within(side: int, k: int, dilation: int) -> float:
    """Along one axis, the share of a dilated convolution's products that are not with padding."""
    reach = min(k // 2, (side - 1) // dilation)
    return sum(side - dilation * abs(i) for i in range(-reach, reach + 1)) / side / (2 * reach + 1)


def dilated_conv(x: Float[Array, "b h w c"], kernel: Float[Array, "k k c d"], dilation: int) -> Float[Array, "b h w d"]:
    """A dilated convolution of unchanged size, zeros outside the map."""
    _, h, w, channels = x.shape
    k = kernel.shape[0]
    # Our choice, from docs/performance.md: matrix products win where most of a padded map would be padding.
    if channels >= 256 and share_within(h, k, dilation) * share_within(w, k, dilation) < 0.5:
        return per_platform(x, kernel, Forms(unpadded_dilated_conv, padded_dilated_conv, settings=(dilation,)))
    return padded_dilated_conv(x, kernel, dilation)


# --- Depthwise and grouped convolutions ---

MERGED = 16  # input channels of a convolution that stands for some groups: our choice, from docs/performance.md


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


def depthwise_conv(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k 1 c"], stride: int = 1
) -> Float[Array, "b h2 w2 c"]:
    """Depthwise convolution with TensorFlow's 'SAME' padding."""
    forms = Forms(shifted_depthwise, grouped_depthwise, shifted_depthwise_gradient, (stride,))
    return per_platform(x, kernel, forms)


def split_grouped_conv(x, kernel, groups, stride=1):
    """A grouped convolution as plain ones, each of a few groups, with zeros in its kernel from group to group."""
    k, _, c, _ = kernel.shape
    together = math.gcd(groups, max(1, MERGED // c))
    by_group = kernel.reshape(k, k, c, groups // together, together, -1)
    merged = jnp.einsum("ijcpgd,hg->pijhcgd", by_group, jnp.eye(together, dtype=kernel.dtype))
    merged = merged.reshape(groups // together, k, k, together * c, -1)
    parts = zip(jnp.split(x, groups // together, axis=-1), merged, strict=True)
    return jnp.concatenate([padded_grouped_conv(part, each, 1, stride) for part, each in parts], axis=-1)


def padded_grouped_conv(x, kernel, groups, stride=1):
    """A 3x3 convolution in groups as XLA has it, one pixel of padding on each side."""
    return conv(x, kernel, stride=stride, padding=((1, 1), (1, 1)), groups=groups)


def grouped_conv_3x3(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c//{groups} c"], groups: int, stride: int = 1
) -> Float[Array, "b h2 w2 c"]:
    """A 3x3 convolution in groups, one pixel of padding on each side."""
    return per_platform(x, kernel, Forms(split_grouped_conv, padded_grouped_conv, settings=(groups, stride)))

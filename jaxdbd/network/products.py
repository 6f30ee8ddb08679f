"""Convolutions as matrix products, where a CPU is faster at those."""

import jax.numpy as jnp

from jaxdbd.network.bilinear import Form
from jaxdbd.network.plain import padded_dilated_conv, within_reach


def flat_by_kernel(x, dy, shape):
    """Gradient of `x @ kernel` over all pixels at once. Autodiff's form of it has XLA transpose a whole map first."""
    c, d = shape
    return jnp.dot(x.reshape(-1, c).T, dy.reshape(-1, d))


FLAT = Form(jnp.dot, by_kernel=flat_by_kernel)

# --- Upsampling, then a 3x3 convolution ---


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


def upsample_d_products(dy):
    """The gradients of the nine products side by side, [b, h, w, 9 d]: both gradients are one product with them."""
    b, h2, w2, d = dy.shape
    parts = dy.reshape(b, h2 // 2, 2, w2 // 2, 2, d)

    def d_product(i, j):
        return sum(shift(parts[:, :, a, :, e], (a + i - 1) // 2, (e + j - 1) // 2) for a in range(2) for e in range(2))

    return jnp.concatenate([d_product(i, j) for i in range(3) for j in range(3)], axis=-1)


def upsample_by_x(kernel, dy, shape):
    """Gradient of `product_upsample_conv` by x."""
    return jnp.dot(upsample_d_products(dy), kernel.transpose(0, 1, 3, 2).reshape(-1, shape[-1]))


def upsample_by_kernel(x, dy, shape):
    """Gradient of `product_upsample_conv` by the kernel."""
    _, _, c, d = shape
    d_kernel = jnp.dot(x.reshape(-1, c).T, upsample_d_products(dy).reshape(-1, 9 * d))
    return d_kernel.reshape(c, 3, 3, d).transpose(1, 2, 0, 3)


UPSAMPLE = Form(product_upsample_conv, upsample_by_x, upsample_by_kernel)

# --- Dilated convolutions ---


def unpadded_dilated_conv(x, kernel, dilation):
    """One matrix product per kernel entry, over those pixels alone where it meets the map."""
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


def cpu_dilated_conv(x, kernel, dilation):
    """A dilated convolution of unchanged size, in the form that is faster for its shapes."""
    _, h, w, c = x.shape
    k = kernel.shape[0]
    # Our choice, from docs/performance.md: matrix products win where most of a padded map would be padding.
    mostly_padding = share_within(h, k, dilation) * share_within(w, k, dilation) < 0.5
    return (unpadded_dilated_conv if c >= 256 and mostly_padding else padded_dilated_conv)(x, kernel, dilation)

"""3x3 convolutions in fewer multiplications: Winograd's F(2x2, 3x3), as in Lavin and Gray, CVPR 2016.

Each 4x4 patch of the map and the kernel are transformed by sums, then multiplied entry by entry of the 16, all pixels
of an entry in one matrix product: 16 multiplications per 2x2 outputs in place of 36. In float32 it errs by 1e-6.
"""

import jax
import jax.numpy as jnp

from jaxdbd.network.bilinear import Form
from jaxdbd.network.grouped import shifted_views
from jaxdbd.network.plain import same_conv


def winograd_patches(x):
    """The transform of each 4x4 patch of a padded map with even sides, [4][4] of [pixels / 4, c]."""
    _, h, w, c = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))

    def along(d):
        return d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]

    rows = along([padded[:, i : i + h - 1 : 2] for i in range(4)])
    patches = [along([row[:, :, j : j + w - 1 : 2] for j in range(4)]) for row in rows]
    return [[patch.reshape(-1, c) for patch in row] for row in patches]


def winograd_kernels(kernel):
    """The transform of a 3x3 kernel, [4][4] of [c, d]."""

    def along(g):
        return g[0], (g[0] + g[1] + g[2]) / 2, (g[0] - g[1] + g[2]) / 2, g[2]

    return [along(row) for row in along(kernel)]


def winograd_outputs(products, b, h, w):
    """The map [b, h, w, d] whose transformed 2x2 outputs are given, [4][4] of [pixels / 4, d]."""

    def along(m):
        return m[0] + m[1] + m[2], m[1] - m[2] - m[3]

    columns = [along([products[i][j] for i in range(4)]) for j in range(4)]
    parts = [jnp.stack(along([column[a] for column in columns]), axis=1) for a in range(2)]  # [pixels, 2, d] each
    return jnp.stack(parts).reshape(2, b, h // 2, w // 2, 2, -1).transpose(1, 2, 0, 3, 4, 5).reshape(b, h, w, -1)


def winograd_conv(x, kernel):
    """A 3x3 convolution of unchanged size, of a map with even sides."""
    patches, kernels = winograd_patches(x), winograd_kernels(kernel)
    products = [[jnp.dot(patches[i][j], kernels[i][j]) for j in range(4)] for i in range(4)]
    return winograd_outputs(products, *x.shape[:3])


def winograd_by_x(kernel, dy):
    """Gradient of `winograd_conv` by its input: with the kernel turned by 180 degrees, on its transform as it is."""
    patches, kernels = winograd_patches(dy), winograd_kernels(kernel)
    turned = (3, 1, 2, 0)  # where the transform of a turned kernel has what that of the kernel has
    products = [[jnp.dot(patches[i][j], kernels[turned[i]][turned[j]].T) for j in range(4)] for i in range(4)]
    return winograd_outputs(products, *dy.shape[:3])


def winograd_by_kernel(x, dy):
    """Gradient of `winograd_conv` by its kernel, in 16 products per 2x2 outputs too: the same sums, transposed."""

    def spread(y):  # along an axis, from two outputs to the four products that they are sums of
        return y[0], y[0] + y[1], y[0] - y[1], -y[1]

    def gathered(u):  # along an axis, from four entries of the transform to the three of the kernel
        return u[0] + (u[1] + u[2]) / 2, (u[1] - u[2]) / 2, (u[1] + u[2]) / 2 + u[3]

    patches, d = winograd_patches(x), dy.shape[-1]
    d_products = [spread([row[:, :, j::2] for j in range(2)]) for row in spread([dy[:, i::2] for i in range(2)])]
    d_kernels = [[jnp.dot(patches[i][j].T, d_products[i][j].reshape(-1, d)) for j in range(4)] for i in range(4)]
    columns = [gathered([d_kernels[i][j] for i in range(4)]) for j in range(4)]
    return jnp.stack([jnp.stack(gathered([column[a] for column in columns])) for a in range(3)])


# --- The form of a 3x3 convolution on a CPU, which is Winograd's where that pays ---

# Our choices, from docs/performance.md: with fewer channels or pixels, Winograd's sums cost more than the products they
# save, in the kernel's gradient later.
WIDE, GRADIENT_WIDE, ENOUGH = 128, 64, 16 * 16


def fits(x, narrowest, least):
    """Whether Winograd pays for a map like this, where its layer has so many channels at least."""
    _, h, w, _ = x.shape
    return narrowest >= least and h * w >= ENOUGH and h % 2 == w % 2 == 0 and x.dtype == jnp.float32


def cpu_conv(x, kernel):
    """A 3x3 convolution of unchanged size."""
    return (winograd_conv if fits(x, min(kernel.shape[2:]), WIDE) else same_conv)(x, kernel)


def cpu_conv_by_x(kernel, dy, shape):
    """Its gradient by x: a convolution by the kernel turned by 180 degrees."""
    if fits(dy, min(kernel.shape[2:]), WIDE):
        return winograd_by_x(kernel, jax.lax.optimization_barrier(dy))
    return same_conv(dy, kernel[::-1, ::-1].transpose(0, 1, 3, 2))


def cpu_conv_by_kernel(x, dy, shape):
    """Its gradient by the kernel, if not Winograd's then one matrix product over all pixels.

    XLA would slide a window as large as the map.
    """
    c, d = shape[2:]
    if fits(x, min(c, d), GRADIENT_WIDE):
        # Without the barrier, XLA computes what leads to them again for each of the 16 patches.
        return winograd_by_kernel(*jax.lax.optimization_barrier((x, dy)))
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    views = jnp.concatenate(shifted_views(padded, 3, 1, *dy.shape[1:3]), axis=-1)
    return jnp.dot(views.reshape(-1, 9 * c).T, dy.reshape(-1, d)).reshape(shape)


CPU_3X3 = Form(cpu_conv, cpu_conv_by_x, cpu_conv_by_kernel)

"""A dilated convolution over the phases of its maps, each of pixels so far apart: there it is a plain one."""

import jax
import jax.numpy as jnp

from jaxdbd.network.bilinear import Form
from jaxdbd.network.plain import conv, padded_dilated_conv, within_reach


def phases(x, dilation):
    """Each phase of a map as a map of its own: [b, h, w, c] to [b d d, ceil(h / d), ceil(w / d), c], zeros behind."""
    b, h, w, c = x.shape
    rows, columns = -(-h // dilation), -(-w // dilation)
    x = jnp.pad(x, ((0, 0), (0, rows * dilation - h), (0, columns * dilation - w), (0, 0)))
    x = x.reshape(b, rows, dilation, columns, dilation, c).transpose(0, 2, 4, 1, 3, 5)
    return x.reshape(-1, rows, columns, c)


def phased_by_kernel(x, dy, shape, dilation):
    """The gradient of a dilated convolution by its kernel, as that of the plain convolution over the phases.

    As it is, XLA's compiler for GPUs knows no routine of cuDNN for it: it has the convolution of x with all of dy as a
    kernel, 320 pixels wide, computed for as few pixels as the real kernel has.
    """

    def over_phases(kernel):
        kernel = within_reach(x, kernel, dilation)
        return conv(phases(x, dilation), kernel, padding=tuple((n // 2,) * 2 for n in kernel.shape[:2]))

    return jax.linear_transpose(over_phases, jax.ShapeDtypeStruct(shape, x.dtype))(phases(dy, dilation))[0]


PHASED_CUDA = Form(padded_dilated_conv, by_kernel=phased_by_kernel)

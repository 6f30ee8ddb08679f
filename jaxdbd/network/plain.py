"""Every convolution as it is meant: one call of XLA's. On most platforms this is what runs."""

import jax
import jax.numpy as jnp

from jaxdbd.network.bilinear import Form


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


def same_conv(x, kernel):
    """A convolution of unchanged size."""
    return conv(x, kernel, padding="SAME")


def upsampled_conv(x, kernel):
    """Nearest x2 upsampling, then a 3x3 convolution."""
    return same_conv(x.repeat(2, axis=1).repeat(2, axis=2), kernel)


def within_reach(x, kernel, dilation):
    """A dilated kernel without the entries that meet nothing but padding: at 10x10, 7x7 of rate 7 leaves 3x3."""
    k = kernel.shape[0]
    rows, columns = (min(k // 2, (side - 1) // dilation) for side in x.shape[1:3])
    return kernel[k // 2 - rows : k // 2 + rows + 1, k // 2 - columns : k // 2 + columns + 1]


def padded_dilated_conv(x, kernel, dilation):
    """A dilated convolution of unchanged size, over a padded map."""
    kernel = within_reach(x, kernel, dilation)
    return conv(x, kernel, padding=tuple((dilation * (n // 2),) * 2 for n in kernel.shape[:2]), dilation=dilation)


def grouped_depthwise(x, kernel, stride):
    """A depthwise convolution with TensorFlow's 'SAME' padding."""
    return conv(x, kernel, stride=stride, padding="SAME", groups=x.shape[-1])


def padded_grouped_conv(x, kernel, groups, stride=1):
    """A 3x3 convolution in groups, one pixel of padding on each side."""
    return conv(x, kernel, stride=stride, padding=((1, 1), (1, 1)), groups=groups)


# --- Over phases, each of pixels `dilation` apart: there a dilated convolution is a plain one ---


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

"""Every convolution as it is meant: one call of XLA's. On most platforms this is what runs."""

import jax


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

"""The layers whose plain form XLA runs slowly somewhere: same weights and results, a faster form per platform.

Each computes what the layer of the same name in any framework computes; docs/performance.md has the timings.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxdbd.network import grouped, plain, products, winograd
from jaxdbd.network.bilinear import Form, Forms, bilinear

# The form of each convolution by platform: what is measured to be faster somewhere is entered here.
POINTWISE = Forms("pointwise_conv", default=Form(jnp.dot), cpu=products.FLAT)
CONV_3X3 = Forms("conv_3x3", default=Form(plain.same_conv), cpu=winograd.CPU_3X3)
UPSAMPLE = Forms("upsample_conv", default=Form(plain.upsampled_conv), cpu=products.UPSAMPLE)
DILATED = Forms(
    "dilated_conv",
    default=Form(plain.padded_dilated_conv),
    cpu=Form(products.cpu_dilated_conv),
    cuda=plain.PHASED_CUDA,
)
# Not measured on CUDA yet: cuDNN is known to be slow where a group is one channel, most of all at the kernel's gradient
DEPTHWISE = Forms(
    "depthwise_conv", default=Form(plain.grouped_depthwise), cpu=grouped.SHIFTED_CPU, cuda=grouped.SHIFTED_CUDA
)
GROUPED = Forms("grouped_conv_3x3", default=Form(plain.padded_grouped_conv), cpu=Form(grouped.split_grouped_conv))

he_normal = nn.initializers.he_normal()


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
        x = bilinear(POINTWISE, x.astype(self.dtype), kernel)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            x = x + bias.astype(self.dtype)[None, None, None]
        return x


def conv_3x3(x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]) -> Float[Array, "b h w d"]:
    """A 3x3 convolution of unchanged size, zeros outside the map."""
    return bilinear(CONV_3X3, x, kernel)


def upsample_conv(x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]) -> Float[Array, "b 2*h 2*w d"]:
    """Nearest x2 upsampling followed by a 3x3 convolution with zero padding."""
    return bilinear(UPSAMPLE, x, kernel)


def dilated_conv(x: Float[Array, "b h w c"], kernel: Float[Array, "k k c d"], dilation: int) -> Float[Array, "b h w d"]:
    """A dilated convolution of unchanged size, zeros outside the map."""
    return bilinear(DILATED, x, kernel, dilation)


def depthwise_conv(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k 1 c"], stride: int = 1
) -> Float[Array, "b h2 w2 c"]:
    """Depthwise convolution with TensorFlow's 'SAME' padding."""
    return bilinear(DEPTHWISE, x, kernel, stride)


def grouped_conv_3x3(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c//{groups} c"], groups: int, stride: int = 1
) -> Float[Array, "b h2 w2 c"]:
    """A 3x3 convolution in groups, one pixel of padding on each side."""
    return bilinear(GROUPED, x, kernel, groups, stride)


def max_pool_2x2(x: Float[Array, "b h w c"]) -> Float[Array, "b h//2 w//2 c"]:
    """2x2 max-pooling with stride 2, as the maximum of four strided views: on a CPU its gradient is 20 times faster."""
    return jnp.maximum(
        jnp.maximum(x[:, ::2, ::2], x[:, ::2, 1::2]),
        jnp.maximum(x[:, 1::2, ::2], x[:, 1::2, 1::2]),
    )

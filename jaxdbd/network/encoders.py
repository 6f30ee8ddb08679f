"""Encoders: images to five feature maps ("taps") at strides 2, 4, 8, 16 and 32."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxdbd.network.convolutions import (
    ConvParameters,
    PointwiseConv,
    conv_3x3,
    depthwise_conv,
    grouped_conv_3x3,
    he_normal,
    max_pool_2x2,
)

STRIDES = (2, 4, 8, 16, 32)  # of the taps
RESNEXT_DEPTHS = (3, 4, 23, 3)
VGG_DEPTHS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}

# (expansion, kernel, stride, channels, repeats) of Lite0's seven stages, and (width, depth) factors of the larger ones.
EFFICIENTNET_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
EFFICIENTNET_FACTORS = {"lite0": (1.0, 1.0), "lite2": (1.1, 1.2)}


class VGG(nn.Module):
    """VGG16 or VGG19 without its classifier; the taps are the outputs of the five max-pools."""

    depths: tuple[int, ...]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"], train: bool) -> tuple[Float[Array, "b _ _ _"], ...]:
        """Taps of 64, 128, 256, 512 and 512 channels."""
        taps = []
        for stage, (depth, width) in enumerate(zip(self.depths, (64, 128, 256, 512, 512), strict=True), start=1):
            for i in range(1, depth + 1):
                kernel, bias = ConvParameters(x.shape[-1], width, 3, name=f"conv{stage}_{i}")()
                x = conv_3x3(x.astype(self.dtype), kernel.astype(self.dtype))
                x = nn.relu(x + bias.astype(self.dtype)[None, None, None])
            x = max_pool_2x2(x)
            taps.append(x)
        return tuple(taps)


class ConvNorm(nn.Module):
    """conv -> BatchNorm without a conv bias."""

    features: int
    kernel: int = 1
    stride: int = 1
    padding: Any = "SAME"
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 {self.features}"]:
        """Maps [B, H, W, C] to [B, H / stride, W / stride, features]."""
        if self.kernel == 1:
            # XLA would take the slice into the product, which its Triton fusion for GPUs aborts on (jax 0.10.2).
            x = jax.lax.optimization_barrier(x[:, :: self.stride, :: self.stride]) if self.stride > 1 else x
            x = PointwiseConv(self.features, use_bias=False, kernel_init=he_normal, dtype=self.dtype, name="conv")(x)
        else:
            x = nn.Conv(
                self.features,
                (self.kernel, self.kernel),
                (self.stride, self.stride),
                padding=self.padding,
                use_bias=False,
                dtype=self.dtype,
                kernel_init=he_normal,
                name="conv",
            )(x)
        return norm(train, self.epsilon, self.dtype)(x)


def norm(train: bool, epsilon: float, dtype: Any) -> nn.BatchNorm:
    """The encoders' BatchNorm; every one is named `bn` inside its module."""
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=epsilon, dtype=dtype, name="bn")


class GroupedConv(nn.Module):
    """3x3 convolution in groups without bias, padded by one pixel on each side as PyTorch does."""

    groups: int
    stride: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        """Maps [B, H, W, C] to [B, ceil(H / stride), ceil(W / stride), C]."""
        width = x.shape[-1]
        kernel = self.param("kernel", he_normal, (3, 3, width // self.groups, width))
        return grouped_conv_3x3(x, kernel.astype(self.dtype), self.groups, self.stride)


class GroupedConvNorm(nn.Module):
    """`GroupedConv` -> BatchNorm."""

    groups: int
    stride: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 c"]:
        """Maps [B, H, W, C] to [B, ceil(H / stride), ceil(W / stride), C]."""
        x = GroupedConv(self.groups, self.stride, self.dtype, name="conv")(x)
        return norm(train, 1e-5, self.dtype)(x)


class ResNeXtBlock(nn.Module):
    """Bottleneck of ResNeXt-32x4d: 1x1 -> 3x3 in 32 groups (carries the stride) -> 1x1, plus the shortcut."""

    width: int
    stride: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 2*{self.width}"]:
        """Maps [B, H, W, C] to [B, H / stride, W / stride, 2 * width]."""
        y = nn.relu(ConvNorm(self.width, dtype=self.dtype, name="reduce")(x, train))
        y = GroupedConvNorm(32, self.stride, self.dtype, name="grouped")(y, train)
        y = ConvNorm(2 * self.width, dtype=self.dtype, name="expand")(nn.relu(y), train)
        if x.shape[-1] != 2 * self.width:
            x = ConvNorm(2 * self.width, 1, self.stride, dtype=self.dtype, name="shortcut")(x, train)
        return nn.relu(x + y)


class ResNeXt101(nn.Module):
    """ResNeXt101-32x4d without its classifier; the taps are the stem and the four stages."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"], train: bool) -> tuple[Float[Array, "b _ _ _"], ...]:
        """Taps of 64, 256, 512, 1024 and 2048 channels."""
        pad = ((3, 3), (3, 3))
        x = nn.relu(ConvNorm(64, 7, 2, padding=pad, dtype=self.dtype, name="stem")(x, train))
        taps = [x]
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))  # pyright: ignore[reportArgumentType]  # pairs are meant too
        for stage, depth in enumerate(RESNEXT_DEPTHS, start=1):
            for i in range(depth):
                stride = 2 if stage > 1 and i == 0 else 1
                x = ResNeXtBlock(64 * 2**stage, stride, self.dtype, name=f"stage{stage}_{i + 1}")(x, train)
            taps.append(x)
        return tuple(taps)


class DepthwiseNorm(nn.Module):
    """k x k depthwise convolution with TensorFlow's 'SAME' padding -> BatchNorm."""

    kernel: int
    stride: int
    epsilon: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 c"]:
        """Maps [B, H, W, C] to [B, ceil(H / stride), ceil(W / stride), C]."""
        # A depthwise kernel has k*k inputs, whatever the second-to-last axis says to the initializer.
        kernel = self.param("kernel", he_normal, (self.kernel, self.kernel, 1, x.shape[-1]))
        x = depthwise_conv(x, kernel.astype(self.dtype), self.stride)
        return norm(train, self.epsilon, self.dtype)(x)


class InvertedResidual(nn.Module):
    """EfficientNet-Lite block: 1x1 expansion -> depthwise -> 1x1 projection; ReLU6, no squeeze-and-excitation."""

    expansion: int
    kernel: int
    stride: int
    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 {self.features}"]:
        """Maps [B, H, W, C] to [B, ceil(H / stride), ceil(W / stride), features]."""
        # 1e-3 is TensorFlow's BatchNorm epsilon, with which the released weights were trained.
        y = x
        if self.expansion > 1:
            width = self.expansion * x.shape[-1]
            y = nn.relu6(ConvNorm(width, epsilon=1e-3, dtype=self.dtype, name="expand")(y, train))
        y = nn.relu6(DepthwiseNorm(self.kernel, self.stride, 1e-3, self.dtype, name="depthwise")(y, train))
        y = ConvNorm(self.features, epsilon=1e-3, dtype=self.dtype, name="project")(y, train)
        return x + y if self.stride == 1 and x.shape == y.shape else y


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite0 or -Lite2 without its head; the taps are the last maps at each stride."""

    width: float
    depth: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"], train: bool) -> tuple[Float[Array, "b _ _ _"], ...]:
        """Taps of 16, 24, 40, 112 and 320 channels at width 1."""
        x = nn.relu6(ConvNorm(32, 3, 2, epsilon=1e-3, dtype=self.dtype, name="stem")(x, train))
        taps = []
        last = len(EFFICIENTNET_STAGES)
        for stage, (expansion, kernel, stride, channels, repeats) in enumerate(EFFICIENTNET_STAGES, start=1):
            # The Lite family scales neither the stem nor the depth of the first and last stages.
            repeats = repeats if stage in (1, last) else -int(-repeats * self.depth // 1)
            if stride == 2:
                taps.append(x)
            for i in range(repeats):
                x = InvertedResidual(
                    expansion,
                    kernel,
                    stride if i == 0 else 1,
                    round_channels(channels * self.width),
                    dtype=self.dtype,
                    name=f"stage{stage}_{i + 1}",
                )(x, train)
        return (*taps, x)


def round_channels(channels: float) -> int:
    """Rounds to a multiple of 8, and never down by more than a tenth (Tan and Le, EfficientNet)."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


@dataclasses.dataclass(frozen=True)
class EncoderSpec:
    """What the rest of the network needs to know of an encoder."""

    module: Any  # called with dtype= and name=
    channels: tuple[int, ...]  # of the five taps
    mean: tuple[float, float, float]  # of RGB in 0..255, what the ImageNet weights were trained with
    std: tuple[float, float, float]
    decoder_widths: tuple[int, ...]  # of the five decoder levels, coarse to fine, unless the model says otherwise


IMAGENET: dict[str, Any] = {
    "mean": (0.485 * 255, 0.456 * 255, 0.406 * 255),
    "std": (0.229 * 255, 0.224 * 255, 0.225 * 255),
}
CENTERED: dict[str, Any] = {"mean": (127.0, 127.0, 127.0), "std": (128.0, 128.0, 128.0)}
VGG_CHANNELS = (64, 128, 256, 512, 512)


def _vgg(name: str) -> EncoderSpec:
    return EncoderSpec(partial(VGG, VGG_DEPTHS[name]), VGG_CHANNELS, **IMAGENET, decoder_widths=(512, 256, 128, 64, 32))


def _lite(name: str) -> EncoderSpec:
    width, depth = EFFICIENTNET_FACTORS[name]
    channels = tuple(round_channels(c * width) for c in (16, 24, 40, 112, 320))
    return EncoderSpec(
        partial(EfficientNetLite, width, depth), channels, **CENTERED, decoder_widths=(128, 128, 96, 64, 48)
    )


ENCODERS: dict[str, EncoderSpec] = {
    "vgg16": _vgg("vgg16"),
    "vgg19": _vgg("vgg19"),
    "resnext101": EncoderSpec(
        ResNeXt101, (64, 256, 512, 1024, 2048), **IMAGENET, decoder_widths=(1024, 512, 256, 64, 32)
    ),
    "lite0": _lite("lite0"),
    "lite2": _lite("lite2"),
}

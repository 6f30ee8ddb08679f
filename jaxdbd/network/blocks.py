"""The decoder's blocks: Selective Reception Field Block (SRFB) and Supervision-guided Attention Block (SAB).

Cun and Pun, "Defocus Blur Detection via Depth Distillation", ECCV 2020, as the authors' released code computes them.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxdbd.network.convolutions import ConvParameters, PointwiseConv, dilated_conv, he_normal, upsample_conv


def batch_norm(train: bool, dtype: Any, name: str) -> nn.BatchNorm:
    """BatchNorm with PyTorch's constants: eps 1e-5, and momentum 0.1 in its sense. Statistics stay float32."""
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype, name=name)


class ConvReluNorm(nn.Module):
    """conv k x k with bias -> ReLU -> BatchNorm, in the order of the paper's figure."""

    features: int
    kernel: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w {self.features}"]:
        """Maps [B, H, W, C] to [B, H, W, features]."""
        if self.kernel == 1:
            x = PointwiseConv(self.features, kernel_init=he_normal, dtype=self.dtype, name="conv")(x)
        else:
            sides = (self.kernel, self.kernel)
            x = nn.Conv(self.features, sides, dtype=self.dtype, kernel_init=he_normal, name="conv")(x)
        return batch_norm(train, self.dtype, "bn")(nn.relu(x))


class UpsampleConvReluNorm(nn.Module):
    """Nearest x2 -> conv3x3 with bias -> ReLU -> BatchNorm; the parameters are those of `ConvReluNorm`."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b 2*h 2*w {self.features}"]:
        """Maps [B, H, W, C] to [B, 2H, 2W, features]."""
        kernel, bias = ConvParameters(x.shape[-1], self.features, 3, name="conv")()
        x = upsample_conv(x.astype(self.dtype), kernel.astype(self.dtype)) + bias.astype(self.dtype)[None, None, None]
        return batch_norm(train, self.dtype, "bn")(nn.relu(x))


class SRFB(nn.Module):
    """Selective Reception Field Block: four branches of growing reception field, mixed per channel by attention.

    Branch 0 is the input; branch i (1..3) is a k x k convolution of dilation k (k = 3, 5, 7) -> BatchNorm -> ReLU.
    With `cascaded` each branch reads the previous branch (the authors' code: a field of 69 pixels); otherwise all read
    the input (the paper's count: 43). Without `select` the branches are simply added.
    """

    cascaded: bool = True
    select: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        """Returns a map of the input's shape."""
        width = x.shape[-1]
        branches = [x]
        for i, k in enumerate((3, 5, 7), start=1):
            source = branches[-1] if self.cascaded else x
            kernel, bias = ConvParameters(width, width, k, name=f"branch{i}")()
            y = dilated_conv(source, kernel.astype(self.dtype), k) + bias.astype(self.dtype)[None, None, None]
            branches.append(nn.relu(batch_norm(train, self.dtype, f"bn{i}")(y)))
        total: Any = sum(branches)
        if not self.select:
            return total
        # Averages and softmax in float32: a sum over a whole map loses too much in bfloat16.
        z = jnp.mean(total, axis=(1, 2), dtype=jnp.float32)
        z = nn.Dense(max(width // 16, 32), name="squeeze")(z)
        scores = jnp.stack([nn.Dense(width, name=f"excite{i}")(z) for i in range(4)])
        weights = jax.nn.softmax(scores, axis=0).astype(self.dtype)
        mixed: Any = sum(w[:, None, None] * y for w, y in zip(weights, branches, strict=True))
        return mixed


class SAB(nn.Module):
    """Supervision-guided Attention Block: an attention map in (0, 1) from a level's own raw side outputs."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, sides: Float[Array, "b h w n"], train: bool) -> Float[Array, "b h w 1"]:
        """`sides`: the side outputs on the last axis, focus logit first, then depth where there is a depth head."""
        x = ConvReluNorm(32, 3, dtype=self.dtype, name="hidden")(sides, train)
        return nn.sigmoid(nn.Conv(1, (3, 3), dtype=self.dtype, name="attention")(x))

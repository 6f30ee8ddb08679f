"""The network: an encoder, and a decoder that learns the focus mask and the teacher's depth together."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, UInt8

from jaxdbd.network.blocks import SAB, SRFB, ConvReluNorm, UpsampleConvReluNorm
from jaxdbd.network.convolutions import PointwiseConv
from jaxdbd.network.encoders import ENCODERS


class Output(NamedTuple):
    """What the network returns; every array is float32. Side outputs are coarse to fine, each at its own size.

    `focus` and `side_focus` are logits of "in focus". `depth` and `side_depth` are linear, trained towards nearness in
    [0, 1] (1 = nearest); without a depth head they are None and (). `blur` is the `log_diameter`, at least 0, of the
    circle of confusion in pixels of the input over `BLUR_SIDE`; `side_blur` are linear, trained towards the same;
    without a blur head they are None and ().
    """

    focus: Float[Array, "b h w 1"]
    depth: Float[Array, "b h w 1"] | None
    side_focus: tuple[Float[Array, "b _ _ 1"], ...]
    side_depth: tuple[Float[Array, "b _ _ 1"], ...]
    blur: Float[Array, "b h w 1"] | None = None
    side_blur: tuple[Float[Array, "b _ _ 1"], ...] = ()


SHARPNESS_LIMIT = 0.004  # of the side, choice of ours: 1.3 pixels of 320, about where a disk is no longer a point
BLUR_SIDE = 320  # what the network says of blur are shares of so many pixels, whatever its size: it sees pixels


def log_diameter(share: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """log(1 + c / SHARPNESS_LIMIT) of diameters c as shares of a side: wide ones do not outweigh all others."""
    return jnp.log1p(share / SHARPNESS_LIMIT)


def diameter(log: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The inverse of `log_diameter`."""
    return SHARPNESS_LIMIT * jnp.expm1(log)


def normalize(images: UInt8[Array, "b h w 3"], encoder: str) -> Float[Array, "b h w 3"]:
    """RGB bytes to the float32 input that `encoder`'s ImageNet weights were trained with."""
    spec = ENCODERS[encoder]
    mean, std = (jnp.asarray(v, jnp.float32)[None, None, None] for v in (spec.mean, spec.std))
    return (images.astype(jnp.float32) - mean) / std


def restored(normalized: Float[Array, "b h w 3"], encoder: str) -> Float[Array, "b h w 3"]:
    """What `normalize` was given, in [0, 1]."""
    spec = ENCODERS[encoder]
    mean, std = (jnp.asarray(v, jnp.float32)[None, None, None] for v in (spec.mean, spec.std))
    return (normalized * std + mean) / 255


# 'cascaded' as the authors' code has it, 'parallel' as the paper draws it, 'none' for a plain 3x3 convolution.
SRFB_KINDS = ("cascaded", "parallel", "none")
MULTIPLE = 32  # of the sides of the images that the network takes: the stride of its coarsest tap


class DecoderLevel(nn.Module):
    """[x2 ->] conv3x3 -> ReLU -> BN -> SRFB -> conv1x1 -> ReLU -> BN, with a quarter of the input's channels inside."""

    features: int
    upsample: bool = True
    srfb: str = "cascaded"
    srfb_select: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 {self.features}"]:
        """Maps [B, H, W, C] to [B, 2H, 2W, features], or to [B, H, W, features] without `upsample`."""
        inner = x.shape[-1] // 4
        if self.upsample:
            x = UpsampleConvReluNorm(inner, self.dtype, name="reduce")(x, train)
        else:
            x = ConvReluNorm(inner, 3, self.dtype, name="reduce")(x, train)
        if self.srfb == "none":
            x = ConvReluNorm(inner, 3, self.dtype, name="plain")(x, train)
        else:
            x = SRFB(self.srfb == "cascaded", self.srfb_select, self.dtype, name="srfb")(x, train)
        return ConvReluNorm(self.features, 1, self.dtype, name="expand")(x, train)


class DepthDistilledDBD(nn.Module):
    """Defocus blur detection via depth distillation (Cun and Pun, ECCV 2020).

    Attributes:
      encoder: a key of `jaxdbd.network.encoders.ENCODERS`.
      widths: output channels of the five decoder levels, coarse to fine; None takes the encoder's own.
      full_resolution: the paper's decoder doubles the resolution in all five levels and ends at the input's size. False
        (ours) keeps the first level at stride 32 and ends at stride 2, for a quarter of the work; the tap of a level's
        stride then joins its output, the coarsest one included.
      depth_head: predict depth beside focus. False is the paper's ablation without distillation.
      blur_head: predict how blurred each pixel is (ours). The SABs do not look at it.
      srfb: one of `SRFB_KINDS`.
      srfb_select: mix the SRFB's branches by attention; False adds them.
      sab: multiply each level by its attention map.
      dtype: of the computation; parameters and BatchNorm statistics are float32 always.
      size: side of the square that photographs are resized to, in training and in `jaxdbd.predict`. The network itself
        takes any multiple of `MULTIPLE`.
      edge_radius, edge_slope: how `jaxdbd.predict` makes the focus map crisp, as `network.edges.crisp` takes them; the
        network itself does not look at them.

    Where the encoder tap that is added to a level has another number of channels, a 1x1 convolution carries it over.
    """

    encoder: str = "vgg19"
    widths: tuple[int, ...] | None = None
    full_resolution: bool = True
    depth_head: bool = True
    blur_head: bool = False
    srfb: str = "cascaded"
    srfb_select: bool = True
    sab: bool = True
    dtype: Any = jnp.float32
    size: int = 320
    edge_radius: float = 0.0
    edge_slope: float = 1.0

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"], train: bool = False) -> Output:
        """Runs the network on normalized images whose height and width are multiples of `MULTIPLE`.

        `train` uses batch statistics in BatchNorm (apply with `mutable=["batch_stats"]`).
        """
        rows, columns = images.shape[1:3]
        if rows % MULTIPLE or columns % MULTIPLE:
            raise ValueError(f"image sides must be multiples of {MULTIPLE}, not {rows}x{columns}")
        if self.srfb not in SRFB_KINDS:
            raise ValueError(f"srfb must be one of {', '.join(SRFB_KINDS)}, not {self.srfb!r}")
        spec = ENCODERS[self.encoder]
        encoder = spec.module(dtype=self.dtype, name="encoder")
        taps = encoder(images.astype(self.dtype), train)
        widths = self.widths or spec.decoder_widths
        # The tap that joins each level's output: at strides 16, 8, 4, 2 and none, or at 32, 16, 8, 4, 2.
        joining: tuple = (*taps[-2::-1], None) if self.full_resolution else taps[::-1]

        x = taps[-1]
        sides = []
        attended = 1 + self.depth_head  # channels of a side output that its SAB sees: focus, depth
        for level, (width, tap) in enumerate(zip(widths, joining, strict=True), start=1):
            upsample = self.full_resolution or level > 1
            x = DecoderLevel(width, upsample, self.srfb, self.srfb_select, self.dtype, name=f"level{level}")(x, train)
            if not self.full_resolution:
                x = x + self._carry(tap, width, level)
            sides.append(PointwiseConv(attended + self.blur_head, dtype=self.dtype, name=f"side{level}")(x))
            if level == len(widths):
                break
            if self.sab:
                x = x * SAB(self.dtype, name=f"sab{level}")(sides[-1][..., :attended], train)
            if self.full_resolution:
                x = x + self._carry(tap, width, level)

        sides = [side.astype(jnp.float32) for side in sides]
        fused = [jax.image.resize(s, (*images.shape[:3], s.shape[-1]), "bilinear") for s in sides]
        fuse_focus = PointwiseConv(1, name="fuse_focus")
        # Started as the mean (ours): a loss that leaves the scale free cannot turn a negative sum of side outputs over.
        mean = nn.initializers.constant(1 / len(sides))
        fuse_depth, fuse_blur = (PointwiseConv(1, kernel_init=mean, name=f"fuse_{name}") for name in ("depth", "blur"))

        def channel(maps, i):
            return tuple(m[..., i : i + 1] for m in maps)

        def joined(i):
            return jnp.concatenate(channel(fused, i), axis=-1)

        return Output(
            focus=fuse_focus(joined(0)),
            depth=fuse_depth(joined(1)) if self.depth_head else None,
            side_focus=channel(sides, 0),
            side_depth=channel(sides, 1) if self.depth_head else (),
            # Below 0 its gradient is 0, and the side outputs alone are what it learns from.
            blur=nn.relu(fuse_blur(joined(attended))) if self.blur_head else None,
            side_blur=channel(sides, attended) if self.blur_head else (),
        )

    def heads(self) -> list[str]:
        """What the network predicts: "focus" and, where it has such heads, "depth" and "blur"."""
        return ["focus", *(["depth"] if self.depth_head else []), *(["blur"] if self.blur_head else [])]

    def _carry(self, tap: Float[Array, "b h w c"], width: int, level: int) -> Float[Array, "b h w {width}"]:
        if tap.shape[-1] == width:
            return tap
        return PointwiseConv(width, dtype=self.dtype, name=f"carry{level}")(tap)

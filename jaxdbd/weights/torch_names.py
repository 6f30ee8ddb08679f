"""How PyTorch's state dicts name and lay out the tensors that our modules hold.

Each table maps a module of ours (path joined by slashes) to the prefixes of its tensors there; several prefixes are
concatenated along the output channels, because our side heads compute focus and depth in one convolution.
"""

from typing import Any

import numpy as np

from jaxdbd.errors import UserError
from jaxdbd.network.encoders import RESNEXT_DEPTHS, VGG_DEPTHS
from jaxdbd.weights.tensors import not_real_numbers

Names = dict[str, tuple[str, ...]]

LEAVES = {"kernel": "weight", "bias": "bias", "scale": "weight", "mean": "running_mean", "var": "running_var"}


def decoder_names() -> Names:
    """The authors' names of everything behind the encoder."""
    names: Names = {"fuse_focus": ("fusion",), "fuse_depth": ("fusiond",)}
    for i in range(1, 6):
        ours, theirs = f"level{i}", f"deconv{i}"
        names[f"{ours}/reduce/conv"] = (f"{theirs}.prev",)
        names[f"{ours}/reduce/bn"] = (f"{theirs}.bn",)
        names[f"{ours}/expand/conv"] = (f"{theirs}.next",)
        names[f"{ours}/expand/bn"] = (f"{theirs}.bn2",)
        for k in range(3):
            names[f"{ours}/srfb/branch{k + 1}"] = (f"{theirs}.sk.convs.{k}.0",)
            names[f"{ours}/srfb/bn{k + 1}"] = (f"{theirs}.sk.convs.{k}.1",)
        names[f"{ours}/srfb/squeeze"] = (f"{theirs}.sk.fc",)
        for k in range(4):
            names[f"{ours}/srfb/excite{k}"] = (f"{theirs}.sk.fcs.{k}",)
        names[f"side{i}"] = (f"classifier{i}.sides.0", f"classifier{i}.sides.1")
        names[f"sab{i}/hidden/conv"] = (f"sideatt{i}.conv1",)
        names[f"sab{i}/hidden/bn"] = (f"sideatt{i}.bn",)
        names[f"sab{i}/attention"] = (f"sideatt{i}.conv2",)
    return names


def vgg_names(depths: tuple[int, ...]) -> Names:
    """torchvision's and timm's `features.N`: every convolution and ReLU counts one, and so does a max-pool."""
    names, n = {}, 0
    for stage, depth in enumerate(depths, start=1):
        for i in range(depth):
            names[f"conv{stage}_{i + 1}"] = (f"features.{n + 2 * i}",)
        n += 2 * depth + 1
    return names


def _resnext_names(stem: tuple[str, str], block: Any, parts: dict[str, tuple[str, str]]) -> Names:
    names = {"stem/conv": (stem[0],), "stem/bn": (stem[1],)}
    for stage, depth in enumerate(RESNEXT_DEPTHS, start=1):
        for i in range(depth):
            for part, (conv, bn) in parts.items():
                names[f"stage{stage}_{i + 1}/{part}/conv"] = (f"{block(stage, i)}.{conv}",)
                names[f"stage{stage}_{i + 1}/{part}/bn"] = (f"{block(stage, i)}.{bn}",)
    return names


def resnext_names() -> Names:
    """torchvision's and timm's names of ResNeXt101-32x4d."""
    parts = {
        "reduce": ("conv1", "bn1"),
        "grouped": ("conv2", "bn2"),
        "expand": ("conv3", "bn3"),
        "shortcut": ("downsample.0", "downsample.1"),
    }
    return _resnext_names(("conv1", "bn1"), lambda stage, i: f"layer{stage}.{i}", parts)


def resnext_names_of_the_authors() -> Names:
    """The authors' ResNeXt, a port from Torch 7: a block is [main path [reduce and grouped, expand], shortcut]."""
    parts = {
        "reduce": ("0.0.0", "0.0.1"),
        "grouped": ("0.0.3", "0.0.4"),
        "expand": ("0.1", "0.2"),
        "shortcut": ("1.0", "1.1"),
    }

    def block(stage: int, i: int) -> str:
        # layer1 begins with the max-pool, so its blocks lie one level deeper.
        return f"layer1.1.{i}.0" if stage == 1 else f"layer{stage}.{i}.0"

    return _resnext_names(("layer0.0", "layer0.1"), block, parts)


def efficientnet_names(modules: set[str]) -> Names:
    """EfficientNet-Lite's names in efficientnet-pytorch: blocks are numbered through; `modules` are ours."""
    names = {"stem/conv": ("_conv_stem",), "stem/bn": ("_bn0",)}
    blocks = {m.split("/")[0] for m in modules if m.startswith("stage")}
    for n, block in enumerate(sorted(blocks, key=lambda b: tuple(map(int, b.removeprefix("stage").split("_"))))):
        for part, kind, bn in (("expand", "conv", 0), ("depthwise", "", 1), ("project", "conv", 2)):
            names[f"{block}/{part}/{kind}".rstrip("/")] = (f"_blocks.{n}._{part}_conv",)
            names[f"{block}/{part}/bn"] = (f"_blocks.{n}._bn{bn}",)
    return names


def encoder_names(encoder: str, modules: set[str], tensors: dict[str, np.ndarray], origin: str) -> Names:
    """The names of `encoder`'s tensors in the dialect that `tensors` speak, the authors' or the model zoos'.

    `modules`: the encoder's own module paths. Raises UserError for a VGG with BatchNorm.
    """
    prefix = "pretrained_net." if any(name.startswith("pretrained_net.") for name in tensors) else ""
    if encoder in VGG_DEPTHS:
        if f"{prefix}features.1.running_mean" in tensors:
            raise UserError(
                f"{origin}: this VGG has BatchNorm (a `_bn` variant), {encoder} has none: take the plain one"
            )
        names = vgg_names(VGG_DEPTHS[encoder])
    elif encoder == "resnext101":
        names = resnext_names_of_the_authors() if prefix else resnext_names()
    else:
        names = efficientnet_names(modules)
    return {ours: tuple(prefix + p for p in theirs) for ours, theirs in names.items()}


def module_of(leaf: str) -> str:
    """'params/encoder/stem/conv/kernel' -> 'encoder/stem/conv'."""
    return leaf.split("/", 1)[1].rpartition("/")[0]


def from_torch(
    flat: dict[str, Any], tensors: dict[str, np.ndarray], names: Names, origin: str
) -> tuple[dict[str, np.ndarray], set[str]]:
    """The leaves of `flat` (slash-joined path to anything with a shape) whose module is in `names`, as float32 arrays.

    Layouts change from PyTorch's: convolutions OIHW -> HWIO, dense layers [out, in] -> [in, out]. Returns the leaves,
    and the set of PyTorch names used. Raises UserError that lists every tensor that is missing, of another shape, or
    holds NaN.
    """
    leaves, used, faults = {}, set(), []
    for path, leaf in flat.items():
        theirs = names.get(module_of(path))
        if theirs is None:
            continue
        parts = []
        for name in (f"{prefix}.{LEAVES[path.rpartition('/')[2]]}" for prefix in theirs):
            used.add(name)
            shape = _torch_shape(leaf.shape, len(theirs))
            if name not in tensors:
                faults.append(f"{name} is missing")
                continue
            tensor = tensors[name]
            if len(shape) == 2 and tensor.shape[2:] == (1, 1):  # a 1x1 convolution there, a dense layer here
                tensor = tensor[..., 0, 0]
            if tensor.shape != shape:
                faults.append(f"{name} is {_times(tensor.shape)}, not {_times(shape)}")
            elif fault := not_real_numbers(tensor):
                faults.append(f"{name} {fault}")
            parts.append(tensor)
        if not faults:
            joined = np.concatenate(parts).astype(np.float32)
            leaves[path] = np.ascontiguousarray(joined.transpose({4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[joined.ndim]))
    if faults:
        more = f" and {len(faults) - 10} more" if len(faults) > 10 else ""
        raise UserError(
            f"{origin}: not these weights, of another architecture, or damaged: {'; '.join(faults[:10])}{more}"
        )
    return leaves, used


def _torch_shape(shape: tuple[int, ...], parts: int) -> tuple[int, ...]:
    """PyTorch's shape of one of the `parts` tensors that a leaf of ours is made of."""
    *kernel, out = shape
    return (out // parts, *kernel[2:], *kernel[:2]) if len(kernel) == 3 else (out // parts, *kernel)


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"

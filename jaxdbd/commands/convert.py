"""`jaxdbd convert`: the authors' PyTorch checkpoints as our weights files."""

import argparse
import math

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxdbd.errors import UserError
from jaxdbd.machine.paths import as_path
from jaxdbd.network.model import DepthDistilledDBD
from jaxdbd.weights import Variables, read_tensors, save, shapes
from jaxdbd.weights.torch_names import decoder_names, encoder_names, from_torch, module_of

ARCHS = ("vgg16", "vgg19", "resnext101")


def from_official(
    arch: str, tensors: dict[str, np.ndarray], origin: str
) -> tuple[DepthDistilledDBD, Variables, list[str]]:
    """The authors' state dict for `arch` as a network and its variables, float32 NumPy arrays; and the names left over.

    Raises UserError that lists the tensors missing or of another shape; `origin` is what it calls the source.
    """
    model = DepthDistilledDBD(encoder=arch)
    flat = flatten_dict(shapes(model), sep="/")
    modules = {module_of(name).removeprefix("encoder/") for name in flat if "/encoder/" in name}
    # The authors keep their encoder under `pretrained_net`, whatever `tensors` holds.
    encoder = encoder_names(arch, modules, tensors | {"pretrained_net.": np.empty(0)}, origin)
    names = decoder_names() | {f"encoder/{ours}": theirs for ours, theirs in encoder.items()}
    leaves, used = from_torch(flat, tensors, names, origin)
    return model, unflatten_dict(leaves, sep="/"), sorted(tensors.keys() - used)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("src", type=as_path, help="the authors' checkpoint: .pth, .safetensors or .npz")
    parser.add_argument(
        "--arch", required=True, choices=ARCHS, help="which network it is (their vgg_best.pth is vgg16)"
    )
    parser.add_argument("--out", required=True, type=as_path, help="the .safetensors file to write")


def run(args: argparse.Namespace) -> None:
    """Reads the checkpoint, checks every tensor, and writes our file."""
    if args.out.suffix.lower() != ".safetensors":
        raise UserError(f"--out={args.out}: the name must end in .safetensors")
    model, variables, left = from_official(args.arch, read_tensors(args.src), str(args.src))
    save(
        args.out,
        model,
        variables,
        dataset=f"as {args.src.name}, which does not say",
        license=f"that of {args.src.name}",
    )
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    print(f"wrote {args.out}: {args.arch}, {count:,} parameters")
    if left := [name for name in left if not name.endswith("num_batches_tracked")]:
        more = ", ..." if len(left) > 10 else ""
        print(f"passed over {len(left)} tensors that this network does not have: {', '.join(left[:10])}{more}")

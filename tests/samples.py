"""Whole files of every kind that people bring, small, for `fuzz` to damage."""

import io
import json
import pickle
import struct
import zipfile

import numpy as np
import safetensors.numpy
from PIL import Image


def pictures() -> dict[str, bytes]:
    """JPEG, PNG, TIFF, WebP and GIF in several kinds of each, by name."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8)).resize((48, 32), Image.Resampling.BICUBIC)
    levels = np.asarray(coarse)[..., 1]
    mask, deep = Image.fromarray((levels > 127).astype(np.uint8) * 255), Image.fromarray(levels.astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[274], exif[271] = 6, "camera"
    kinds = {
        "plain.jpg": (coarse, {"exif": exif}),
        "progressive.jpg": (coarse, {"progressive": True}),
        "cmyk.jpg": (coarse.convert("CMYK"), {}),
        "plain.png": (coarse, {"exif": exif}),
        "palette.png": (coarse.quantize(16), {"transparency": 3}),
        "deep.png": (deep, {}),
        "mask.png": (mask, {}),
        "plain.tif": (coarse, {}),
        "deflate.tif": (coarse, {"compression": "tiff_adobe_deflate"}),
        "lzw.tif": (deep, {"compression": "tiff_lzw"}),
        "float.tif": (Image.fromarray(levels / np.float32(255)), {}),
        "lossy.webp": (coarse, {"quality": 60}),
        "lossless.webp": (coarse.convert("RGBA"), {"lossless": True}),
        "plain.gif": (coarse, {}),
        "moving.gif": (coarse, {"save_all": True, "append_images": [mask.convert("RGB")]}),
    }
    files = {name: _saved(picture, name, options) for name, (picture, options) in kinds.items()}
    return files | {"planes.tif": _planes(np.asarray(coarse))}


def _saved(picture: Image.Image, name: str, options: dict) -> bytes:
    Image.init()
    buffer = io.BytesIO()
    picture.save(buffer, Image.EXTENSION[name[name.index(".") :]], **options)
    return buffer.getvalue()


def _planes(image: np.ndarray) -> bytes:
    import tifffile

    buffer = io.BytesIO()
    planes = np.ascontiguousarray(np.moveaxis(image, -1, 0)).astype(np.uint16) * 257
    tifffile.imwrite(buffer, planes, photometric="rgb", planarconfig="separate")
    return buffer.getvalue()


def weights_files() -> dict[str, bytes]:
    """PyTorch's two formats, our own weights file, a bare `.safetensors` and an `.npz`, by name."""
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    tree, zipped, arrays = _tensor("weight", (2, 3), (3, 1)), io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("net/data.pkl", tree)
        archive.writestr("net/byteorder", "little")
        archive.writestr("net/data/0", matrix.tobytes())
    heads = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}]
    stream = b"".join(pickle.dumps(head, protocol=2) for head in heads) + tree + pickle.dumps(["0"], protocol=2)
    np.savez(arrays, weight=matrix)
    return {
        "zip.pth": zipped.getvalue(),
        "stream.pth": stream + struct.pack("<q", matrix.size) + matrix.tobytes(),
        "ours.safetensors": _ours(),
        "bare.safetensors": safetensors.numpy.save({"weight": matrix, "bias": matrix[0]}, {"note": "none"}),
        "arrays.npz": arrays.getvalue(),
    }


def _tensor(name: str, shape: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """The pickle of a state dict of one tensor on storage "0", as PyTorch writes it."""

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(b"K" + bytes([v]) for v in values) + b"t"

    size = int(np.prod(shape))
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K" + bytes([size])
    hooks = b"ccollections\nOrderedDict\n)R"
    view = storage + b"tQK\x00" + numbers(shape) + numbers(stride) + b"\x89" + hooks
    return b"\x80\x02}" + text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(" + view + b"tRs."


def _ours() -> bytes:
    config = {"encoder": "lite0", "widths": [8] * 5, "full_resolution": False, "srfb": "none", "sab": False, "size": 64}
    # Arrays that do not fit: whoever reads the file gets as far as to find that out, and the file stays small.
    notes = {"config": json.dumps(config), "dataset": "none", "license": "none", "threshold": "0.5"}
    return safetensors.numpy.save({"params/side1/kernel": np.zeros((1, 1, 8, 2), np.float32)}, notes)

"""Weights in and out: one `.safetensors` file holds a network, and encoders start from weights that others trained."""

from jaxdbd.weights.blur_head import add_blur_head, blur_head, fresh_blur_head, without_blur_head
from jaxdbd.weights.pretrained import init_encoder
from jaxdbd.weights.store import Metadata, Variables, bundled, find, load, random_variables, read_metadata, save, shapes
from jaxdbd.weights.tensors import read_tensors

__all__ = [
    "Metadata",
    "Variables",
    "add_blur_head",
    "blur_head",
    "bundled",
    "find",
    "fresh_blur_head",
    "init_encoder",
    "load",
    "random_variables",
    "read_metadata",
    "read_tensors",
    "save",
    "shapes",
    "without_blur_head",
]

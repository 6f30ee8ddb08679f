"""Defocus blur detection in JAX: one photograph in, the probability of being in focus out, for every pixel."""

from jaxdbd.model import DepthDistilledDBD, Output, normalize
from jaxdbd.weights import load, save

__all__ = ["DepthDistilledDBD", "Output", "load", "normalize", "save"]

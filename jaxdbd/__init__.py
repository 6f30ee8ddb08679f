"""Defocus blur detection in JAX: one photograph in, the probability of being in focus out, for every pixel."""

from jaxdbd.inference import Prediction, predict
from jaxdbd.network.model import DepthDistilledDBD, Output, normalize
from jaxdbd.weights import load, save

__all__ = ["DepthDistilledDBD", "Output", "Prediction", "load", "normalize", "predict", "save"]

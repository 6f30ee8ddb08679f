"""Defocus blur detection in JAX: one photograph in, the probability of being in focus out, for every pixel."""

# Imported here, `predict` is the function; the module of the same name is behind it.
from jaxdbd.model import DepthDistilledDBD, Output, normalize
from jaxdbd.predict import Prediction, predict
from jaxdbd.weights import load, save

__all__ = ["DepthDistilledDBD", "Output", "Prediction", "load", "normalize", "predict", "save"]

"""Posteriors of a `BayesianDecoder`: over all weights, or over those of the last layer."""

from probgeo.models.decoders.bayesian import LowRank, MeanField
from probgeo.models.decoders.last_layer.gaussian import Conjugate, LaplaceApproximation
from probgeo.models.decoders.last_layer.sampled import NUTS, Autoguide

__all__ = ["NUTS", "Autoguide", "Conjugate", "LaplaceApproximation", "LowRank", "MeanField"]

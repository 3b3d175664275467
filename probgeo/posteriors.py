"""Posteriors of a `BayesianDecoder`: over all weights, or over those of the last layer."""

from probgeo.models.bayesian import LowRank, MeanField
from probgeo.models.lastlayer import Conjugate, LaplaceApproximation
from probgeo.models.sampled import NUTS, Autoguide

__all__ = ["NUTS", "Autoguide", "Conjugate", "LaplaceApproximation", "LowRank", "MeanField"]

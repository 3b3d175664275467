"""Likelihoods: the Pyro distribution of an observation given a decoder's output, its mean, and its isometry.

The isometry is the variance-stabilising map: its Euclidean pull-back is the Fisher-Rao metric of the likelihood.
"""

from probgeo.likelihoods.continuous import ContinuousBernoulli, Gaussian, HeteroscedasticGaussian, Laplace, Perceptual
from probgeo.likelihoods.counts import (
    LibraryColumn,
    NegativeBinomial,
    Poisson,
    RowTotal,
    ZeroInflatedNegativeBinomial,
)
from probgeo.likelihoods.discrete import Bernoulli, Categorical, OneHotCategorical
from probgeo.likelihoods.likelihood import Likelihood, Parameters, TwoParameterLikelihood
from probgeo.likelihoods.mixed import Mixed, table_likelihood

__all__ = [
    "Bernoulli",
    "Categorical",
    "ContinuousBernoulli",
    "Gaussian",
    "HeteroscedasticGaussian",
    "Laplace",
    "LibraryColumn",
    "Likelihood",
    "Mixed",
    "NegativeBinomial",
    "OneHotCategorical",
    "Parameters",
    "Perceptual",
    "Poisson",
    "RowTotal",
    "TwoParameterLikelihood",
    "ZeroInflatedNegativeBinomial",
    "table_likelihood",
]

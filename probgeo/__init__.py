"""Probabilistic latent geometry: which distances, angles and volumes of a latent space survive retraining."""

from probgeo import calculus, datasets, identifiability, nn, paths, plots, schedules
from probgeo.datasets import (
    all_pairs,
    class_regions,
    class_representatives,
    neighbour_pairs,
    sample_pairs,
    sample_triples,
)
from probgeo.distances import distance_matrix, graph_distances
from probgeo.geodesics import GaussNewton, Geodesics, Status, energy, geodesic, length
from probgeo.jacobians import smallest_singular_value
from probgeo.likelihoods import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    Gaussian,
    HeteroscedasticGaussian,
    Laplace,
    LibraryColumn,
    Mixed,
    NegativeBinomial,
    OneHotCategorical,
    Perceptual,
    Poisson,
    RowTotal,
    ZeroInflatedNegativeBinomial,
    table_likelihood,
)
from probgeo.metrics import ConformalMetric, DecorrelatedEnergy, ExpectedMetric, PullbackMetric, TensorMetric
from probgeo.models import flows
from probgeo.models.bayesian import BayesianDecoder, DropoutDecoder, LowRank, MeanField
from probgeo.models.conditional import ConditionalVAE
from probgeo.models.decoders import Decoder, EnsembleDecoder, RandomMember, RBFDecoder, SplitBatch
from probgeo.models.fusion import Average, Mixture, ProductOfExperts
from probgeo.models.gp_decoder import GPDecoder
from probgeo.models.gplvm import GPLVM
from probgeo.models.greedy import greedy_conditions
from probgeo.models.injective import Injective, InjectiveDecoder, projection
from probgeo.models.lastlayer import Conjugate, LaplaceApproximation
from probgeo.models.masks import Everything, NoMask, RandomMask, RandomShare, Unobserved, random_conditions
from probgeo.models.sampled import NUTS, Autoguide
from probgeo.models.shared import SharedLatentVAE
from probgeo.models.vae import VAE, Warmup
from probgeo.models.views import Alternation, View
from probgeo.sample_quality import blur, classifier_features, frechet_distance
from probgeo.storage import load, save
from probgeo.study import DrawnGeodesic, Geodesic, Given, StraightLine, Study, ViewMetric
from probgeo.training import Training, TrainingDiverged, fit

__all__ = [
    "GPLVM",
    "NUTS",
    "VAE",
    "Alternation",
    "Autoguide",
    "Average",
    "BayesianDecoder",
    "Bernoulli",
    "Categorical",
    "ConditionalVAE",
    "ConformalMetric",
    "Conjugate",
    "ContinuousBernoulli",
    "Decoder",
    "DecorrelatedEnergy",
    "DrawnGeodesic",
    "DropoutDecoder",
    "EnsembleDecoder",
    "Everything",
    "ExpectedMetric",
    "GPDecoder",
    "GaussNewton",
    "Gaussian",
    "Geodesic",
    "Geodesics",
    "Given",
    "HeteroscedasticGaussian",
    "Injective",
    "InjectiveDecoder",
    "Laplace",
    "LaplaceApproximation",
    "LibraryColumn",
    "LowRank",
    "MeanField",
    "Mixed",
    "Mixture",
    "NegativeBinomial",
    "NoMask",
    "OneHotCategorical",
    "Perceptual",
    "Poisson",
    "ProductOfExperts",
    "PullbackMetric",
    "RBFDecoder",
    "RandomMask",
    "RandomMember",
    "RandomShare",
    "RowTotal",
    "SharedLatentVAE",
    "SplitBatch",
    "Status",
    "StraightLine",
    "Study",
    "TensorMetric",
    "Training",
    "TrainingDiverged",
    "Unobserved",
    "View",
    "ViewMetric",
    "Warmup",
    "ZeroInflatedNegativeBinomial",
    "all_pairs",
    "blur",
    "calculus",
    "class_regions",
    "class_representatives",
    "classifier_features",
    "datasets",
    "distance_matrix",
    "energy",
    "fit",
    "flows",
    "frechet_distance",
    "geodesic",
    "graph_distances",
    "greedy_conditions",
    "identifiability",
    "length",
    "load",
    "neighbour_pairs",
    "nn",
    "paths",
    "plots",
    "projection",
    "random_conditions",
    "sample_pairs",
    "sample_triples",
    "save",
    "schedules",
    "smallest_singular_value",
    "table_likelihood",
]

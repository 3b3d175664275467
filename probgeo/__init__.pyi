from . import (
    adapters,
    calculus,
    datasets,
    identifiability,
    likelihoods,
    masks,
    metrics,
    nn,
    paths,
    plots,
    posteriors,
    sample_quality,
    schedules,
    specs,
    study,
    views,
)
from .datasets import (
    all_pairs,
    class_regions,
    class_representatives,
    neighbour_pairs,
    sample_pairs,
    sample_triples,
)
from .geometry.distances import distance_matrix, graph_distances
from .geometry.geodesics import GaussNewton, Geodesics, Status, energy, geodesic, length
from .geometry.metrics import (
    ConformalMetric,
    DecorrelatedEnergy,
    Energy,
    ExpectedMetric,
    Metric,
    PullbackMetric,
    TensorMetric,
)
from .geometry.neighbours import neighbours
from .geometry.newton import BlockTridiagonal, Interpolated, MatrixFree
from .likelihoods import Gaussian, HeteroscedasticGaussian, Likelihood
from .models.base import Encoding, LatentModel, ModelSpec
from .models.conditional.spec import ConditionalVAE
from .models.decoders.bayesian import BayesianDecoder
from .models.decoders.dropout import DropoutDecoder
from .models.decoders.ensemble import EnsembleDecoder, RandomMember, SplitBatch
from .models.decoders.gp import GPDecoder
from .models.decoders.rbf import RBFDecoder
from .models.decoders.single import Decoder
from .models.gp.gplvm import GPLVM
from .models.shared.spec import SharedLatentVAE
from .models.shared.views import View
from .models.vae import VAE, Warmup
from .study import Euclidean, Geodesic, Measure, StraightLine, Study, expected_metric, fisher_rao_metric
from .study.measure import measure
from .training.fit import Training, TrainingDiverged, fit
from .training.storage import load, save

__version__: str

__all__ = [
    "GPLVM",
    "VAE",
    "BayesianDecoder",
    "BlockTridiagonal",
    "ConditionalVAE",
    "ConformalMetric",
    "Decoder",
    "DecorrelatedEnergy",
    "DropoutDecoder",
    "Encoding",
    "Energy",
    "EnsembleDecoder",
    "Euclidean",
    "ExpectedMetric",
    "GPDecoder",
    "GaussNewton",
    "Gaussian",
    "Geodesic",
    "Geodesics",
    "HeteroscedasticGaussian",
    "Interpolated",
    "LatentModel",
    "Likelihood",
    "MatrixFree",
    "Measure",
    "Metric",
    "ModelSpec",
    "PullbackMetric",
    "RBFDecoder",
    "RandomMember",
    "SharedLatentVAE",
    "SplitBatch",
    "Status",
    "StraightLine",
    "Study",
    "TensorMetric",
    "Training",
    "TrainingDiverged",
    "View",
    "Warmup",
    "adapters",
    "all_pairs",
    "calculus",
    "class_regions",
    "class_representatives",
    "datasets",
    "distance_matrix",
    "energy",
    "expected_metric",
    "fisher_rao_metric",
    "fit",
    "geodesic",
    "graph_distances",
    "identifiability",
    "length",
    "likelihoods",
    "load",
    "masks",
    "measure",
    "metrics",
    "neighbour_pairs",
    "neighbours",
    "nn",
    "paths",
    "plots",
    "posteriors",
    "sample_pairs",
    "sample_quality",
    "sample_triples",
    "save",
    "schedules",
    "specs",
    "study",
    "views",
]

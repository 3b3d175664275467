"""Probabilistic latent geometry: which distances, angles and volumes of a latent space survive retraining."""

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from probgeo import (
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
    from probgeo.datasets import (
        all_pairs,
        class_regions,
        class_representatives,
        neighbour_pairs,
        sample_pairs,
        sample_triples,
    )
    from probgeo.geometry.distances import distance_matrix, graph_distances
    from probgeo.geometry.geodesics import GaussNewton, Geodesics, Status, energy, geodesic, length
    from probgeo.geometry.metrics import (
        ConformalMetric,
        DecorrelatedEnergy,
        Energy,
        ExpectedMetric,
        Metric,
        PullbackMetric,
        TensorMetric,
    )
    from probgeo.geometry.newton import BlockTridiagonal, MatrixFree
    from probgeo.likelihoods import Gaussian, HeteroscedasticGaussian, Likelihood
    from probgeo.models.base import Encoding, LatentModel, ModelSpec
    from probgeo.models.conditional.spec import ConditionalVAE
    from probgeo.models.decoders.bayesian import BayesianDecoder
    from probgeo.models.decoders.dropout import DropoutDecoder
    from probgeo.models.decoders.ensemble import EnsembleDecoder, RandomMember, SplitBatch
    from probgeo.models.decoders.gp import GPDecoder
    from probgeo.models.decoders.rbf import RBFDecoder
    from probgeo.models.decoders.single import Decoder
    from probgeo.models.gp.gplvm import GPLVM
    from probgeo.models.shared.spec import SharedLatentVAE
    from probgeo.models.shared.views import View
    from probgeo.models.vae import VAE, Warmup
    from probgeo.study import Euclidean, Geodesic, Measure, StraightLine, Study
    from probgeo.study.measure import measure
    from probgeo.training.fit import Training, TrainingDiverged, fit
    from probgeo.training.storage import load, save

__version__ = version("probgeo")

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

# Where each name is defined, module by module; what has no home here is a module. Nothing is imported before it is
# used: a geodesic needs no tables, a model no figures.
_HOMES = {
    "probgeo.datasets": [
        "all_pairs",
        "class_regions",
        "class_representatives",
        "neighbour_pairs",
        "sample_pairs",
        "sample_triples",
    ],
    "probgeo.geometry.distances": ["distance_matrix", "graph_distances"],
    "probgeo.geometry.geodesics": ["GaussNewton", "Geodesics", "Status", "energy", "geodesic", "length"],
    "probgeo.geometry.metrics": [
        "ConformalMetric",
        "DecorrelatedEnergy",
        "Energy",
        "ExpectedMetric",
        "Metric",
        "PullbackMetric",
        "TensorMetric",
    ],
    "probgeo.geometry.newton": ["BlockTridiagonal", "MatrixFree"],
    "probgeo.likelihoods": ["Gaussian", "HeteroscedasticGaussian", "Likelihood"],
    "probgeo.models.base": ["Encoding", "LatentModel", "ModelSpec"],
    "probgeo.models.conditional.spec": ["ConditionalVAE"],
    "probgeo.models.decoders.bayesian": ["BayesianDecoder"],
    "probgeo.models.decoders.dropout": ["DropoutDecoder"],
    "probgeo.models.decoders.ensemble": ["EnsembleDecoder", "RandomMember", "SplitBatch"],
    "probgeo.models.decoders.gp": ["GPDecoder"],
    "probgeo.models.decoders.rbf": ["RBFDecoder"],
    "probgeo.models.decoders.single": ["Decoder"],
    "probgeo.models.gp.gplvm": ["GPLVM"],
    "probgeo.models.shared.spec": ["SharedLatentVAE"],
    "probgeo.models.shared.views": ["View"],
    "probgeo.models.vae": ["VAE", "Warmup"],
    "probgeo.study": ["Euclidean", "Geodesic", "Measure", "StraightLine", "Study"],
    "probgeo.study.measure": ["measure"],
    "probgeo.training.fit": ["Training", "TrainingDiverged", "fit"],
    "probgeo.training.storage": ["load", "save"],
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        home = _HOME.get(name)
        found = getattr(importlib.import_module(home), name) if home else importlib.import_module(f"{__name__}.{name}")
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

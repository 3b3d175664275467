"""A study: distances, angles and volumes in many retrainings -> one labelled dataset; resumes, on any executor."""

from probgeo.jobs import TaskLost
from probgeo.study.cluster import Workers
from probgeo.study.given import Given
from probgeo.study.manifold import manifold_check
from probgeo.study.measure import RetrainingLost, measure, with_ambient_distances
from probgeo.study.measures import (
    DEFAULT_MEASURES,
    DrawnGeodesic,
    Euclidean,
    Geodesic,
    Measure,
    StraightLine,
    ViewMetric,
    decorrelated_energy,
    expected_metric,
    fisher_rao_metric,
)
from probgeo.study.study import Study
from probgeo.study.tight import ManyStarts, tight_distances

__all__ = [
    "DEFAULT_MEASURES",
    "DrawnGeodesic",
    "Euclidean",
    "Geodesic",
    "Given",
    "ManyStarts",
    "Measure",
    "RetrainingLost",
    "StraightLine",
    "Study",
    "TaskLost",
    "ViewMetric",
    "Workers",
    "decorrelated_energy",
    "expected_metric",
    "fisher_rao_metric",
    "manifold_check",
    "measure",
    "tight_distances",
    "with_ambient_distances",
]

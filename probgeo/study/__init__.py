"""A study: distances, angles and volumes in many retrainings -> one labelled dataset; resumes, on any executor."""

from probgeo.study.given import Given
from probgeo.study.measures import (
    DEFAULT_MEASURES,
    DrawnGeodesic,
    Geodesic,
    Measure,
    StraightLine,
    ViewMetric,
    decorrelated_energy,
    expected_metric,
    fisher_rao_metric,
)
from probgeo.study.study import Study, with_ambient_distances

__all__ = [
    "DEFAULT_MEASURES",
    "DrawnGeodesic",
    "Geodesic",
    "Given",
    "Measure",
    "StraightLine",
    "Study",
    "ViewMetric",
    "decorrelated_energy",
    "expected_metric",
    "fisher_rao_metric",
    "with_ambient_distances",
]

# Configurations and keys on disk hold the public names, whichever file defines what they name.
for _named in (
    DrawnGeodesic,
    Geodesic,
    Given,
    StraightLine,
    ViewMetric,
    decorrelated_energy,
    expected_metric,
    fisher_rao_metric,
):
    _named.__module__ = __name__

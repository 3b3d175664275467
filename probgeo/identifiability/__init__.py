"""Which distances survive retraining: statistics over the dims `retraining` and `pair` of labelled arrays.

A low coefficient of variation is not yet identifiability: a constant has none. So the variation over retrainings
(`coefficient_of_variation`) is read beside what the distance tells apart (`spread`, `icc`, `rank_agreement`).

Every function takes an `xarray.DataArray` from any source, reduces the dims it names and keeps all others (model,
measure, ...). A missing distance makes a statistic missing; only `summary` leaves pairs out, and counts them.
"""

from probgeo.identifiability.statistics import (
    bootstrap,
    coefficient_of_variation,
    icc,
    paired_test,
    rank_agreement,
    spread,
)
from probgeo.identifiability.summaries import Table, comparable, summary

__all__ = [
    "Table",
    "bootstrap",
    "coefficient_of_variation",
    "comparable",
    "icc",
    "paired_test",
    "rank_agreement",
    "spread",
    "summary",
]

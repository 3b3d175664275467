"""Which distances survive retraining: statistics over the dims `retraining` and `pair` of labelled arrays.

A low coefficient of variation is not yet identifiability: a constant has none. So the variation over retrainings
(`coefficient_of_variation`) is read beside what the distance tells apart (`spread`, `icc`, `rank_agreement`). Whether a
difference would hold in other trainings is told by `permutation_test`, for independent trainings, and `swap_test`, for
two measures of the same ones; whether it is right, by `agreement` with what is known; whether one training's error bar
can be trusted, by `calibration`.

Every function takes an `xarray.DataArray` from any source, reduces the dims it names and keeps all others (model,
measure, ...). A missing distance makes a statistic missing; only `summary` leaves pairs out, and counts them.
"""

from probgeo.identifiability.agreements import agreement, circular_difference, relative_error, triplet_agreement
from probgeo.identifiability.chains import ess, inference_data, rhat
from probgeo.identifiability.comparisons import holm, paired_test, wilcoxon_test
from probgeo.identifiability.error_bars import (
    between_within_ratio,
    calibration,
    conformal_quantile,
    error_scale,
    exchangeable_coverage,
    left_out_errors,
    pair_halves,
    prediction_errors,
    predictive_interval,
)
from probgeo.identifiability.matrices import (
    mantel_test,
    matrix_of_pairs,
    mean_between_retrainings,
    neighbour_overlap,
    procrustes_disagreement,
    relative_frobenius,
)
from probgeo.identifiability.permutations import permutation_test, swap_test
from probgeo.identifiability.resampling import (
    bootstrap,
    bootstrap_difference,
    interval_widths,
    retrainings_needed,
    retrainings_to_detect,
)
from probgeo.identifiability.solver import solver_excess
from probgeo.identifiability.statistics import (
    coefficient_of_variation,
    corrected_coefficient_of_variation,
    icc,
    icc_interval,
    kendall_agreement,
    rank_agreement,
    rank_correlation,
    spread,
    variation_by_length,
)
from probgeo.identifiability.structure import (
    between_groups,
    cluster_agreement,
    co_assignment,
    edge_shares,
    neighbour_reliability,
)
from probgeo.identifiability.summaries import comparable, summary
from probgeo.identifiability.survival import survival
from probgeo.identifiability.tables import Table
from probgeo.identifiability.trainings import with_trainings
from probgeo.identifiability.trust import Trust, trust, trust_of_trainings
from probgeo.identifiability.verdicts import verdict

__all__ = [
    "Table",
    "Trust",
    "agreement",
    "between_groups",
    "between_within_ratio",
    "bootstrap",
    "bootstrap_difference",
    "calibration",
    "circular_difference",
    "cluster_agreement",
    "co_assignment",
    "coefficient_of_variation",
    "comparable",
    "conformal_quantile",
    "corrected_coefficient_of_variation",
    "edge_shares",
    "error_scale",
    "ess",
    "exchangeable_coverage",
    "holm",
    "icc",
    "icc_interval",
    "inference_data",
    "interval_widths",
    "kendall_agreement",
    "left_out_errors",
    "mantel_test",
    "matrix_of_pairs",
    "mean_between_retrainings",
    "neighbour_overlap",
    "neighbour_reliability",
    "pair_halves",
    "paired_test",
    "permutation_test",
    "prediction_errors",
    "predictive_interval",
    "procrustes_disagreement",
    "rank_agreement",
    "rank_correlation",
    "relative_error",
    "relative_frobenius",
    "retrainings_needed",
    "retrainings_to_detect",
    "rhat",
    "solver_excess",
    "spread",
    "summary",
    "survival",
    "swap_test",
    "triplet_agreement",
    "trust",
    "trust_of_trainings",
    "variation_by_length",
    "verdict",
    "wilcoxon_test",
    "with_trainings",
]

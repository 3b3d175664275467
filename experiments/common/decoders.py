"""Sources of uncertainty by name."""

from typing import Any, Literal

import probgeo as pg

Source = Literal["single", "rbf", "ensemble", "dropout", "mean-field", "low-rank", "laplace", "exact", "nuts", "gp"]


def decoders(network: pg.nn.MLP, members: int, samples: int = 100) -> dict[str, Any]:
    """Specs of decoders that differ only in their source of uncertainty, by name.

    Args:
        network: of every decoder.
        members: decoders of an ensemble, and draws that the metric of a sampled decoder averages over.
        samples: of NUTS, and its warm-up; at least as many as members.
    """
    guides: dict[str, Any] = {
        "mean-field": pg.posteriors.MeanField(),
        "low-rank": pg.posteriors.LowRank(),
        "laplace": pg.posteriors.LaplaceApproximation(),
        "exact": pg.posteriors.Conjugate(),
        "nuts": pg.posteriors.NUTS(num_draws=samples, warmup=samples),
    }
    return {
        "single": pg.Decoder(network),
        "rbf": pg.RBFDecoder(network),
        "ensemble": pg.EnsembleDecoder(members, network),
        "dropout": pg.DropoutDecoder(network, draws=members),
        **{name: pg.BayesianDecoder(network, guide=guide, draws=members) for name, guide in guides.items()},
        "gp": pg.GPDecoder(network),
    }

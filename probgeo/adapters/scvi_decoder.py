"""The decoder of a model of scvi-tools at given batches and covariates, in logarithms, and its likelihood."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probgeo.likelihoods import Likelihood, NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial

LIKELIHOODS: dict[str, Likelihood | None] = {
    "nb": NegativeBinomial(),
    "zinb": ZeroInflatedNegativeBinomial(),
    "poisson": Poisson(),
    "normal": None,  # of counts: mean exp(output), standard deviation of each gene
}


class Decoders:
    """z -> [log μ; logits of π] of every batch, as one callable: (*batch, latent) -> (member, *batch, output).

    Rates are those of the module at the given library size and covariates; in logarithms, a rate that rounds to zero
    has a derivative still.

    Args:
        module: a copy of the model's own, in evaluation mode.
        batches: codes of the batches.
        categories: codes of further categorical covariates.
        continuous: values of continuous ones.
        log_size: logarithm of the library size.
    """

    def __init__(
        self,
        module: Any,
        batches: Sequence[int],
        categories: Sequence[int],
        continuous: Sequence[float],
        log_size: float,
    ) -> None:
        self._decoder, self._log_size, self.num_members = module.decoder, log_size, len(batches)
        self._is_linear, self._gated = hasattr(module.decoder, "factor_regressor"), module.gene_likelihood == "zinb"
        self._softplus = module.use_size_factor_key
        weights = next(module.parameters())
        codes = torch.tensor(batches, device=weights.device)
        beside = [weights.new_tensor(continuous).expand(len(batches), -1)] if continuous else []
        one_hot: list[Tensor] = []
        if module.batch_representation == "embedding":
            beside.append(module.compute_embedding("batch", codes[:, None]).detach())
        else:
            one_hot.append(_one_hot(codes, max(module.n_batch, 1)))
        first = (self._decoder.factor_regressor if self._is_linear else self._decoder.px_decoder).n_cat_list
        for code, width in zip(categories, first[len(one_hot) :], strict=True):
            one_hot.append(_one_hot(codes.new_full((len(batches),), code), max(width, 1)))
        self._beside: Float[Tensor, "member input"] = (
            torch.cat(beside, 1) if beside else weights.new_zeros(len(batches), 0)
        )
        self._one_hot = [columns.to(weights) for columns in one_hot]
        self._dtype = weights.dtype

    def __call__(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "member *batch output"]:
        points = z.reshape(-1, z.shape[-1]).to(self._dtype)
        count = len(points)
        inputs = torch.cat([points.repeat(self.num_members, 1), self._beside.repeat_interleave(count, 0)], dim=1)
        log_scale, gate = self._outputs(inputs, [columns.repeat_interleave(count, 0) for columns in self._one_hot])
        output = log_scale + self._log_size
        if self._gated:
            output = torch.cat([output, gate()], dim=-1)
        return output.reshape(self.num_members, *z.shape[:-1], -1)

    def _outputs(self, inputs: Tensor, categories: list[Tensor]) -> tuple[Tensor, Any]:
        """Logarithms of the genes' shares, and what gives logits of the zero inflation."""
        decoder = self._decoder
        if self._is_linear:
            shares = decoder.factor_regressor(inputs, *categories)
            return shares.log_softmax(-1), lambda: decoder.px_dropout_decoder(inputs, *categories)
        hidden = decoder.px_decoder(inputs, *categories)
        linear, _ = decoder.px_scale_decoder
        shares = linear(hidden)
        log_shares = nn.functional.softplus(shares).log() if self._softplus else shares.log_softmax(-1)
        return log_shares, lambda: decoder.px_dropout_decoder(hidden)


def _one_hot(codes: Tensor, width: int) -> Tensor:
    return nn.functional.one_hot(codes, width)


def log_dispersion(module: Any, batches: Sequence[int], label: int | None) -> Float[Tensor, "member gene"]:
    """log r of each gene in each batch, where it does not depend on the cell; of `normal`, that of σ.

    Raises:
        TypeError: it does.
    """
    parameter: Tensor
    if module.dispersion == "gene-cell":
        raise TypeError(
            "fisher_rao_metric: dispersion='gene-cell' has a dispersion that varies with z, and a Fisher information "
            "about it, which is not known here (that of counts has no closed form). Train with dispersion='gene' or "
            "'gene-batch', or use metric(), in the space of E[x | z]."
        )
    parameter = module.px_r.detach()
    if module.dispersion == "gene-batch":
        return parameter[:, list(batches)].mT
    if module.dispersion == "gene-label":
        if label is None:
            raise TypeError(
                "fisher_rao_metric: dispersion='gene-label' has a dispersion for each label, and a code has no label; "
                "give the one meant: from_scvi(model, label=...), or use metric(), in the space of E[x | z]."
            )
        parameter = parameter[:, label]
    return parameter.expand(len(batches), -1)


def mean_counts(likelihood: Likelihood | None, output: Tensor) -> Tensor:
    """E[x | z] of a decoder's output."""
    return output.exp() if likelihood is None else likelihood.mean()(output)


def isometries(
    likelihood: Likelihood | None, log_r: Float[Tensor, "member gene"], output: Float[Tensor, "member *batch gene"]
) -> Float[Tensor, "member *batch gene"]:
    """Outputs in the space whose Euclidean metric is Fisher-Rao, each batch with its own dispersion."""
    if likelihood is None:
        scaled = [(part - log_std).exp() for part, log_std in zip(output, log_r, strict=True)]
    else:
        scaled = [likelihood.isometry({"log_total_count": own})(part) for part, own in zip(output, log_r, strict=True)]
    return torch.stack(scaled)


def check_agreement(
    module: Any, decoders: Decoders, log_r: Tensor | None, batches: Sequence[int], given: tuple[Any, Any, float, int]
) -> None:
    """Refuse a module whose own `generative` gives other parameters than are computed here.

    Args:
        module: a copy of the model's own, in evaluation mode.
        decoders, log_r: what is computed here of it.
        batches: codes of the batches.
        given: categories, continuous covariates, logarithm of the library size, label.

    Raises:
        NotImplementedError: as of another version of scvi-tools.
    """
    categories, continuous, log_size, label = given
    weights = next(module.parameters())
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(4, module.n_latent, generator=generator).to(weights)
    with torch.no_grad():
        for member, batch in enumerate(batches[:3]):
            found = decoders(z)[member]
            size = weights.new_full((4, 1), log_size)
            labels = torch.full((4, 1), label, device=z.device)
            px = module.generative(
                z,
                size,
                torch.full((4, 1), batch, device=z.device),
                cont_covs=weights.new_tensor(continuous).expand(4, -1) if continuous else None,
                cat_covs=torch.tensor(categories, device=z.device).expand(4, -1) if categories else None,
                size_factor=size,
                y=labels,
            )["px"]
            rate = px.loc if module.gene_likelihood == "normal" else getattr(px, "mu", None)
            rate = px.rate if rate is None else rate
            log_rate = found.chunk(2, dim=-1)[0] if module.gene_likelihood == "zinb" else found
            agree = torch.allclose(log_rate.exp(), rate, rtol=1e-3, atol=1e-6 * float(rate.max()))
            if module.gene_likelihood == "zinb":
                agree &= torch.allclose(found.chunk(2, dim=-1)[1], px.zi_logits, rtol=1e-3, atol=1e-4)
            if log_r is not None and module.gene_likelihood in ("nb", "zinb"):
                agree &= torch.allclose(log_r[member].exp().expand_as(rate), px.theta, rtol=1e-3)
            if not agree:
                raise NotImplementedError(
                    f"from_scvi: this version's {type(module).__name__} computes its rates otherwise than the adapter "
                    "knows. scvi-tools 1.4 is known to agree: pip install 'scvi-tools>=1.4,<1.5'."
                )

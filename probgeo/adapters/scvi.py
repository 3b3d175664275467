"""Latent models of scvi-tools: SCVI, SCANVI and LinearSCVI, as they were trained or saved."""

import copy
import math
import numbers
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from probgeo.adapters.information import ParameterChords
from probgeo.adapters.scvi_decoder import (
    LIKELIHOODS,
    Decoders,
    check_agreement,
    isometries,
    log_dispersion,
    mean_counts,
)
from probgeo.adapters.scvi_given import (
    SUPPORTED,
    batch_codes,
    check_module,
    covariate_values,
    imported,
    label_code,
    loaded,
)
from probgeo.adapters.scvi_rows import Registered
from probgeo.datasets.mapped import as_rows, is_anndata, is_table
from probgeo.geometry.metrics import ExpectedMetric, Metric
from probgeo.geometry.points import Points, points_of
from probgeo.likelihoods import NegativeBinomial, ZeroInflatedNegativeBinomial
from probgeo.models.base import Encoding, LatentModel
from probgeo.rows import StoredRows, beside

ROWS = 1024  # encoded at once


def from_scvi(
    model: Any,
    adata: Any = None,
    *,
    batch: Any = None,
    label: Any = None,
    covariates: Mapping[str, Any] | None = None,
    library_size: float | None = None,
    name: str | None = None,
) -> "SCVIModel":
    """The latent model of a trained `scvi.model.SCVI`, `SCANVI` or `LinearSCVI`, or of the folder of a saved one.

    The metric at a code z is that of the decoder, of counts of all genes:

    * `metric()`: of the mean counts E[x | z].
    * `fisher_rao_metric()`: of their distribution. For `gene_likelihood="nb"` it is the pull-back of
      2 √r arsinh √(μ / r), for `"poisson"` of 2 √μ, for `"normal"` of μ / σ; for `"zinb"` it is Jᵀ I J with the Fisher
      information I about log μ and the logit of the zero inflation. The dispersion r is that of the gene, or of the
      gene in the batch.
    * `negative_binomial_metric`, of this module: for `"zinb"` too the pull-back of 2 √r arsinh √(μ / r), of the
      negative binomial part, as if no count were lost to zero inflation.

    A code is of no batch, so the batch is fixed (`batch="donor 1"`), or the metric is the mean of the batches' own
    metrics (`batch=None`: of all; `batch=["donor 1", "donor 2"]`: of these), each with the same weight. That is not the
    metric of the mean decoder, in which differences between batches cancel. Each batch is one more decoder to evaluate.

    The weights are copied, in evaluation mode: the model itself stays as it is, and what is trained afterwards does
    not show.

    Args:
        model: a trained model, or the folder where one was saved. scvi-tools unpickles such folders: open only those
            that you trust.
        adata: the AnnData of a saved model whose folder has none; that a median library size is taken from.
        batch: the batch that codes are decoded to, by its name in `obs`; several; None for all.
        label: the label whose dispersion counts, where `dispersion="gene-label"`.
        covariates: values of further covariates that the model was set up with, by their column of `obs`.
        library_size: the total count that rates are stated at; a model with `size_factor_key`: the size factor. None:
            its median over the cells, observed also where the model infers it. Fisher-Rao lengths grow with it, as
            deeper sequencing tells cells apart better.
        name: what errors and saved results call the model.

    Returns:
        A `LatentModel`. Its `encode` takes an AnnData or a `Dataset` with the columns of `obs` that the model was set
        up with, so that each cell's batch and covariates reach the encoder; a table of counts where the encoder reads
        counts alone (`encode_covariates=False`, the default of scvi-tools). A minified model reads the codes that its
        AnnData keeps.

    Raises:
        ImportError: scvi-tools is not installed.
        TypeError: a model of another class, whose decoder or likelihood is not known here; codes on a simplex
            (`latent_distribution="ln"`).
        ValueError: a batch, label or covariate that the model does not know, or that is missing.

    Example:
        >>> import pytest
        >>> scvi = pytest.importorskip("scvi", reason="scvi-tools is not installed")
        >>> import anndata, numpy, probgeo as pg
        >>> counts = numpy.random.default_rng(0).poisson(3.0, (20, 6)).astype("float32")
        >>> adata = anndata.AnnData(counts)
        >>> scvi.model.SCVI.setup_anndata(adata)
        >>> model = pg.adapters.from_scvi(scvi.model.SCVI(adata, n_latent=2))
        >>> model.latent, model.num_features, model.encode(adata).mean.shape
        (2, 6, torch.Size([20, 2]))

    References:
        Lopez, Regier, Cole, Jordan & Yosef (2018), Deep generative modeling for single-cell transcriptomics.
    """
    scvi = imported()
    if isinstance(model, (str, Path)):
        model = loaded(scvi, Path(model), adata)
    if type(model) not in [getattr(scvi.model, each) for each in SUPPORTED]:
        raise TypeError(
            f"model: expected {', '.join(SUPPORTED[:-1])} or {SUPPORTED[-1]} of scvi.model, whose decoder and "
            f"likelihood are known here; got {type(model).__name__}. Give others by from_torch, with functions to "
            "encode and decode."
        )
    if model.module is None:
        raise ValueError("model: it has no networks before it is trained; train it first.")
    module = copy.deepcopy(model.module).eval().requires_grad_(False)
    check_module(module)
    registered = Registered.of(model.registry, minified=module.minified_data_type is not None)
    cells = model.adata if adata is None else adata
    if library_size is None:
        if cells is None:
            raise ValueError(
                "library_size: expected a number, or adata, whose median it is by default; got neither, and the model "
                "was loaded without."
            )
        library_size = registered.median_size(cells)
    if not (isinstance(library_size, numbers.Real) and 0 < library_size < math.inf):
        raise ValueError(f"library_size: expected a positive number; got {library_size!r}.")
    return SCVIModel(
        module,
        registered,
        batch_codes(registered, batch),
        label_code(module, registered, label),
        *covariate_values(registered, covariates or {}),
        float(library_size),
        name or type(model).__name__,
        None if cells is None or registered.minified else registered.are_counts(cells),
    )


def saved_scvi(folder: str | Path, adata: Any = None, **options: Any) -> list["SCVIModel"]:
    """Models that scvi-tools saved side by side, one folder each, in the order of their names: retrainings of one.

    Args:
        folder: that holds their folders, such as `runs/0`, `runs/1`, …, of `model.save(f"runs/{seed}")`.
        adata: as for `from_scvi`.
        **options: all further arguments of `from_scvi`.

    Returns:
        Their latent models, named by their folders.

    Raises:
        ValueError: no saved model is there.
        ImportError, TypeError: as `from_scvi`.

    Example:
        >>> import pytest
        >>> scvi = pytest.importorskip("scvi", reason="scvi-tools is not installed")
        >>> import anndata, numpy, tempfile, probgeo as pg
        >>> scvi.settings.verbosity = 40  # errors alone
        >>> adata = anndata.AnnData(numpy.random.default_rng(0).poisson(3.0, (20, 6)).astype("float32"))
        >>> scvi.model.SCVI.setup_anndata(adata)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for seed in range(2):
        ...         scvi.model.SCVI(adata, n_latent=2).save(f"{folder}/{seed}")
        ...     models = pg.adapters.saved_scvi(folder, adata)
        >>> [model.name for model in models]
        ['0', '1']
    """
    places = sorted({path.parent for path in Path(folder).glob("*/model.pt")})
    if not places:
        raise ValueError(f"folder: expected folders of saved models, each with its model.pt; {folder} has none.")
    return [from_scvi(place, adata, **{"name": place.name, **options}) for place in places]


@final
class SCVIModel(LatentModel):
    """A latent model of scvi-tools: what `from_scvi` returns, which is the way to make one.

    Args:
        module: a copy of the model's networks, in evaluation mode.
        registered: what it reads of a cell.
        batches: codes of the batches that it decodes to.
        label: code of the label whose dispersion counts; None for none.
        categories, continuous: further covariates.
        library_size: at which rates are stated.
        name: of the model.
        of_counts: whether it was trained on integers; None where that is not known.

    Example:
        >>> import pytest
        >>> scvi = pytest.importorskip("scvi", reason="scvi-tools is not installed")
        >>> import anndata, numpy, torch, probgeo as pg
        >>> adata = anndata.AnnData(numpy.random.default_rng(0).poisson(3.0, (20, 6)).astype("float32"))
        >>> scvi.model.SCVI.setup_anndata(adata)
        >>> model = pg.adapters.from_scvi(scvi.model.SCVI(adata, n_latent=2), library_size=100.0)
        >>> isinstance(model, pg.adapters.SCVIModel), isinstance(model, pg.LatentModel)
        (True, True)
        >>> bool((model.decode(torch.zeros(1, 2)) < 100.0).all())  # mean counts of the genes, zeros inflated
        True
    """

    def __init__(
        self,
        module: Any,
        registered: Registered,
        batches: Sequence[int],
        label: int | None,
        categories: Sequence[int],
        continuous: Sequence[float],
        library_size: float,
        name: str,
        of_counts: bool | None = None,
    ) -> None:
        self._of_counts = of_counts
        self._module, self._registered, self._batches, self._label = module, registered, list(batches), label
        self._settings = (list(categories), list(continuous), library_size)
        self.latent, self.num_features, self.num_members = module.n_latent, module.n_input, len(batches)
        self.library_size, self.name = library_size, name
        self._likelihood = LIKELIHOODS[module.gene_likelihood]
        given = (list(categories), list(continuous), math.log(library_size))
        self._decoders = Decoders(module, self._batches, *given)
        known = module.dispersion != "gene-cell" and (module.dispersion != "gene-label" or label is not None)
        log_r = log_dispersion(module, self._batches, label) if known else None
        check_agreement(module, self._decoders, log_r, self._batches, (*given, label or 0))

    def identity(self) -> tuple[Any, ...]:
        """Weights, and what they are evaluated at."""
        weights = {key: value for key, value in self._module.state_dict().items() if isinstance(value, Tensor)}
        kinds = (self._module.gene_likelihood, self._module.dispersion, self._module.encode_covariates)
        return (weights, kinds, self._batches, self._label, *self._settings, self.name)

    def rows(self, x: Any) -> Tensor | StoredRows:
        """What the encoder reads of cells: counts, with codes of batch and covariates beside them where it reads these.

        Args:
            x: an AnnData, a `Dataset`, or rows of numbers (cell, gene), which stay as they are.

        Raises:
            ValueError: other genes, a column of `obs` that is missing, a category that the model does not know.
        """
        if not is_table(x):
            return as_rows("x", x)
        if self._registered.minified is not None:
            return self._registered.codes(x)
        counts = self._registered.counts(x)
        return beside(counts, self._registered.covariates(x)) if self._module.encode_covariates else counts

    @torch.no_grad()
    def encode(self, x: Any) -> Encoding:
        """Mean and standard deviation of q(z | x), each (cell, latent).

        Args:
            x: an AnnData, a `Dataset`, or rows as `rows` gives them.

        Raises:
            ValueError: as `rows`; rows of another width; numbers that are negative or missing.

        Warns:
            UserWarning: rows that are no counts, where the model was trained on these or that is not known; counts,
                where it was trained on other numbers, as their logarithms.
        """
        rows = self.rows(x)
        # What it was trained on is not known of a model without its data; an AnnData has it in the layer that is read.
        counted = (None if is_anndata(x) else True) if self._of_counts is None else self._of_counts
        width = self._width()
        if rows.ndim != 2 or rows.shape[1] != width:
            reads = "codes, as the model was minified" if self._registered.minified else f"{self.num_features} genes"
            more = ", and of batch and covariates" if self._module.encode_covariates else ""
            raise ValueError(
                f"x: expected {width} numbers of each cell, of {reads}{more}; got shape {tuple(rows.shape)}. Give the "
                "AnnData itself."
            )
        parts = [self._encoded(self._checked(rows[i : i + ROWS], counted)) for i in range(0, max(1, len(rows)), ROWS)]
        return Encoding(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def decode(self, z: Points) -> Float[Tensor, "*batch gene"]:
        """E[x | z], mean counts at the library size, averaged over the batches."""
        z = points_of("z", z, "*batch latent")
        return self._means(z).mean(0).to(z.dtype)

    def metric(self) -> Metric:
        """JᵀJ of the mean counts E[x | z], in the mean over the batches."""
        return ExpectedMetric(_Members(self._means, self.num_members))

    def fisher_rao_metric(self) -> Metric:
        """The Fisher-Rao metric of counts, in the mean over the batches: nats^½ per unit of z.

        Raises:
            TypeError: a dispersion that varies with z, or with a label that is not given.
        """
        likelihood = self._likelihood
        if not isinstance(likelihood, ZeroInflatedNegativeBinomial):
            return self._isometric(likelihood)
        log_r = log_dispersion(self._module, self._batches, self._label)

        def information(output: Float[Tensor, "member *batch output"]) -> Tensor:
            parts = zip(output, log_r, strict=True)
            return torch.stack([likelihood.information(part, {"log_total_count": own}) for part, own in parts])

        return ParameterChords(self._decoders, information)

    def negative_binomial_metric(self) -> Metric:
        """The Fisher-Rao metric of the negative binomial part, in the mean over the batches.

        Raises:
            TypeError: another likelihood; a dispersion that varies with z, or with a label that is not given.
        """
        if self._module.gene_likelihood not in ("nb", "zinb"):
            raise TypeError(
                f"negative_binomial_metric: {self.name} has gene_likelihood={self._module.gene_likelihood!r}; use "
                "fisher_rao_metric."
            )
        return self._isometric(NegativeBinomial())

    def _isometric(self, likelihood: Any) -> Metric:
        if self._module.gene_likelihood == "poisson":
            log_r = torch.zeros(self.num_members, self.num_features)  # there is none
        else:
            log_r = log_dispersion(self._module, self._batches, self._label)

        def functions(z: Tensor) -> Tensor:
            return isometries(likelihood, log_r, self._decoders(z)[..., : self.num_features])

        return ExpectedMetric(_Members(functions, self.num_members))

    def _means(self, z: Tensor) -> Float[Tensor, "member *batch gene"]:
        return mean_counts(self._likelihood, self._decoders(z))

    def _width(self) -> int:
        if self._registered.minified is not None:
            return 2 * self.latent
        further = 1 + len(self._registered.categories) + len(self._registered.continuous)
        return self.num_features + further * self._module.encode_covariates

    def _checked(self, rows: Tensor, counted: bool | None) -> Tensor:
        """Rows that an encoder can read; numbers of another kind than it was trained on are warned of."""
        counts = rows[:, : self.num_features]
        if self._registered.minified is not None:
            return rows
        bad = ~counts.isfinite() if self._module.gene_likelihood == "normal" else ~(counts.isfinite() & (counts >= 0))
        if bad.any():
            raise ValueError(f"x: expected counts, which are finite and not negative; got {counts[bad][0]:g}.")
        broken, wrong = counts != counts.round(), ""
        if counted and broken.any():
            wrong = f"expected counts, as {self.name} reads; got {counts[broken][0]:g}"
        elif counted is False and not broken.any() and counts.any():
            wrong = f"expected numbers as {self.name} was trained on, which are no integers; got counts"
        if wrong:
            layer = self._registered.layer[1]
            remedy = f"Give the AnnData itself, or from_anndata(adata, layer={layer!r})."
            warnings.warn(f"x: {wrong}. {remedy}", stacklevel=4)
        return rows

    def _encoded(self, rows: Tensor) -> Encoding:
        """q(z | x) of rows as `rows` gives them."""
        rows = rows.to(next(self._module.parameters()))
        if self._registered.minified is not None:
            mean, variance = rows.chunk(2, dim=1)
            return Encoding(mean, variance.sqrt())
        counts, covariates = rows.split([self.num_features, rows.shape[1] - self.num_features], dim=1)
        if not self._module.encode_covariates:
            covariates = rows.new_zeros(len(rows), 1)
        split = 1 + len(self._registered.categories)
        categories, continuous = covariates[:, 1:split].long(), covariates[:, split:]
        found = self._module.inference(
            counts,
            covariates[:, :1].long(),
            cont_covs=continuous if continuous.shape[1] else None,
            cat_covs=categories if categories.shape[1] else None,
        )["qz"]
        return Encoding(found.loc, found.scale)


class _Members:
    """Functions z -> (member, *batch, observation), as one callable."""

    def __init__(self, functions: Any, num_members: int) -> None:
        self._functions, self.num_members = functions, num_members

    def __call__(self, z: Tensor) -> Tensor:
        return self._functions(z)


def negative_binomial_metric(model: LatentModel) -> Metric:
    """The Fisher-Rao metric of the negative binomial part of a model of counts, the pull-back of 2 √r arsinh √(μ / r).

    Of a model without zero inflation it is the Fisher-Rao metric itself. As a measure:
    `probgeo.Geodesic(probgeo.adapters.negative_binomial_metric)`.

    Args:
        model: what `from_scvi` returns.

    Returns:
        The metric, lengths in nats^½, in the mean over the batches.

    Raises:
        TypeError: a model of another kind or likelihood.

    Example:
        >>> import pytest
        >>> scvi = pytest.importorskip("scvi", reason="scvi-tools is not installed")
        >>> import anndata, numpy, torch, probgeo as pg
        >>> adata = anndata.AnnData(numpy.random.default_rng(0).poisson(3.0, (20, 6)).astype("float32"))
        >>> scvi.model.SCVI.setup_anndata(adata)
        >>> model = pg.adapters.from_scvi(scvi.model.SCVI(adata, n_latent=2, gene_likelihood="nb"))
        >>> z = torch.zeros(1, 2)
        >>> torch.equal(pg.adapters.negative_binomial_metric(model).tensor(z), model.fisher_rao_metric().tensor(z))
        True
    """
    if not isinstance(model, SCVIModel):
        raise TypeError(f"negative_binomial_metric: expected what from_scvi returns; got {type(model).__name__}.")
    return model.negative_binomial_metric()

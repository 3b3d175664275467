"""What a model of scvi-tools reads of each cell: counts of its genes; batch and covariates where its encoder does."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from probgeo.datasets.dataset import Dataset
from probgeo.datasets.mapped import as_rows, matrix_rows
from probgeo.rows import SparseRows, StoredRows

_X, _BATCH, _LABELS, _SIZE = "X", "batch", "labels", "size_factor"
_CATEGORIES, _CONTINUOUS = "extra_categorical_covs", "extra_continuous_covs"
_CODES = ("latent_qzm", "latent_qzv")
_LIBRARY = "observed_lib_size"


@dataclass(frozen=True)
class Factor:
    """A category of each cell: its column of `obs`, and what is found there, in the order of the codes.

    Args:
        key: the column.
        names: its categories.
    """

    key: str
    names: tuple[Any, ...]

    def code(self, argument: str, name: Any) -> int:
        """The code of a category.

        Raises:
            ValueError: there is none of this name.
        """
        texts = list(map(str, self.names))
        if str(name) not in texts:
            raise ValueError(f"{argument}: {self.key!r} has {_few(texts)}; got {name!r}.")
        return texts.index(str(name))

    def codes(self, values: pd.Series) -> np.ndarray:
        """Codes of cells.

        Raises:
            ValueError: a cell is of none of the categories.
        """
        texts = (
            values.astype(object).where(values.notna(), None).map(lambda value: None if value is None else str(value))
        )
        codes = texts.map({str(name): code for code, name in enumerate(self.names)})
        if codes.isna().any():
            unknown = values[codes.isna()].iloc[0]
            raise ValueError(
                f"x: the model knows {_few(map(str, self.names))} of {self.key!r}; got {unknown!r} "
                f"({int(codes.isna().sum())} such cells). Leave them out, or have scvi-tools extend the model to them."
            )
        return codes.to_numpy(np.float32)


@dataclass(frozen=True)
class Registered:
    """Where a model of scvi-tools finds what in an AnnData, as it was set up.

    Args:
        genes: that it was trained on, in their order.
        layer: attribute and key of the counts.
        batch: whose decoder is the cell's.
        label: of the cell.
        categories: further covariates.
        continuous: columns of `obs` of further ones.
        size_factor: column of `obs` that is used in place of the library size.
        minified: places of mean and variance of the codes, and of the library sizes, where counts were given up.
    """

    genes: tuple[str, ...]
    layer: tuple[str, str | None]
    batch: Factor
    label: Factor
    categories: tuple[Factor, ...]
    continuous: tuple[str, ...]
    size_factor: str | None
    minified: tuple[str, str, str] | None

    @classmethod
    def of(cls, registry: Mapping[str, Any], minified: bool) -> "Registered":
        """What the registry of a model says."""
        fields = registry["field_registries"]
        states = {name: field["state_registry"] for name, field in fields.items()}
        places = {name: field["data_registry"] for name, field in fields.items()}
        categories = states.get(_CATEGORIES) or {"mappings": {}}
        continuous = states.get(_CONTINUOUS) or {"columns": ()}
        keys = tuple(places[name]["attr_key"] for name in (*_CODES, _LIBRARY)) if minified else None
        return cls(
            tuple(map(str, states[_X]["column_names"])),
            (places[_X]["attr_name"], places[_X].get("attr_key")),
            _factor(states[_BATCH]),
            _factor(states[_LABELS]),
            tuple(Factor(key, tuple(names)) for key, names in categories["mappings"].items()),
            tuple(map(str, continuous["columns"])),
            places.get(_SIZE, {}).get("attr_key"),
            keys,  # type: ignore[arg-type]
        )

    def counts(self, x: Any) -> Tensor | StoredRows:
        """Counts of the model's genes (cell, gene).

        Raises:
            ValueError: other genes, or in another order; a layer that is not there.
        """
        names = x.feature_names if isinstance(x, Dataset) else tuple(map(str, x.var_names))
        self._check_genes(names)
        if isinstance(x, Dataset):
            return as_rows("x", x)
        attribute, key = self.layer
        if attribute == "layers" and key not in x.layers:
            raise ValueError(f"x: the model was trained on the layer {key!r}; got the layers {sorted(x.layers)}.")
        return matrix_rows(x.layers[key] if attribute == "layers" else x.X)

    def are_counts(self, x: Any) -> bool:
        """Whether what the model reads is made of integers, by the first rows."""
        rows = torch.as_tensor(self.counts(x)[:1024])
        return bool((rows == rows.round()).all())

    def covariates(self, x: Any) -> Float[Tensor, "cell covariate"]:
        """Codes of batch and categories, and continuous covariates, side by side.

        Raises:
            ValueError: a column that is not there, a category that the model does not know, a value that is missing.
        """
        obs = pd.DataFrame(index=range(len(x.x))) if x.obs is None else x.obs
        columns = [self._codes(obs, factor) for factor in (self.batch, *self.categories)]
        for key in self.continuous:
            values = _column(obs, key).to_numpy(np.float32)
            if not np.isfinite(values).all():
                raise ValueError(f"x: expected finite {key!r}; got {values[~np.isfinite(values)][0]}.")
            columns.append(values)
        return torch.from_numpy(np.stack(columns, axis=1))

    def codes(self, x: Any) -> Float[Tensor, "cell moment"]:
        """Means and variances of the codes that a minified AnnData keeps."""
        assert self.minified is not None
        absent = [key for key in self.minified[:2] if key not in x.obsm]
        if absent:
            raise ValueError(
                f"x: the model was minified, and reads codes from obsm[{absent[0]!r}]; got {sorted(x.obsm)}. Give the "
                "minified AnnData, model.adata, or load the model with the counts."
            )
        return torch.from_numpy(np.concatenate([np.asarray(x.obsm[key]) for key in self.minified[:2]], 1)).float()

    def median_size(self, x: Any) -> float:
        """Median over cells of what the rates are times: the library size, or the size factor."""
        if self.size_factor is not None:
            return float(np.median(_column(x.obs, self.size_factor).to_numpy(float)))
        if self.minified is not None:
            return float(np.median(_column(x.obs, self.minified[2]).to_numpy(float)))
        counts = self.counts(x)
        if isinstance(counts, SparseRows) and not hasattr(counts.matrix, "sum"):
            totals = np.concatenate([counts[i : i + 4096].sum(1).numpy() for i in range(0, len(counts), 4096)])
        else:
            totals = (counts.matrix if isinstance(counts, SparseRows) else counts[:].numpy()).sum(axis=1)
        return float(np.median(np.asarray(totals)))

    def _codes(self, obs: pd.DataFrame, factor: Factor) -> np.ndarray:
        if len(factor.names) == 1 and factor.key not in obs:  # the model was set up without
            return np.zeros(len(obs), dtype=np.float32)
        return factor.codes(_column(obs, factor.key))

    def _check_genes(self, names: tuple[str, ...] | None) -> None:
        if names is None or names == self.genes:
            return
        if len(names) != len(self.genes):
            raise ValueError(
                f"x: the model was trained on {len(self.genes)} genes; got {len(names)}. Choose its genes, in their "
                "order: adata[:, model.adata.var_names]."
            )
        place = next(index for index, (own, given) in enumerate(zip(self.genes, names, strict=True)) if own != given)
        raise ValueError(
            f"x: expected the genes that the model was trained on, in their order; gene {place} is {names[place]!r}, "
            f"there {self.genes[place]!r}. Choose them: adata[:, model.adata.var_names]."
        )


def _factor(state: Mapping[str, Any]) -> Factor:
    return Factor(str(state["original_key"]), tuple(np.asarray(state["categorical_mapping"]).tolist()))


def _column(obs: pd.DataFrame, key: str) -> pd.Series:
    if key not in obs:
        raise ValueError(f"x: the model reads {key!r} of each cell; obs has {_few(map(str, obs.columns))}.")
    return obs[key]


def _few(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:8]) + (f", … ({len(names)})" if len(names) > 8 else "") or "nothing"

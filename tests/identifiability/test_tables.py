"""The table of `summary` is one table, whether it is printed, echoed, or shown in a notebook."""

from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from probgeo.identifiability import summary


class Text(HTMLParser):
    """What a reader of the page sees, in order, and how many tables and paragraphs it stands in."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words, self.tags = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.words += data.split()


def distance(models, num_retrainings=5) -> xr.DataArray:
    rng = np.random.default_rng(0)
    values = np.exp(rng.normal(size=8)) * (1 + 0.1 * rng.normal(size=(len(models), 2, num_retrainings, 8)))
    coords = {"model": list(models), "measure": ["geodesic", "euclidean"]}
    return xr.DataArray(values, coords, ("model", "measure", "retraining", "pair"))


def shown(*models, num_retrainings=5, **options):
    return summary(distance(models, num_retrainings), num_resamples=9, num_permutations=9, **options)


TABLES = {
    "two references": shown("rbf", "single"),
    "a family": shown("rbf", "a", family={"rbf": [("a", "geodesic")]}),
    "too few to test": shown("single", "other", num_retrainings=2),
    "a single row": summary(distance(["rbf"])[0, 0].reset_coords(drop=True), num_resamples=9),
    "names that HTML must escape": shown("p < .05 & <b>bold</b>", "rbf"),
    "names longer than a column of pandas": shown("rbf", "ensemble" * 12),
    "many rows": shown(*(f"model {number}" for number in range(12))),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_notebook_shows_word_for_word_what_is_printed(name):
    table = TABLES[name]
    page = Text(table._repr_html_())
    assert page.words == str(table).split()
    assert page.tags.count("table") == 1 + len([r for r in table.attrs["references"] if f"ratio to {r}" in str(table)])
    assert page.tags.count("p") == (2 if "ratio:" in str(table) else 1) + len(table) + 1  # verdicts, and their rules
    assert "b" not in page.tags  # a name is text, not a tag


def test_what_is_echoed_is_what_is_printed_and_plain_tables_of_it_are_those_of_pandas():
    table = TABLES["two references"]
    assert repr(table) == str(table)
    plain = table[["cv", "icc"]]
    assert type(plain) is pd.DataFrame and repr(plain) == repr(pd.DataFrame(plain))


def test_numbers_are_rounded_as_they_are_printed():
    table = TABLES["two references"]
    cv = f"{table.loc[('single', 'geodesic'), 'cv']:.3f}".removeprefix("0")
    assert cv in Text(table._repr_html_()).words and cv in str(table).split()
    assert str(table.loc[("single", "geodesic"), "cv"]) not in table._repr_html_()

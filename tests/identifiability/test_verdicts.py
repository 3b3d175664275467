"""The verdict on a distance follows from stated rules, and from the whole interval."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats

from probgeo.identifiability import agreement, summary, verdict
from probgeo.identifiability.verdicts import graded


def rows(num_retrainings=10, num_pairs=40) -> xr.DataArray:
    """A distance that survives and tells apart, one that does not survive, and one that is nearly a constant."""
    rng = np.random.default_rng(0)
    true, noise = rng.uniform(1, 3, num_pairs), rng.normal(size=(3, num_retrainings, num_pairs))
    values = [true * np.exp(0.02 * noise[0]), true * np.exp(0.6 * noise[1]), 2 + 0.02 * noise[2]]
    coords = {"measure": ["steady", "shaky", "constant"], "true": ("pair", true)}
    return xr.DataArray(np.array(values), coords, ("measure", "retraining", "pair"))


def words(distance, **options) -> pd.DataFrame:
    return verdict(summary(distance, num_resamples=200, num_permutations=9, **options))


@pytest.mark.parametrize(
    ("lower", "upper", "word"),
    [
        (0.96, 0.99, "yes"),
        (0.95, 0.95, "yes"),
        (0.94, 0.99, "roughly"),
        (0.79, 0.99, "undecided"),
        (0.1, 0.79, "no"),
        (0.1, 0.8, "undecided"),
        (np.nan, 0.9, "unknown"),
    ],
)
def test_a_word_holds_for_the_whole_interval(lower, upper, word):
    assert graded(lower, upper, 0.95, 0.8) == word


def test_a_constant_survives_and_tells_nothing_apart():
    found = words(rows())
    assert found.loc[("steady",), ["survives", "tells_apart"]].tolist() == ["yes", "yes"]
    assert found.loc[("shaky",), ["survives", "tells_apart"]].tolist() == ["no", "no"]
    assert found.loc[("constant",), ["survives", "tells_apart"]].tolist() == ["yes", "no"]
    exact = xr.full_like(rows().sel(measure=["constant"]), 3.0)
    assert words(exact).iloc[0].tolist() == ["yes", "no", "unknown", "unknown"]


def test_a_distance_that_is_stable_and_all_but_equal_for_all_pairs_tells_nothing_apart_for_all_its_icc():
    tiny = 1 + 0.001 * rows().sel(measure=["steady"])
    table = summary(tiny, num_resamples=50)
    assert table["icc"].item() > 0.95 and verdict(table)["tells_apart"].item() == "no"


def test_four_retrainings_decide_nothing_that_five_do():
    assert (words(rows(5)).loc[("steady",), ["survives", "tells_apart"]] == "yes").all()
    assert (words(rows(4)).loc[[("steady",), ("shaky",)], ["survives", "tells_apart"]] == "undecided").all(axis=None)


def test_right_is_the_mean_rank_correlation_with_what_is_known_where_it_is_known():
    d = rows()
    known = d.true.where(np.arange(40) % 4 != 0).rename("the truth") ** 3  # in another unit
    table = summary(d, num_resamples=200, known=known)
    has = known.notnull().values
    for measure in ("steady", "shaky"):
        expected = [stats.spearmanr(each[has], known[has]).statistic for each in d.sel(measure=measure).values]
        row = table.loc[(measure,)]
        assert row["right"] == pytest.approx(np.mean(expected), rel=1e-9)
        found = agreement(d.sel(measure=measure)[:, has], known[has], num_resamples=200)
        np.testing.assert_allclose(row[["right_lower", "right_upper"]].astype(float), [found.lower, found.upper])
    assert verdict(table)["right"].tolist() == ["yes", "no", "no"]
    assert f"right: yes (ρ {table['right'].iloc[0]:.2f}".replace("0.", ".") in " ".join(str(table).split())
    assert "with the truth)" in " ".join(str(table).split())


def test_what_is_known_may_differ_by_measure_and_a_constant_orders_nothing():
    d = rows()
    known = xr.concat([d.true, d.true, d.true[::-1].drop_vars("true")], "measure", coords="minimal", compat="override")
    same = summary(d, num_resamples=50, known=d.true)
    table = summary(d, num_resamples=50, known=known.assign_coords(measure=d.measure))
    assert table["right"].tolist()[:2] == same["right"].tolist()[:2]
    assert table["right"].iloc[2] != same["right"].iloc[2]
    assert summary(xr.ones_like(d), num_resamples=50, known=d.true)["right"].tolist() == [0, 0, 0]


def test_without_anything_known_nothing_is_said_to_be_right_and_the_numbers_are_the_same():
    d = rows()
    plain, judged = summary(d, num_resamples=50), summary(d, num_resamples=50, known=d.true)
    assert (verdict(plain)["right"] == "unknown").all()
    pd.testing.assert_frame_equal(pd.DataFrame(judged[list(plain)]), pd.DataFrame(plain), check_flags=False)


def test_what_is_known_of_other_pairs_or_of_too_few_is_refused():
    d = rows().assign_coords(pair=np.arange(40), start=("pair", np.arange(40)))
    with pytest.raises(ValueError, match=r"known: expected the pairs .*no pairs"):
        summary(d, known=d.true.isel(pair=0))
    with pytest.raises(ValueError, match="known: expected the pairs"):
        summary(d, known=d.true.isel(pair=slice(30)))
    with pytest.raises(ValueError, match=r"known: .*other ends"):
        summary(d, known=d.true.assign_coords(start=("pair", np.arange(40)[::-1])))
    with pytest.raises(ValueError, match=r"known: .*further dims"):
        summary(d, known=d.true.expand_dims(view=2))
    with pytest.raises(ValueError, match="known: expected at least 3 pairs"):
        summary(d, known=d.true.where(d.pair < 2))


@pytest.mark.parametrize(
    ("factor", "beaten", "word"),
    [
        (1.0005, 1.0, "negligible"),
        (1.005, 1.0, "part of the variation"),
        (1.05, 1.0, "much of the variation"),
        (1.0005, 1.2, "unknown"),
    ],
)
def test_the_solver_has_a_share_as_its_excess_is_against_the_variation(factor, beaten, word):
    d = rows().sel(measure=["steady"]).assign_coords(pair=np.arange(40))  # of a CV of .02
    assert words(d * factor, tight=d * beaten)["solver"].tolist() == [word]
    assert words(d)["solver"].tolist() == ["unknown"]


def test_the_summary_ends_in_a_sentence_for_every_row_and_the_rules():
    text = str(summary(rows(), num_resamples=50))
    last = " ".join(text.rpartition("\n\n")[2].split())
    for name in ("steady", "shaky", "constant"):
        assert last.count(f"{name}: survives: ") == 1
    assert "constant: survives: yes; tells apart: no; right: unknown. Yes and roughly" in last
    assert last.endswith("unknown: nothing was given that tells. Solver's share: unknown, of all.")
    d = rows().assign_coords(pair=np.arange(40))
    searched = " ".join(str(summary(d, num_resamples=50, tight=d.sel(measure=["steady"]))).split())
    assert "steady: survives: yes; tells apart: yes; right: unknown; solver's share: negligible." in searched
    assert "shaky: survives: no; tells apart: no; right: unknown; solver's share: unknown." in searched


def test_a_table_that_is_no_summary_is_refused():
    with pytest.raises(ValueError, match=r"table: expected that of `summary`; got one without \['cv_lower'"):
        verdict(pd.DataFrame({"cv": [1.0]}))

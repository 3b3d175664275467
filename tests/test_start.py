"""The start: importing the library imports nothing heavy, and its face shows all names nevertheless."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import probgeo as pg

HEAVY = [
    "arviz",
    "gpytorch",
    "h5netcdf",
    "linear_operator",
    "matplotlib",
    "pandas",
    "pooch",
    "pyro",
    "scipy.spatial",
    "scipy.stats",
    "seaborn",
    "sklearn",
    "sympy",
    "torch._dynamo",
    "torch._inductor",
    "xarray",
]
FIGURES_AND_STATISTICS = ["arviz", "matplotlib", "scipy.stats", "seaborn", "sklearn"]
COMPILER = ["sympy", "torch._dynamo", "torch._inductor"]
GEODESIC = "pg.geodesic(pg.PullbackMetric(lambda z: z * z), torch.ones(1, 2), 2 * torch.ones(1, 2))"
FIT = """
spec = pg.VAE(2, pg.EnsembleDecoder(2), pg.Gaussian())
pg.fit(spec, torch.rand(40, 5), range(2), training=pg.Training(epochs=1, batch_size=16), progress=False)
"""


@pytest.mark.parametrize(
    ("script", "unneeded"),
    [
        ("", HEAVY),
        (GEODESIC, [*FIGURES_AND_STATISTICS, "gpytorch", "pandas", "xarray"]),
        (FIT, FIGURES_AND_STATISTICS + COMPILER),
    ],
    ids=["the library", "a geodesic", "a fit"],
)
def test_what_is_not_used_is_not_imported(script, unneeded):
    ending = f"print([name for name in {unneeded} if name in sys.modules])"
    code = f"import sys\nimport torch\nimport probgeo as pg\n{script}\n{ending}"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_the_names_that_type_checkers_see_are_those_at_run_time():
    tree = ast.parse(Path(pg.__file__).read_text())
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    seen = {(node.module, alias.name) for node in nodes for alias in node.names}
    for module, name in {pair for pair in seen if pair[0].startswith("probgeo")}:
        whole = f"{module}.{name}"
        __import__(module if name in pg._HOME else whole)
        expected = getattr(sys.modules[module], name) if name in pg._HOME else sys.modules[whole]
        assert getattr(pg, name) is expected
    assert {name for _, name in seen} >= set(pg.__all__) >= set(pg._HOME)
    assert set(pg.__all__) <= set(dir(pg))


def test_a_name_that_is_not_there_is_an_error_in_words():
    with pytest.raises(AttributeError, match="'probgeo' has no attribute 'Vae'"):
        _ = pg.Vae
    with pytest.raises(ImportError, match="cannot import name 'Vae'"):
        exec("from probgeo import Vae")

"""Architecture: who may import whom, and how long a file may grow."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "probgeo"
FILES = sorted(path for path in ROOT.rglob("*.py"))
# A file imports only from files before it; a folder without a dot is one entry, free within.
ORDER = (
    "disk",
    "netcdf",
    "pools",
    "arrays",
    "jobs",
    "rows",
    "sources",
    "specs",
    "seeds",
    "geometry.points",
    "nn",
    "datasets",
    "sample_quality",
    "identifiability",
    "likelihoods",
    "geometry.linalg",
    "geometry.perceptrons",
    "geometry.immersions",
    "geometry.trials",
    "geometry.jacobians",
    "geometry.metrics",
    "geometry.newton",
    "geometry.doubts",
    "geometry.paths",
    "geometry.lines",
    "geometry.valleys",
    "geometry.grids",
    "geometry.neighbours",
    "geometry.routes",
    "geometry.graph",
    "geometry.solver",
    "geometry.minimisation",
    "geometry.descents",
    "geometry.geodesics",
    "geometry.calculus",
    "geometry.distances",
    "metrics",
    "paths",
    "calculus",
    "models.noise",
    "models.base",
    "models.phase",
    "models.gp.roots",
    "models.gp.sparse",
    "models.decoders.decoder",
    "models.decoders.single",
    "models.decoders.ensemble",
    "models.decoders.rbf",
    "models.decoders.gp",
    "models.networks",
    "models.decoders.last_layer.regression",
    "models.decoders.last_layer.gaussian",
    "models.decoders.last_layer.sampled",
    "models.decoders.bayesian",
    "models.decoders.dropout",
    "models.vae",
    "models.shared.fusion",
    "models.shared.views",
    "models.shared.spec",
    "models.conditional.masks",
    "models.conditional.given",
    "models.conditional.model",
    "models.conditional.spec",
    "models.conditional.greedy",
    "models.gp.gplvm",
    "masks",
    "posteriors",
    "views",
    "training.bounded",
    "training.storage",
    "training.objective",
    "training.schedules",
    "schedules",
    "training.options",
    "training.state",
    "training.optimisers",
    "training.recording",
    "training.minibatches",
    "training.stacks",
    "training.budget",
    "training.gplvm",
    "training.retrainings",
    "training.fit",
    "adapters",
    "study",
    "plots",
)
# Who speaks to a library; nobody else does.
SPEAKERS = {
    "gpytorch": {"models.gp.sparse"},
    "pyro": {
        "likelihoods",
        "training.objective",
        "models.decoders.ensemble",
        "models.decoders.dropout",
        "nn",
        "models.decoders.last_layer.sampled",
        "models.decoders.bayesian",
        "models.vae",
        "models.conditional.model",
        "models.conditional.spec",
        "models.shared.views",
        "models.shared.spec",
        "training.stacks",
    },
    "safetensors": {"training.storage"},
    "matplotlib": {"plots"},
    "seaborn": {"plots"},
    "pooch": {"datasets"},
    "scvi": {"adapters"},
}
LINES = 400
STATEMENT_LINES = 60


def name_of(path: Path) -> str:
    """probgeo/models/vae.py -> models.vae; files of a folder that is one entry -> the folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    names = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next((name for name in names if name in ORDER), names[-1])


def imports(path: Path) -> Iterator[str]:
    """Full names of all modules and members that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_parts(path: Path) -> set[str]:
    """The entries of ORDER that a file imports from."""
    names = {name.removeprefix("probgeo.") for name in imports(path) if name.startswith("probgeo.")}
    return {part for part in ORDER for name in names if name == part or name.startswith(f"{part}.")}


def num_lines(path: Path) -> int:
    """Lines of a file without its docstrings' examples and lists of attributes: more of them are no reason to split."""
    text = path.read_text()
    shown = 0
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            docstring = ast.get_docstring(node) or ""
            for section in re.finditer(r"^(Example|Attributes):\n( +.*\n|\n(?= ))*( +.*)?", docstring, re.MULTILINE):
                shown += 1 + len(section[0].splitlines())  # and the blank line in front
    return len(text.splitlines()) - shown


INNER = [path for path in FILES if path.name != "__init__.py" or name_of(path) in ORDER]


def test_every_file_has_its_place_in_the_order():
    places = {name_of(path) for path in INNER}
    assert places <= set(ORDER)  # a new file is put where it belongs, above


@pytest.mark.parametrize("path", INNER, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_from_files_before_it(path):
    own = name_of(path)
    later = {part for part in imported_parts(path) - {own} if ORDER.index(part) > ORDER.index(own)}
    assert not later
    assert not any(name == "probgeo" or name.startswith("experiments") for name in imports(path))


@pytest.mark.parametrize("library", SPEAKERS)
def test_a_library_is_spoken_to_in_its_places_alone(library):
    speakers = {name_of(path) for path in FILES for name in imports(path) if name.split(".")[0] == library}
    assert speakers == SPEAKERS[library]


def test_statistics_need_neither_torch_nor_pyro_nor_the_rest_of_the_library():
    for path in (ROOT / "identifiability").rglob("*.py"):
        assert {name.split(".")[0] for name in imports(path)}.isdisjoint({"torch", "pyro", "gpytorch"})
        assert imported_parts(path) <= {"identifiability"}


def test_experiments_are_not_imported_and_nothing_is_unpickled():
    for path in FILES:
        roots = {name.split(".")[0] for name in imports(path)}
        assert roots.isdisjoint({"experiments", "tests", "dill", "joblib", "__future__"})
        calls = [ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        assert not {"torch.load", "pickle.load", "pickle.loads", "pyro.clear_param_store"} & set(calls)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_short(path):
    assert num_lines(path) <= LINES
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
            assert node.end_lineno - first.lineno < STATEMENT_LINES, node.name

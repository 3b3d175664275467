"""What experiments share: options that are inherited, results that are known by their experiment, refusals in words."""

import ast
import importlib
import inspect
import json
import shutil
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from types import SimpleNamespace

import h5netcdf
import matplotlib.image
import pandas as pd
import pytest
import torch
import xarray as xr
from matplotlib.figure import Figure

import probgeo as pg
from experiments.common.options import Ensemble, Observed, Retrained, name_of, parsed
from experiments.common.results import check_kind, load_result, run, save_result, write

FOLDER = Path(__file__).parents[2] / "experiments"
STORED = sorted((FOLDER / "results").glob("*.nc"))
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")
EXPERIMENTS = {name: importlib.import_module(f"experiments.{name}") for name in NAMES}
EXPERIMENTS["benchmarks"] = importlib.import_module("experiments.benchmarks.__main__")
ALONE = ("all_pairs", "faults", "general_maps", "growth", "held_out", "planes")
LATER = {name: importlib.import_module(f"experiments.benchmarks.{name}") for name in ALONE}
READERS = EXPERIMENTS | LATER
WITH = {
    option: [name for name, module in EXPERIMENTS.items() if option in module.Config.__dataclass_fields__]
    for option in ("pairs", "device")
}


@dataclass(frozen=True)
class Config(Retrained, Ensemble, Observed):
    """A study of nothing."""

    pairs: int = 7


def value(number: float) -> dict[str, xr.Dataset]:
    return {"values": xr.Dataset({"value": number})}


def main(*arguments: object) -> None:
    def report(groups):
        table = pd.DataFrame({"value": [float(groups["values"].value)]})
        print(f"value {table.value[0]:g}")
        figure = Figure(figsize=(1, 1))
        return {"table": table}, {"": figure, "more": figure}

    run(Config, lambda config, folder: value(config.pairs), report, {"pairs": 3}, arguments=list(map(str, arguments)))


def test_options_are_inherited_with_their_help_and_a_default_alone_is_overridden(capsys):
    assert parsed(Config, {"pairs": 3}, {}, []) == Config(pairs=7, dataset="digits", members=10)
    assert parsed(Config, {"pairs": 3}, {}, ["--quick"]).pairs == 3
    with pytest.raises(SystemExit):
        main("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "Random pairs of observations whose distances are measured. (default: 7)" in text
    assert all(f"--{field.name.replace('_', '-')}" in text for field in fields(Config))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_a_folder_a_result_and_a_quick_run(name):
    module = EXPERIMENTS[name]
    assert {"out", "result", "quick"} <= set(module.Config.__dataclass_fields__)
    assert name_of(module.Config) == name
    quick = parsed(module.Config, module.QUICK, getattr(module, "PRESETS", {}), ["--quick"])
    assert quick.quick and quick != module.Config(quick=True)


def test_a_run_writes_its_result_its_tables_and_figures_and_says_where(tmp_path, capsys):
    main("--out", tmp_path / "run")
    assert capsys.readouterr().out.splitlines() == [
        "value 7",
        "wrote " + " ".join(str(tmp_path / "run" / f"test_common{end}") for end in ("-table.csv", ".png", "-more.png")),
        f"result: {tmp_path / 'run' / 'test_common.nc'}",
    ]
    stored = load_result(tmp_path / "run" / "test_common.nc", Config)["values"]
    assert stored.attrs["experiment"] == "test_common" and json.loads(stored.attrs["config"])["pairs"] == 7
    main("--result", tmp_path / "run" / "test_common.nc", "--out", tmp_path / "again")
    assert capsys.readouterr().out.startswith("value 7\nwrote ")
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == [
        "test_common-more.png",
        "test_common-table.csv",
        "test_common.png",
    ]


def test_figures_have_150_dots_to_an_inch_whatever_they_were_made_with(tmp_path):
    write({}, {"": Figure(figsize=(2, 1), dpi=77)}, tmp_path, "figure")
    assert matplotlib.image.imread(tmp_path / "figure.png").shape[:2] == (150, 300)


@pytest.mark.parametrize("name", [name for name in WITH["pairs"] if "pairs" in EXPERIMENTS[name].Config.least])
def test_no_pair_at_all_is_refused_before_anything_is_trained(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pg, "fit", None)
    number = EXPERIMENTS[name].Config.least["pairs"][0] - 1
    with pytest.raises(SystemExit) as refused:
        EXPERIMENTS[name].main(["--pairs", str(number), "--out", str(tmp_path / "run")])
    assert refused.value.code == 2 and not (tmp_path / "run").exists()
    assert f"pairs: expected at least {number + 1}, as" in " ".join(capsys.readouterr().err.replace("│", "").split())


@pytest.mark.skipif(torch.cuda.is_available(), reason="cuda is here")
@pytest.mark.parametrize("name", WITH["device"])
def test_a_device_that_is_not_here_is_refused_before_anything_is_trained(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pg, "fit", None)
    with pytest.raises(SystemExit) as refused:
        EXPERIMENTS[name].main(["--device", "cuda", "--out", str(tmp_path / "run")])
    assert refused.value.code == 2 and not (tmp_path / "run").exists()
    said = " ".join(capsys.readouterr().err.replace("│", "").split())
    assert "device: expected one that is here, as cpu is; got 'cuda'" in said


def test_every_experiment_with_a_study_takes_a_cluster_and_no_other_does():
    studies = {name for name, module in EXPERIMENTS.items() if "config.run(" in inspect.getsource(module)}
    assert {name for name, module in EXPERIMENTS.items() if "cluster" in module.Config.__dataclass_fields__} == studies
    assert len(studies) >= 9


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["--cluster", "sge"],
            "expected local, slurm, pbs, or a scheduler's address, as tcp://host:8786; got 'sge'",
        ),
        (["--cluster", "local", "--workers", "0"], "workers, stack: expected at least 1; got 0 and None"),
        (["--stack", "0"], "workers, stack: expected at least 1; got 2 and 0"),
    ],
)
def test_a_cluster_that_there_is_not_is_refused(arguments, complaint, tmp_path, capsys):
    with pytest.raises(SystemExit) as refused:
        EXPERIMENTS["identifiability"].main([*arguments, "--out", str(tmp_path / "run")])
    assert refused.value.code == 2 and not (tmp_path / "run").exists()
    assert complaint in " ".join(capsys.readouterr().err.replace("│", "").split())


def test_without_dask_a_cluster_is_refused_before_anything_is_trained(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)  # as where it is not installed
    config = EXPERIMENTS["identifiability"].Config(cluster="local")
    with pytest.raises(ValueError, match=r"cluster: needs dask.distributed .* pip install 'probgeo\[distributed\]'"):
        config.run(SimpleNamespace(folder=None))


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_a_stored_result_is_that_of_its_experiment_and_of_no_other(path):
    accepted, attrs = [], next(iter(load_result(path).values())).attrs
    for name, module in READERS.items():
        try:
            check_kind(path, attrs, module.Config)
        except ValueError as error:
            assert f"expected a result of the experiment {name}" in str(error)
        else:
            accepted.append(name)
    assert accepted == [path.stem.partition("-")[0]]


def test_a_result_of_another_experiment_is_refused_by_what_it_says_of_itself(tmp_path):
    save_result(value(1), EXPERIMENTS["own_models"].Config(), tmp_path / "own.nc")
    with pytest.raises(SystemExit, match=r"^error: result: .* experiment test_common; .*, that of own_models\.$"):
        main("--result", tmp_path / "own.nc")


def test_what_is_no_result_is_refused(tmp_path):
    for path, why in (
        (tmp_path, "is a folder"),
        (tmp_path / "none.nc", "does not exist"),
        (Path(__file__), "is none, or damaged"),
        (tmp_path / "empty.nc", "is none, or damaged"),
        (tmp_path / "foreign.nc", "is none, or damaged"),
    ):
        if path.name == "empty.nc":
            h5netcdf.File(path, "w").close()
        if path.name == "foreign.nc":
            xr.Dataset({"a": 1.0}).to_netcdf(path, group="values", engine="h5netcdf")
        with pytest.raises(SystemExit, match=rf"^error: result: expected the .nc file of an experiment; .* {why}\.$"):
            main("--result", path)


def test_a_file_in_the_folders_place_is_refused_before_anything_is_computed(tmp_path):
    shutil.copy(__file__, tmp_path / "taken")
    with pytest.raises(SystemExit, match=r"error: out: expected a folder, .* is a file"):
        main("--out", tmp_path / "taken")
    assert (tmp_path / "taken").is_file()


NAMED_TUPLES = {"_replace", "_fields", "_asdict"}  # of the standard library, and public


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.py")), ids=lambda path: str(path.relative_to(FOLDER)))
def test_experiments_use_what_is_public_of_the_library(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not [name for name in (*node.module.split("."), *(a.name for a in node.names)) if name[0] == "_"]
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.endswith("__"):
            assert node.attr in NAMED_TUPLES or (isinstance(node.value, ast.Name) and node.value.id == "self")


def test_labels_stay_whole_that_are_longer_than_those_of_the_file_that_others_came_from(tmp_path):
    short = xr.Dataset({"cv": ("measure", [0.1])}, {"measure": ["straight"]})
    save_result({"distances": short}, Config(), tmp_path / "short.nc")
    read = load_result(tmp_path / "short.nc")["distances"]
    read.measure.encoding["dtype"] = "<U8"  # as a study's file is read
    longer = xr.concat([read, short.assign_coords(measure=["reconstructed"])], "measure")
    save_result({"distances": longer}, Config(), tmp_path / "longer.nc")
    found = load_result(tmp_path / "longer.nc")["distances"]
    assert found.measure.values.tolist() == ["straight", "reconstructed"]

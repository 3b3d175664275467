"""Folders that version 0.1 wrote: its models load, its studies are refused in one sentence."""

import shutil
from pathlib import Path

import pytest
import torch
import xarray as xr

import probgeo as pg
from probgeo.specs import FORMER, PUBLIC, current_name

WRITTEN = Path(__file__).parent / "written_by_0_1" / "study"
SMALL = pg.nn.MLP((8,), torch.nn.ReLU)
SPECS = {
    "147c430e733d634c": pg.VAE(2, pg.Decoder(SMALL), pg.Gaussian(), encoder=SMALL),
    "7f92e7ab886ce749": pg.VAE(
        2, pg.EnsembleDecoder(2, SMALL), pg.likelihoods.Bernoulli(), encoder=SMALL, beta=pg.Warmup(2)
    ),
}


@pytest.mark.parametrize(("key", "model"), list(zip(SPECS, ("single", "ensemble"), strict=True)))
def test_a_model_of_0_1_loads_and_has_the_distances_that_it_had(key, model):
    loaded = pg.load(WRITTEN / "trainings" / key / "seed-0")
    assert loaded.spec == SPECS[key]
    with xr.open_dataset(WRITTEN / "study.nc", engine="h5netcdf") as stored:
        known = stored.load().sel(model=model).isel(retraining=0)
    x = pg.datasets.digits().x[:80]
    pairs = torch.tensor([known.start.values.tolist(), known.stop.values.tolist()]).T
    straight = {"straight": pg.StraightLine(num_segments=16)}
    found = pg.measure({"loaded": [loaded]}, x, pairs, straight).distance[0, :, 0]
    torch.testing.assert_close(
        torch.tensor(found.values), torch.tensor(known.distance.sel(measure=found.measure).values), rtol=1e-4, atol=1e-6
    )


def test_a_training_of_0_1_is_finished_for_fit_and_not_done_again(tmp_path):
    key = next(iter(SPECS))
    folder = shutil.copytree(WRITTEN / "trainings" / key, tmp_path / key)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    training = pg.Training(epochs=3, batch_size=16)
    (found,) = pg.fit(SPECS[key], pg.datasets.digits().x[:80], [0], training=training, folder=folder, progress=False)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times
    weights = pg.load(WRITTEN / "trainings" / key / "seed-0").state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in found.state_dict().items())


def test_a_study_of_0_1_is_refused_in_a_sentence_that_names_both_versions(tmp_path):
    folder = shutil.copytree(WRITTEN, tmp_path / "study")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    x = pg.datasets.digits().x[:80]
    with pytest.raises(FileExistsError, match=rf"of probgeo 0\.1\.0, whose .* not those of {pg.__version__}: choose"):
        pg.Study(folder, x, torch.tensor([[0, 1]]), dict(zip("ab", SPECS.values(), strict=True)), seeds=[0])
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_every_former_name_leads_to_a_place_that_is_public():
    assert {place for place in FORMER.values() if place not in PUBLIC} <= {
        f"probgeo.{name}" for name in ("Decoder", "BayesianDecoder", "DropoutDecoder")
    }
    assert current_name("probgeo.models.vae.VAE") == "probgeo.VAE"
    assert current_name("probgeo.models.injective.InjectiveDecoder") == "probgeo.Decoder"
    assert current_name("probgeo.likelihoods.counts.Poisson") == "probgeo.likelihoods.Poisson"
    assert current_name("probgeo.VAE") == "probgeo.VAE"

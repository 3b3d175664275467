"""netCDF files hold what was written, lead nowhere else, and are no larger than they look."""

import h5py
import numpy as np
import pytest
import xarray as xr

from probgeo.netcdf import read_netcdf, write_netcdf
from tests.damage import damages, flipped

REMEDY = "Delete it."


def table() -> xr.Dataset:
    values = np.random.default_rng(0).standard_normal((4, 5))
    return xr.Dataset({"distance": (("a", "b"), values)}, {"name": ("a", list("wxyz"))}, {"note": "ours"})


def test_what_is_read_is_what_was_written_by_other_readers_too(tmp_path):
    write_netcdf(tmp_path / "a.nc", table())
    assert read_netcdf(tmp_path / "a.nc", REMEDY).identical(table())
    with xr.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as other:
        assert other.load().identical(table())


def test_a_file_without_a_checksum_is_read(tmp_path):
    table().to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    assert read_netcdf(tmp_path / "a.nc", REMEDY).identical(table())


def test_whatever_happens_to_a_file_is_noticed(tmp_path):
    path = tmp_path / "a.nc"
    write_netcdf(path, table())
    whole = path.read_bytes()
    for damage in damages():
        path.write_bytes(damage(whole))
        with pytest.raises(ValueError, match=r"folder: .*a\.nc is damaged .*\. Delete it\."):
            read_netcdf(path, REMEDY)


def test_a_flipped_bit_changes_no_value_unnoticed(tmp_path):
    path = tmp_path / "a.nc"
    write_netcdf(path, table())
    whole = path.read_bytes()
    unnoticed = 0
    for place in range(0, len(whole), 97):
        path.write_bytes(flipped(whole, place))
        try:
            unnoticed += 1
            assert read_netcdf(path, REMEDY).identical(table())  # of the mark itself
        except ValueError:
            unnoticed -= 1
    assert unnoticed <= 1


@pytest.mark.parametrize("way", ["storage", "link", "virtual"])
def test_a_file_that_leads_to_another_is_refused(tmp_path, way):
    secret, path = tmp_path / "secret.h5", tmp_path / "history.nc"
    with h5py.File(secret, "w") as file:
        file["loss"] = np.arange(3.0)
    table().to_netcdf(path, engine="h5netcdf")
    with h5py.File(path, "a") as file:
        if way == "storage":
            file.create_dataset("loss", (3,), np.float64, external=[(str(secret), 0, 24)])
        elif way == "link":
            file["loss"] = h5py.ExternalLink(str(secret), "loss")
        else:
            layout = h5py.VirtualLayout((3,), np.float64)
            layout[:] = h5py.VirtualSource(str(secret), "loss", (3,))
            file.create_group("deeper").create_virtual_dataset("loss", layout)
    with pytest.raises(ValueError, match="leads to another file, by its 'loss', so that it is not read"):
        read_netcdf(path, REMEDY)


def test_a_file_that_unpacks_to_far_more_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.nc", "w") as file:
        file.create_dataset("loss", (10**12,), np.float64, chunks=(10**6,), compression="gzip")
    with pytest.raises(ValueError, match=r"and 8,000,000,000,000 unpacked"):
        read_netcdf(tmp_path / "a.nc", REMEDY)


def test_a_group_that_holds_itself_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.nc", "w") as file:
        file.create_group("again")["itself"] = file["/"]
    with pytest.raises(ValueError, match="objects, or itself"):
        read_netcdf(tmp_path / "a.nc", REMEDY)

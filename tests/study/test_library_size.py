"""Library sizes beside x: x stays counts, and nothing is appended by hand."""

import numpy as np
import pytest
import torch

import probgeo as pg
from probgeo.rows import FileRows, SparseRows, beside

GENES, REFERENCE = 6, 50.0
TRAINING = pg.Training(epochs=1, batch_size=16)
COLUMN = pg.likelihoods.LibraryColumn(-1, REFERENCE)
SIZED = pg.VAE(latent=2, decoder=pg.Decoder(pg.nn.MLP((8,))), likelihood=pg.likelihoods.NegativeBinomial(COLUMN))
PLAIN = pg.VAE(latent=2, decoder=pg.Decoder(pg.nn.MLP((8,))), likelihood=pg.likelihoods.Poisson())
MEASURES = {"straight": pg.StraightLine()}
PAIRS = [[0, 1], [2, 3]]


def counts(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.empty(40).uniform_(20, 90, generator=generator)
    return torch.poisson(sizes[:, None] / 10 * torch.rand(40, GENES, generator=generator), generator=generator), sizes


def data(seed: int = 0) -> pg.datasets.Dataset:
    x, sizes = counts(seed)
    labels = torch.zeros(40, dtype=torch.int64)
    return pg.datasets.Dataset("cells", x, labels, ("cell",), (GENES,), library_size=sizes)


def test_library_sizes_beside_x_are_those_of_a_column_appended_by_hand(tmp_path):
    x, sizes = counts()
    whole = torch.cat([x, sizes[:, None]], dim=1)
    [by_hand] = pg.fit(SIZED, whole, training=TRAINING, progress=False)
    np.save(tmp_path / "x.npy", x.numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for given, options in ((x, {"library_size": sizes}), (data(), {}), (mapped, {"library_size": sizes.tolist()})):
        [model] = pg.fit(SIZED, given, training=TRAINING, progress=False, **options)
        assert all(
            torch.equal(own, other)
            for own, other in zip(model.state_dict().values(), by_hand.state_dict().values(), strict=True)
        )
    assert torch.equal(model.encode(data()).mean, by_hand.encode(whole).mean)
    found = pg.measure({"sized": [model]}, data(), PAIRS, MEASURES)
    also = pg.measure({"sized": [model]}, x, PAIRS, MEASURES, library_size=sizes)
    expected = pg.measure({"sized": [by_hand]}, whole, PAIRS, MEASURES)
    assert np.array_equal(found.distance, expected.distance) and np.array_equal(also.distance, expected.distance)
    ambient = (x[[0, 2]] - x[[1, 3]]).norm(dim=1)
    np.testing.assert_allclose(found.euclidean_ambient, ambient, rtol=1e-6)  # of counts, which alone are features


def test_a_study_gives_library_sizes_to_the_specs_that_read_them(tmp_path):
    x, sizes = counts()
    models = {"sized": SIZED, "plain": PLAIN}
    common = {"pairs": PAIRS, "models": models, "seeds": [0], "measures": MEASURES, "training": TRAINING}
    first = pg.Study(tmp_path / "tensor", data=x, library_size=sizes, **common)
    found = first.run(progress=False)
    again = pg.Study(tmp_path / "tensor", data=data(), **common).run(progress=False)  # everything is there already
    assert found.identical(again)
    [sized] = pg.fit(SIZED, x, library_size=sizes, training=TRAINING, progress=False)
    [plain] = pg.fit(PLAIN, x, training=TRAINING, progress=False)
    assert torch.equal(first.fitted("sized", 0).encode(data()).mean, sized.encode(data()).mean)
    expected = pg.measure({"sized": [sized], "plain": [plain]}, data(), PAIRS, MEASURES)
    np.testing.assert_allclose(found.distance, expected.distance, rtol=1e-5)
    other = pg.Study(tmp_path / "tensor", data=x, library_size=2 * sizes, **common)
    assert other._files("sized", "", MEASURES["straight"]) != first._files("sized", "", MEASURES["straight"])
    held = pg.Study(tmp_path / "held", data=data(), points=data(1).rows(torch.arange(5)), **common).run(progress=False)
    points = data(1).rows(torch.arange(5))
    np.testing.assert_allclose(
        held.distance.sel(model="sized"),
        pg.measure({"sized": [sized]}, data(), PAIRS, MEASURES, points=points).distance.sel(model="sized"),
        rtol=1e-5,
    )


def test_library_sizes_that_nothing_reads_or_that_are_missing_are_refused(tmp_path):
    x, sizes = counts()
    with pytest.raises(ValueError, match=r"library_size: VAE with Poisson\(library=None\) does not read it"):
        pg.fit(PLAIN, x, library_size=sizes, training=TRAINING, progress=False)
    with pytest.raises(ValueError, match="library_size: none of the models reads it"):
        pg.Study(tmp_path, x, PAIRS, {"plain": PLAIN}, [0], library_size=sizes)
    with pytest.raises(ValueError, match=r"library_size: expected one of each of the 40 rows; got \(39,\)"):
        pg.fit(SIZED, x, library_size=sizes[1:], training=TRAINING, progress=False)
    with pytest.raises(ValueError, match="library_size: the Dataset has its own"):
        pg.fit(SIZED, data(), library_size=sizes, training=TRAINING, progress=False)
    first = pg.VAE(likelihood=pg.likelihoods.Poisson(pg.likelihoods.LibraryColumn(0, REFERENCE)))
    with pytest.raises(ValueError, match=r"the likelihood reads column 0. Use LibraryColumn\(-1, reference=50.0\)"):
        pg.fit(first, x, library_size=sizes, training=TRAINING, progress=False)
    with pytest.raises(ValueError, match="positive library sizes; got 0 at row 3, column 6"):
        pg.fit(SIZED, x, library_size=sizes * (torch.arange(40) != 3), training=TRAINING, progress=False)
    model = SIZED.build(GENES + 1, seed=0)
    with pytest.raises(ValueError, match=r"points: FittedVAE reads 7 numbers of each row of x.*got 6"):
        pg.measure({"sized": [model]}, data(), PAIRS, MEASURES, points=x)
    with pytest.raises(ValueError, match=r"built for 7 observations per row; got shape \(40, 6\)"):
        model.encode(x)


@pytest.mark.parametrize("kind", ["tensor", "file", "sparse", "chosen"])
def test_columns_stand_beside_rows_of_every_kind(kind, tmp_path):
    scipy_sparse = pytest.importorskip("scipy.sparse")
    x, sizes = counts()
    np.save(tmp_path / "x.npy", x.double().numpy())
    file = FileRows.of_array(np.load(tmp_path / "x.npy", mmap_mode="r"))
    index = torch.tensor([7, 3, 3])
    rows = {
        "tensor": x,
        "file": file,
        "sparse": SparseRows.of_matrix(scipy_sparse.csr_matrix(x.numpy())),
        "chosen": SparseRows.of_matrix(scipy_sparse.csr_matrix(x.flip(0).numpy())).rows(torch.arange(39, -1, -1)),
    }[kind]
    found = beside(rows, sizes[:, None])
    expected = torch.cat([x, sizes[:, None]], dim=1).to(found.dtype)
    assert tuple(found.shape) == (40, GENES + 1) and found.dtype == rows.dtype
    assert torch.equal(found[:], expected) and torch.equal(found[2:5], expected[2:5])
    assert torch.equal(found[index], expected[index])
    twice = beside(found, sizes[:, None])
    assert torch.equal(twice[index][:, -2:].float(), sizes[index][:, None].expand(-1, 2))

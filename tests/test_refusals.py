"""What a user is likely to give by mistake is refused by the name of the argument, before anything is computed."""

import subprocess
import sys

# In a process of its own, where nothing checks types at run time as the tests' imports do.
SCRIPT = r"""
import pandas as pd, torch, probgeo as pg

x, pairs = torch.rand(20, 6), torch.tensor([[0, 1]])
module, model = torch.nn.Linear(2, 6), pg.adapters.from_torch(encode=lambda x: x[:, :2], decode=torch.nn.Linear(2, 6))
line, plane = {"s": pg.StraightLine()}, pg.PullbackMetric(lambda z: z)
calls = [
    lambda: pg.VAE(2, module),
    lambda: pg.VAE(2, pg.Decoder),
    lambda: pg.VAE(2, encoder=module),
    lambda: pg.VAE(2, likelihood="gaussian"),
    lambda: pg.VAE(2, likelihood=pg.Gaussian),
    lambda: pg.VAE("2"),
    lambda: pg.ConditionalVAE(2, likelihood="gaussian"),
    lambda: pg.EnsembleDecoder(3, torch.nn.Linear),
    lambda: pg.EnsembleDecoder([module, module]),
    lambda: pg.fit(pg.VAE, x),
    lambda: pg.fit(pg.VAE(2), x, pg.Training()),
    lambda: pg.fit(pg.VAE(2), x, 10),
    lambda: pg.fit(pg.VAE(2), x.half()),
    lambda: pg.Study("unused", x, pairs, {"a": pg.VAE(2)}, seeds=10),
    lambda: pg.Study("unused", x, pairs, {"a": [model]}, measures={"m": lambda model: model.metric()}),
    lambda: pg.Study("unused", x, pairs, {"a": pg.VAE(2)}, [0], {"m": pg.Geodesic(lambda model: model.metric())}),
    lambda: pg.measure({"a": [model]}, x, pairs, {"m": lambda model: model.metric()}),
    lambda: pg.measure([model], x, pairs),
    lambda: pg.measure({"a": [model]}, x, pd.DataFrame({"start": ["a"], "stop": ["b"]}), line),
    lambda: pg.adapters.from_torch(encode=module, decode=module, likelihood="bernoulli"),
    lambda: pg.VAE(2).build(6, seed=0).encode(x.double()),
    lambda: pg.VAE(2).build(6, seed=0).decode(torch.zeros(4, 2, dtype=torch.long)),
    lambda: pg.VAE(2).build(6, seed=0).decode(torch.zeros(4, 3)),
    lambda: pg.VAE(2).build(6, seed=0).metric().tensor([[0.0, 0.0]]),
    lambda: pg.Study("unused", x, pairs, [pg.VAE(2)], [0]),
    lambda: pg.Study("unused", x, pairs, {"a": pg.VAE}, [0]),
    lambda: pg.Study("unused", x, pairs, {"a": None}, [0]),
    lambda: pg.Study("unused", x, pairs, {"a": pg.VAE(2)}, [0], [pg.StraightLine()]),
    lambda: pg.Study("unused", x, [[0, 1], [2]], {"a": pg.VAE(2)}, [0]),
    lambda: pg.Study("unused", x, pairs, {"a": pg.VAE(2)}, [0], regions=[[0, 1, 2]]),
    lambda: pg.Study("unused", x, pairs, {"a": pg.VAE(2)}, [0], regions={"r": [1, 2, 2]}),
    lambda: pg.Study("unused", x[:0], pairs, {"a": pg.VAE(2)}, [0]),
    lambda: pg.Study("unused", x, pairs, {"a": pg.VAE(2)}, [0], points=x[:, :0]),
    lambda: pg.Study(None, x, pairs, {"a": pg.VAE(2)}, [0]),
    lambda: pg.Study("a\0b", x, pairs, {"a": pg.VAE(2)}, [0]),
    lambda: pg.Study("a" * 999, x, pairs, {"a": pg.VAE(2)}, [0]),
    lambda: pg.Study(torch.__file__, x, pairs, {"a": pg.VAE(2)}, [0]),
    lambda: pg.fit(pg.VAE(2), x, folder=torch.__file__),
    lambda: pg.fit(pg.VAE(2), x, report=3),
    lambda: pg.fit(pg.VAE(2), x, checkpoint_seconds=-1),
    lambda: pg.measure({"a": [model]}, x, pairs, line, executor="dask"),
    lambda: pg.measure({"a": [model]}, x[0], pairs, line),
    lambda: pg.distance_matrix(module, x[:, :2]),
    lambda: pg.distance_matrix(plane, x[:, :2], solver="fast"),
    lambda: pg.distance_matrix(plane, x[:, :2], executor=4),
    lambda: pg.distance_matrix(plane, x[:, :2], folder=torch.__file__),
    lambda: pg.graph_distances(plane, x[:, :2], x[:0, :2]),
    lambda: pg.graph_distances(plane, x[:, :2], x[:2, :2], num_checked=-1),
    lambda: pg.graph_distances(plane, x[:, :2], x[:2, :2], num_checked=0.5),
    lambda: pg.paths.Graph(module, x[:, :2]),
    lambda: pg.Geodesic("metric"),
    lambda: pg.Geodesic(solver="fast"),
    lambda: pg.StraightLine(num_segments=0),
    lambda: pg.study.DrawnGeodesic(num_draws=0),
    lambda: pg.nn.MLP(3),
    lambda: pg.GaussNewton(tolerance=float("inf")),
    lambda: pg.Training(epochs=torch.tensor(2)),
]
for call in calls:
    try:
        print("no error:", call())
    except (TypeError, ValueError, OSError) as error:
        print(type(error).__name__ + ":", *str(error).split())
"""
SAID = """
TypeError: decoder: expected a spec, such as Decoder(); got Linear(
TypeError: decoder: expected a spec, such as Decoder(); got <class
TypeError: encoder: expected a spec of a network, such as MLP((128, 128)); got Linear(
TypeError: likelihood: expected one, such as Gaussian(); got 'gaussian'.
TypeError: likelihood: expected one, such as Gaussian(); got <class
TypeError: latent: expected a whole number; got '2'.
TypeError: likelihood: expected one, such as Gaussian(); got 'gaussian'.
TypeError: network: expected a spec of a network, such as MLP((128, 128)); got <class
TypeError: members: expected a whole number; got [Linear(
TypeError: spec: expected a spec, such as VAE(latent=2); got the class VAE.
TypeError: seeds: expected a sequence of whole numbers, such as range(10); got Training(
TypeError: seeds: expected a sequence of whole numbers, such as range(10); got 10. Did you mean range(10)?
TypeError: x: expected a floating-point tensor; got torch.float16. Use x.float(), or x.double().
TypeError: seeds: expected a sequence of whole numbers, such as range(10); got 10. Did you mean range(10)?
TypeError: measures: expected a Measure, such as Geodesic(metric), where metric is a function of a model; got <function
TypeError: spec: expected classes and functions that a module defines, not lambdas or locals;
TypeError: measures: expected a Measure, such as Geodesic(metric), where metric is a function of a model; got <function
TypeError: models: expected lists of LatentModels by name, {'mine': [model, ...]}; got list.
TypeError: pairs: expected a tensor, an array or a table of numbers; got DataFrame of object.
TypeError: likelihood: expected one, such as likelihoods.Bernoulli(); got 'bernoulli'.
TypeError: x: expected the dtype of the model, torch.float32; got torch.float64. Use x.to(torch.float32), or convert
TypeError: z: expected a floating-point tensor or array of float32 or float64; got torch.int64. Use z.float().
ValueError: z: expected 2 latent numbers; got shape (4, 3).
TypeError: z: expected a floating-point tensor or array of float32 or float64; got list. Use numpy.asarray(z).
TypeError: models: expected specs or lists of LatentModels by name, {'mine': ...}; got list.
TypeError: models: expected a spec, such as VAE(...), or a list of LatentModels, one per training; got ABCMeta for 'a'.
TypeError: models: expected a spec, such as VAE(...), or a list of LatentModels, one per training; got NoneType for 'a'.
TypeError: measures: expected Measures by name, {'mine': ...}; got list.
ValueError: pairs: expected as many numbers in each; got lists of several lengths.
TypeError: regions: expected rows by name, {'mine': ...}; got list.
ValueError: regions: expected at least 3 different rows, for 2 latent dimensions of model 'a'; got 2 for 'r'.
ValueError: data: expected shape (row, feature), neither empty; got (0, 6).
ValueError: points: expected shape (row, feature), neither empty; got (20, 0).
TypeError: folder: expected the path of a folder; got None.
ValueError: folder: expected the path of a folder; got 'a\\x00b' (
OSError: folder: expected the path of a folder; got 'aaaaaaa
FileExistsError: folder: expected a folder, or the name of a new one;
FileExistsError: folder: expected a folder, or the name of a new one;
TypeError: report: expected a function of seed, epoch and terms, or None; got 3.
ValueError: stack, checkpoint_seconds: expected at least 1 and 0; got 10 and -1.
TypeError: executor: expected a concurrent.futures.Executor, such as ProcessPoolExecutor(), or None; got 'dask'.
ValueError: x: expected shape (row, feature), neither empty; got (6,).
TypeError: metric: expected a metric or energy, such as PullbackMetric(decoder); got Linear.
TypeError: solver: expected GaussNewton(...), or None; got 'fast'.
TypeError: executor: expected a concurrent.futures.Executor, such as ProcessPoolExecutor(), or None; got 4.
FileExistsError: folder: expected a folder, or the name of a new one;
ValueError: sources: expected (source, latent), not empty; got (0, 2).
ValueError: num_checked: expected at least 0; got -1.
TypeError: num_checked: expected a whole number; got 0.5.
TypeError: metric: expected a metric or energy, such as PullbackMetric(decoder); got Linear.
TypeError: metric: expected a function of a model that gives its metric; got 'metric'.
TypeError: solver: expected GaussNewton(...), or None; got 'fast'.
ValueError: num_segments: expected at least 1; got 0.
ValueError: num_draws: expected at least 1, or None; got 0.
TypeError: hidden: expected several numbers, as (3, 3); got 3.
ValueError: tolerance: expected positive, finite tolerances; got inf, 0.005.
TypeError: epochs: expected a whole number; got tensor(2).
"""


def test_mistakes_are_refused_by_the_name_of_the_argument(tmp_path):
    found = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=tmp_path, check=True)
    lines, said = found.stdout.splitlines(), SAID.split("\n")[1:-1]
    for line, expected in zip(lines, said, strict=True):
        assert line.startswith(expected)
    assert not list(tmp_path.iterdir())


# There as well, as annotations of types know Python's numbers alone.
NUMPY = """
import numpy as np, torch, probgeo as pg

given = pg.VAE(np.int64(2), pg.Decoder(pg.nn.MLP((np.int32(4),))), pg.Gaussian(np.float32(0.5)))
plain = pg.VAE(2, pg.Decoder(pg.nn.MLP((4,))), pg.Gaussian(0.5))
assert given == plain and hash(given) == hash(plain) and pg.specs.digest(given) == pg.specs.digest(plain)
assert type(given.latent) is int and type(given.likelihood.std) is float
training = pg.Training(np.int64(1), np.uint8(10), np.float64(1e-3), optimizer_options={"eps": np.float64(1e-6)})
again = pg.Training(1, 10, 1e-3, optimizer_options={"eps": 1e-6})
assert training == again and pg.specs.digest(training) == pg.specs.digest(again)
assert len(pg.fit(given, torch.rand(20, 3), np.arange(2), training=training, stack=np.int64(2), progress=False)) == 2
assert len(pg.fit(plain, torch.rand(20, 3), torch.arange(2), training=training, progress=False)) == 2
points = torch.rand(4, 2)
assert pg.distance_matrix(pg.PullbackMetric(lambda z: z), points, num_pairs=np.int64(4)).shape == (4, 4)
"""


def test_numbers_of_numpy_are_those_of_python(tmp_path):
    subprocess.run([sys.executable, "-c", NUMPY], cwd=tmp_path, check=True)

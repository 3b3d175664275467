"""What a user is likely to give by mistake is refused by the name of the argument, before anything is computed."""

import subprocess
import sys

# In a process of its own, where nothing checks types at run time as the tests' imports do.
SCRIPT = """
import pandas as pd, torch, probgeo as pg

x, pairs = torch.rand(20, 6), torch.tensor([[0, 1]])
module, model = torch.nn.Linear(2, 6), pg.adapters.from_torch(encode=lambda x: x[:, :2], decode=torch.nn.Linear(2, 6))
line = {"s": pg.StraightLine()}
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
]
for call in calls:
    try:
        print("no error:", call())
    except (TypeError, ValueError) as error:
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
"""


def test_mistakes_are_refused_by_the_name_of_the_argument(tmp_path):
    found = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=tmp_path, check=True)
    lines, said = found.stdout.splitlines(), SAID.split("\n")[1:-1]
    for line, expected in zip(lines, said, strict=True):
        assert line.startswith(expected)
    assert not list(tmp_path.iterdir())

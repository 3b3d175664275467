"""A user's functions and classes are known by their source: an edited one is another one."""

import importlib
import sys
import textwrap

import pytest
import torch

import probgeo as pg
from probgeo.sources import is_users, source_digest
from probgeo.specs import digest, to_config


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A function that writes and imports the user's module anew."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    names = iter(f"users_{number}" for number in range(100))

    def written(source: str, name: str = ""):
        name = name or next(names)
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        sys.modules.pop(name, None)
        importlib.invalidate_caches()
        __import__("linecache").checkcache()
        return importlib.import_module(name)

    return written


PLAIN = """
    import torch
    SCALE = {scale}

    def helper(z):
        return {factor} * z

    def metric(model):
        "{doc}"
        return helper(SCALE) + len(str(model))  # {doc}
"""


def key(module, **values) -> str:
    return source_digest(module(PLAIN.format(**{"scale": 2, "factor": 3, "doc": "a", **values}), "users").metric)


def test_what_a_function_calls_and_reads_is_part_of_it_and_comments_are_not(module):
    whole = key(module)
    assert key(module, doc="b") == whole
    assert len({whole, key(module, scale=4), key(module, factor=5)}) == 3


def test_a_class_is_its_methods_and_its_bases(module):
    source = """
        import dataclasses
        class Base:
            def double(self): return {factor}
        @dataclasses.dataclass(frozen=True)
        class Mine(Base):
            size: int = 1
            @property
            def value(self): return self.size + {shift}
    """
    keys = {
        digest(module(source.format(factor=f, shift=s), "users").Mine(3)) for f, s in ((2, 1), (3, 1), (2, 2), (2, 1))
    }
    assert len(keys) == 3


def test_two_networks_read_by_a_function_are_told_apart_by_their_weights(module):
    source = """
        import torch
        net = torch.nn.Linear(1, 1)
        torch.nn.init.constant_(net.weight, {value}); torch.nn.init.zeros_(net.bias)
        def metric(model): return net(model)
    """
    first, second, again = (source_digest(module(source.format(value=v), "users").metric) for v in (1, 2, 1))
    assert first == again != second


def test_recursion_ends(module):
    found = module("def even(n): return n == 0 or odd(n - 1)\ndef odd(n): return n > 0 and even(n - 1)\n")
    assert source_digest(found.even) != source_digest(found.odd)


def test_what_nothing_identifies_is_refused_by_name(module):
    with pytest.raises(TypeError, match="reads the global name 'state', a State whose content nothing identifies"):
        source_digest(module("class State: pass\nstate = State()\ndef f(m): return state\n").f)
    enclosed = module("def outer(k):\n    def inner(m): return k * m\n    return inner\nf = outer(2)\n").f
    with pytest.raises(TypeError, match=r"keeps no values of an enclosing one.*got k"):
        source_digest(enclosed)
    space = {"__name__": "typed"}
    exec("def f(model): return 1", space)
    with pytest.raises(TypeError, match=r"source can be read.*Define it in a file"):
        source_digest(space["f"])


def test_the_library_s_own_have_a_name_and_no_source():
    assert not is_users(pg.study.expected_metric)
    assert to_config(pg.study.expected_metric) == {"function": "probgeo.expected_metric"}


def test_a_dataclass_that_was_sent_to_other_processes_and_back_is_the_same(module):
    pickler = pytest.importorskip("cloudpickle", reason="comes with dask.distributed")
    source = """
        from dataclasses import dataclass
        @dataclass(frozen=True, order=True)
        class Users:
            size: int
            def __repr__(self): return f"of size {self.size}"
            def twice(self): return 2 * self.size
    """
    users = module(source, "sent")
    before = to_config(users.Users(3))
    pickler.register_pickle_by_value(users)
    try:
        assert pickler.loads(pickler.dumps(users.Users(3))) == users.Users(3)
    finally:
        pickler.unregister_pickle_by_value(users)
    assert to_config(users.Users(3)) == before
    assert source_digest(users.Users) != source_digest(module(source.replace("2 *", "3 *"), "sent").Users)


def test_an_edited_measure_is_measured_again_and_an_unreadable_one_is_refused_before_training(module, tmp_path):
    source = """
        import probgeo
        def metric(model): return {factor} * 1 and probgeo.PullbackMetric(lambda z: {factor} * model.decode(z))
    """
    x = pg.datasets.digits().x[:60, 20:30]
    options = {
        "data": x,
        "pairs": torch.tensor([[0, 1], [2, 3]]),
        "models": {"m": pg.VAE(2, pg.Decoder(pg.nn.MLP((4,))), encoder=pg.nn.MLP((4,)))},
        "seeds": [0],
        "training": pg.Training(epochs=1, batch_size=30),
    }

    def distance(factor: float):
        function = module(source.format(factor=factor), "users").metric
        measures = {"mine": pg.StraightLine(function, 4)}
        return pg.Study(tmp_path / "study", measures=measures, **options).run(progress=False).distance[0, 0, 0].values

    first, second = distance(1.0), distance(2.0)
    assert second == pytest.approx(2 * first, rel=1e-4)
    with pytest.raises(TypeError, match="not lambdas or locals"):
        pg.Study(tmp_path / "other", measures={"mine": pg.StraightLine(lambda model: model.metric())}, **options)
    assert not (tmp_path / "other").exists()

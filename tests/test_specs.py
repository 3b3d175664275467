"""Specs: to JSON and back, and hashes that identify content."""

import dataclasses
import importlib
import json
import subprocess
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import probgeo
from probgeo.likelihoods import Bernoulli, Gaussian
from probgeo.models.decoders.ensemble import EnsembleDecoder, RandomMember
from probgeo.models.decoders.rbf import RBFDecoder
from probgeo.models.decoders.single import Decoder
from probgeo.models.vae import VAE, Warmup
from probgeo.nn import MLP
from probgeo.specs import ADDED_LATER, PUBLIC, digest, from_config, to_config
from probgeo.study import Geodesic, expected_metric
from probgeo.training.fit import Training

SPECS = [
    VAE(),
    VAE(latent=3, decoder=Decoder(MLP((5,), nn.ReLU)), likelihood=Gaussian(0.3), beta=(0.1, 1.0, 2.0)),
    VAE(decoder=EnsembleDecoder(4, MLP(()), RandomMember()), likelihood=Bernoulli(), beta=Warmup(10, stop=0.5)),
    VAE(decoder=RBFDecoder(num_centres=7, floor=0.03, curve=1.5)),
    Training(epochs=3, max_gradient_norm=1.0),
]


@dataclass(frozen=True)
class Sequences:
    names: tuple[str, ...]
    table: dict


@pytest.mark.parametrize("spec", SPECS[:4], ids=lambda spec: type(spec.decoder).__name__)
def test_specs_survive_json(spec):
    restored = from_config(json.loads(json.dumps(to_config(spec))))
    assert restored == spec
    assert hash(restored) == hash(spec)


# What the specs without defaults are made with.
ARGUMENTS = {
    "Categorical": (3,),
    "Convolutional": ((8, 8),),
    "ResizeConvolutional": ((8, 8),),
    "ConditionalConvolutional": ((8, 8),),
    "Given": ({0: 1.0, 2: 3.5},),
    "ViewMetric": ("left",),
    "View": (4,),
    "SharedLatentVAE": ({"left": probgeo.View(3), "right": probgeo.View(2)},),
    "Mixed": (((Gaussian(), 2), (Bernoulli(), 1)),),
    "OneHotCategorical": (),
    "Perceptual": (nn.Identity,),
    "Warmup": (3,),
    "LinearWarmup": (3,),
    "Piecewise": ((2, 5), (0.1, 0.01)),
    "Autoguide": (),
    "LibraryColumn": (-1, 100.0),
    "RowTotal": (100.0,),
    "Straight": (16,),
}
PUBLIC_SPECS = sorted(
    {
        f"{place}.{name}"
        for place in PUBLIC
        if place.startswith("probgeo") and place != "probgeo.datasets"
        for name in dir(importlib.import_module(place))
        # Linear systems are named, and made of a metric.
        if not name.startswith("_")
        and name not in ("BlockTridiagonal", "Interpolated", "MatrixFree")
        and dataclasses.is_dataclass(getattr(importlib.import_module(place), name))
    }
)


@pytest.mark.parametrize("name", PUBLIC_SPECS)
def test_every_public_spec_is_named_by_what_it_is_imported_as_and_survives_json(name):
    module, _, attribute = name.rpartition(".")
    kind = getattr(importlib.import_module(module), attribute)
    spec = kind(*ARGUMENTS.get(attribute, ()))
    config = to_config(spec)
    place, _, last = config["spec"].rpartition(".")
    assert getattr(importlib.import_module(place), last) is kind
    assert "models." not in json.dumps(config) and "likelihoods.c" not in json.dumps(config)
    if '"function"' not in json.dumps(config):  # functions are named, and not restored
        restored = from_config(json.loads(json.dumps(config)))
        assert restored == spec and digest(restored) == digest(spec)


def test_a_field_or_a_class_that_is_not_known_is_named():
    with pytest.raises(ValueError, match=r"probgeo\.VAE has no field 'colour', only latent, decoder"):
        from_config({**to_config(VAE()), "colour": 1})
    with pytest.raises(ValueError, match=r"probgeo\.Cube"):
        from_config({"spec": "probgeo.Cube"})


def test_a_renamed_field_has_its_former_name_in_files_so_that_they_load_and_trainings_are_found():
    spec = RBFDecoder(num_centres=7)
    config = to_config(spec)
    assert config["num_centers"] == 7 and "num_centres" not in config
    assert from_config(json.loads(json.dumps(config))) == spec
    assert digest(RBFDecoder()) == "00dde07c7b7072f2"  # as before the field was renamed
    with pytest.raises(ValueError, match=r"probgeo\.RBFDecoder has no field 'num_centres', only network, num_centers"):
        from_config({**config, "num_centres": 7})


@settings(deadline=None)
@given(st.integers(), st.floats(allow_nan=False), st.lists(st.text()), st.booleans())
def test_values_survive_json(integer, real, texts, flag):
    spec = Sequences(tuple(texts), {"integer": integer, "real": real, "flag": flag, "none": None, "range": [0, 1]})
    restored = from_config(json.loads(json.dumps(to_config(spec))))
    assert restored == replace(spec, table={**spec.table, "range": (0, 1)})


@dataclass(frozen=True)
class Numbers:
    real: float = 0.0
    perhaps: float | tuple[float, ...] | None = None
    whole: int = 0
    either: int | float = 0


@dataclass(frozen=True)
class Extended:
    first: int = 1
    second: float | None = field(default=None, metadata=ADDED_LATER)


def test_equal_numbers_have_equal_digests():
    assert digest(Numbers(1, (1, 0))) == digest(Numbers(1.0, (1.0, 0.0)))
    assert digest(Numbers(1, (1, 0))) != digest(Numbers(1.0, (0.0, 1.0)))
    config = to_config(Numbers(1, 2, 3, 4))
    assert json.dumps(list(config.values())[-4:]) == "[1.0, 2.0, 3, 4]"
    assert from_config(config) == Numbers(1.0, 2.0, 3, 4)


def test_a_field_that_was_added_later_leaves_older_digests_as_they_are():
    assert to_config(Extended()).keys() == {"spec", "source of", "first"}
    assert to_config(Extended(second=2)) == {**to_config(Extended()), "second": 2.0}
    for spec in (Extended(), Extended(2, 3.0)):
        assert from_config(json.loads(json.dumps(to_config(spec)))) == spec


def test_ranges_and_lists_are_written_as_sequences():
    assert to_config(range(3)) == to_config([0, 1, 2]) == to_config((0, 1, 2)) == [0, 1, 2]


def test_functions_and_classes_are_named_by_their_place():
    assert to_config(expected_metric) == {"function": "probgeo.expected_metric"}
    assert to_config(nn.SiLU) == {"class": "torch.nn.SiLU"}
    assert to_config(Geodesic())["metric"] == {"function": "probgeo.expected_metric"}


def test_what_no_file_can_name_is_refused():
    class Local(nn.Module):
        pass

    for nameless in (lambda model: model, Local, Sequences.__init__):
        with pytest.raises(TypeError, match="that a module defines"):
            to_config(nameless)
    with pytest.raises(TypeError, match="spec: expected dataclasses"):
        to_config({"x": torch.zeros(2)})


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"class": "not_imported.Thing"}, "import 'not_imported' first"),
        ({"spec": "not_imported.Thing", "size": 1}, "import 'not_imported' first"),
        ({"spec": f"{subprocess.__name__}.Popen", "args": ["true"]}, "expected the name of a dataclass"),
        ({"class": f"{subprocess.__name__}.Popen"}, "expected the name of a dataclass"),
        ({"class": "probgeo.specs.digest"}, "expected the name of a dataclass"),
        ({"class": "probgeo.specs.Missing"}, "expected the name of a dataclass"),
        ({"class": "probgeo.no_such_module.Thing"}, "no module has the class"),
        ({"function": "os.abort"}, "functions are not restored"),
    ],
)
def test_foreign_names_in_a_file_are_refused(config, complaint):
    with pytest.raises(ValueError, match=complaint):
        from_config({"spec": "probgeo.nn.MLP", "hidden": [8], "activation": config})


def test_digest_depends_on_content_and_on_nothing_else():
    x = torch.arange(6.0).reshape(2, 3)
    assert digest(x) == digest(x.clone()) == digest(x.numpy()) == digest(x.T.contiguous().T)
    assert digest(VAE()) == digest(VAE())
    parts = [
        (x,), (x.double(),), (x.reshape(3, 2),), (x + 1e-6,), (VAE(),), (VAE(latent=3),),
        (1, 2), (12,), (2, 1), ("1", "2"), ("12",), (1.5,), (None,), (False,), (np.zeros(0),),
    ]  # fmt: skip
    assert len({digest(*part) for part in parts}) == len(parts)


def test_dictionary_order_does_not_change_a_digest():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})

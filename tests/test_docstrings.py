"""Docstrings: every public name says what its parameters are, and has an example that the default run executes."""

import doctest
import enum
import importlib
import inspect
import re
import types
from collections.abc import Iterator
from typing import Any

import pytest

import probgeo

# A face is what users import from; what two faces hold is judged once.
MODULES = [name for name in probgeo.__all__ if isinstance(getattr(probgeo, name), types.ModuleType)]
FACES = ("probgeo", *(f"probgeo.{name}" for name in MODULES), "probgeo.nn.flows")
# Data sets that are downloaded: their examples are shown and not run.
DOWNLOADED = {"mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "mnist_inverse", "coloured_mnist"}


def public() -> Iterator[tuple[str, Any]]:
    """Functions and classes that a face holds, by the name that they are imported by."""
    seen: set[int] = set()
    for face in FACES:
        module = importlib.import_module(face)
        for name in module.__all__:
            named = getattr(module, name)
            ours = inspect.isclass(named) or inspect.isfunction(inspect.unwrap(named))
            if ours and id(named) not in seen:
                seen.add(id(named))
                yield f"{face}.{name}", named


PUBLIC = dict(public())


def section(named: Any, title: str) -> str:
    """The text under a title of a docstring, the indentation removed; empty where there is none."""
    docstring = (
        inspect.cleandoc(vars(named)["__doc__"] or "") if inspect.isclass(named) else inspect.getdoc(named) or ""
    )
    found = re.search(rf"^{title}:\n((?: {{4}}.*\n|\n(?= ))*(?: {{4}}.*)?)", docstring, re.MULTILINE)
    return inspect.cleandoc(found[1]) if found else ""


def parameters(named: Any) -> list[str]:
    """What one calls it with; constants are called by nobody, another library's constructor is not ours."""
    if inspect.isclass(named):
        ours = [vars(base) for base in named.__mro__ if base.__module__.startswith("probgeo")]
        if issubclass(named, enum.Enum) or not any("__init__" in body or "__new__" in body for body in ours):
            return []
    return [name for name in inspect.signature(named).parameters if name not in ("self", "args", "kwargs")]


def entries(text: str) -> list[str]:
    """The names that a list of parameters explains: `a: …` or `a, b: …` at its margin."""
    return [
        name.strip().lstrip("*")
        for names in re.findall(r"^([a-z_*][\w*]*(?:, [a-z_*][\w*]*)*): ", text, re.MULTILINE)
        for name in names.split(",")
    ]


@pytest.mark.parametrize("name", PUBLIC)
def test_arguments_are_explained_and_no_others(name):
    explained = entries(section(PUBLIC[name], "Args") or section(PUBLIC[name], "Attributes"))
    if inspect.isclass(PUBLIC[name]) and not section(PUBLIC[name], "Args") and not hasattr(PUBLIC[name], "_fields"):
        explained = []  # attributes of an abstract class are no parameters
    assert explained == sorted(set(explained), key=explained.index)
    assert set(explained) == set(parameters(PUBLIC[name]))


@pytest.mark.parametrize("name", PUBLIC)
def test_results_are_explained(name):
    named = PUBLIC[name]
    returns = None if inspect.isclass(named) else inspect.signature(named).return_annotation
    assert inspect.isclass(named) or returns is None or section(named, "Returns")


@pytest.mark.parametrize("name", PUBLIC)
def test_an_example_runs_offline_and_shows_what_comes_out(name):
    examples = doctest.DocTestParser().get_examples(section(PUBLIC[name], "Example"))
    if inspect.isfunction(PUBLIC[name]):
        assert any(name.rpartition(".")[2] in example.source for example in examples)
    if name.rpartition(".")[2] not in DOWNLOADED:
        assert not any(doctest.SKIP in example.options for example in examples)
        assert any(example.want for example in examples)


# Classes of scvi-tools, pandas and Pyro, as their users know them.
OTHERS = {"SCANVI", "LinearSCVI", "DataFrame", "AutoNormal", "Trace_ELBO", "AutoLowRankMultivariateNormal"}


@pytest.mark.parametrize("name", PUBLIC)
def test_help_speaks_of_classes_that_a_user_can_reach(name):
    named = PUBLIC[name]
    reached = OTHERS.union(*(importlib.import_module(face).__all__ for face in FACES), dir(named))
    spoken = re.findall(r"`([A-Z][a-z]\w*[A-Z]?\w*)[(.`]", inspect.getdoc(named) or "")
    assert set(spoken) <= reached


def test_the_default_run_collects_the_examples(pytestconfig):
    assert pytestconfig.getoption("doctestmodules") and "probgeo" in pytestconfig.getini("testpaths")
    for named in PUBLIC.values():  # doctest looks into the module that says it is theirs
        module = importlib.import_module(named.__module__)
        assert isinstance(module, types.ModuleType) and vars(module)[named.__name__] is named

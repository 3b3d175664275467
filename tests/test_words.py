"""Words: the package's glossary, and that names keep to it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import probgeo

ROOT = Path(__file__).parents[1]
FILES = sorted(path for folder in ("probgeo", "experiments") for path in (ROOT / folder).rglob("*.py"))


class Rule(NamedTuple):
    """A form that no name has, the word of the glossary in its place, and who may have it, with the reason."""

    form: str
    word: str
    exceptions: tuple[tuple[str, str], ...] = ()  # parts of a path, name


RULES = (
    Rule(
        r"(?i)center|color|gray|neighbor|behavior",
        "colour, centre, neighbour",
        (("models/gp/sparse.py", "centers"),),  # a buffer, by whose name weights on disk are found
    ),
    Rule(
        r"^n_|[^_]_count$",
        "num_…",
        # Torch's name for the parameter r of a negative binomial, in configurations on disk too.
        (
            ("likelihoods/counts.py", "total_count"),
            ("likelihoods/counts.py", "_total_count"),
            ("datasets/", "total_count"),
        ),
    ),
    Rule(
        r"(?i)encodings",
        "codes",
        # What a graph is built over, and the array of the files that a benchmark's graph is built over.
        (("geometry/graph.py", "encodings"), ("benchmarks/problems.py", "encodings")),
    ),
    Rule(r"(?i)anneal", "Warmup"),
    Rule(r"(?i)scheduler|rate_schedule", "schedule"),
)


def names(tree: ast.AST) -> Iterator[str]:
    """Names of functions, classes, arguments and fields that a file defines."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        if isinstance(node, ast.arg):
            yield node.arg
        if isinstance(node, ast.ClassDef):
            for statement in node.body:
                targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", 0)]
                yield from (target.id for target in targets if isinstance(target, ast.Name))


def glossary() -> dict[str, str]:
    """Meanings by word, from the package's docstring."""
    words = (probgeo.__doc__ or "").partition("Words:\n")[2]
    entries = re.findall(r"^    (\S[^:\n]*): ((?:.*\n)(?:        .*\n)*)", words, re.MULTILINE)
    return {word: " ".join(meaning.split()) for word, meaning in entries}


DEFINED = {str(path.relative_to(ROOT)): set(names(ast.parse(path.read_text()))) for path in FILES}


def test_the_glossary_says_what_every_word_of_the_rules_means():
    assert len(glossary()) >= 14 and all(meaning.endswith(".") for meaning in glossary().values())
    assert {rule.word for rule in RULES} | {"Evaluation", "Measure", "sample", "mean"} <= set(glossary())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.word)
def test_a_name_has_no_form_that_another_word_stands_for(rule):
    offending = {
        (path, name)
        for path, defined in DEFINED.items()
        for name in defined
        if re.search(rule.form, name) and not any(part in path and name == known for part, known in rule.exceptions)
    }
    assert not offending, f"{rule.word}: {glossary()[rule.word]}"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.word)
def test_an_exception_is_still_needed(rule):
    for part, known in rule.exceptions:
        assert re.search(rule.form, known) and any(part in path and known in DEFINED[path] for path in DEFINED)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_mean_is_not_called_a_sample(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and node.name.lstrip("_").startswith("sample"):
            assert not (ast.get_docstring(node) or "").startswith("E["), node.name


def test_measures_are_those_of_a_study_and_an_energy_gives_an_evaluation():
    assert probgeo.Measure is probgeo.study.Measure
    [of_energies] = [path for path, defined in DEFINED.items() if "Evaluation" in defined]
    assert of_energies.startswith("probgeo/geometry/metrics/")
    assert [path for path, defined in DEFINED.items() if "Measure" in defined] == ["probgeo/study/measures.py"]

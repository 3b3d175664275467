"""The README: its script runs as printed (with fewer seeds, members and epochs), its commands are those of CI."""

import importlib
import logging
import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
PAGES = (README, README.parent / "experiments" / "README.md")
# What a page says that a command printed: the command of a stored result, then the block.
PRINTED = re.compile(r"<!-- printed by: python -m (experiments[.\w]+) --result (\S+) -->\n```text\n(.*?)```", re.DOTALL)
# Tests and intervals of thirty retrainings take a minute each; one of the blocks of single_cell is read in any case.
LONG = (
    "single_cell-neurons",
    "single_cell-haematopoiesis",
    "single_cell-batches",
    "validity",
    "validity-sources",
    "identifiability-mnist-3",
    "identifiability-mnist",
    "identifiability-fashion-mnist",
    "sources",
    "sources-mnist-3",
)


def printed_blocks():
    found: dict[tuple[str, str], list[str]] = {}
    for page in PAGES:
        for module, result, block in PRINTED.findall(page.read_text()):
            found.setdefault((module, result), []).append(block)
    for (module, result), blocks in found.items():
        marks = [pytest.mark.slow] if Path(result).stem in LONG else []
        yield pytest.param(module, result, blocks, id=Path(result).stem, marks=marks)


@pytest.mark.parametrize(("module", "result", "blocks"), list(printed_blocks()))
def test_printed_tables_are_what_the_command_prints_whole_but_where_dots_say_so(
    module, result, blocks, tmp_path, capsys
):
    found = importlib.import_module(module)
    found = importlib.import_module(f"{module}.__main__") if hasattr(found, "__path__") else found
    found.main(["--result", str(README.parent / result), "--out", str(tmp_path)])
    output = "\n" + "\n".join(line.rstrip() for line in capsys.readouterr().out.splitlines()) + "\n"
    for block in blocks:
        lines = [line.rstrip() for line in block.splitlines()]
        for part in re.split(r"\n\.\.\.\n", "\n" + "\n".join(lines) + "\n"):
            assert f"\n{part.strip(chr(10))}\n" in output


def test_every_block_of_numbers_says_which_command_printed_it_or_is_a_benchmark():
    for page in PAGES:
        text = page.read_text()
        assert len(re.findall(r"^```text$", text, re.MULTILINE)) == len(PRINTED.findall(text)) + text.count(
            "<!-- not from one command -->\n```text\n"
        )


def test_script_runs_and_prints_the_table(tmp_path, monkeypatch, capsys):
    script = re.search(r"```python\n(import probgeo.*?)```", README.read_text(), re.DOTALL).group(1)
    assert len([line for line in script.splitlines() if line.strip()]) <= 20
    for printed, tiny in {
        "seeds=range(10)": "seeds=range(2), training=pg.Training(epochs=1)",
        "members=10": "members=2",
        "num_pairs=50": "num_pairs=4",
    }.items():
        assert printed in script
        script = script.replace(printed, tiny)
    monkeypatch.chdir(tmp_path)
    exec(compile(script, "README.md", "exec"), {})
    table = capsys.readouterr().out
    assert all(word in table for word in ("CV", "spread", "ICC", "rank", "single", "rbf", "ensemble", "euclidean"))
    assert (tmp_path / "cv.png").stat().st_size > 0


def test_both_commands_stand_alone_on_their_lines():
    lines = README.read_text().splitlines()
    assert (
        sum(bool(re.fullmatch(r"pip install .* && python -m experiments\.identifiability", line)) for line in lines)
        == 1
    )
    assert sum(bool(re.fullmatch(r"pip install .* && pytest", line)) for line in lines) == 1


def test_files_that_the_page_shows_exist():
    for path, _, anchor in re.findall(r"\]\((experiments/[^)#]+)(#([^)]+))?\)", README.read_text()):
        assert (README.parent / path).exists(), path
        if anchor:
            headings = re.findall(r"^#+ (.+)$", (README.parent / path).read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", h).lower().replace(" ", "-") for h in headings], anchor


def test_the_logger_of_the_page_is_told_of_every_epoch(tmp_path, monkeypatch):
    script = next(
        block for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if "log." in block
    )
    assert "seeds=range(10)" in script
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.root, "level", logging.WARNING)
    script = script.replace("seeds=range(10)", "seeds=range(2), training=pg.Training(epochs=3)")
    exec(compile(script, "README.md", "exec"), {})
    for handler in logging.root.handlers:
        handler.close()
    lines = (tmp_path / "training.log").read_text().splitlines()
    told = [re.search(r"seed (\d), epoch (\d): loss -?[\d.]+, held out -?[\d.]+$", line) for line in lines]
    assert [found.groups() for found in told] == [(seed, epoch) for epoch in "012" for seed in "01"]

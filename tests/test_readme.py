"""The README: its script runs as printed (with fewer seeds, members and epochs), its commands are those of CI."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


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

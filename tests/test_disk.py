"""What is on disk is whole, whoever writes at the same time and whenever it ends."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from probgeo.disk import whole_file, whole_folder

SIZE = 20_000


def write_file(path: Path, letter: str) -> None:
    for _ in range(30):
        with whole_file(path) as unfinished:
            unfinished.write_text(letter * SIZE)


def write_folder(path: Path, letter: str) -> None:
    for _ in range(30):
        with whole_folder(path) as unfinished:
            for name in ("a", "b", "c"):
                (unfinished / name).write_text(letter * SIZE)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("pool", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_writers_at_the_same_time_leave_one_whole_file_and_one_whole_folder(tmp_path, pool):
    options = {} if pool is ThreadPoolExecutor else {"mp_context": multiprocessing.get_context("spawn")}
    with pool(2, **options) as workers:
        jobs = [workers.submit(write_file, tmp_path / "file", letter) for letter in "xy"]
        jobs += [workers.submit(write_folder, tmp_path / "folder", letter) for letter in "xy"]
        for job in jobs:
            job.result()
    assert names(tmp_path) == ["file", "folder"]
    texts = {(tmp_path / "folder" / name).read_text() for name in "abc"}
    assert len(texts) == 1 and texts <= {"x" * SIZE, "y" * SIZE}
    assert (tmp_path / "file").read_text() in {"x" * SIZE, "y" * SIZE}


def test_what_ends_early_leaves_what_was_there(tmp_path):
    write_file(tmp_path / "file", "x")
    write_folder(tmp_path / "folder", "x")
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "file") as unfinished:
        unfinished.write_text("half")
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "folder") as unfinished:
        (unfinished / "a").write_text("half")
        raise KeyboardInterrupt
    assert names(tmp_path) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "a").read_text() == "x" * SIZE


def test_folders_on_the_way_are_made(tmp_path):
    write_file(tmp_path / "one" / "two" / "file", "x")
    write_folder(tmp_path / "three" / "four", "y")
    assert names(tmp_path / "one" / "two") == ["file"] and names(tmp_path / "three" / "four") == ["a", "b", "c"]

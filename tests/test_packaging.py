"""What an installation holds: the library alone; its experiments run in a checkout."""

import configparser
from pathlib import Path

from setuptools import find_packages

ROOT = Path(__file__).parents[1]


def test_the_wheel_holds_every_package_of_the_library_and_neither_experiments_nor_tests():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert config["options"]["packages"] == "find:"
    found = find_packages(str(ROOT), include=config["options.packages.find"]["include"].split())
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "probgeo").rglob("*.py")}
    assert sorted(found) == sorted(".".join(folder.parts) for folder in folders)
    assert "experiments" in find_packages(str(ROOT))  # which a checkout has

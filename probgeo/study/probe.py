"""Do workers see the study's folder? Asked before anything is trained."""

import os
import secrets
import shutil
import socket
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

from probgeo.jobs import carried_out


def check_seen(executor: Executor, folder: Path, files: Sequence[Path], remedy: str = "Choose a folder") -> None:
    """Refuse workers that do not see what the driver writes, or whose files the driver does not see.

    Args:
        executor: one that can (`on_every_worker`) has every worker that is there look; of others, one does.
        folder: absolute.
        files: what else workers read.
        remedy: how the advice begins.

    Raises:
        OSError: some do not; it says which, and from where.
    """
    place = folder / f".seen-{secrets.token_hex(4)}"
    place.mkdir(parents=True)
    try:
        (place / "driver").write_text(place.name)
        everywhere = getattr(executor, "on_every_worker", None)
        if everywhere:
            answers = [*everywhere(look, place, files).values()]
        else:
            answers = carried_out(look, [(place, files)], executor, "", progress=False)
        # A shared disk may show what others wrote a moment later; listing the folder asks it anew.
        written = {path.name for path in place.iterdir()}
        blind = [who for who, file, missing in answers if missing or file not in written]
        if blind:
            missing = next((missing for _, _, missing in answers if missing), str(folder))
            raise OSError(
                f"folder: of {len(answers)} workers {len(blind)} do not see {missing}, or what they write is "
                f"not seen here; the first is {blind[0]}. {remedy} on a disk that all of them share."
            )
    finally:
        shutil.rmtree(place, ignore_errors=True)


def look(place: Path, files: Sequence[Path]) -> tuple[str, str, str]:
    """Who looks, the file that it wrote for the driver, and what it does not see."""
    own = f"{socket.gethostname()}-{os.getpid()}"
    who = f"process {os.getpid()} on {socket.gethostname()}, in {Path.cwd()}"
    try:
        if (place / "driver").read_text() != place.name:
            return who, own, str(place.parent)
        (place / own).write_text(own)
    except OSError:
        return who, own, str(place.parent)
    return who, own, next((str(path) for path in files if not path.is_file()), "")

"""What a name that stands in a file may lead to: something inside the folder that the file belongs to."""

from __future__ import annotations

import os
from pathlib import Path

LONGEST = 4096  # characters of a path


def plain(name: object) -> bool:
    """Whether a name is that of an entry of its folder, without a way to anywhere else."""
    return (
        isinstance(name, str)
        and 0 < len(name) < 256
        and name not in (".", "..")
        and not set(name) & {"/", "\\", "\0", ":"}
    )


def possible(name: object) -> bool:
    """Whether a text can be the path of anything."""
    text = str(name)
    return (
        "\0" not in text
        and len(text) <= LONGEST
        and all(len(part.encode("utf-8", "surrogatepass")) < 256 for part in text.split("/"))
    )


def inside(root: Path, folder: Path, name: str) -> Path | None:
    """The file or folder that a name in a file leads to, whether or not it is there.

    Arguments:
        root: the folder that the user named.
        folder: that the name is relative to, ``root`` or one below.
        name: as it is written.

    Returns:
        Its path; None for an absolute name, one that leaves ``root`` by ``..``, and one that leaves it by a
        link. In a snapshot of the hub's cache every file is a link to its blob beside the snapshots, and may
        be.
    """
    name = name.replace("\\", "/")
    if not name or "\0" in name or len(name) > LONGEST or name.startswith("/") or name[1:2] == ":":
        return None
    path = Path(os.path.normpath(folder / name))
    if not path.is_relative_to(os.path.normpath(root)):
        return None
    real, around = Path(os.path.realpath(path)), Path(os.path.realpath(root))
    blobs = around.parent.parent / "blobs" if around.parent.name == "snapshots" else None
    return path if real.is_relative_to(around) or (blobs and real.is_relative_to(blobs)) else None

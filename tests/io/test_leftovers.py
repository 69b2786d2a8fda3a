"""What a killed process left of a file or folder goes with the next that writes it; what a living one writes
stays."""

import fcntl
import os

import pytest

from stillhouse.core.errors import StillhouseError
from stillhouse.io.checked import ABOUT
from stillhouse.io.export.save import replace_folder
from stillhouse.io.leftovers import part_of
from stillhouse.io.weights import atomic_write


def names(place):
    return sorted(path.name for path in place.iterdir())


def filled(text):
    return lambda place: (place / ABOUT).write_text(text)


def test_leftovers_of_the_same_file_go_and_others_stay(tmp_path):
    (tmp_path / ".run[1].json.00000000.part").write_text("half")
    (tmp_path / ".other.json.00000000.part").write_text("half")
    (tmp_path / ".run[1].json.mine").write_text("whole")
    atomic_write(tmp_path / "run[1].json", b"new")
    assert names(tmp_path) == [".other.json.00000000.part", ".run[1].json.mine", "run[1].json"]


def test_what_a_living_process_writes_stays(tmp_path):
    part = tmp_path / ".a.00000000.part"
    part.write_text("half")
    handle = os.open(part, os.O_RDONLY)  # another open file is another holder, as another process's is
    fcntl.flock(handle, fcntl.LOCK_EX)
    atomic_write(tmp_path / "a", b"new")
    assert names(tmp_path) == [part.name, "a"]
    os.close(handle)
    atomic_write(tmp_path / "a", b"newer")
    assert names(tmp_path) == ["a"]


def test_two_that_write_one_file_do_not_disturb_each_other(tmp_path):
    def nested(part):
        part.write_text("outer")
        atomic_write(tmp_path / "a", b"inner")

    atomic_write(tmp_path / "a", nested)
    assert (tmp_path / "a").read_text() == "outer" and names(tmp_path) == ["a"]
    with part_of(tmp_path / "b", folder=True) as one, part_of(tmp_path / "b", folder=True) as two:
        assert one != two and one.is_dir() and two.is_dir()
    assert names(tmp_path) == ["a"]


def test_a_folder_s_leftovers_go_and_its_last_state_comes_back(tmp_path):
    """Killed while it was filled, and killed between the two moves that replace it."""
    folder = tmp_path / "turbo"
    (tmp_path / ".turbo.00000000.part").mkdir()
    (tmp_path / ".turbo.00000000.part" / "half").touch()
    replace_folder(folder, filled("one"))
    assert names(tmp_path) == ["turbo"]
    os.replace(folder, tmp_path / ".turbo.old")

    def fail(place):
        raise OSError(28, "No space left on device")

    with pytest.raises(StillhouseError, match="No space left"):
        replace_folder(folder, fail)
    assert names(tmp_path) == ["turbo"] and (folder / ABOUT).read_text() == "one"
    os.replace(folder, tmp_path / ".turbo.old")
    replace_folder(folder, filled("two"))
    assert names(tmp_path) == ["turbo"] and (folder / ABOUT).read_text() == "two"

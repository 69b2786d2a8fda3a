"""What a value that must be given, or be of a type, comes back as; and what is said when it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any, assert_type

import pytest

from stillhouse.core.errors import StillhouseError, extra, require, required, required_type, unknown


def test_require_raises_its_sentence() -> None:
    require(True, "A sentence.")
    with pytest.raises(StillhouseError, match="^The value is missing.$"):
        require(False, "The value is missing.")


@pytest.mark.parametrize("value", [0, "", [], False, 3, "word"])
def test_a_value_that_is_given_comes_back_itself(value: Any) -> None:
    assert required(value, "Never raised.") is value


def test_a_missing_value_raises_its_sentence() -> None:
    with pytest.raises(StillhouseError, match="^Give a number of steps.$"):
        required(None, "Give a number of steps.")


@pytest.mark.parametrize(
    ("value", "kind"), [(3, int), (True, int), ("word", str), ((1, 2), (list, tuple)), ([1], (list, tuple))]
)
def test_a_value_of_the_type_comes_back_itself(value: Any, kind: Any) -> None:
    assert required_type(value, kind, "Never raised.") is value


@pytest.mark.parametrize(("value", "kind"), [(None, int), ("3", int), (3.0, int), ({}, (list, tuple))])
def test_a_value_of_another_type_raises_the_sentence(value: Any, kind: Any) -> None:
    with pytest.raises(StillhouseError, match="^Give whole numbers.$"):
        required_type(value, kind, "Give whole numbers.")


def test_the_types_are_narrowed() -> None:
    """``assert_type`` does nothing in a run; it is for a type checker (``mypy
    tests/core/test_errors.py``)."""
    maybe: int | None = 3
    assert_type(required(maybe, "Give a number."), int)
    thing: object = "word"
    assert_type(required_type(thing, str, "Give a word."), str)


def test_what_a_file_holds_makes_no_long_message_and_no_orders_to_a_terminal():
    error = str(StillhouseError(f"There is no '{'x' * 10**6}'; give another one."))
    assert len(error) < 1600 and error.startswith("There is no 'xxx") and error.endswith("give another one.")
    assert str(StillhouseError("a\x1b[2Jb\x00c\x9bd\ne\tf")) == "a[2Jbcd\ne\tf"
    short = "y" * 1500
    assert str(StillhouseError(short)) == short


def test_the_nearest_name_or_all_of_them() -> None:
    assert str(unknown("solver", "huen", ["heun", "ddim"])) == (
        "There is no solver 'huen'; did you mean 'heun'?"
    )
    assert str(unknown("solver", "xyz", ["heun", "ddim"])) == "There is no solver 'xyz'; known: ddim, heun."


def test_a_long_message_is_cut_in_its_middle() -> None:
    error = str(StillhouseError("a" * 800 + "b" * 701))
    assert error == "a" * 750 + " … " + "a" * 49 + "b" * 701


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert extra("json.decoder", "video").__name__ == "json.decoder"
    with pytest.raises(StillhouseError, match=r"package 'not_there'; .* 'stillhouse\[video\]'"):
        extra("not_there.part", "video")
    (tmp_path / "half_there.py").write_text("import not_there_either\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="not_there_either"):  # a broken package is no missing one
        extra("half_there", "video")

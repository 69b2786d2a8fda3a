"""Functions of the user's own that give one number a sample (scores, rewards, distances), found by name."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor

from stillhouse.core.errors import StillhouseError, require
from stillhouse.io.own import failure, imported


def named_object(name: str, what: str) -> Any:
    """What a name leads to; the code around it runs.

    Arguments:
        name: ``module:function`` or ``./file.py:function``.
        what: ``score``, ``reward`` …, for the sentences.

    Returns:
        The object of that name.

    Raises:
        StillhouseError: for a name of another form, a missing module, file or object, and whatever goes wrong
            in the file.
    """
    source, colon, last = name.rpartition(":")
    require(
        bool(colon and source and last),
        f"A {what} is named as module:function or ./file.py:function, not '{name}'.",
    )
    file = Path(source) if source.endswith(".py") else None
    require(file is None or file.is_file(), f"There is no file '{file}' to take a {what} from.")
    try:
        module = import_module(source) if file is None else imported(file, "stillhouse_named")
    except StillhouseError:
        raise
    except Exception as error:  # whatever the user's file does wrong becomes one sentence
        raise StillhouseError(f"The {what} '{name}' can't be imported: {failure(error, file)}.") from error
    require(hasattr(module, last), f"There is no '{last}' in '{source}' to be a {what}.")
    return getattr(module, last)


class PerSample:
    """A function with one number for each row of its first argument.

    Arguments:
        function: of the user's own.
        what: ``The score 'x'``, the subject of the sentences.
    """

    def __init__(self, function: Callable[..., Any], what: str):
        self.function, self.what = function, what

    def __call__(self, *given: Any) -> Tensor:
        """The numbers, (B,).

        Arguments:
            given: what the function takes; the first has B rows.

        Returns:
            What it gives, flat.

        Raises:
            StillhouseError: where the function fails, with the line, and for anything but B numbers.
        """
        rows = len(given[0])
        try:
            made = self.function(*given)
        except StillhouseError:
            raise
        except Exception as error:
            raise StillhouseError(f"{self.what} fails: {failure(error)}.") from error
        shape = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
        require(
            isinstance(made, Tensor) and made.dim() > 0 and made.shape[0] == made.numel() == rows,
            f"{self.what} gives one number a sample, a tensor of shape ({rows},), not {shape}.",
        )
        numbers: Tensor = made.flatten()
        return numbers

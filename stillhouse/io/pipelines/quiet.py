"""Diffusers and Transformers without their own messages."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no warnings of Diffusers and Transformers inside the block: what matters is logged
    by us, once."""
    from diffusers.utils import logging as theirs
    from transformers.utils import logging as others

    before = [(kit, kit.get_verbosity()) for kit in (theirs, others)]
    for kit, _ in before:
        kit.set_verbosity_error()
        kit.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", FutureWarning
            )  # renamed arguments; we speak to old and new versions alike
            yield
    finally:
        for kit, level in before:
            kit.set_verbosity(level)
            kit.enable_progress_bar()

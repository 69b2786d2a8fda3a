"""YAML of anybody's: plain data alone, and no more of it than a file of settings holds."""

from __future__ import annotations

from typing import Any

import yaml

CHARACTERS, NODES = 1_000_000, 50_000
FAILURES = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError)


def yaml_of(text: str) -> Any:
    """The plain data that a text holds.

    A node that is named once and used many times counts as often as it is used: a kilobyte of names for names
    may stand for more than any machine holds (the "billion laughs").

    Arguments:
        text: of the file.

    Returns:
        Numbers, texts, lists and dicts.

    Raises:
        yaml.YAMLError: for a text that is no YAML, is longer than :data:`CHARACTERS`, stands for more than
            :data:`NODES` nodes, or nests as deep as Python can't follow.
    """
    if len(text) > CHARACTERS:
        raise yaml.YAMLError(f"it has more than {CHARACTERS:,} characters")
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > NODES:
            raise yaml.YAMLError(f"it stands for more than {NODES:,} values")
        return loader.construct_document(node)
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error
    except FAILURES as error:  # of a tag or a date, which the loader looks no closer at
        raise yaml.YAMLError(f"it holds a value that can't be read ({error})") from error
    finally:
        loader.dispose()


def _size(node: yaml.Node, known: dict[int, float]) -> float:
    """Nodes below and with this one, each as often as it is used; infinite for one that holds itself."""
    if id(node) not in known:
        known[id(node)] = float("inf")  # while it is counted: a circle
        inside = node.value if isinstance(node, yaml.CollectionNode) else ()
        children = (n for entry in inside for n in (entry if isinstance(entry, tuple) else (entry,)))
        known[id(node)] = 1 + sum(_size(child, known) for child in children)
    return known[id(node)]

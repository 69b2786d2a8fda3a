"""Names that are imported when they are first touched."""

from pathlib import Path

import pytest

from stillhouse.core.lazy import lazy

SOURCE = """
from typing import TYPE_CHECKING
from os.path import join

if TYPE_CHECKING:
    from json import decoder as decoder
    from json.encoder import JSONEncoder
    from . import beside
    number: int
else:
    from json import loads
"""


def test_the_imports_for_type_checkers_are_what_is_offered(tmp_path: Path) -> None:
    file = tmp_path / "package.py"
    file.write_text(SOURCE)
    get, listed, names = lazy("json", str(file))
    assert names == ["JSONEncoder", "decoder"]
    import json.decoder
    import json.encoder

    assert get("decoder") is json.decoder and {"JSONEncoder", "decoder", "loads"} <= set(listed())
    assert get("JSONEncoder") is json.encoder.JSONEncoder
    for name in ("beside", "join", "number"):
        with pytest.raises(AttributeError, match=f"module 'json' has no attribute '{name}'"):
            get(name)

"""Every loss of every method against an independent one, see :mod:`tests.systems.oracle`."""

from importlib import import_module
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.systems.oracle")

from tests.systems.oracle import compare  # noqa: E402

FOUND = {
    file.stem.removeprefix("oracle_"): import_module(f"tests.systems.{file.parent.name}.{file.stem}").CASES
    for file in sorted(Path(__file__).parent.glob("*/oracle_*.py"))
}


@pytest.mark.parametrize(
    ("slug", "case"),
    [
        pytest.param(slug, case, id=f"{slug}-{case.label()}")
        for slug, cases in FOUND.items()
        for case in cases
    ],
)
def test_a_loss_is_what_its_paper_has(slug, case):
    compare(slug, case)

"""The contract suite of each kind over each of its systems, and over small ones made up here.

One system's contract is ``pytest tests/systems/test_contract.py -k SLUG``; it costs that system's time alone.
"""

import pytest

pytest.register_assert_rewrite(
    "tests.systems.contract_method",
    "tests.systems.contract_operation",
    "tests.systems.contract_program",
    "tests.systems.contract_estimator",
)

from stillhouse.checks.runner import load_check  # noqa: E402
from stillhouse.systems.registry import list_systems  # noqa: E402
from tests.systems import (  # noqa: E402
    contract_estimator,
    contract_method,
    contract_operation,
    contract_program,
)

SUITES = {
    "method": contract_method,
    "operation": contract_operation,
    "program": contract_program,
    "estimator": contract_estimator,
}
WORK = [
    pytest.param(system.slug, check, id=f"{system.slug}-{check.__name__.removeprefix('check_')}")
    for system in list_systems()
    for check in (SUITES[system.kind].CHECKS if not system.problem else ())
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    made = contract_method.Runs(tmp_path_factory.mktemp("killed"))
    yield made
    made.close()


@pytest.mark.parametrize(("slug", "check"), WORK)
def test_contract(slug, check, runs, tmp_path):
    check(slug, runs, tmp_path)


@pytest.mark.parametrize("system", list_systems(), ids=lambda s: s.slug)
def test_every_system_has_a_readable_file_and_a_contract(system):
    assert not system.problem
    assert hasattr(load_check(system.slug), "CONTRACT")

"""The two stages of a causal student."""

import pytest

from stillhouse.core.schedules import Flow
from stillhouse.parts.video.initialisation import CausalMethod
from stillhouse.worlds.mixture.layouts import make_mixture
from tests.parts.affine import affine


def method(**options):
    made = CausalMethod.__new__(CausalMethod)
    made.__dict__.update(ode_share=0.3, paths=7, fake_per_student=3, warmup=4, **options)
    return made


def test_initialisation_comes_first_and_has_its_share() -> None:
    first, second = method().stages(25)
    assert (first.length, second.length) == (8, 17)  # 7.5 rounded to the even
    assert first.turns(0) == ["student"] and set(first.losses) == {"student"} == set(second.losses)


def test_the_fake_score_is_alone_until_it_is_warm() -> None:
    turns = method().matching_turns
    assert [list(turns(step)) for step in range(8)] == [
        *[["fake"]] * 4, ["fake"], ["fake"], ["student", "fake"], ["fake"]
    ]  # fmt: skip


@pytest.mark.parametrize("closed", [True, False])
def test_under_a_closed_form_the_fake_score_begins_as_the_student(closed: bool) -> None:
    teacher = make_mixture().exact(Flow()) if closed else affine(0.1, 0.1)
    fake, student = affine(0.2, 0.3), affine(0.5, 2.0)
    method(teacher=teacher, fake=fake, student=student).begin_matching()
    assert float(fake.net.a.detach()) == (0.5 if closed else 0.2)
    assert float(student.net.a.detach()) == 0.5
    if not closed:
        assert float(teacher.net.a.detach()) == 0.1


def test_paths_are_stored_where_there_is_an_initialisation() -> None:
    assert method().bank_size == 7
    none = method()
    none.__dict__["ode_share"] = 0.0
    assert none.bank_size == 0

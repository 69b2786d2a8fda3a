"""Where the second network of two scores begins: as the teacher, whatever the student is."""

import pytest

from stillhouse.adapters import Adapted
from stillhouse.core.schedules import Flow
from stillhouse.systems.distribution.msd import Matching
from stillhouse.systems.registry import find
from stillhouse.worlds.base import get_world
from stillhouse.worlds.mixture.layouts import make_mixture
from tests.systems.contract_method import contract_of

WHOLE = ["dmd", "dmd2", "ibmd", "onedp", "sid", "msd"]
LOW_RANK = ["snoopi", "swiftbrush"]


def kind_of(slug):
    """The method: of msd that of its second stage."""
    return Matching if slug == "msd" else find(slug)


def begun(slug, **options):
    """A method under a teacher of width 16 and a student of width 8."""
    contract = contract_of(slug)
    world, given = get_world(**contract.world), {} if slug == "msd" else contract.options
    teacher, student = (
        world.network(contract.process, kind=contract.kind, **{**contract.network, "width": width})
        for width in (16, 8)
    )
    method = kind_of(slug)(**{**given, **options})
    method.setup(teacher, student, world.shape, conditional=True)
    return method


@pytest.mark.parametrize(
    ("slug", "options"), [*((slug, {}) for slug in WHOLE), *((slug, {"rank": 0}) for slug in LOW_RANK)]
)
def test_a_whole_fake_is_the_teachers_copy(slug, options):
    method = begun(slug, **options)
    own, its = method.fake.state_dict(), method.teacher.state_dict()
    assert own.keys() == its.keys() and all(bool((own[name] == its[name]).all()) for name in its)
    assert all(p.requires_grad for p in method.fake.parameters())
    assert not any(p.requires_grad for p in method.teacher.parameters())


@pytest.mark.parametrize("slug", LOW_RANK)
def test_a_low_rank_fake_lies_on_the_teacher(slug):
    method = begun(slug, rank=3, lora_alpha=6.0)
    assert isinstance(method.fake, Adapted) and method.fake.net is method.teacher.net
    assert (method.fake.base.rank, method.fake.base.alpha) == (3, 6.0)


@pytest.mark.parametrize("slug", ["dmd2", "msd"])
def test_the_critics_head_fits_the_fake(slug):
    assert begun(slug, gan_weight=0.1).head.out[0].in_features == 16


@pytest.mark.parametrize("slug", ["dmd", "dmd2", "msd", "onedp", "sid", *LOW_RANK])
def test_of_a_teacher_in_closed_form_the_fake_is_the_students_copy(slug):
    world, critic = make_mixture(), {"gan_weight": 0.1} if slug in ("dmd2", "msd") else {}
    student = world.network(Flow(), width=8, depth=1, classes=0)
    method = kind_of(slug)(first_time=0.7, **critic)
    method.setup(world.exact(Flow()), student, world.shape)
    own, its = method.fake.state_dict(), student.state_dict()
    assert own.keys() == its.keys() and all(bool((own[name] == its[name]).all()) for name in its)
    assert method.fake is not student
    if critic:
        assert method.head.out[0].in_features == 8

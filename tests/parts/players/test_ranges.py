"""Ranges of guidance scales, and of times at which scores are compared."""

from types import SimpleNamespace

import pytest
import torch

from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import VE, Flow
from stillhouse.parts.players.guidance_range import GuidanceInput, GuidanceRange
from stillhouse.parts.players.score_range import OneCallScore, ScoreRange
from stillhouse.worlds.mixture.layouts import make_mixture
from tests.parts.affine import affine


def test_the_scale_varies_between_two_ends() -> None:
    fixed, varying = GuidanceRange(low_guidance=3.0, high_guidance=3.0), GuidanceRange(1.0, 4.0)
    assert not fixed.takes_guidance and fixed.sampling_guidance == 1
    assert varying.takes_guidance and varying.sampling_guidance == 2.5
    with pytest.raises(StillhouseError, match="from low to high, not 3.0 to 2.0"):
        GuidanceRange(3.0, 2.0)


def test_the_student_takes_the_scale_where_it_varies() -> None:
    teacher = make_mixture().network(Flow(), width=16, depth=1)
    varying, fixed = GuidanceInput(1.0, 4.0).make_student(teacher), GuidanceInput().make_student(teacher)
    assert varying.net.config["guidance_input"] and not fixed.net.config.get("guidance_input")
    assert fixed.net is not teacher.net


@pytest.mark.parametrize("process", [Flow(), VE()])
def test_scores_are_compared_in_a_share_of_all_times(process) -> None:
    method = ScoreRange(score_t_min=0.2, score_t_max=0.6)
    method.student = affine(0.5, 2.0, process)
    t = method.score_times(SimpleNamespace(draws=Draws(4000, "t")))
    u, low = Draws(4000, "t").uniform(), process.t_min
    torch.testing.assert_close(t, low + (1 - low) * (0.2 + 0.4 * u))


def test_the_one_call_is_at_the_first_time() -> None:
    (made,) = OneCallScore(first_time=0.7).samplings().values()
    assert list(made.times) == [0.7, 0.0] and list(OneCallScore().samplings()) == [1]

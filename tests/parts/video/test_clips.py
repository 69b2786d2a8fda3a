"""Levels, times and losses of clips, in numbers."""

import pytest
import torch

from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import VE, Flow
from stillhouse.parts.video.clips import (
    check_levels,
    chunk_levels,
    clip_matching,
    last_clip,
    level_times,
    ode_loss,
    score_times,
    streaming,
    trajectories,
)
from tests.parts.affine import affine, f64


def test_levels_fall_from_one() -> None:
    for levels in ([1.0], [1, 0.5, 0.1]):
        check_levels(levels, "Levels")
    for levels in (
        [],
        [0.9, 0.5],
        [1.0, 1.0],
        [1.0, 0.5, 0.6],
        [1.0, 0.0],
        [1.0, "a"],
        [2.0, 1.0],
    ):
        with pytest.raises(StillhouseError, match="Levels are times that fall from 1"):
            check_levels(levels, "Levels")


def test_a_stream_looks_back_as_far_as_a_clip() -> None:
    made = streaming([1.0, 0.4], 3, 9, 1)
    assert (made.stream.chunk, made.stream.window, made.stream.sink) == (3, 6, 1)
    assert list(made.times) == [1.0, 0.4, 0.0] and made.solver.startswith("renoise")
    assert streaming([1.0], 3, 0).stream.window == 0 and streaming([1.0], 3, 9).stream.sink == 0


def test_states_of_eulers_path_are_kept_at_the_levels_and_at_the_end() -> None:
    cond, eps = f64([0.9, -0.4]), Draws(2, "path").normal(1, 3).double()
    x, kept = eps, [eps]
    for t, s in ((1.0, 0.75), (0.75, 0.5), (0.5, 0.25), (0.25, 0.0)):  # two even steps, and the levels
        clean = 0.5 * x + 2 * t + cond[:, None, None]
        x = clean + s * (x - clean) / t
        kept += [x] if s in (0.75, 0.25, 0.0) else []
    made = trajectories(affine(0.5, 2.0), (1, 3), Draws(2, "path"), cond, [1.0, 0.75, 0.25], 2)
    torch.testing.assert_close(made["path"].double(), torch.stack(kept, 1), rtol=1e-5, atol=1e-5)
    assert set(made) == {"path", "cond"} and not made["path"].requires_grad
    # a shift of 3 moves the middle of the grid from 1/2 to 3/4
    clean = 0.5 * eps + 2 + cond[:, None, None]
    x = clean + 0.75 * (eps - clean)
    end = 0.5 * x + 1.5 + cond[:, None, None]
    made = trajectories(affine(0.5, 2.0), (1, 3), Draws(2, "path"), cond, [1.0], 2, 3.0)["path"]
    torch.testing.assert_close(made[:, 1].double(), end, rtol=1e-5, atol=1e-5)


def test_each_chunk_has_a_level() -> None:
    made = chunk_levels(Draws(4000, "levels"), 3, 2, 5)
    assert made.shape == (4000, 5) and made.dtype == torch.int64
    assert torch.equal(made[:, 0], made[:, 1]) and torch.equal(made[:, 2], made[:, 3])
    assert not torch.equal(made[:, 1], made[:, 2]) and not torch.equal(made[:, 3], made[:, 4])
    shares = torch.bincount(made[:, 4]) / 4000
    assert len(shares) == 3 and (shares - 1 / 3).abs().max() < 0.03


def test_the_clean_level_comes_last() -> None:
    index = torch.tensor([[0, 1, 2]])
    assert level_times(VE(), [1.0, 0.5], index)[0].tolist() == pytest.approx([1, 0.5, VE().t_min])


class Frames(torch.nn.Module):
    """``a x + 2 t + cond`` with a time for each frame."""

    def forward(self, x, t, cond=None):
        return 0.5 * x + 2 * t[..., None].to(x) + cond[:, None, None]


def test_the_initialisations_loss_by_hand() -> None:
    student, cond = affine(0.0, 0.0), f64([0.9, -0.4])
    student.net = Frames()
    path = torch.randn(2, 3, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    index = torch.tensor([[0, 0, 1, 1], [2, 2, 0, 0]])
    times = [1.0, 0.5, 0.0]
    total = 0.0
    for row in range(2):
        for frame in range(4):
            level = int(index[row, frame])
            if level < 2:
                made = 0.5 * path[row, level, frame] + 2 * times[level] + cond[row]
                total += float(((made - path[row, 2, frame]) ** 2).sum())
    assert float(ode_loss(student, path, index, [1.0, 0.5], cond)) == pytest.approx(total / 16)


def test_score_times_in_numbers() -> None:
    whole = Draws(3000, "t").integers(0, 1000) / 1000
    for process, shift in ((Flow(), 1.0), (Flow(), 5.0), (VE(), 5.0)):
        t = (shift * whole / (1 + (shift - 1) * whole)).clamp(0.02, 0.98)
        low = process.t_min
        torch.testing.assert_close(score_times(process, Draws(3000, "t"), shift), low + (1 - low) * t)


def test_the_matching_loss_by_hand() -> None:
    x = torch.randn(2, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    cond, draws = f64([0.9, -0.4]), Draws(2, "m")
    t = (draws.integers(0, 1000) / 1000).clamp(0.02, 0.98)
    eps = draws.normal(3, 2, dtype=torch.float64)
    at = t.double()[:, None, None]
    x_t = (1 - at) * x.detach() + at * eps
    real, fake = (a * x_t + b * at + cond[:, None, None] for a, b in ((0.5, 2.0), (-0.3, 1.0)))
    size = (x.detach() - real).abs().sum((1, 2), keepdim=True) / 6
    g = (fake - real) / size
    loss = clip_matching(x, affine(0.5, 2.0), affine(-0.3, 1.0), cond, Draws(2, "m"), 1.0)
    torch.testing.assert_close(torch.autograd.grad(loss, x)[0], g / 12, rtol=1e-5, atol=1e-6)
    learns = torch.tensor([[True, False, True], [False, True, True]])
    loss = clip_matching(x, affine(0.5, 2.0), affine(-0.3, 1.0), cond, Draws(2, "m"), 1.0, learns)
    kept = learns[..., None] * g / 12
    torch.testing.assert_close(torch.autograd.grad(loss, x)[0], kept, rtol=1e-5, atol=1e-6)


def test_the_end_of_a_stream_begins_with_a_picture() -> None:
    class Codec:
        """Two pictures a latent, but for the first; a latent is the mean of its pictures."""

        def decode(self, z):
            later = torch.stack([z[:, 1:] - 1, z[:, 1:] + 1], 2).flatten(1, 2)
            return torch.cat([z[:, :1], later], 1)

        def encode(self, x):
            assert x.shape[1] == 1
            return 10 * x

    stream = torch.arange(6.0).reshape(1, 6, 1).requires_grad_()
    assert torch.equal(last_clip(stream, 3, None), stream[:, 3:])
    made = last_clip(stream, 3, Codec())
    assert made[0, :, 0].tolist() == [40, 4, 5]  # the last picture of latent 3 is 3 + 1
    (gradient,) = torch.autograd.grad(made.sum(), stream)
    assert gradient[0, :, 0].tolist() == [0, 0, 0, 0, 1, 1]

"""Randomness of a run comes from names, and leaves the global generators as they were."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch.nn.functional import dropout

from stillhouse.core.draws import Draws, seed_of, seeded

CPU = torch.device("cpu")


def test_dropout_starts_from_the_seed_and_nothing_outside_notices():
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    with seeded(7, CPU):
        mask = dropout(torch.ones(99), 0.5)
    assert torch.equal(torch.rand(4), expected)
    torch.manual_seed(7)
    assert torch.equal(dropout(torch.ones(99), 0.5), mask)


def test_the_outer_state_comes_back_after_an_error():
    before = torch.default_generator.get_state()
    try:
        with seeded(7, CPU):
            torch.rand(3)
            raise ValueError
    except ValueError:
        pass
    assert torch.equal(torch.default_generator.get_state(), before)


def parts(draw):
    """What one process draws for four rows, and what two draw for two each, put together."""
    whole = draw(Draws(4, 3, "name"))
    return whole, torch.cat([draw(Draws(2, 3, "name", rank=rank, world=2)) for rank in range(2)])


@pytest.mark.parametrize(
    "draw",
    [
        lambda d: d.normal(5),
        lambda d: d.uniform(-1.0, 3.0, 5),
        lambda d: d.integers(2, 9),
        lambda d: d.categorical(torch.tensor([0.2, 0.5, 0.3])),
        lambda d: d.stream("other").normal(2),
    ],
    ids=["normal", "uniform", "integers", "categorical", "stream"],
)
def test_two_processes_draw_what_one_would(draw):
    whole, together = parts(draw)
    assert torch.equal(whole, together) and len(whole) == 4


def test_one_number_for_all_is_the_same_for_every_process():
    for draw in (lambda d: d.one_uniform(2.0, 5.0), lambda d: d.one_integer(2, 9)):
        assert len({draw(Draws(rows, "one", rank=r, world=2)) for rows in (1, 4) for r in (0, 1)}) == 1


def test_numbers_lie_where_they_should():
    draws = Draws(20_000, "ranges")
    u = draws.uniform(-1.0, 3.0, dtype=torch.float64)
    assert -1 <= float(u.min()) < -0.99 and 2.99 < float(u.max()) < 3 and u.dtype == torch.float64
    assert float(u.mean()) == pytest.approx(1, abs=0.05)
    assert sorted(set(draws.integers(2, 6).tolist())) == [2, 3, 4, 5]
    shares = torch.bincount(draws.categorical(torch.tensor([2.0, 0.0, 6.0]))) / 20_000
    assert shares[1] == 0 and float(shares[0]) == pytest.approx(0.25, abs=0.02)
    ones = torch.tensor([Draws(1, n).one_uniform(2.0, 4.0) for n in range(500)])
    assert 2 <= float(ones.min()) < 2.1 and 3.9 < float(ones.max()) < 4
    assert {Draws(1, n).one_integer(3, 5) for n in range(50)} == {3, 4}
    z = draws.normal(3)
    assert z.shape == (20_000, 3) and float(z.std()) == pytest.approx(1, abs=0.02)
    like = Draws(2, "like").normal_like(torch.zeros(2, 3, 4, dtype=torch.float64))
    assert like.shape == (2, 3, 4) and like.dtype == torch.float64


def test_a_stream_takes_nothing_from_its_source():
    one, other = Draws(2, 5, "a"), Draws(2, 5, "a")
    one.stream("b").normal(7)
    assert torch.equal(one.normal(2), other.normal(2))
    assert not torch.equal(Draws(2, 5, "a").stream("b").normal(2), Draws(2, 5, "a").normal(2))


def test_seeds_are_of_63_bits_and_what_they_always_were():
    assert seed_of("a", 1) == seed_of("a/1") != seed_of("a", 2)
    assert all(0 <= seed_of(n) < 2**63 for n in range(200)) and max(map(seed_of, range(200))) > 2**62
    digest = hashlib.blake2b(b"run/7/noise", digest_size=8).digest()
    assert seed_of("run", 7, "noise") == sum(byte << 8 * n for n, byte in enumerate(digest)) // 2

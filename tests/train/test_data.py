"""The rows of an iteration follow from its number: through epochs, over processes, after a stop."""

import pytest
import torch

from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import Flow
from stillhouse.opening import load
from stillhouse.systems.registry import find
from stillhouse.train.data import InfiniteData, NoData, TensorData
from stillhouse.train.loop import Interrupted, Trainer
from stillhouse.train.recipe import Recipe
from stillhouse.worlds.base import get_world

torch.set_num_threads(1)


def numbered(n=10, **options):
    return TensorData(torch.arange(n, dtype=torch.float32)[:, None].expand(n, 2).contiguous(), **options)


def ids(data, start, rows, **place):
    return data.rows(start, Draws(rows, "rows", **place))[0][:, 0].int().tolist()


def test_every_epoch_shows_every_sample_once_in_an_order_of_its_own():
    seen = [i for start in range(0, 30, 6) for i in ids(numbered(), start, 6)]
    epochs = [seen[:10], seen[10:20], seen[20:]]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs) and len({tuple(e) for e in epochs}) == 3
    assert seen == [i for start in range(0, 30, 6) for i in ids(numbered(), start, 6)]
    assert seen != [i for start in range(0, 30, 6) for i in ids(numbered(seed=1), start, 6)]
    assert len(ids(numbered(), 3, 25)) == 25  # more than an epoch at once


def test_processes_share_the_rows_among_them():
    data = numbered()
    assert ids(data, 8, 2, rank=0, world=3) + ids(data, 8, 2, rank=1, world=3) + ids(
        data, 8, 2, rank=2, world=3
    ) == ids(data, 8, 6)
    world = get_world("mixture")
    parts = [InfiniteData(world, labelled=True).rows(0, Draws(4, "x", rank=r, world=2)) for r in range(2)]
    x, label = InfiniteData(world, labelled=True).rows(0, Draws(8, "x"))
    assert torch.equal(torch.cat([p[0] for p in parts]), x) and torch.equal(
        torch.cat([p[1] for p in parts]), label
    )
    assert (
        NoData((2,), 5).rows(0, Draws(8, "x"))[0] is None
        and int(NoData((2,), 5).rows(0, Draws(99, "x"))[1].max()) == 4
    )
    assert NoData((2,)).rows(0, Draws(8, "x")) == (None, None)


@pytest.mark.parametrize("grad_accum", [1, 2])
def test_a_resumed_run_sees_the_rows_that_it_would_have_seen(tmp_path, grad_accum):
    class Noted(TensorData):
        def rows(self, start, draws):
            x, cond = super().rows(start, draws)
            if draws.rows > 1:  # not the loop's question whether there is data at all
                seen.extend(x[:, 0].int().tolist())
            return x, cond

    def run(folder=None, stop=99):
        world = get_world("mixture")
        teacher = load(world.network(Flow(), width=8, depth=1, classes=0), shape=world.shape)
        data = Noted(numbered(7).x)

        def on_step(trainer, step):
            trainer.stopping = step == stop

        recipe = Recipe(steps=6, batch=4, grad_accum=grad_accum)
        return Trainer(
            find("progressive")(teacher_steps=2),
            teacher,
            data,
            recipe,
            quiet=True,
            out=folder,
            on_step=on_step,
        ).fit

    seen = []
    run()(False)
    whole, seen = seen, []
    with pytest.raises(Interrupted):
        run(tmp_path / "run", stop=1)()
    assert seen == whole[:12]
    run(tmp_path / "run")(True)
    assert seen == whole and len(whole) == 24 and sorted(whole[:7]) == list(range(7))


def test_bad_data_is_refused():
    x = torch.zeros(4, 2)
    broken = x.clone()
    broken[2, 1] = float("nan")
    for arguments, word in (
        ((x[:0],), "empty"),
        ((broken,), "sample 2"),
        ((x, torch.zeros(3, dtype=torch.long), 2), "3 labels"),
        ((x, torch.tensor([0, 1, 2, 0]), 2), "0 … 1"),
    ):
        with pytest.raises(StillhouseError, match=word):
            TensorData(*arguments)

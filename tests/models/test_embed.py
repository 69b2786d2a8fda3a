import pytest
import torch

from stillhouse.core.errors import StillhouseError
from stillhouse.models import build_model
from stillhouse.models.embed import Embedding, beside

SMALL = {
    "mlp": ({"dim": 48, "width": 16, "depth": 2}, 48),
    "unet": ({"image_channels": 3, "channels": [8, 8], "heads": 2}, 3),
    "dit": ({"image_channels": 3, "dim": 16, "depth": 2, "heads": 2}, 3),
}


def make(name, **options):
    net = build_model({"name": name, **SMALL[name][0], **options}).double()
    g = torch.Generator().manual_seed(0)
    for p in net.parameters():
        if not p.any():
            p.data.normal_(std=0.1, generator=g)
    return (
        net,
        torch.randn(2, 3, 4, 4, generator=g, dtype=torch.float64),
        torch.rand(2, generator=g, dtype=torch.float64),
    )


@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_vector_is_heard_row_by_row(name):
    net, x, t = make(name, features=5)
    vectors = torch.randn(2, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    told = net(x, t, {"features": vectors})
    other = net(x, t, {"features": torch.stack([vectors[0], vectors[1] + 1])})
    assert torch.allclose(told[0], other[0], atol=1e-12) and float((told[1] - other[1]).abs().max()) > 1e-4
    assert float((told - net(x, t)).abs().max()) > 1e-4  # no vector is another thing than any vector
    assert net(x, t, {"features": vectors.float()}).dtype == torch.float64
    with pytest.raises(StillhouseError, match=r"must have the shape \(B, 5\), not \(2, 4\)"):
        net(x, t, {"features": vectors[:, :4]})
    with pytest.raises(StillhouseError, match="without `features`"):
        make(name)[0](x, t, {"features": vectors})


@pytest.mark.parametrize("name", sorted(SMALL))
def test_an_image_is_heard_beside_the_state(name):
    net, x, t = make(name, image_cond=SMALL[name][1])
    image = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    told = net(x, t, {"image": image})
    moved = image.clone()
    moved[1] += 1
    assert torch.allclose(told[0], net(x, t, {"image": moved})[0], atol=1e-12)
    assert float((told - net(x, t, {"image": moved}))[1].abs().max()) > 1e-4
    assert torch.allclose(net(x, t), net(x, t, {"image": torch.zeros_like(x)}), atol=1e-12)
    with pytest.raises(StillhouseError, match="image condition must have the shape"):
        net(x, t, {"image": image[:1]})
    with pytest.raises(StillhouseError, match="without `image_cond`"):
        make(name)[0](x, t, {"image": image})


def test_beside_puts_state_before_image():
    x, y = torch.zeros(2, 3, 4, 4), torch.ones(2, 1, 4, 4)
    assert torch.equal(beside(x, {"image": y}, 1), torch.cat([x, y], 1))
    assert beside(x, None, 0) is x


def test_one_end_a_clip_goes_with_one_time_a_frame():
    embed = Embedding(16, two_time=True, frames=True)
    assert embed.end is not None
    torch.nn.init.normal_(embed.end.last.weight, generator=torch.Generator().manual_seed(0))
    for frames in (2, 3):  # as many frames as rows, and more
        t, s = torch.rand(2, frames), torch.tensor([0.1, 0.3])
        apart, _, _ = embed(t, None, s[:, None].expand(2, frames), None)
        torch.testing.assert_close(embed(t, None, s, None)[0], apart)
        one, _, _ = embed(s, None, t, None)  # and the other way round
        torch.testing.assert_close(one, embed(s[:, None].expand(2, frames), None, t, None)[0])

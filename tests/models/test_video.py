"""The video network: one set of weights, with and without the mask; the cache says what the mask says; what
is refused."""

import copy

import pytest
import torch

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import Flow
from stillhouse.models import build_model
from stillhouse.models.video import KVCache, turned, video_network

B, F, CHUNK = 2, 6, 2


def make(depth=2, seed=1, **options):
    """A network with random weights everywhere, float64."""
    net = build_model(
        {"name": "video_dit", "channels": 3, "patch": 4, "dim": 16, "depth": depth, "heads": 2, **options}
    ).double()
    g = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        if not p.any():
            p.data.normal_(std=0.3, generator=g)
    return net.eval()


def clip(frames=F, seed=2):
    return torch.randn(B, frames, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def times(frames=F, seed=3):
    return torch.rand(B, frames, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_frame_hears_its_own_chunk_and_those_before_it():
    net, x, t = make(chunk=CHUNK), clip().requires_grad_(), times()
    out = net(x, t)
    for frame in range(F):
        (grad,) = torch.autograd.grad(out[:, frame].square().sum(), x, retain_graph=True)
        heard = grad.abs().amax((0, 2, 3, 4)) > 0
        assert heard.tolist() == [other // CHUNK <= frame // CHUNK for other in range(F)]


def test_without_the_mask_it_is_the_bidirectional_network():
    net, x, t = make(depth=1), clip(), times()
    student = copy.deepcopy(net)
    student.see(CHUNK)
    gap = (student(x, t) - net(x, t)).abs().amax((0, 2, 3, 4))
    assert gap[:-CHUNK].min() > 1e-3 and gap[-CHUNK:].max() < 1e-12 and student.config["chunk"] == CHUNK
    student.see(0)
    assert torch.equal(student(x, t), net(x, t))
    one = make(depth=1, chunk=F)  # a single chunk sees everything, too
    assert torch.allclose(one(x, t), net(x, t), atol=1e-12)


def test_one_time_is_the_same_time_for_every_frame():
    net, x = make(), clip()
    t = torch.tensor([0.2, 0.7], dtype=torch.float64)
    assert torch.allclose(net(x, t), net(x, t[:, None].expand(B, F)), atol=1e-12)
    assert (net(x, t) - net(x, times())).abs().amax() > 1e-3


def test_features_and_tokens_are_heard_by_clip_or_by_frame():
    net, x, t = make(features=3, token_dim=5, chunk=1), clip(), times()
    g = torch.Generator().manual_seed(4)
    told = torch.randn(B, F, 3, generator=g, dtype=torch.float64)
    same = told[:, :1].expand(B, F, 3)
    assert torch.allclose(net(x, t, {"features": same}), net(x, t, {"features": told[:, 0]}), atol=1e-12)
    later = torch.cat([told[:, :4], told[:, 4:] + 1], 1)
    gap = (net(x, t, {"features": later}) - net(x, t, {"features": told})).abs().amax((0, 2, 3, 4))
    assert gap[:4].max() == 0 and gap[4:].min() > 1e-4
    tokens = torch.randn(B, 4, 5, generator=g, dtype=torch.float64)
    assert (
        net(x, t, {"tokens": tokens, "features": told}) - net(x, t, {"features": told})
    ).abs().amax() > 1e-4


def cached(net, x, t, cache):
    """The clip by chunks: each is asked at its own times, and kept at time 0."""
    made = []
    for first in range(0, x.shape[1], CHUNK):
        part = slice(first, first + CHUNK)
        with net.remembering(cache):
            made.append(net(x[:, part], t[:, part]))
        with net.remembering(cache, write=True):
            net(x[:, part], torch.zeros(B, CHUNK, dtype=x.dtype))
    return torch.cat(made, 1)


def test_cached_is_the_uncached_masked_forward():
    net, x, t = make(depth=3, chunk=CHUNK), clip(8), times(8)
    by_chunks = cached(net, x, t, KVCache())
    for first in range(0, 8, CHUNK):  # everything before the chunk is clean, the chunk itself noisy
        level = torch.cat([torch.zeros(B, first, dtype=x.dtype), t[:, first : first + CHUNK]], 1)
        whole = net(x[:, : first + CHUNK], level)
        torch.testing.assert_close(by_chunks[:, first : first + CHUNK], whole[:, first:], atol=1e-10, rtol=0)
    single = cached(net.float(), x.float(), t.float(), KVCache())
    torch.testing.assert_close(single.double(), by_chunks, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("window", "sink"), [(4, 0), (4, 2), (5, 1), (6, 0)])
def test_a_full_cache_keeps_the_sink_and_the_newest_frames(window, sink):
    # one layer's keys depend on their own frame alone, so that the frames which are kept say all that the
    # cache can know
    net, x, t, cache = make(depth=1, chunk=CHUNK), clip(12), times(12), KVCache(window, sink)
    by_chunks = cached(net, x, t, cache)
    assert cache.frames == window
    for first in range(0, 12, CHUNK):
        past = list(range(first))
        kept = past if first <= window else past[:sink] + past[first - window + sink :]
        kept += range(first, first + CHUNK)
        level = torch.cat([torch.zeros(B, len(kept) - CHUNK, dtype=x.dtype), t[:, first : first + CHUNK]], 1)
        net.see(0)
        whole = net(x[:, kept], level)
        net.see(CHUNK)
        torch.testing.assert_close(by_chunks[:, first : first + CHUNK], whole[:, -CHUNK:], atol=1e-10, rtol=0)


def test_only_a_writing_pass_changes_the_cache():
    net, x, cache = make(chunk=CHUNK), clip(2), KVCache()
    with net.remembering(cache):
        net(x, torch.ones(B, dtype=x.dtype))
    assert cache.frames == 0 and net.cache is None
    with net.remembering(cache, write=True):
        net(x, torch.zeros(B, dtype=x.dtype))
    assert cache.frames == CHUNK and net.cache is None and not net.writes


def test_scores_depend_on_the_distance_in_frames_alone():
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 5, 1, 8, generator=g, dtype=torch.float64)
    near = (turned(q, 3) * turned(k, 1)).sum(-1)
    far = (turned(q, 103) * turned(k, 101)).sum(-1)
    torch.testing.assert_close(near, far, atol=1e-12, rtol=0)
    assert (near - (turned(q, 4) * turned(k, 1)).sum(-1)).abs().max() > 1e-2


def test_longer_clips_than_any_before_and_a_mask_are_no_new_weights():
    net = make(chunk=CHUNK, frames=4)
    assert net(clip(20), times(20)).shape == (B, 20, 3, 8, 8)
    assert net.state_dict().keys() == make(frames=4).state_dict().keys()


def test_what_it_refuses():
    net = make(chunk=CHUNK)
    with pytest.raises(StillhouseError, match="at least one frame"):
        net(clip()[:, :0], torch.zeros(B))
    with pytest.raises(StillhouseError, match="one time or one each"):
        net(clip(), torch.zeros(B, 4))
    with pytest.raises(StillhouseError, match="divisible by 4, not 6 x 8"):
        net(clip()[..., :6, :], torch.zeros(B))
    with pytest.raises(StillhouseError, match="can't keep a sink of 4"):
        KVCache(window=4, sink=4)
    with (
        pytest.raises(StillhouseError, match="4 frames don't fit into a cache of 4 whose sink takes 1"),
        net.remembering(KVCache(4, 1), write=True),
    ):
        net(clip(4), torch.zeros(B, dtype=torch.float64))
    other = Denoiser(build_model({"name": "mlp"}), Flow())
    with pytest.raises(StillhouseError, match=r"A stream needs a video network .* not MLP"):
        video_network(other, "A stream")

"""What tells one run from another: numbers of a network's weights."""

from __future__ import annotations

import torch
from torch import nn

from stillhouse.train.identity import VALUES, weights_identity


def test_equal_weights_have_one_number_and_any_other_value_of_a_small_tensor_another() -> None:
    net = nn.Linear(3, 2)
    twin = nn.Linear(3, 2)
    twin.load_state_dict(net.state_dict())
    assert weights_identity(net) == weights_identity(twin)
    for place in range(6):
        changed = nn.Linear(3, 2)
        changed.load_state_dict(net.state_dict())
        with torch.no_grad():
            changed.weight.view(-1)[place] += 1e-6
        assert weights_identity(changed) != weights_identity(net)


def test_of_a_large_tensor_values_from_all_over_count() -> None:
    net = nn.Embedding(3 * VALUES, 1)
    first = weights_identity(net)
    with torch.no_grad():
        net.weight[-3] += 1  # the last that is looked at
    last = weights_identity(net)
    with torch.no_grad():
        net.weight[0] += 1
    assert len({first, last, weights_identity(net)}) == 3


def test_shapes_and_names_count_where_the_bytes_are_equal() -> None:
    class Named(nn.Module):
        def __init__(self, name: str, *shape: int):
            super().__init__()
            self.register_parameter(name, nn.Parameter(torch.zeros(*shape)))

    assert len({weights_identity(n) for n in (Named("a", 2, 3), Named("a", 3, 2), Named("b", 2, 3))}) == 3


def test_a_tensor_beside_the_state_counts_in_a_users_network_alone() -> None:
    net = nn.Linear(2, 2)
    net.frequencies = torch.ones(3)
    before = weights_identity(net), weights_identity(net, own=True)
    net.frequencies = torch.zeros(3)
    assert before[0] == weights_identity(net) and before[1] != weights_identity(net, own=True)

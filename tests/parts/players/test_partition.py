"""Conditions in parts: blocks of labels and signs of prompts."""

import pytest
import torch

from stillhouse.core.errors import StillhouseError
from stillhouse.models.routed import route
from stillhouse.parts.players.partition import embedding_signs, label_blocks, rows_of


def test_blocks_of_labels() -> None:
    by = label_blocks(5, 2)
    assert by == {"name": "blocks", "classes": 5, "parts": 2}
    assert route(by, torch.arange(5), 5).tolist() == [0, 0, 0, 1, 1]
    assert label_blocks(3, 3)["parts"] == 3
    for parts in (1, 4):
        with pytest.raises(StillhouseError, match=f"3 classes can be parted into 2 to 3 blocks, not {parts}"):
            label_blocks(3, parts)


def prompts() -> torch.Tensor:
    """One token each, around (1, 1, 1): they spread most along (1, -2, 0), then along the third axis."""
    along, third = torch.tensor([1.0, -2, 0]) * 5**-0.5, torch.tensor([0.0, 0, 1])
    away = [a * along + b * third for a, b in ((3, 1), (3, -1), (-3, 1), (-3, -1))]
    return (torch.stack(away) + 1)[:, None]


def test_the_signs_are_along_the_principal_directions() -> None:
    by = embedding_signs(prompts(), 4)
    torch.testing.assert_close(torch.tensor(by["centre"]), torch.ones(3))
    directions = torch.tensor([[-1.0, 2, 0], [0, 0, 5**0.5]]) * 5**-0.5  # the largest entry is positive
    torch.testing.assert_close(torch.tensor(by["directions"]), directions, rtol=1e-5, atol=1e-6)
    assert by["name"] == "signs" and route(by, prompts(), 4).tolist() == [2, 0, 3, 1]
    assert len(embedding_signs(prompts(), 2)["directions"]) == 1


def test_how_many_parts_and_prompts() -> None:
    for parts in (1, 3, 6):
        with pytest.raises(StillhouseError, match=f"parts, not {parts}"):
            embedding_signs(prompts(), parts)
    for few in (prompts()[:3], prompts()[:, :, :2]):  # three prompts, or two dimensions, for four parts
        with pytest.raises(StillhouseError, match=f"{len(few)} prompts are too few for 4 parts"):
            embedding_signs(few, 4)
    wide = torch.randn(4, 1, 3, generator=torch.Generator().manual_seed(0))
    assert len(embedding_signs(wide, 4)["directions"]) == 2


def test_the_rows_of_a_part() -> None:
    part = torch.tensor([1, 0, 1, 2])
    assert rows_of(part, 1).tolist() == [0, 2] and rows_of(part, 2).tolist() == [3]
    with pytest.raises(StillhouseError, match="No condition lies in part 3"):
        rows_of(part, 3)


def test_a_directions_largest_entry_is_positive_whatever_the_prompts() -> None:
    for seed in range(20):
        tokens = torch.randn(9, 1, 4, generator=torch.Generator().manual_seed(seed))
        for direction in embedding_signs(tokens, 4)["directions"]:
            assert max(direction, key=abs) > 0

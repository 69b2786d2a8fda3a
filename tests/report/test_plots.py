"""Charts and pictures: numbers land where they should."""

from __future__ import annotations

import io
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image

from stillhouse.core.errors import StillhouseError
from stillhouse.forms.views import Dots, Pictures, view_of
from stillhouse.report.pictures import GAP, bounds_of, data_uri, png, tile
from stillhouse.report.plots import Axis, Series, line_chart, number, scatter, smooth


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.404, "3.40"),
        (302.4, "302"),
        (0.018, "0.0180"),
        (812345, "812\u202f000"),
        (-1.5, "−1.50"),
        (0, "0"),
        (2e-7, "2e−7"),
        (None, "–"),
        (math.nan, "–"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert number(value) == text


def test_a_number_that_rounds_up_keeps_its_digits():
    assert number(9.999) == "10.0"
    assert number(61.3, 2) == "61"


def test_axes_map_their_ends():
    axis = Axis([1, 64], 0, 600, "log2", pad=0.0001)
    assert axis.ticks == [1, 2, 4, 8, 16, 32, 64]
    assert axis(8) == pytest.approx(300, abs=0.5)
    linear = Axis([0.0, 10.0], 100, 0)
    assert linear(0) == 100 and linear.ticks[0] == 0 and 3 <= len(linear.ticks) <= 7
    log = Axis([2.0, 300.0], 100, 0, "log10")
    assert {10.0, 100.0} <= set(log.ticks) and log(2.0) > log(300.0)


def test_one_value_has_an_axis_too():
    for scale in ("linear", "log2", "log10"):
        assert math.isfinite(Axis([5.0], 0, 100, scale)(5.0))
    assert math.isfinite(Axis([0.0], 0, 100)(0.0))


def test_a_chart_draws_lines_dots_and_rule():
    svg = line_chart(
        [Series("a<b", [1, 2, 4], [100.0, math.nan, 1.0])], title="T & t", scale_x="log2", rule=0.5
    )
    assert (
        svg.count("<circle") == 2
        and svg.count('class="rule"') == 1
        and "a&lt;b" in svg
        and "T &amp; t" in svg
    )
    first, last = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg)
    assert float(first[0]) < float(last[0]) and float(first[1]) < float(last[1])  # to the right, and down
    assert "nothing to draw" in line_chart([Series("a", [1], [math.nan])], title="T")


def test_running_mean():
    assert smooth([1.0, 3.0, math.nan, 5.0], 2) == [1.0, 2.0, 2.0, 4.0]
    assert math.isnan(smooth([math.nan], 3)[0])


def test_scatter_keeps_to_its_frame():
    svg = scatter(
        torch.tensor([[0.0, 0.0], [1.0, 1.0], [9.0, 0.0]]), torch.tensor([0, 1, 1]), (-1, 1, -1, 1), "points"
    )
    assert "M120.0 120.0h0" in svg and "M240.0 0.0h0" in svg and svg.count("h0") == 2
    assert "--c0" in svg and "--c1" in svg


def test_a_sheet_and_its_png_hold_the_pixels():
    images = torch.linspace(-1, 1, 3 * 3 * 4 * 5).reshape(3, 3, 4, 5)
    sheet = tile(images, 2)
    assert sheet.shape == (4 + GAP + 4, 5 + GAP + 5, 3)
    assert sheet[0, 0].tolist() == ((images[0, :, 0, 0] + 1) * 127.5).round().tolist()
    assert sheet[4 + GAP, 4].tolist() == ((images[2, :, 0, 4] + 1) * 127.5).round().tolist()
    assert int(sheet[4].max()) == 0 and int(sheet[4 + GAP :, 5:].max()) == 0
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(sheet)))), sheet.numpy())
    grey = tile(images[:, :1], 3)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(grey)))), grey[..., 0].numpy())
    assert data_uri(images, 3).startswith("data:image/png;base64,iVBOR")
    with pytest.raises(StillhouseError, match="N, 1 or 3, H, W"):
        tile(torch.zeros(2, 2, 4, 4), 2)


def test_what_can_be_drawn():
    for shape in ((1, 32, 32), (3, 8, 8)):
        assert isinstance(view_of(torch.zeros(4, *shape)), Pictures)
    for shape in ((2,), (6,), (8,)):
        assert isinstance(view_of(torch.zeros(4, *shape)), Dots)
    assert view_of(torch.zeros(4, 2, 8, 8)) is None and view_of(torch.zeros(4, 1)) is None
    left, right, bottom, top = bounds_of(torch.tensor([[0.0, 0.0], [4.0, 2.0]]))
    assert right - left == pytest.approx(top - bottom) == pytest.approx(4.6) and (
        left + right
    ) / 2 == pytest.approx(2)

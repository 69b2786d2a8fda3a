"""Small charts as inline SVG. Colours are CSS variables of the page, so that a chart follows its theme."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from torch import Tensor

WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 14, 44


@dataclass
class Series:
    """A line. ``colour``: a CSS colour; ``faint``: drawn thin and pale, without dots; ``dots``: mark every
    point."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str = "var(--ink-2)"
    dots: bool = True
    faint: bool = False


def number(value: float | None, digits: int = 3) -> str:
    """``value`` to ``digits`` significant digits, thousands apart; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    value = float(f"{value:.{digits - 1}e}")  # rounded first: 9.999 has two digits before the point
    size = math.floor(math.log10(abs(value)))
    if size < -4:
        mantissa, power = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(power)}".replace("-", "−")
    text = f"{value:,.{max(0, digits - 1 - size)}f}"
    return text.replace(",", "\u202f").replace("-", "−")


def _linear_ticks(low: float, high: float, most: int = 5) -> list[float]:
    rough = (high - low) / most
    unit = 10 ** math.floor(math.log10(rough))
    step = next(m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= rough * 0.999)
    return [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for marks in ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 4, 5, 6, 8)):
        ticks = [m * 10.0**d for d in decades for m in marks if low * 0.999 <= m * 10.0**d <= high * 1.001]
        if len(ticks) >= 3:
            break
    return ticks[:: math.ceil(len(ticks) / 6)]


class Axis:
    """Maps values to pixels. ``scale``: linear, log2 or log10; the range is widened a little at the ends."""

    def __init__(
        self, values: Sequence[float], start: float, end: float, scale: str = "linear", pad: float = 0.06
    ):
        self.scale, self.start, self.end = scale, start, end
        self.turn: Callable[[float], float] = (lambda v: v) if scale == "linear" else (lambda v: math.log2(v))
        low, high = min(values), max(values)
        a, b = self.turn(low), self.turn(high)
        extra = pad * (b - a) or (abs(a) * 0.1 or 1.0) * (scale == "linear") or 0.5
        self.a, self.b = a - extra, b + extra
        if scale == "linear" and low >= 0 > self.a:
            self.a = 0.0
        ends = (self.a, self.b) if scale == "linear" else (2**self.a, 2**self.b)
        if scale == "linear":
            self.ticks = _linear_ticks(*ends)
        elif scale == "log2":
            self.ticks = [2.0**k for k in range(math.ceil(self.a), math.floor(self.b) + 1)]
        else:
            self.ticks = _log_ticks(*ends)

    def __call__(self, value: float) -> float:
        return round(
            self.start + (self.turn(value) - self.a) / (self.b - self.a) * (self.end - self.start), 1
        )


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str = "",
    scale_x: str = "linear",
    scale_y: str = "auto",
    rule: float | None = None,
    width: int = WIDTH,
    height: int = HEIGHT,
) -> str:
    """Lines over common axes. ``scale_y = "auto"``: logarithmic where the values are positive and span more
    than a factor of 20.

    ``rule``: where a dashed horizontal line lies. ``width``, ``height``: of the drawing; a chart for a narrow
    column is made small, or its letters would be. Points that are not finite are left out.
    """
    kept = [(s, [(x, y) for x, y in zip(s.x, s.y, strict=True) if math.isfinite(y)]) for s in series]
    ys = [y for _, points in kept for _, y in points] + ([] if rule is None else [rule])
    xs = [x for _, points in kept for x, _ in points]
    if not xs:
        return f'<p class="none">{escape(title)}: nothing to draw.</p>'
    if scale_y == "auto":
        scale_y = "log10" if min(ys) > 0 and max(ys) > 20 * min(ys) else "linear"
    across, up = Axis(xs, LEFT, width - RIGHT, scale_x, 0.04), Axis(ys, height - BOTTOM, TOP, scale_y)
    out = frame(across, up, title, x_label, width, height)
    if rule is not None:
        out.append(f'<path class="rule" d="M{LEFT} {up(rule)}H{width - RIGHT}"/>')
    for s, points in kept:
        path = "".join(f"{'L' if i else 'M'}{across(x)} {up(y)}" for i, (x, y) in enumerate(points))
        out.append(f'<path class="{"faint" if s.faint else "line"}" style="stroke:{s.colour}" d="{path}"/>')
        radius = 4.5 if len(points) > 3 else 6
        for x, y in points if s.dots else []:
            title = f"<title>{escape(s.name)}: {number(y)} at {number(x)}</title>"
            out.append(
                f'<circle class="dot" style="fill:{s.colour}" cx="{across(x)}" cy="{up(y)}" '
                f'r="{radius}">{title}</circle>'
            )
    return "".join([*out, "</svg>"])


def frame(across: Axis, up: Axis, title: str, x_label: str, width: int, height: int) -> list[str]:
    """The beginning of a chart: the open element, the grid with its figures, the name of what runs across."""
    out = [f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">']
    for tick in up.ticks:
        out.append(f'<path class="grid" d="M{LEFT} {up(tick)}H{width - RIGHT}"/>')
        out.append(
            f'<text class="tick" x="{LEFT - 8}" y="{up(tick) + 4}" text-anchor="end">{_tick(tick)}</text>'
        )
    for tick in across.ticks:
        out.append(f'<path class="notch" d="M{across(tick)} {height - BOTTOM}v5"/>')
        out.append(
            f'<text class="tick" x="{across(tick)}" y="{height - BOTTOM + 19}" '
            f'text-anchor="middle">{_tick(tick)}</text>'
        )
    out.append(f'<path class="base" d="M{LEFT} {height - BOTTOM}H{width - RIGHT}"/>')
    if x_label:
        out.append(
            f'<text class="label" x="{(LEFT + width - RIGHT) / 2}" y="{height - 6}" '
            f'text-anchor="middle">{escape(x_label)}</text>'
        )
    return out


def _tick(value: float) -> str:
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{float(f'{value:.4g}'):g}".replace("-", "−")


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Running mean over the last ``window`` finite values."""
    out: list[float] = []
    kept: list[float] = []
    for value in values:
        kept = [*kept, value][-window:] if math.isfinite(value) else kept
        out.append(sum(kept) / len(kept) if kept else math.nan)
    return out


def scatter(
    points: Tensor,
    labels: Tensor | None,
    bounds: tuple[float, float, float, float],
    title: str,
    size: int = 240,
) -> str:
    """A square picture of 2-D ``points`` (N, 2) within ``bounds`` (left, right, bottom, top), coloured by
    ``labels`` (N,)."""
    left, right, bottom, top = bounds
    across = ((points[:, 0] - left) / (right - left) * size).tolist()
    down = ((top - points[:, 1]) / (top - bottom) * size).tolist()
    groups: dict[int, list[str]] = {}
    for x, y, label in zip(
        across, down, [0] * len(across) if labels is None else labels.tolist(), strict=True
    ):
        if 0 <= x <= size and 0 <= y <= size:
            groups.setdefault(int(label), []).append(f"M{x:.1f} {y:.1f}h0")
    paths = "".join(
        '<path class="cloud" '
        f'style="stroke:{"var(--ink-2)" if labels is None else f"var(--c{label % 10})"}" '
        f'd="{"".join(d)}"/>'
        for label, d in sorted(groups.items())
    )
    return (
        f'<svg class="scatter" viewBox="0 0 {size} {size}" role="img" '
        f'aria-label="{escape(title)}">{paths}</svg>'
    )

"""Ways of restoring on the plane of perception and distortion, as inline SVG like the page's other charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from stillhouse.metrics.restoration import perception_points
from stillhouse.report.plots import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, frame, number

COLOURS = {"student": "var(--c0)", "teacher": "var(--ink-2)"}


def perception_distortion(rows: Sequence[Mapping[str, Any]], width: int = WIDTH, height: int = HEIGHT) -> str:
    """A chart of the ways that ``rows`` measured: PSNR across (more is nearer to the true photographs),
    Fréchet distance upwards.

    ``rows``: of :func:`stillhouse.api.evaluate.evaluate`, from one run or several; a row ``{"who": "as
    given", "metrics": …}`` shows what doing nothing gives. A teacher's ways are joined from few steps to
    many. Good is low and to the right; between two ways on the edge of what can be reached, one is nearer and
    the other more natural.
    """
    title = "Perception against distortion"
    points = perception_points(rows)
    if not points:
        return f'<p class="none">{title}: nothing to draw.</p>'
    far = [p.frechet for p in points]
    across = Axis([p.psnr for p in points], LEFT, width - RIGHT, "linear", 0.12)
    up = Axis(
        far, height - BOTTOM, TOP, "log10" if min(far) > 0 and max(far) > 20 * min(far) else "linear", 0.1
    )
    out = frame(across, up, title, "PSNR, dB (nearer →)", width, height)
    walk = sorted((p for p in points if p.who == "teacher"), key=lambda p: p.steps)
    if len(walk) > 1:
        path = "".join(f"{'L' if i else 'M'}{across(p.psnr)} {up(p.frechet)}" for i, p in enumerate(walk))
        out.append(f'<path class="faint" style="stroke:{COLOURS["teacher"]}" d="{path}"/>')
    for p in points:
        x, y, colour = across(p.psnr), up(p.frechet), COLOURS.get(p.who, "var(--ink-3)")
        title = f"<title>{escape(p.name)}: {number(p.psnr)} dB, Fréchet distance {number(p.frechet)}</title>"
        out.append(
            f'<circle class="dot" style="fill:{colour}" cx="{x}" cy="{y}" '
            f'r="{6 if p.who == "student" else 4.5}">{title}</circle>'
        )
        left = x > width * 0.7
        anchor = f'x="{x - 9 if left else x + 9}" y="{y - 7}" text-anchor="{"end" if left else "start"}"'
        out.append(f'<text class="tick" {anchor}>{escape(p.name)}</text>')
    return "".join([*out, "</svg>"])

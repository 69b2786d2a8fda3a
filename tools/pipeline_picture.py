"""The README's picture, ``docs/pictures/pipeline.png``: ``python -m tools.pipeline_picture``.

The shipped pipeline and its LCM-LoRA (:mod:`tools.pipeline_students`) under the same captions and from the
same noise, both drawn by plain Diffusers.
"""

from __future__ import annotations

import io
import textwrap
from pathlib import Path

from torch import Tensor

from stillhouse.io.weights import atomic_write
from stillhouse.opening import shipped
from stillhouse.worlds.shapes.world import Shapes
from tools.pipeline_students import GUIDANCE, TEACHER, student_of
from tools.plain import plain_pictures

PLACE = Path(__file__).parents[1] / "docs" / "pictures" / "pipeline.png"
COLUMNS, STUDENT_STEPS, TEACHER_STEPS = 10, 4, 25


def draw(rows: dict[str, Tensor], captions: list[str], place: Path = PLACE) -> Path:
    """Write rows of pictures under their captions.

    Arguments:
        rows: pictures by the row's title, (n, 3, H, W) in [-1, 1].
        captions: of the columns, n.
        place: of the PNG file.

    Returns:
        The file.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    n = len(captions)
    figure, axes = pyplot.subplots(
        len(rows), n, figsize=(1.12 * n + 1.7, 1.15 * len(rows) + 0.7), squeeze=False
    )
    for line, (title, pictures) in zip(axes, rows.items(), strict=True):
        for axis, picture in zip(line, pictures, strict=True):
            axis.imshow(((picture.permute(1, 2, 0).clamp(-1, 1) + 1) / 2).numpy(), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        line[0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=9, labelpad=8)
    for axis, caption in zip(axes[0], captions, strict=True):
        axis.set_title("\n".join(textwrap.wrap(caption, 14)), fontsize=7.5, color="#555555")
    figure.subplots_adjust(0.13, 0.02, 0.995, 0.98 - 0.62 / figure.get_figheight(), 0.04, 0.04)
    written = io.BytesIO()
    figure.savefig(written, dpi=110, format="png", metadata={"Software": None})
    pyplot.close(figure)
    atomic_write(place, written.getvalue())
    return place


def main() -> None:
    """Draw the shipped pipeline beside its student."""
    world = Shapes()
    captions = [world.captions[i] for i in world.balanced_labels(COLUMNS).tolist()]

    def pictures(folder: Path, steps: int, guidance: float) -> Tensor:
        jobs = {"all": {"prompts": captions, "steps": steps, "guidance": guidance}}
        return plain_pictures(folder, jobs)["all"]

    rows = {
        f"teacher,\n{TEACHER_STEPS} steps,\n{2 * TEACHER_STEPS} calls": pictures(
            Path(shipped()[TEACHER]), TEACHER_STEPS, GUIDANCE
        ),
        f"its LCM-LoRA,\n{STUDENT_STEPS} steps,\n{STUDENT_STEPS} calls": pictures(
            student_of("lcm"), STUDENT_STEPS, 1.0
        ),
    }
    print(draw(rows, captions))


if __name__ == "__main__":
    main()

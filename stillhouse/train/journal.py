"""What a run reports while it works: a progress bar, a line of JSON per logged step, TensorBoard if asked
for."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from tqdm import tqdm

from stillhouse.io.weights import atomic_write

log = logging.getLogger("stillhouse")


class Journal:
    """A progress bar, and lines of ``metrics.jsonl``.

    Arguments:
        folder: of ``metrics.jsonl``; None: nothing is kept on disk.
        total: iterations of the run.
        start: iterations that are done; later lines of an older try are dropped.
        title: of the bar.
        show: the bar.
        tensorboard: write the values for TensorBoard as well, in ``folder/tensorboard``.
    """

    def __init__(
        self,
        folder: Path | None,
        total: int,
        start: int = 0,
        *,
        title: str = "",
        show: bool = True,
        tensorboard: bool = False,
    ):
        self.rows: list[dict[str, Any]] = []
        self.show = show
        self.path = folder / "metrics.jsonl" if folder else None
        if self.path and start and self.path.exists():
            self.rows = [row for row in read(self.path) if row["step"] < start]
        self.file = None
        if self.path:
            atomic_write(self.path, "".join(json.dumps(row) + "\n" for row in self.rows).encode())
            self.file = self.path.open("a")
        self.board = None
        if tensorboard and folder:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=start)
        self.bar = tqdm(
            total=total,
            initial=start,
            desc=title,
            disable=not show,
            dynamic_ncols=True,
            unit="it",
            mininterval=0.5,
        )

    def tick(self, shown: dict[str, float]) -> None:
        """One iteration is done."""
        if shown:
            self.bar.set_postfix({k: f"{v:.4g}" for k, v in shown.items()}, refresh=False)
        self.bar.update()

    def note(self, step: int, **values: float) -> None:
        """Keep the values of an iteration: a line of ``metrics.jsonl``.

        Arguments:
            step: number of the iteration, from 0.
            values: numbers by name.
        """
        row = {"step": step, **values}
        self.rows.append(row)
        if self.file:
            self.file.write(json.dumps(row) + "\n")
            self.file.flush()
        if self.board:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)

    def message(self, sentence: str) -> None:
        """A sentence above the bar; a quiet run leaves it to the log."""
        if self.show:
            self.bar.write(sentence)
        else:
            log.info(sentence)

    def close(self) -> None:
        self.bar.close()
        if self.file:
            self.file.close()
        if self.board:
            self.board.close()


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a ``metrics.jsonl``; a torn last line (the run was killed while writing) is left out."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows

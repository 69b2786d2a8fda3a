"""Demonstrations of robots in a folder as LeRobot keeps them: parquet files of frames, and what they are in
``meta/info.json``.

Read are the versions 2 (a file an episode) and 3 (many episodes a file): every ``data/**/*.parquet``, ordered
by ``episode_index`` and ``frame_index``. Videos are left alone: an observation is what the column
``observation.state`` holds.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stillhouse.core.errors import StillhouseError, extra, require, required_type
from stillhouse.io.checked import json_of

log = logging.getLogger("stillhouse")

INFO = "meta/info.json"
STATE, ACTION, EPISODE, FRAME, TIME = (
    "observation.state",
    "action",
    "episode_index",
    "frame_index",
    "timestamp",
)
JITTER = 0.25  # how far, in parts of a frame, a time may lie from where the frame rate puts it


@dataclass(frozen=True)
class Scale:
    """``low, high`` (D,): what becomes -1 and 1. A number that never changes becomes 0."""

    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> Scale:
        """The range of every number of ``rows`` (N, D)."""
        return cls(rows.amin(0), rows.amax(0))

    def to(self, rows: Tensor) -> Tensor:
        """``rows`` (…, D) in [-1, 1]."""
        span = self.high - self.low
        still = span <= 0
        return torch.where(
            still,
            torch.zeros_like(rows),
            2 * (rows - self.low) / torch.where(still, torch.ones_like(span), span) - 1,
        )

    @classmethod
    def read(cls, config: dict[str, list[float]]) -> Scale:
        """Inverse of :meth:`config`."""
        return cls(torch.tensor(config["low"]), torch.tensor(config["high"]))

    def back(self, rows: Tensor) -> Tensor:
        """The inverse of :meth:`to`."""
        return self.low + (rows + 1) / 2 * (self.high - self.low)

    def config(self) -> dict[str, list[float]]:
        """Plain data."""
        return {"low": self.low.tolist(), "high": self.high.tolist()}


@dataclass(frozen=True)
class Demonstrations:
    """Chunks of actions and what was observed before them, one row for every frame.

    Arguments:
        chunks: actions in [-1, 1], (N, H, A) float32.
        seen: observations in [-1, 1], (N, O) float32.
        episode: number of the frame's episode, (N,).
        fps: frames a second.
        scales: of ``action`` and ``observation``, to scale back what a policy predicts.
    """

    chunks: Tensor
    seen: Tensor
    episode: Tensor
    fps: float
    scales: dict[str, Scale]


def is_lerobot(folder: str | Path) -> bool:
    """Whether a folder holds demonstrations as LeRobot keeps them."""
    return (Path(folder) / INFO).is_file()


def read_lerobot(
    folder: str | Path, horizon: int, *, fps: float | None = None, scales: dict[str, Scale] | None = None
) -> Demonstrations:
    """Every frame's observation and the chunk of actions from it on; behind the end of an episode its last
    action is repeated. Needs ``stillhouse[control]``.

    Arguments:
        folder: with ``meta/info.json`` and ``data/**/*.parquet``.
        horizon: actions of a chunk, at least 1.
        fps: frames a second that the demonstrations must have been recorded at; None: any.
        scales: of ``action`` and ``observation``; None: their own range.

    Returns:
        The demonstrations, scaled.

    Raises:
        StillhouseError: the folder has no ``meta/info.json`` or no frames, a column is missing, actions or
            states are of uneven length, hold NaN or are not of the scales' length, or the frame rate is not
            ``fps`` or not that of the time stamps.
    """
    folder = Path(folder)
    require(horizon >= 1, f"A chunk has at least one action, not {horizon}.")
    info = _info(folder)
    no_rate = f"'{folder / INFO}' gives no frame rate: 'fps' is {info.get('fps')!r}."
    rate = required_type(info.get("fps"), (int, float), no_rate)
    require(rate > 0, no_rate)
    require(
        fps is None or fps == rate,
        f"The demonstrations in '{folder}' were recorded at {rate:g} frames a second, not at {fps}.",
    )
    frames, files = _frames(folder)
    frames[EPISODE] = _apart(folder, frames[EPISODE], frames[FRAME], files)
    order = sorted(range(len(frames[EPISODE])), key=lambda i: (frames[EPISODE][i], frames[FRAME][i]))
    actions, states = (_matrix(folder, frames[name], name)[order] for name in (ACTION, STATE))
    episode, frame = (torch.tensor([int(frames[name][i]) for i in order]) for name in (EPISODE, FRAME))
    if TIME in frames:
        _keeps_time(
            folder,
            torch.tensor([float(frames[TIME][i]) for i in order], dtype=torch.float64),
            episode,
            frame,
            float(rate),
        )
    scales = scales or {"action": Scale.of(actions), "observation": Scale.of(states)}
    for what, found in (("action", actions), ("observation", states)):
        known, size = len(scales[what].low), found.shape[1]
        require(
            known == size, f"The vectors of {what}s in '{folder}' have {size} numbers, the policy's {known}."
        )
    last = torch.searchsorted(episode, episode, right=True) - 1  # of the frame's episode
    index = torch.minimum(torch.arange(len(episode))[:, None] + torch.arange(horizon), last[:, None])
    return Demonstrations(
        scales["action"].to(actions)[index], scales["observation"].to(states), episode, float(rate), scales
    )


def _info(folder: Path) -> dict[str, Any]:
    require(is_lerobot(folder), f"'{folder}' holds no demonstrations of LeRobot: it has no {INFO}.")
    info: dict[str, Any] = json_of(folder / INFO)
    return info


def _frames(folder: Path) -> tuple[dict[str, list[Any]], list[int]]:
    """The columns that matter, of all files together, and the number of each row's file."""
    parquet = extra("pyarrow.parquet", "control")
    files = sorted(file for file in (folder / "data").glob("**/*.parquet") if file.is_file())
    require(bool(files), f"'{folder}' holds no frames: there is no parquet file below its folder 'data'.")
    columns: dict[str, list[Any]] = {}
    of: list[int] = []
    for number, file in enumerate(files):
        try:
            names = parquet.read_schema(file).names
            missing = [name for name in (STATE, ACTION, EPISODE, FRAME) if name not in names]
            require(
                not missing,
                f"'{file}' lacks the column '{next(iter(missing), '')}'; it has {', '.join(names)}.",
            )
            table = parquet.read_table(
                file, columns=[n for n in (STATE, ACTION, EPISODE, FRAME, TIME) if n in names]
            )
        except OSError as error:  # pyarrow's own errors on torn files are of this kind or the next
            raise StillhouseError(f"'{file}' can't be read: {str(error).rstrip('.')}.") from error
        except ValueError as error:
            raise StillhouseError(
                f"'{file}' is no whole parquet file: {str(error).splitlines()[0].rstrip('.')}."
            ) from error
        for name in table.column_names:
            columns.setdefault(name, []).extend(table.column(name).to_pylist())
        of += [number] * table.num_rows
    require(bool(columns[EPISODE]), f"'{folder}' holds no frames: its parquet files are empty.")
    if len(columns.get(TIME, [])) != len(columns[EPISODE]):
        columns.pop(TIME, None)
    return columns, of


def _apart(folder: Path, episodes: list[int], frames: list[int], files: list[int]) -> list[int]:
    """The episode of every row, where two recordings that share a number are two.

    An episode may go on in another file. What begins it anew, with frames that are there already, is another
    recording, and gets a number of its own behind all others.
    """
    pieces: list[tuple[int, list[int]]] = []  # episode, and its rows in one file without a frame twice
    open_piece: dict[tuple[int, int], set[int]] = {}
    place: dict[tuple[int, int], int] = {}
    for row, key in enumerate(zip(episodes, files, strict=True)):
        if key not in open_piece or frames[row] in open_piece[key]:
            open_piece[key], place[key] = set(), len(pieces)
            pieces.append((key[0], []))
        open_piece[key].add(frames[row])
        pieces[place[key]][1].append(row)
    recordings: dict[int, list[tuple[int, set[int]]]] = {}  # by episode: its number, and its frames
    made, following = list(episodes), max(episodes) + 1
    for episode, rows in sorted(pieces, key=lambda piece: min(frames[row] for row in piece[1])):
        mine, known = {frames[row] for row in rows}, recordings.setdefault(episode, [])
        free = [other for other in known if not other[1] & mine]
        found = next((other for other in free if max(other[1]) + 1 == min(mine)), free[0] if free else None)
        if found is None:
            found = (following if known else episode, set())
            following += bool(known)
            known.append(found)
        found[1].update(mine)
        for row in rows:
            made[row] = found[0]
    twice = [episode for episode, known in recordings.items() if len(known) > 1]
    if twice:
        log.warning(
            "%d number(s) of episodes in '%s' stand for several recordings each (the first: %d); these are "
            "kept "
            "apart.",
            len(twice),
            folder,
            min(twice),
        )
    return made


def _matrix(folder: Path, rows: list[Any], name: str) -> Tensor:
    """A column of vectors as (N, D) float32."""
    rows = [row if isinstance(row, list) else [row] for row in rows]
    sizes = sorted({len(row) for row in rows})
    require(
        len(sizes) == 1 and sizes[0] > 0,
        f"The vectors of '{name}' in '{folder}' are not all of one length: there are {sizes}.",
    )
    try:
        made = torch.tensor(rows, dtype=torch.float32)
    except (TypeError, ValueError) as error:
        raise StillhouseError(
            f"The column '{name}' in '{folder}' holds something else than vectors of numbers."
        ) from error
    bad = ~torch.isfinite(made).all(1)
    require(
        not bool(bad.any()),
        f"The column '{name}' in '{folder}' holds NaN or infinite values, first in row "
        f"{int(bad.int().argmax())}.",
    )
    return made


def _keeps_time(folder: Path, times: Tensor, episode: Tensor, frame: Tensor, rate: float) -> None:
    """Refuse time stamps that another frame rate made."""
    within = episode[1:] == episode[:-1]
    steps = (times[1:] - times[:-1]) * rate - (frame[1:] - frame[:-1])
    off = within & (steps.abs() > JITTER)
    if bool(off.any()):
        at = int(off.int().argmax())
        found = float((frame[at + 1] - frame[at]) / (times[at + 1] - times[at]).clamp_min(1e-9))
        where = f"episode {int(episode[at])}, frame {int(frame[at])}"
        raise StillhouseError(
            f"'{folder}' names {rate:g} frames a second, but its time stamps are {found:.3g} a second at "
            f"{where}."
        )

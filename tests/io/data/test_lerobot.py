"""Demonstrations as LeRobot keeps them, made here; and a policy that is trained on them and distilled."""

import json

import pytest
import torch

from stillhouse.core.errors import StillhouseError
from stillhouse.io.data.lerobot import Scale, read_lerobot
from stillhouse.worlds.base import get_world

pyarrow = pytest.importorskip("pyarrow")
import pyarrow.parquet as parquet  # noqa: E402

FPS, LENGTHS = 10, (7, 5, 9)


def frames(episode, length, **degraded):
    """One episode: the state counts frames in its first number, the action is twice that and 3."""
    rows = list(range(length))
    made = {
        "observation.state": [[float(i), 10.0 * episode, 1.0] for i in rows],
        "action": [[2.0 * i, 3.0] for i in rows],
        "episode_index": [episode] * length,
        "frame_index": rows,
        "timestamp": [i / FPS for i in rows],
        "task_index": [0] * length,
    }
    return {name: column for name, column in {**made, **degraded}.items() if column is not None}


def write(folder, episodes, *, together=False, info=None):
    """A folder of version 2.1, a file an episode, or of version 3.0, all in one."""
    (folder / "meta").mkdir(parents=True)
    (folder / "data/chunk-000").mkdir(parents=True)
    features = {
        "observation.state": {"dtype": "float32", "shape": [3]},
        "action": {"dtype": "float32", "shape": [2]},
    }
    about = {
        "codebase_version": "v3.0" if together else "v2.1",
        "fps": FPS,
        "total_episodes": len(episodes),
        "features": features,
    }
    (folder / "meta/info.json").write_text(json.dumps({**about, **(info or {})}))
    tables = [pyarrow.table(episode) for episode in episodes]
    if together:
        parquet.write_table(pyarrow.concat_tables(tables), folder / "data/chunk-000/file-000.parquet")
    else:
        for i, table in enumerate(tables):
            parquet.write_table(table, folder / f"data/chunk-000/episode_{i:06d}.parquet")
    return folder


@pytest.mark.parametrize("together", [False, True])
def test_every_frame_is_a_row_with_the_actions_that_follow(tmp_path, together):
    folder = write(tmp_path / "demos", [frames(i, n) for i, n in enumerate(LENGTHS)], together=together)
    shown = read_lerobot(folder, 4)
    assert (
        shown.chunks.shape == (sum(LENGTHS), 4, 2)
        and shown.seen.shape == (sum(LENGTHS), 3)
        and shown.fps == FPS
    )
    actions = shown.scales["action"].back(shown.chunks)
    torch.testing.assert_close(actions[1, :, 0], torch.tensor([2.0, 4.0, 6.0, 8.0]))
    torch.testing.assert_close(
        actions[5, :, 0], torch.tensor([10.0, 12.0, 12.0, 12.0])
    )  # the last action of the episode stays
    torch.testing.assert_close(
        actions[7, :, 0], torch.tensor([0.0, 2.0, 4.0, 6.0])
    )  # and none of the next one's comes in
    assert shown.episode.tolist() == [0] * 7 + [1] * 5 + [2] * 9
    assert float(shown.chunks.abs().max()) <= 1 and shown.seen[:, 0].aminmax() == (-1.0, 1.0)
    assert not shown.seen[:, 2].any() and not shown.chunks[..., 1].any()  # numbers that never change
    torch.testing.assert_close(shown.scales["observation"].back(shown.seen)[8, :2], torch.tensor([1.0, 10.0]))


def test_rows_in_any_order_and_scales_of_others(tmp_path):
    shuffled = {name: column[::-1] for name, column in frames(0, 6).items()}
    folder = write(tmp_path / "demos", [frames(1, 4), shuffled])
    plain = read_lerobot(write(tmp_path / "sorted", [frames(0, 6), frames(1, 4)]), 3)
    assert torch.equal(read_lerobot(folder, 3).chunks, plain.chunks)
    twice = {
        "action": Scale(torch.tensor([0.0, 0.0]), torch.tensor([20.0, 6.0])),
        "observation": plain.scales["observation"],
    }
    scaled = read_lerobot(folder, 3, scales=twice)
    torch.testing.assert_close(scaled.chunks[0, :, 0], torch.tensor([-1.0, -0.8, -0.6]))
    again = Scale.read(json.loads(json.dumps(twice["action"].config())))
    assert torch.equal(again.high, twice["action"].high)


BAD = {
    "lacks the column 'action'": ({"action": None}, {}),
    "not all of one length: there are [1, 2]": ({"action": [[1.0]] + [[1.0, 2.0]] * 6}, {}),
    "names 10 frames a second, but its time stamps are 5 a second at episode 0, frame 0": (
        {"timestamp": [i / 5 for i in range(7)]},
        {},
    ),
    "NaN or infinite values, first in row 2": (
        {"observation.state": [[0.0, 0.0, float("nan") if i == 2 else 0.0] for i in range(7)]},
        {},
    ),
    "gives no frame rate: 'fps' is None": ({}, {"fps": None}),
    "something else than vectors of numbers": ({"action": [["a", "b"]] * 7}, {}),
}


@pytest.mark.parametrize("sentence", BAD)
def test_a_spoilt_folder_is_told_in_one_sentence(tmp_path, sentence):
    columns, info = BAD[sentence]
    folder = write(tmp_path / "demos", [frames(0, 7, **columns)], info=info)
    with pytest.raises(StillhouseError) as caught:
        read_lerobot(folder, 4)
    message = str(caught.value)
    assert sentence in message and message.endswith(".") and "\n" not in message


def test_what_is_no_such_folder_is_refused(tmp_path):
    with pytest.raises(StillhouseError, match="has no meta/info.json"):
        read_lerobot(tmp_path, 4)
    folder = write(tmp_path / "empty", [])
    with pytest.raises(StillhouseError, match="no parquet file below its folder 'data'"):
        read_lerobot(folder, 4)
    (folder / "data/chunk-000/episode_000000.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(StillhouseError, match="no whole parquet file|can't be read"):
        read_lerobot(folder, 4)
    folder = write(tmp_path / "demos", [frames(0, 7)])
    with pytest.raises(StillhouseError, match="recorded at 10 frames a second, not at 30"):
        read_lerobot(folder, 4, fps=30)
    with pytest.raises(StillhouseError, match="at least one action, not 0"):
        read_lerobot(folder, 0)


def test_a_folder_is_a_world_to_train_in_and_data_to_distil_with(tmp_path):
    from stillhouse.api.runs import distill, open_model, train_teacher

    folder = write(tmp_path / "demos", [frames(i, n) for i, n in enumerate(LENGTHS)])
    world = get_world("control", data=str(folder), horizon=4)
    assert world.shape == (4, 2) and world.observation == 3
    held = set(world.data("test")[1].tolist())
    assert held == set(range(12, 21))  # the last episode
    x, labels = world.data()
    assert world.measure(x, labels)["distance"] == 0 and world.measure(x + 0.5, labels)["distance"] > 0.1
    held_out = world.data("test")  # whose own rows are none that they are measured against
    assert world.floor(64)["distance"] > 0 < world.measure(*held_out)["distance"]
    single = get_world("control", data=str(write(tmp_path / "one", [frames(0, 9)])), horizon=4)
    with pytest.raises(StillhouseError, match="need two or more"):
        single.data()
    train_teacher(
        world, {"channels": (8, 8)}, iterations=2, batch=4, quiet=True, steps=4, out=tmp_path / "teacher"
    )
    teacher = open_model(tmp_path / "teacher")
    assert teacher.info["scales"] == world.scales and teacher.cond_kind == "observation"
    student = distill(
        tmp_path / "teacher",
        "onedp",
        data=str(folder),
        iterations=2,
        batch=4,
        quiet=True,
        out=tmp_path / "student",
        save_every=2,
    )
    assert open_model(tmp_path / "student").info["scales"] == world.scales
    assert student.sample(3, world.condition(labels[:3])).shape == (3, 4, 2)
    other = write(tmp_path / "other", [frames(0, 7, action=[[1.0, 2.0, 3.0 * i] for i in range(7)])])
    with pytest.raises(StillhouseError, match="vectors of actions in .* have 3 numbers, the policy's 2"):
        distill(teacher, "onedp", data=str(other), iterations=1, quiet=True)


def test_recordings_that_share_an_episodes_number_are_kept_apart(tmp_path, caplog):
    """An episode may go on in another file; one that begins anew is another."""
    first, again, more = frames(0, 4), frames(0, 6), frames(1, 6)
    again["observation.state"] = [[s[0], s[1], 5.0] for s in again["observation.state"]]
    halves = [{name: column[part] for name, column in more.items()} for part in (slice(3, 6), slice(0, 3))]
    folder = write(tmp_path / "demos", [first, again, *halves])
    shown = read_lerobot(folder, 3)
    assert shown.episode.tolist() == [0] * 4 + [1] * 6 + [2] * 6
    assert any("stand for several recordings each (the first: 0)" in r.getMessage() for r in caplog.records)
    actions = shown.scales["action"].back(shown.chunks)[:, :, 0].round()
    assert actions[:4].tolist() == [[0, 2, 4], [2, 4, 6], [4, 6, 6], [6, 6, 6]]
    assert actions[4].tolist() == [0, 2, 4] and actions[6].tolist() == [4, 6, 8]  # over the files' border
    assert actions[10].tolist() == [0, 2, 4] and actions[15].tolist() == [10, 10, 10]

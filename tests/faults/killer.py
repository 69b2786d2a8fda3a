"""A process that forks children and has each killed at one of its file operations. Run by itself: lines of
JSON in, lines of JSON out.

Python announces each opening, renaming and deletion to its audit hooks, whoever does it; what a library
writes in another language (safetensors' weights) lies between two of them.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHANGES = {"os.rename": 0, "os.mkdir": 0, "os.remove": 0, "os.rmdir": 0, "os.link": 1, "os.symlink": 1}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
Ends = tuple[int, str, int, str]
HALF = b'{"step": 1, "student/lo'


class Killer:
    """An audit hook that ends this process just before one of the operations below a folder.

    Arguments:
        root: the folder.
        at: number of the operation, from 0; -1 counts them and kills nothing.
        torn: half of something is written first, where the operation is one that writes.
    """

    def __init__(self, root: Path, at: int, *, torn: bool):
        self.root, self.at, self.torn = str(root.resolve()), at, torn
        self.seen: list[str] = []  # "open", "os.rename" …
        self.inside = False

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self.inside or (event != "open" and event not in CHANGES):
            return
        self.inside = True
        try:
            if path := self._path(event, args):
                self.operation(event, lambda: _half_open(path, args[2]))
        finally:
            self.inside = False

    def operation(self, event: str, half: Callable[[], None]) -> None:
        """An operation is about to be done."""
        if len(self.seen) == self.at:
            if self.torn:
                half()
            os.kill(os.getpid(), signal.SIGKILL)
        self.seen.append(event)

    def _path(self, event: str, args: tuple[Any, ...]) -> str | None:
        """What is about to change below the folder; None for anything that isn't."""
        path = args[CHANGES.get(event, 0)]
        if not isinstance(path, str | bytes | os.PathLike):
            return None
        if event == "open" and not args[2] & WRITING:
            return None
        path = os.fsdecode(path)
        handle = args[-1] if event in ("os.remove", "os.rmdir") else -1
        if handle >= 0:
            path = os.path.join(os.readlink(f"/proc/self/fd/{handle}"), path)
        path = os.path.abspath(path)
        if not path.startswith(self.root):
            return None
        there = os.path.lexists(path)
        missing = event in ("os.rename", "os.remove", "os.rmdir") and not there
        return None if missing or (event == "os.mkdir" and there) else path


def _half_open(path: str, flags: int) -> None:
    kept = flags & (os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    handle = os.open(path, kept | os.O_WRONLY, 0o644)
    os.write(handle, HALF)
    os.close(handle)


def watch_rows(killer: Killer) -> None:
    """Count the rows of a journal too, which are written to a file that is long open."""
    from stillhouse.train.journal import Journal

    note = Journal.note

    def noted(journal: Any, step: int, **values: float) -> None:
        def half() -> None:
            journal.file.write(HALF.decode())
            journal.file.flush()

        if journal.file:
            killer.operation("row", half)
        note(journal, step, **values)

    Journal.note = noted  # type: ignore[method-assign]


def in_child(work: Callable[[], Any]) -> tuple[int, str]:
    """What a forked child ended with: 0, or the number of a signal, or 1; and what it left to read."""
    back, front = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(back)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        code, text = 0, ""
        try:
            text = work() or ""
        except BaseException:
            code, text = 1, traceback.format_exc()[-1500:]
        os.write(front, text.encode()[-60000:])
        os._exit(code)
    os.close(front)
    with os.fdopen(back) as file:
        text = file.read()
    _, status = os.waitpid(child, 0)
    return (os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)), text


def serve(base: Path) -> None:
    """For each line, ``[scene, folder, at, torn]``, make a trial; answer with how both children ended, see
    :meth:`Server.trial`."""
    import torch

    torch.set_num_threads(1)
    from tests.faults.scenes import scenes

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what commands print is no answer
    known, warm = scenes(base), set()
    for line in sys.stdin:
        name, folder, at, torn = json.loads(line)
        scene, place = known[name], Path(folder)
        if name not in warm:  # its imports, once
            scene.base.mkdir(parents=True)
            scene.given()
            (base / "warm" / name).mkdir(parents=True)
            scene.before(base / "warm" / name)
            scene.act(base / "warm" / name)
            warm.add(name)
            gc.collect()
            gc.freeze()
        place.mkdir(parents=True, exist_ok=True)
        scene.before(place)

        def killed(scene: Any = scene, place: Path = place, at: int = at, torn: bool = torn) -> str:
            killer = Killer(place, at, torn=torn)
            watch_rows(killer)
            sys.addaudithook(killer)
            scene.act(place)
            killer.inside = True
            return json.dumps(killer.seen)

        end = in_child(killed)
        then = (0, "") if at < 0 else in_child(lambda scene=scene, place=place: scene.after(place))
        print(json.dumps([*end, *then]), file=answers, flush=True)


class Server:
    """The process, as a test sees it.

    Arguments:
        base: a folder for what the scenes are given.
    """

    def __init__(self, base: Path):
        words = [sys.executable, "-m", "tests.faults.killer", str(base)]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        self.log = (base / "log").open("w+")
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, env=env
        )

    def trial(self, scene: str, folder: Path, at: int = -1, *, torn: bool = False) -> Ends:
        """One child, and one that goes on after it.

        Arguments:
            scene: its name.
            folder: in which it works, new.
            at: number of the operation at which the child is killed; -1: it is not.
            torn: half of what it is about to write is written.

        Returns:
            How it ended (0, 1, or a signal) and its operations or error; the same of the one after it.
        """
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps([scene, str(folder), at, torn]) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            self.log.seek(0)
            raise AssertionError(f"the process that forks has ended: {self.log.read()[-2000:]}")
        found: Ends = tuple(json.loads(answer))
        return found

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()
        self.log.close()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))

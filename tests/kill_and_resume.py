"""Train with train_mlp, kill it at random moments, and resume it until it has finished.

The process forks, so that a run begins at once and not after a second of imports. For example

    python kill_and_resume.py FOLDER KILLS --epochs 40

prints how many runs were killed, and how many of them while they were writing.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import train_mlp

from lab import training
from tinybn import checkpoint


def stamp(path):
    return path.stat().st_mtime_ns if path.exists() else None


def is_writing(folder):
    return any(p.name.endswith(".tmp") for p in folder.glob(".*"))


def main(folder, kills, *options):
    arguments = ["--no-plot", "--save-every", "1", "--out", str(folder), *options]
    path = folder / "checkpoint.npz"
    training.dataset("digits", 0)
    killed = writing = 0
    moments = random.Random(0)
    while killed < kills:
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            resume = ["--resume"] if path.exists() else []
            os._exit(train_mlp.main([*arguments, *resume]))
        ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
        if moments.random() < 0.3:  # while it begins
            time.sleep(moments.uniform(0, 0.3))
        else:  # or a few steps after the first that it saves
            before = stamp(path)
            while stamp(path) == before and os.waitid(os.P_PID, child, ended) is None:
                time.sleep(0.002)
            time.sleep(moments.uniform(0, 0.05))
            while (  # or just when it writes again
                killed % 3 == 0
                and not is_writing(folder)
                and os.waitid(os.P_PID, child, ended) is None
            ):
                pass
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            return f"ended with {status} after {killed} kills"
        killed += 1
        writing += is_writing(folder)
        if path.exists():
            checkpoint.load(path)
    step = int(checkpoint.load(path)["progress/number"])
    status = train_mlp.main([*arguments, "--resume"])
    return f"{killed} kills, {writing} while writing, then at step {step}; ended with {status}"


if __name__ == "__main__":
    sys.stdout.write(main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]) + "\n")

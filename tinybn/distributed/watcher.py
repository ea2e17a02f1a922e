"""Name the rank that dies first: a script that `board.py` starts beside the ranks of a machine.

Its arguments are "rank:pid". It ends when it reads "end", or when a rank has died. Events of epoll
come in the order in which they happened, so the first is the rank that died first, even if mpiexec
has killed the others in the meantime.
"""

import os
import select
import sys


def main(arguments: list[str]) -> None:
    """Wait for the end of the ranks, or of one."""
    events = select.epoll()
    ranks = {}
    for argument in arguments:
        rank, pid = map(int, argument.split(":"))
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:
            descriptor = None
        if descriptor is None:
            _say(rank, pid)
            return
        ranks[descriptor] = rank, pid
        events.register(descriptor, select.EPOLLIN)
    events.register(0, select.EPOLLIN)
    while True:
        for descriptor, _ in events.poll():
            if descriptor in ranks:
                _say(*ranks[descriptor])
                return
            if os.read(0, 3):
                return
            events.unregister(0)  # rank 0 is gone without an "end": its own event follows


def _say(rank: int, pid: int) -> None:
    sys.stderr.write(
        f"tinybn: rank {rank} (pid {pid}) died first: it was killed, crashed or failed; "
        "mpiexec ends the others\n"
    )
    sys.stderr.flush()


if __name__ == "__main__":
    main(sys.argv[1:])

"""The microscope: step through the gradient of a norm, one contribution at a time.

    r = tb.microscope.record([[2.0], [10.0], [6.0]], dy=[[1.0], [0.0], [0.0]], eps=0.0)
    print(r)                                         # every step
    Path("microscope.html").write_text(r.html(), encoding="utf-8")

`python -m tinybn microscope` writes a page that also switches between recordings (what if?). What
is recorded is what runs: the graph of `ops`, seen through `tb.watch`, and the program that
`tb.program` prints. The page and the terminal only show recorded numbers.

    recorder    `record`                               recording  its result: documented data
    watching    what `tb.watch` sees                   steps      what each step says
    programs    the program, line by line              page       HTML, from the files beside it
    assembly    from these two to a recording          terminal   the same steps as text
    whatif      the recordings behind the switches     ladder     gradients of deep networks
"""

from tinybn.microscope.ladder import Arm, Ladder, record_ladder
from tinybn.microscope.recorder import record
from tinybn.microscope.recording import VERSION, Check, Event, Node, Recording

__all__ = [
    "VERSION",
    "Arm",
    "Check",
    "Event",
    "Ladder",
    "Node",
    "Recording",
    "record",
    "record_ladder",
]

"""The program that autodiff wrote: a training step as a list of lines, to be read, proved and run.

1. A third kind of array, beside NumPy's and CuPy's, holds no numbers: what is done with it becomes
   a line of a program (recorded.py, library.py).
2. The step runs once on such arrays, through the same layers, rules, walk and optimizers as ever;
   it finds them in the models, and what it leaves there are the program's results (state.py,
   recording.py, step.py).
3. A line knows where it comes from, and has the name that it has in the formula (origin.py).
4. What a line computes is a piece of NumPy source, and nowhere told twice (line.py): the printed
   program is the program, and runs as it stands (source.py).
5. Passes make a shorter program of a program; they move what is constant out of sums, and so the
   sums of composed batch norm become the two of its closed form (passes.py).
6. Lines that walk over the same elements share a nest of loops, which is plain Python for Numba
   (plan.py, nest.py); a nest holds no shapes and no constants, so networks share their nests.
7. What to run is data: which compiled function, on which memory, in which order (machine.py).
8. What the loops don't know, NumPy runs, line by line; on CuPy, all lines are CuPy's.
9. A call looks whether all that the step read in Python is as it was, and records again if not;
   arrays and numbers that change from step to step are inputs (compiled.py, run.py).
10. Whatever can't be recorded is refused, with the line that does it, and nothing has changed.

On a GPU the program is one launch per line. To capture it as a CUDA graph, its arrays need fixed
addresses (arguments copied to fixed places, results written over the state) and its numbers, such
as the learning rate, have to be arrays on the device; lines wait for nothing, so the rest is ready.
"""

from tinybn.program.compiled import Compiled, compile, program
from tinybn.program.line import Line
from tinybn.program.passes import exact, relaxed, without_dead
from tinybn.program.recorded import RecordingError
from tinybn.program.source import Program

__all__ = [
    "Compiled",
    "Line",
    "Program",
    "RecordingError",
    "compile",
    "exact",
    "program",
    "relaxed",
    "without_dead",
]

"""The program that autodiff wrote: a training step as a list of lines, to read, prove and run.

1. Recorded arrays are a third kind of array, beside NumPy's and CuPy's. They hold no numbers: each
   operation on them writes a line of a program (recorded.py, library.py).
2. A step runs on such arrays, through the same layers, rules, walk and optimizers as in eager mode.
   It finds them in the models, and leaves the program's results there (state.py, step.py).
3. A line knows which code wrote it, and is named after the variable in that formula (origin.py,
   recording.py).
4. A piece of NumPy source is the only definition of what a line computes (line.py), so the printed
   program is the program, and runs as it is printed (source.py).
5. Passes shorten a program. They move constant factors out of sums, which leaves the composition of
   batch norm with the two sums of its closed form (passes.py).
6. Lines that run over the same elements share a *nest* of loops, which is plain Python for Numba
   (plan.py, nest.py). A nest contains no shapes and no constants, so networks share their nests.
7. What runs is a table: which compiled functions, on which memory, in which order (machine.py).
8. NumPy runs the lines that loops can't compute, one by one. For CuPy arrays, CuPy runs every line.
9. Each call checks that everything the step read in Python is unchanged, and otherwise records
   again. Arrays and numbers that change from step to step are inputs (compiled.py, run.py).
10. A step that can't be recorded raises an error that names the line to blame, and nothing has
    changed.

On a GPU, each line launches at least one kernel, and no line waits for the device. As a CUDA graph
(capture.py), the whole program is one launch; cublas.py has the matrix products that CuPy refuses
to capture.
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

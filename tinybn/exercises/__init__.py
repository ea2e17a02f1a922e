"""Exercises on batch norm, and a checker that compares each answer with the recorded graph.

`python -m tinybn exercises` writes the learner's file and checks it (command.py). The file is made
from `solved.py` (text.py). The checker runs it (learner.py) on batches that tinybn has recorded
(recorded.py, tasks.py), and says what is wrong (judge.py, mistakes/, hints.py).
"""

from tinybn.exercises.command import check, main

__all__ = ["check", "main"]

"""Everything about tinybn that only a GPU can show, checked and timed in one run."""

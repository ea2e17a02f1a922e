"""The microscope."""
from tinybn.microscope.recorder import record
__all__=["record"]

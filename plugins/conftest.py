"""Shared by the tests of the distributions: one thread in each of pytest's two workers.

Networks this small only wait for other threads. The variable is read by torch when it is imported, and
by children.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

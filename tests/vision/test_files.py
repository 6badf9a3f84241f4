"""Each task is one file that fits on a page or two, to be read beside its paper."""

from __future__ import annotations

import inspect
from collections import Counter

from ssl_zoo.plugins.registry import registry

LONGEST = {"dino": 103, "pixpro": 103}
"""The lines of the files that are longer than 100."""


def test_each_method_has_one_file_of_at_most_a_hundred_lines() -> None:
    classes = [registry.load_task(name) for name in registry.tasks()]
    shipped = [cls for cls in classes if cls.__module__.startswith("ssl_zoo_vision.")]
    assert len(shipped) >= 41
    files = Counter(cls.__module__ for cls in shipped)
    assert {module for module, tasks in files.items() if tasks > 1} <= {"ssl_zoo_vision.supervised"}
    for cls in shipped:
        source = inspect.getsource(inspect.getmodule(cls))  # type: ignore[arg-type]
        assert len(source.splitlines()) <= LONGEST.get(cls.name, 100), cls.name

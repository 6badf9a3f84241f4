"""The names of ``ssl_zoo`` itself, on which users' scripts depend."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from importlib import import_module
from types import ModuleType

import ssl_zoo


def test_public_names_are_themselves_whatever_was_imported_before() -> None:
    # A sub-package named like a function would take its place once it is imported.
    for module in pkgutil.walk_packages(ssl_zoo.__path__, "ssl_zoo."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    for _ in range(2):
        for name in ssl_zoo.__all__:
            assert not isinstance(getattr(ssl_zoo, name), ModuleType), name


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, ssl_zoo, ssl_zoo.config as c; ssl_zoo.__version__; c.TrainConfig; "
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

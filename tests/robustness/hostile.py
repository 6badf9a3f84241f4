"""Files that execute something when they are read carelessly, and names that are markup."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

OPENING = {
    "checkpoint.pt": ("train", "views", "report", "eval"),
    "backbone.safetensors": ("embed", "export"),
}
"""The commands that read a file of a run."""


class Evil:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = str(canary)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.canary,)


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def two_faced(canary: Path) -> bytes:
    """Make a checkpoint at which PyTorch's safe reader fails before it sees the payload.

    An ordered dictionary is given a state that only pickle itself understands: who takes this error for
    one of another kind and reads the file once more, by pickle, executes the rest.
    """
    target = str(canary).encode()
    code = b"\x80\x02ccollections\nOrderedDict\n)RN}\x86b0cos\nmkdir\n"
    code += b"X" + struct.pack("<I", len(target)) + target + b"\x85R."
    sound, made = zipfile.ZipFile(io.BytesIO(saved({}))), io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name in sound.namelist():
            archive.writestr(name, code if name.endswith("data.pkl") else sound.read(name))
    return made.getvalue()


def array(canary: Path) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Evil(canary)], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def arrays(canary: Path) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=True, weight=np.array([Evil(canary)], dtype=object))
    return buffer.getvalue()


PAYLOADS: dict[str, Callable[[Path], bytes]] = {
    "pickle": lambda canary: pickle.dumps(Evil(canary)),
    "checkpoint": lambda canary: saved({"task": Evil(canary), "ema": None}),
    "old checkpoint": lambda canary: saved({"task": Evil(canary)}, _use_new_zipfile_serialization=False),
    "two-faced checkpoint": two_faced,
    "array": array,
    "arrays": arrays,
}
READERS: dict[str, Callable[[io.BytesIO], Any]] = {
    "pickle": pickle.load,
    "array": lambda file: np.load(file, allow_pickle=True),
    "arrays": lambda file: np.load(file, allow_pickle=True)["weight"],
}
"""Careless readers of the payloads; the others are read with `torch.load`."""


def commands(run: Path) -> dict[str, list[str | Path]]:
    return {
        "train": ["train", "--resume", run],
        "views": ["views", "--run", run, "-o", "views.png"],
        "report": ["report", run, "--map", "pca"],
        "eval": ["eval", run, "--protocol", "knn"],
        "embed": ["embed", run, "-o", "features.npz"],
        "export": ["export", run, "--to", "exported.safetensors"],
        "compare": ["compare", run],
    }


def contents(place: Path) -> dict[str, bytes]:
    """All files below a folder, and where links lead."""
    return {
        str(path.relative_to(place)): bytes(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in place.rglob("*")
        if path.is_symlink() or path.is_file()
    }  # fmt: skip


MARKUP = [
    "<script>document.title = 'pwned'</script>",
    "</title><script>document.title = 'pwned'</script>",
    "</style><script>document.title = 'pwned'</script>",
    "</svg><img src=x onerror=\"document.title = 'pwned'\">",
    '"><svg onload="document.title = \'pwned\'">',
    "' onmouseover='document.title = 1' x='",
    "<iframe srcdoc='<script>parent.document.title = 1</script>'>",
    "<a href=\"javascript:document.title = 'pwned'\">x</a>",
    "<meta http-equiv=refresh content='0;url=https://example.org'>",
    "<!-- --><base href=https://example.org>",
    "]]><script>document.title = 'pwned'</script>",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;script&gt;document.title = 'pwned'",
    "$\\href{javascript:alert(1)}{x}$",
    "\x1b]0;pwned\x07\x1b[2J",
]
"""Texts that no page may treat as markup."""
AS_FILE = [text.replace("/", "∕") for text in MARKUP]
"""The same as names of files and folders."""

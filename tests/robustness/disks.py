"""A small disk for tests that can be full, read-only, or gone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]
"""The command of a shell that may mount file systems without being root."""


class Disk:
    """A file system in memory, mounted in the namespace of a shell of its own.

    Args:
        place: an empty folder to mount it on.
        size: how much fits, in bytes.

    Attributes:
        path: where it can be reached.
    """

    def __init__(self, place: Path, size: int) -> None:
        self.place = place
        self.shell = subprocess.Popen(
            [*NAMESPACE, "sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.do(f"mount -t tmpfs -o size={size} tmpfs '{place}'")
        self.path = Path(f"/proc/{self.shell.pid}/root{place}")

    def do(self, command: str) -> None:
        """Run a command in the shell, and check that it succeeds."""
        assert self.shell.stdin is not None
        assert self.shell.stdout is not None
        self.shell.stdin.write(f"{command} >&2; echo $?\n")
        self.shell.stdin.flush()
        assert self.shell.stdout.readline() == "0\n", command

    def fill(self) -> Path:
        """Fill the disk to the last byte, and return the file to remove to make room again."""
        filler = self.path / "filler"
        with filler.open("wb", buffering=0) as file:
            for size in (2**16, 1):
                try:
                    while file.write(bytes(size)) == size:
                        pass
                except OSError:
                    pass
        return filler

    def become_read_only(self) -> None:
        """Make the disk read-only."""
        self.do(f"mount --bind '{self.place}' '{self.place}'")
        # It is refused while a file that was opened in between is written.
        remount = f"mount -o remount,bind,ro '{self.place}'"
        self.do(f'timeout 10 sh -c "until {remount}; do sleep 0.01; done"')

    def become_writable(self) -> None:
        """Make the disk writable again."""
        self.do(f"umount -l '{self.place}'")

    def close(self) -> None:
        """Unmount the disk and remove its folder."""
        assert self.shell.stdin is not None
        self.shell.stdin.close()
        self.shell.wait(timeout=10)


def need_disks() -> None:
    """Skip a test where the system does not let users mount file systems."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare, of util-linux")
    if subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs user namespaces, which this system does not permit")

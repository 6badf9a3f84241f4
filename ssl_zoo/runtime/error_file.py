"""The error of one of several processes, in the file in which torch's launcher looks for it.

Importing this module takes a few milliseconds, as a signal that comes meanwhile ends in a traceback.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

LAUNCHED = "SSL_ZOO_LAUNCHED"
"""The variable of processes whose launcher prints their errors for them."""
RENDEZVOUS = "SSL_ZOO_RENDEZVOUS"
"""The variable with the fields of a `ssl_zoo.runtime.launch.Rendezvous`, separated by spaces."""
_FILE = "TORCHELASTIC_ERROR_FILE"


class ErrorRecord(NamedTuple):
    """The error of a process.

    Attributes:
        message: the text.
        code: the exit code.
        consequence: whether another process's end has caused it.
        died: whether the process ended without an error of its own, as one that is killed does.
    """

    message: str
    code: int
    consequence: bool = False
    died: bool = False


def write_error(record: ErrorRecord) -> bool:
    """Write the error of this process where its launcher, if it has one, finds it.

    Returns:
        Whether the launcher prints it, so that this process must not.
    """
    file = os.environ.get(_FILE)
    if not file:
        return False
    facts = {"timestamp": str(int(time.time())), "consequence": record.consequence}
    # The format of torch.distributed.elastic, so that torchrun shows the message too.
    data = {"message": {"message": record.message, "errorCode": record.code, "extraInfo": facts}}
    with contextlib.suppress(OSError):
        with open(f"{file}.part", "w") as part:  # noqa: PTH123 (pathlib takes long to import)
            json.dump(data, part)
        os.replace(part.name, file)  # noqa: PTH105
        return LAUNCHED in os.environ
    return False


def parse_error(data: Mapping[str, Any]) -> ErrorRecord | None:
    """Return the error of a process from the content of its file; None if it has written none."""
    message = data.get("message")
    if not isinstance(message, dict) or "errorCode" not in message:
        return None
    consequence = bool(message["extraInfo"]["consequence"])
    return ErrorRecord(str(message["message"]), int(message["errorCode"]), consequence)

"""Tell somebody: POST to the webhook KB_ALERT_WEBHOOK, and run the command KB_ALERT_COMMAND.

Both receive the same JSON object, the command on its standard input. Whether there is something to
tell is decided elsewhere. Only the environment can name them: run config is open to others.
"""

import json
import os
import shlex
import subprocess
import urllib.request
from collections.abc import Mapping
from typing import Final

from kb_pipeline.errors import BadArgumentError
from kb_pipeline.storage.events import Event, tell

TIMEOUT_SECONDS: Final = 10
"""A receiver that takes longer than this must not hold up the sensors."""


def send_alert(message: Mapping[str, str]) -> list[str]:
    """Send a message to every receiver the environment names, and return their kinds.

    Raises:
        BadArgumentError: The webhook is no http or https address.
        OSError: A receiver did not take it.
        subprocess.SubprocessError: The command failed or took too long.
    """
    body = json.dumps(message).encode()
    told = []
    if address := os.environ.get("KB_ALERT_WEBHOOK", "").strip():
        _post(address, body)
        told.append("webhook")
    if command := os.environ.get("KB_ALERT_COMMAND", "").strip():
        subprocess.run(shlex.split(command), input=body, timeout=TIMEOUT_SECONDS, check=True)  # noqa: S603 - the operator's own
        told.append("command")
    tell(Event.ALERT_SENT, to=told, **{name: message[name] for name in ("run_id", "job") if name in message})
    return told


def _post(address: str, body: bytes) -> None:
    if not address.startswith(("https://", "http://")):
        raise BadArgumentError("KB_ALERT_WEBHOOK is no http:// or https:// address.")
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})  # noqa: S310 - checked above
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):  # noqa: S310 - checked above
        return

"""trio_rt in a session, on its second wire."""

from __future__ import annotations

from typing import Final

from . import Job
from .session_ours import send_job

JOBS: Final[dict[str, Job]] = {"acked sends": send_job("trio-websocket")}

"""trio_rt in a session, on its second wire."""

from __future__ import annotations

from typing import Final

from . import Job
from .session_ours import send_jobs

JOBS: Final[dict[str, Job]] = send_jobs("trio-websocket")

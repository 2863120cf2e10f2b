"""trio_rt on its second wire."""

from __future__ import annotations

from typing import Final

from . import Job
from .ours import jobs

JOBS: Final[dict[str, Job]] = jobs("trio-websocket")

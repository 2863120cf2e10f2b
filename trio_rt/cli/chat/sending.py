"""Files that this user sends: uploaded first, and then said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from ...chat._client.files import Upload, open_upload
from ...chat._client.transfers import FileCorrupted, FileRefused, StoredFile
from ...errors import AttemptsExhausted, HttpError, OptionError
from .desk import Desk
from .tab import Speech, Tab
from .text import fit_line, shortened

__all__ = ["Sender"]

#: Columns of a file's name in the status line.
NAME: Final = 20
#: What a server answers that has no place for files.
NO_FILES: Final = frozenset({404, 405, 426})
#: Uploads at once.
MOST: Final = 4


class Sender:
    """Uploads to the server at `base`, with this user's token."""

    def __init__(self, desk: Desk, base: str, token: str, changed: Callable[[], None]) -> None:
        self._desk: Final = desk
        self._base: Final = base
        self._token: Final = token or None
        self._changed: Final = changed

    async def send(self, tab: Tab, given: str, speech: Callable[[StoredFile], Speech]) -> None:
        """Upload a file, and say it in a room. Cancelled, or if it fails, nothing is said."""
        path = Path(given).expanduser()
        name = self._free_name(path)
        if len(self._desk.uploads) >= MOST:
            tab.timeline.note(f"{name} is not sent: {MOST} files are on their way", "error")
            return
        self._desk.uploads[name] = 0
        try:
            async with open_upload(self._base, path, token=self._token) as upload:
                await self._watch(name, upload)
                stored = await upload.file()
        except (
            OSError,
            OptionError,
            HttpError,
            FileRefused,
            FileCorrupted,
            AttemptsExhausted,
        ) as e:
            tab.timeline.note(f"{name} is not sent: {_why(e)}", "error")
        else:
            tab.say(speech(stored))
        finally:
            del self._desk.uploads[name]
            self._changed()

    async def _watch(self, name: str, upload: Upload) -> None:
        async for progress in upload:
            if progress.total:
                self._desk.uploads[name] = progress.sent * 100 // progress.total
                self._changed()

    def _free_name(self, path: Path) -> str:
        name = shortened(fit_line(path.name), NAME)
        while name in self._desk.uploads:
            name += "'"
        return name


def _why(error: Exception) -> str:
    if isinstance(error, FileRefused) and error.status in NO_FILES:
        return "this server takes no files"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return fit_line(str(error))

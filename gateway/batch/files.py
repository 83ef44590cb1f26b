"""Uploaded files and results: their bytes beside the store, each readable by its owner alone."""

import os
import time
from pathlib import Path

from .errors import FileInUse, FileNotKnown, FileTooLarge
from .store import Store, fresh
from .types import Purpose, StoredFile


class Files:
    """What is kept under `directory`; ids are paths nobody can guess or choose."""

    def __init__(self, store: Store, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._store = store
        self._directory = store.directory / "files"
        self._directory.mkdir(exist_ok=True, mode=0o700)

    def path(self, file_id: str) -> Path:
        """Where a file's bytes lie."""
        return self._directory / file_id

    def find(self, file_id: str, owner: str) -> StoredFile:
        """A file of this owner.

        Raises:
            FileNotKnown: there is none of that id, or it is somebody else's.
        """
        found = self._store.file(file_id, owner)
        if found is None:
            raise FileNotKnown(f"there is no file '{file_id[:80]}'", param="file_id")
        return found

    def located(self, file_id: str, owner: str) -> Path:
        """Where the bytes of a file of this owner lie.

        Raises:
            FileNotKnown: as `find`, or its bytes are gone.
        """
        self.find(file_id, owner)
        path = self.path(file_id)
        if not path.exists():
            raise FileNotKnown(f"the bytes of '{file_id}' are gone; upload them again", param="file_id")
        return path

    def listed(
        self, owner: str, purpose: str | None, after: str | None, limit: int, newest_first: bool
    ) -> list[StoredFile]:
        """A page of an owner's files."""
        return self._store.files(owner, purpose, after, limit, newest_first)

    def begin(self) -> "Upload":
        """A file whose bytes are still to come."""
        return Upload(self, fresh("file"))

    def keep(self, file_id: str, owner: str, name: str, purpose: Purpose) -> StoredFile:
        """Enter a file whose bytes lie where they should."""
        n_bytes = self.path(file_id).stat().st_size
        file = StoredFile(file_id, owner, name, purpose, n_bytes, int(time.time()))
        self._store.add_file(file)
        return file

    def delete(self, file_id: str, owner: str) -> None:
        """Forget a file and its bytes.

        Raises:
            FileNotKnown: as `find`.
            FileInUse: a batch still reads it.
        """
        self.find(file_id, owner)
        if (batch_id := self._store.uses(file_id)) is not None:
            raise FileInUse(f"'{file_id}' is read by {batch_id}; cancel that first", param="file_id")
        self._store.drop_file(file_id)
        self.path(file_id).unlink(missing_ok=True)


class Upload:
    """Bytes that come in pieces and go to disk at once; gone again unless they are kept."""

    def __init__(self, files: Files, file_id: str) -> None:
        self.id = file_id
        self.n_bytes = 0
        self._files = files
        self._path = files.path(file_id)
        self._file = os.fdopen(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        self._kept = False

    def write(self, piece: bytes) -> None:
        """Raises:
        FileTooLarge: there are more of them than a file may have.
        """
        self.n_bytes += len(piece)
        if self.n_bytes > self._files.max_bytes:
            raise FileTooLarge(
                f"the file is larger than {self._files.max_bytes} bytes (batches.max_file_bytes)",
                param="file",
            )
        self._file.write(piece)

    def keep(self, owner: str, name: str, purpose: Purpose) -> StoredFile:
        """All bytes are there."""
        self._file.close()
        file = self._files.keep(self.id, owner, name, purpose)
        self._kept = True
        return file

    def close(self) -> None:
        """Leave nothing behind of what was not kept."""
        self._file.close()
        if not self._kept:
            self._path.unlink(missing_ok=True)

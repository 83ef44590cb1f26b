"""Files and batches as values, and as OpenAI's objects."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from ..errors import BadRequest, EndpointNotFound, GatewayError

Purpose = Literal["batch", "batch_output"]
Status = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
LineOrder = Literal["input", "finished"]

ENDED: frozenset[Status] = frozenset({"failed", "completed", "expired", "cancelled"})
# Not NULL, which equals nothing in SQL: every query compares owners.
NO_OWNER = ""
"""The owner of files and batches if the gateway needs no key."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as its owner sees it; `created_at` and `expires_at` are seconds since 1970."""

    id: str
    owner: str
    name: str
    purpose: Purpose
    n_bytes: int
    created_at: int
    expires_at: int | None = None

    def to_openai(self) -> dict[str, Any]:
        """As OpenAI's file object."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.n_bytes,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }


class LineError(msgspec.Struct, frozen=True):
    """What is wrong with one line of an input file, counted from 1; None is the file as a whole."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One batch and its progress.

    Input is a stored file or, from the command line, a path; `input_mark` tells whether that has changed
    since. Results go to stored files, which are deleted after `output_expires_s`, or to `out_path`. `times`
    holds seconds since 1970 by what happened then: `created_at`, `in_progress_at` … `endpoint` is the one
    url allowed, None where lines may mix.
    """

    id: str
    owner: str = NO_OWNER
    endpoint: str | None = None
    input_file_id: str | None = None
    input_path: str = ""
    input_mark: str = ""
    out_path: str | None = None
    line_order: LineOrder = "input"
    window_s: float = 86_400.0
    window: str = "24h"
    max_usd: float | None = None
    metadata: Mapping[str, str] | None = None
    status: Status = "validating"
    errors: tuple[LineError, ...] = ()
    n_total: int = 0
    n_completed: int = 0
    n_failed: int = 0
    cost_usd: float = 0.0
    n_unpriced: int = 0
    output_bytes: int = 0
    error_bytes: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None
    output_expires_s: int | None = None
    times: Mapping[str, int] = field(default_factory=dict)

    @property
    def has_ended(self) -> bool:
        """Whether the batch is in a final status."""
        return self.status in ENDED

    @property
    def expires_at(self) -> float:
        """When open lines expire, in seconds since 1970."""
        return self.times.get("created_at", 0) + self.window_s

    def to_openai(self, waiting_for: str | None = None) -> dict[str, Any]:
        """As OpenAI's batch object; `thalamus` holds the fields that OpenAI's lacks.

        waiting_for: why it does not go on now.
        """
        errors = [msgspec.to_builtins(error) for error in self.errors]
        moments = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "errors": {"object": "list", "data": errors} if errors else None,
            "input_file_id": self.input_file_id,
            "completion_window": self.window,
            "status": self.status,
            "output_file_id": self.output_file_id if self.has_ended and self.output_bytes else None,
            "error_file_id": self.error_file_id if self.has_ended and self.error_bytes else None,
            "created_at": self.times.get("created_at"),
            "expires_at": int(self.expires_at),
            **{f"{moment}_at": self.times.get(f"{moment}_at") for moment in moments},
            "request_counts": {
                "total": self.n_total,
                "completed": self.n_completed,
                "failed": self.n_failed,
            },
            "metadata": self.metadata,
            "thalamus": {
                # Rounding hides the float error of a sum of thousands of small costs.
                "cost_usd": round(self.cost_usd, 10),
                "unpriced": self.n_unpriced,
                "max_usd": self.max_usd,
                "waiting_for": waiting_for,
            },
        }


class FileNotKnown(EndpointNotFound):
    code = "file_not_found"


class BatchNotKnown(EndpointNotFound):
    code = "batch_not_found"


class FileInUse(BadRequest):
    status = 409
    code = "file_in_use"


class BatchEnded(BadRequest):
    status = 409
    code = "batch_ended"


class FileTooLarge(BadRequest):
    status = 413
    code = "file_too_large"


class KeyStorageFull(BadRequest):
    """The files and results of one key take all bytes that they may."""

    status = 413
    code = "key_storage_full"


DISK_FULL = "the disk of this gateway is full (batches.path, journal.path, responses.path): make room there"


class StorageFull(GatewayError):  # noqa: N818
    """The files and results of all keys take all bytes that they may, or all that the disk has."""

    status = 507  # RFC 4918, section 11.5
    code: str | None = "storage_full"

    def headers(self) -> list[tuple[bytes, bytes]]:
        # OpenAI's clients ask again after any 5xx, which would send gigabytes once more.
        return [*super().headers(), (b"x-should-retry", b"false")]

"""What can be wrong with files and batches as a whole."""

from ..errors import BadRequest, EndpointNotFound


class StoreError(Exception):
    """The store cannot be opened; the message says what to do."""


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

"""The one exception that is shown to a user as a sentence instead of a traceback."""

import errno


class ImageCapError(Exception):
    """Something the user can mend: the message names the file, row, field or setting and what to do.

    The command line prints it as `error: …` and exits with status 2; the served model answers with a 400.
    """


def disk_full(error: OSError) -> str | None:
    """A sentence for an error that says that there is no room to write; None for any other."""
    if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return None
    where = f" {error.filename}" if error.filename else ""
    return f"{(error.strerror or 'no room').lower()}: cannot write{where}; make room and run the same command again"

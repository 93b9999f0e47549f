"""How every command ends: an error of ours as one readable message and its exit code, never a traceback."""

import sys
from collections.abc import Callable
from typing import NoReturn

from wbc_common.errors import EXIT_INTERRUPTED, WbcError


def run_command(command: Callable[[], object]) -> NoReturn:
    """Run a command line to its exit. Errors of ours and full disks are told to stderr with the next step."""
    try:
        command()
    except WbcError as error:
        _leave(f"error: {error}", error.exit_code)
    except KeyboardInterrupt:
        _leave("interrupted", EXIT_INTERRUPTED)
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        _leave(
            f"error: {error.strerror or error}{place}\n  next step: check space and rights there", WbcError.exit_code
        )
    sys.exit(0)


def _leave(message: str, code: int) -> NoReturn:
    sys.stderr.write(message + "\n")
    sys.exit(code)

"""How every command ends: an error of ours as one readable message and its exit code, never a traceback."""

import signal
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


def interrupt_on_signals() -> None:
    """Let SIGTERM end a long command as Ctrl-C does, also where a shell or service manager had SIGINT ignored."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _leave(message: str, code: int) -> NoReturn:
    sys.stderr.write(message + "\n")
    sys.exit(code)

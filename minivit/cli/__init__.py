"""The command line: `minivit demo | train | evaluate | attack | gradcheck | exercises | bench | info`.

Thin on purpose: each command checks its words, calls the library as a script would, and prints. Read `commands.py` for
the small ones, `training.py`, and `demo.py` for the whole story in one command.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0, 1 if the work failed, 2 for a usage error, 130 after Ctrl-C.

    A mistake in the words, the data or the files is answered with one line, not with a traceback; `--traceback` shows it.
    """
    command = "minivit"
    try:
        from minivit.cli.arguments import parser

        arguments = parser().parse_args(argv)
        command = f"minivit {arguments.command}"
        code = int(arguments.run(arguments) or 0)
        if sys.stdout is not None:  # it may have been closed
            sys.stdout.flush()
        return code
    except KeyboardInterrupt as stop:
        print(f"\n{command}: {str(stop) or 'interrupted'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read has had enough, as `| head` does: no mistake; the rest has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except FloatingPointError as error:
        code = 1
        message: BaseException = error
    except MemoryError as error:
        code = 2
        message = MemoryError(f"there is not enough memory for this: {error}")
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        code = 2
        message = error
    if arguments.traceback:
        raise message
    print(f"{command}: error: {_one_line(message)}", file=sys.stderr)
    return code


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split())

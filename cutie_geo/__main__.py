"""Command line: `cutie-geo COMMAND`, or `python -m cutie_geo COMMAND`."""

from cutie_geo.interrupts import INTERRUPTED, TERMINATED, leave_at_once, leaves_at_once

if __name__ == "__main__":
    leave_at_once()  # before all other imports

import argparse
import io
import logging
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from cutie_geo import __version__
from cutie_geo.commands.help import short_help
from cutie_geo.commands.limits import add_limits, apply_limits
from cutie_geo.errors import reason

COMMANDS = (
    "infer",
    "app",
    "fuse",
    "prompt",
    "session",
    "refine",
    "segment",
    "train",
    "evaluate",
    "bench",
    "download",
    "doctor",
    "convert",
    "submit",
    "export",
    "curves",
    "ablate",
)
"""Modules of `cutie_geo.commands`, each imported when it is used.

At module level they import the standard library and configurations only, so that --help is fast."""
PROGRAM = "cutie-geo"
_NEGATIVE_LIST = re.compile(r"-[.0-9][-+.,0-9e]*,[-+.,0-9e]*")
"""Comma-separated numbers that begin with a minus sign."""

FAILED = 2
"""Exit status of user errors, the same as argparse's."""

log = logging.getLogger(__name__)

LOADING = "cutie_geo.checkpoints.load"
"""Logger that reports loaded files and the share of each that was used; always shown."""


class Parser(argparse.ArgumentParser):
    """Argument parser with one-line errors and suggestions for misspelt options; accepts no abbreviations."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)
        self.register("type", Path, given_path)

    def format_help(self) -> str:
        """Return the help; of a command with a group of common options, the help of these."""
        return short_help(self) or super().format_help()

    def error(self, message: str) -> NoReturn:
        unknown = [word.split("=")[0].rstrip(":") for word in message.split() if word.startswith("--")]
        unknown = [word for word in unknown if word not in self._option_string_actions]
        near = [match for word in unknown for match in get_close_matches(word, self._option_string_actions, n=1)]
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        self.exit(FAILED, f"error: {message}{hint} (see {self.prog} --help)\n")


def given_path(text: str) -> Path:
    """Return the path of an option. Refuses an empty text, which an unset shell variable gives: it would mean the
    working directory.
    """
    if not text:
        raise argparse.ArgumentTypeError("got an empty text, expected a path")
    return Path(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Raises:
        SystemExit: After --help, --version and invalid options, as argparse does.
    """
    escape_unprintable()
    if argv is None:  # run as a program, not called from Python
        leave_at_once()
        argv = sys.argv[1:]
    if argv and argv[0] in COMMANDS:
        return run_one(argv[0], argv[1:], f"{PROGRAM} {argv[0]}")
    parser = Parser(prog=PROGRAM, description="Video object segmentation with long-term memory.")
    _add_version(parser)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in COMMANDS:
        commands.add_parser(name, help=_command(name).HELP)
    parser.parse_args(argv)
    raise AssertionError("known commands are run above")


def _add_version(parser: Parser) -> None:
    version = f"{PROGRAM} {__version__}"
    parser.add_argument("--version", action="version", version=version, help="print the version and exit")


def _command(name: str) -> ModuleType:
    return import_module(f"cutie_geo.commands.{name}")


def run_one(name: str, argv: Sequence[str] | None = None, program: str | None = None) -> int:
    """Run one command as a separate program, as `infer.py` does, and return its exit status."""
    escape_unprintable()
    argv = sys.argv[1:] if argv is None else argv
    command = _command(name)
    if argv and argv[0] in getattr(command, "KINDS", ()):
        return run_one(f"{name}_{argv[0]}", argv[1:], f"{program or name} {argv[0]}")
    parser = Parser(prog=program, description=command.HELP)
    _add_version(parser)
    command.add_arguments(parser)
    add_limits(parser)
    args = parser.parse_intermixed_args(join_negative(argv))
    args.command_line = [parser.prog, *argv]
    return execute(command, args)


def join_negative(argv: Sequence[str]) -> list[str]:
    """Return `argv` with number lists that begin with a minus sign joined to the preceding option.

    argparse parses `-3,4` as an option; in `--point=-3,4` it is a value.
    """
    joined: list[str] = []
    for word in argv:
        if joined and _NEGATIVE_LIST.fullmatch(word) and joined[-1].startswith("--") and "=" not in joined[-1]:
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def escape_unprintable() -> None:
    """Make the standard streams escape characters that the console's encoding lacks, instead of raising an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # other streams, such as those of notebooks, accept any text
            stream.reconfigure(errors="backslashreplace")


def execute(command: ModuleType, args: argparse.Namespace) -> int:
    """Run a command and return its exit status; print user errors and interruptions on one line."""
    level = logging.INFO if getattr(args, "verbose", False) else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s: %(message)s", stream=sys.stderr)
    logging.getLogger(LOADING).setLevel(logging.INFO)
    try:
        with _signals_as_interrupts():
            apply_limits(args)
            return command.run(args)
    except (ValueError, OSError) as error:
        print(f"error: {reason(error, PROGRAM)}", file=sys.stderr)
        log.info("traceback:", exc_info=True)
        return FAILED
    except KeyboardInterrupt as interrupt:
        hint = "; the same command resumes" if getattr(command, "RESUMES", False) else ""
        print(f"interrupted{hint}", file=sys.stderr)
        return TERMINATED if isinstance(interrupt, Terminated) else INTERRUPTED


class Terminated(KeyboardInterrupt):
    """Raised on SIGTERM, for the same clean-up as after Ctrl-C."""


@contextmanager
def _signals_as_interrupts() -> Iterator[None]:
    """Make SIGINT raise KeyboardInterrupt and SIGTERM raise Terminated within the block.

    Does nothing outside the main thread, which alone may install signal handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(*_: Any) -> NoReturn:
        raise Terminated

    answers: dict[int, Any] = {signal.SIGTERM: leave}
    if leaves_at_once():
        answers[signal.SIGINT] = signal.default_int_handler
    before = {number: signal.signal(number, answer) for number, answer in answers.items()}
    try:
        yield
    finally:
        for number, answer in before.items():
            signal.signal(number, answer)


if __name__ == "__main__":
    sys.exit(main())

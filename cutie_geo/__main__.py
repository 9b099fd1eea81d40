"""The command line: `cutie-geo COMMAND`, or `python -m cutie_geo COMMAND`."""

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from types import ModuleType
from typing import Any, NoReturn

from cutie_geo.errors import reason

COMMANDS = (
    "infer",
    "fuse",
    "prompt",
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
"""Modules of `cutie_geo.commands`, each imported when it is asked for."""
PROGRAM = "cutie-geo"

FAILED = 2
"""Exit status of everything a user can put right, as of argparse's own errors."""
INTERRUPTED, TERMINATED = 130, 143
"""Exit statuses after SIGINT and SIGTERM, as shells give them."""

log = logging.getLogger(__name__)

LOADING = "cutie_geo.model.load"
"""Says which files were loaded, and how much of each was used: everybody should see that."""


class Parser(argparse.ArgumentParser):
    """An argument parser that complains in one line, takes no abbreviations and knows near misses."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        unknown = [word.split("=")[0] for word in message.split() if word.startswith("--")]
        unknown = [word for word in unknown if word not in self._option_string_actions]
        near = [match for word in unknown for match in get_close_matches(word, self._option_string_actions, n=1)]
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        self.exit(FAILED, f"error: {message}{hint} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status. Exits as argparse does after --help and wrong options."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in COMMANDS:
        return run_one(argv[0], argv[1:], f"{PROGRAM} {argv[0]}")
    parser = Parser(prog=PROGRAM, description="Video object segmentation with long-term memory.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in COMMANDS:
        commands.add_parser(name, help=_command(name).HELP)
    parser.parse_args(argv)
    raise AssertionError("known commands are run above")


def _command(name: str) -> ModuleType:
    return import_module(f"cutie_geo.commands.{name}")


def run_one(name: str, argv: Sequence[str] | None = None, program: str | None = None) -> int:
    """One command as a program of its own, which is what `infer.py` calls; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    command = _command(name)
    parser = Parser(prog=program, description=command.HELP)
    command.add_arguments(parser)
    args = parser.parse_intermixed_args(argv)
    args.command_line = [parser.prog, *argv]
    return execute(command, args)


def execute(command: ModuleType, args: argparse.Namespace) -> int:
    """Run a command. What the user can put right comes out as one line; an interruption says how to go on."""
    level = logging.INFO if getattr(args, "verbose", False) else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s: %(message)s", stream=sys.stderr)
    logging.getLogger(LOADING).setLevel(logging.INFO)
    try:
        with _sigterm_as_interrupt():
            return command.run(args)
    except (ValueError, OSError) as error:
        print(f"error: {reason(error, PROGRAM)}", file=sys.stderr)
        log.info("where that came from:", exc_info=True)
        return FAILED
    except KeyboardInterrupt as interrupt:
        goes_on = "; the same command goes on where it stopped" if getattr(command, "RESUMES", False) else ""
        print(f"interrupted{goes_on}", file=sys.stderr)
        return TERMINATED if isinstance(interrupt, Terminated) else INTERRUPTED


class Terminated(KeyboardInterrupt):
    """SIGTERM came: leave as cleanly as after Ctrl-C."""


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM raises Terminated within the block; only a main thread may set that up, others run as they are."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(*_: Any) -> NoReturn:
        raise Terminated

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())

"""The command line: `cutie-geo COMMAND`, or `python -m cutie_geo COMMAND`."""

import argparse
import logging
import sys
from collections.abc import Sequence
from types import ModuleType

from cutie_geo.commands import bench, doctor, download, infer

COMMANDS: dict[str, ModuleType] = {"infer": infer, "bench": bench, "download": download, "doctor": doctor}

FAILED = 2
"""Exit status of everything a user can put right, as of argparse's own errors."""
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    parser = argparse.ArgumentParser(prog="cutie-geo", description="Video object segmentation with long-term memory.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        command.add_arguments(commands.add_parser(name, help=command.HELP, description=command.HELP))
    return execute(parser, argv)


def run_one(name: str, argv: Sequence[str] | None = None) -> int:
    """One command as a program of its own: what `infer.py` calls."""
    command = COMMANDS[name]
    parser = argparse.ArgumentParser(description=command.HELP)
    command.add_arguments(parser)
    parser.set_defaults(command=name)
    return execute(parser, argv)


def execute(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> int:
    """Parse and run. What the user can put right comes out as one line; an interruption says how to go on."""
    args = parser.parse_intermixed_args(argv) if parser.get_default("command") else parser.parse_args(argv)
    level = logging.INFO if getattr(args, "verbose", False) else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        return COMMANDS[args.command].run(args)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())

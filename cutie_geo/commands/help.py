"""Short and complete help of commands with many options, and options under their earlier names."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

COMMON = "common options"
"""Title of the group of options that `--help` shows; `--help-all` shows the others too."""


class HelpAll(argparse.Action):
    """Print the help of all options and exit."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        """Print, and exit with status 0."""
        print(argparse.ArgumentParser.format_help(parser), end="")
        parser.exit()


class Renamed(argparse.Action):
    """Store the value of an option under its earlier name, with a warning that has the new one.

    Args:
        now: the new name of the option.
    """

    def __init__(self, option_strings: Sequence[str], dest: str, now: str, **options: Any) -> None:
        super().__init__(option_strings, dest, help=argparse.SUPPRESS, **options)
        self.now = now

    def __call__(self, parser: Any, args: Any, values: Any, option: str | None = None) -> None:
        """Warn, and store the value."""
        print(f"WARNING: {option} is now {self.now}; the earlier name will be removed", file=sys.stderr)
        setattr(args, self.dest, values)


def add_common(parser: argparse.ArgumentParser, usage: str) -> Any:
    """Add `--help-all` and a short usage line; return the group of the options that `--help` shows."""
    parser.usage = f"%(prog)s {usage}"
    parser.add_argument("--help-all", action=HelpAll, help="show all options and exit")
    return parser.add_argument_group(COMMON)


def add_shard(parser: Any, what: str) -> None:
    """Add `--shard`; `what` names the items that it partitions, and the handling of the parts."""
    parser.add_argument("--shard", metavar="I/N", help=f"for job arrays: part I of N (from 1) {what}")


def short_help(parser: argparse.ArgumentParser) -> str | None:
    """Return the help without the options outside the common group; None if the command has no such group."""
    common = next((group for group in parser._action_groups if group.title == COMMON), None)
    if common is None:
        return None
    shown = [parser._positionals, common]
    always = [
        action for action in parser._optionals._group_actions if isinstance(action, (argparse._HelpAction, HelpAll))
    ]
    kept = {id(action) for group in shown for action in group._group_actions} | {id(action) for action in always}
    rest = [a for a in parser._actions if id(a) not in kept and a.help != argparse.SUPPRESS]
    formatter = parser._get_formatter()
    formatter.add_usage(parser.usage, [], [])
    formatter.add_text(parser.description)
    for group in shown:
        formatter.start_section(group.title)
        formatter.add_arguments(group._group_actions)
        formatter.end_section()
    formatter.add_text(f"{len(rest)} more options: {parser.prog} --help-all")
    return formatter.format_help()

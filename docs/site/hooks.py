"""Hooks of mkdocs: the menu of existing pages, and the references made from the code."""

import argparse
import re
from importlib import import_module
from pathlib import Path
from typing import Any

CLI_MARK, PYTHON_MARK = "<!-- command line -->", "<!-- python -->"


def on_config(config: Any) -> Any:
    """Leave pages that do not exist out of the menu."""
    config["nav"] = existing(config["nav"], Path(config["docs_dir"]))
    return config


def existing(entries: list[Any], docs: Path) -> list[Any]:
    """Return the entries of a menu whose pages exist."""
    kept: list[Any] = []
    for entry in entries:
        ((title, target),) = entry.items()
        if isinstance(target, list):
            inner = existing(target, docs)
            kept += [{title: inner}] if inner else []
        elif (docs / target).is_file():
            kept.append(entry)
    return kept


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the references."""
    if CLI_MARK in markdown:
        markdown = markdown.replace(CLI_MARK, command_line())
    return markdown.replace(PYTHON_MARK, python_names()) if PYTHON_MARK in markdown else markdown


# ------------------------------------------------------------------------------------------------------------- Python
def python_names() -> str:
    """Return a mkdocstrings block for each public name, by its module."""
    import cutie_geo

    return "\n\n".join(f"::: cutie_geo.{cutie_geo._HOMES[name]}.{name}" for name in cutie_geo.__all__)


# ------------------------------------------------------------------------------------------------------- command line
def command_line() -> str:
    """Return a section for each command, with a table of its options."""
    from cutie_geo.__main__ import COMMANDS

    sections = []
    for name in COMMANDS:
        command = import_module(f"cutie_geo.commands.{name}")
        kinds = getattr(command, "KINDS", ())
        if not kinds:
            sections.append(section(name, command))
        for kind in kinds:
            sections.append(section(f"{name} {kind}", import_module(f"cutie_geo.commands.{name}_{kind}")))
    return "\n\n".join(sections)


def section(name: str, command: Any) -> str:
    """Return the heading, the description and the options of one command."""
    parser = argparse.ArgumentParser(prog=f"cutie-geo {name}", description=command.HELP)
    command.add_arguments(parser)
    end = "" if command.HELP.endswith(".") else "."
    lines = [f"## {name}", "", f"{command.HELP[0].upper()}{command.HELP[1:]}{end}", ""]
    groups = [group for group in parser._action_groups if options(group)]
    lines += ["| option | meaning |", "| --- | --- |"]
    for group in sorted(groups, key=lambda group: group in parser._action_groups[:2]):  # unnamed groups last
        lines += [f"| {usage(action)} | {meaning(action)} |" for action in options(group)]
    return "\n".join(lines)


def options(group: Any) -> list[argparse.Action]:
    """Return the documented options of a group."""
    return [a for a in group._group_actions if a.dest != "help" and a.help != argparse.SUPPRESS]


def usage(action: argparse.Action) -> str:
    """Return an option as it is typed."""
    value = action.metavar or ("" if action.nargs == 0 else action.dest.upper())
    value = " ".join(value) if isinstance(value, tuple) else value
    if action.choices:
        value = "\\|".join(map(str, action.choices)) if len(list(action.choices)) < 7 else value
    if not action.option_strings:
        return ", ".join(f"`{choice}`" for choice in action.choices or [value])
    names = ", ".join(f"`{option}`" for option in action.option_strings)
    return f"{names} {escaped(str(value))}".strip()


def meaning(action: argparse.Action) -> str:
    """Return the help of an option on one line."""
    text = (action.help or "").replace("%%", "%")
    text = re.sub(r"%\((\w+)\)s", lambda found: str(getattr(action, found[1], "")), text)
    return escaped(" ".join(text.split()))


def escaped(text: str) -> str:
    """Return text whose bars and angle brackets stay within a cell of a table."""
    return re.sub(r"(?<!\\)\|", r"\\|", text).replace("<", "&lt;").replace("*", "\\*")

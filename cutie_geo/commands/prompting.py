"""Point and box options, shared by commands."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutie_geo.config import require
from cutie_geo.config.choices import PROMPT_MODEL

if TYPE_CHECKING:
    from cutie_geo.data.prompts import FramePrompts


class InOrder(argparse.Action):
    """Collects related options in command-line order."""

    def __call__(self, parser: Any, args: Any, values: Any, option: str | None = None) -> None:
        """Add the option's name and value to the list."""
        setattr(args, self.dest, [*(getattr(args, self.dest) or ()), (str(option).lstrip("-"), values)])


def add_prompts(group: Any, common: Any = None) -> None:
    """Add the options of point and box prompts, `--point` and `--box` to the group `common` if there is one."""
    for name, metavar, text in (
        ("frame", "NAME", "frame of the prompts after this option (default: the first)"),
        ("object", "ID", "object of the prompts after this option (default: 1)"),
        ("point", "X,Y[,LABEL]", "point in frame pixels; label 1 is positive (default), 0 negative"),
        ("box", "X0,Y0,X1,Y1", "box around the object"),
    ):
        where = common if common is not None and name in ("point", "box") else group
        where.add_argument(f"--{name}", dest="pointed", action=InOrder, metavar=metavar, help=text)
    group.add_argument("--prompts", type=Path, metavar="JSON", help="prompts in a file, by frame and object")
    group.add_argument("--prompt-model", metavar="NAME", help="SAM 2 model for prompts (default: the "
                       "prompt head of the model; without one the SAM 2 that segments or whose trunk the model has, "
                       f"else {PROMPT_MODEL})")  # fmt: skip
    group.add_argument("--prompt-weights", default="auto", metavar="W", help="auto, none, or a file")


def prompts_of(args: argparse.Namespace) -> dict[str, "FramePrompts"]:
    """Return the prompts of `add_prompts`' options by frame. Raises ValueError for invalid ones."""
    from cutie_geo.data.prompts import prompts_of_words, read_prompts

    require(not (args.pointed and args.prompts), "--prompts and --point, --box: expected one or the other")
    found = read_prompts(args.prompts) if args.prompts else prompts_of_words(args.pointed or ())
    unused = args.prompt_model is None and args.prompt_weights == "auto"
    require(bool(found) or unused, "--prompt-model, --prompt-weights: expected prompts with them")
    return found

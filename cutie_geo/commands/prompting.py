"""What commands that take points and boxes have in common: options, and what makes masks of them."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cutie_geo.config import require
from cutie_geo.data.prompts import FramePrompts, prompts_of_words, read_prompts
from cutie_geo.inference.methods import VideoModel
from cutie_geo.inference.prompts import Prompter, shared_prompts
from cutie_geo.inference.results import Report
from cutie_geo.model.sam2 import Sam2Model, load_sam2
from cutie_geo.model.sam2_prompts import PromptHead
from cutie_geo.model.weights import digest

PROMPT_MODEL = "sam2.1-hiera-large"
"""What makes masks of prompts for models that have no trunk of SAM 2's."""


class InOrder(argparse.Action):
    """Keeps options that are about each other in the order in which they were given."""

    def __call__(self, parser: Any, args: Any, values: Any, option: str | None = None) -> None:
        """Add the option's name and value to the list."""
        setattr(args, self.dest, [*(getattr(args, self.dest) or ()), (str(option).lstrip("-"), values)])


def add_prompts(group: Any) -> None:
    """Options that say where objects are, instead of masks."""
    for name, metavar, text in (
        ("frame", "NAME", "the frame that is pointed at after this (default: the first)"),
        ("object", "ID", "the object that is pointed at after this (default: 1)"),
        ("point", "X,Y[,LABEL]", "a point on it, or, with the label 0, beside it; in the frame's pixels"),
        ("box", "X0,Y0,X1,Y1", "a box around it"),
    ):
        group.add_argument(f"--{name}", dest="pointed", action=InOrder, metavar=metavar, help=text)
    group.add_argument("--prompts", type=Path, metavar="JSON", help="the same in a file, by frame and object")
    group.add_argument("--prompt-model", metavar="NAME", help="the SAM 2 that makes masks of prompts (default: the "
                       f"one that segments or whose trunk the model has, else {PROMPT_MODEL})")  # fmt: skip
    group.add_argument("--prompt-weights", default="auto", metavar="W", help="auto, none, or a file")


def prompts_of(args: argparse.Namespace) -> dict[str, FramePrompts]:
    """What `add_prompts`' options point at, by frame. Raises ValueError for what can't be."""
    require(not (args.pointed and args.prompts), "--prompts and --point, --box: wanted one or the other")
    found = read_prompts(args.prompts) if args.prompts else prompts_of_words(args.pointed or ())
    unused = args.prompt_model is None and args.prompt_weights == "auto"
    require(bool(found) or unused, "--prompt-model, --prompt-weights: wanted prompts with them")
    return found


def load_prompter(args: argparse.Namespace, models: Sequence[VideoModel]) -> tuple[Prompter, Report]:
    """What makes masks of prompts, and which that is: unless the user names another, a SAM 2 that is going to segment,
    or the one whose trunk a single model has, which is shared."""
    segments = next((model for model in models if isinstance(model, Sam2Model)), None)
    shared = shared_prompts(models[0]) if len(models) == 1 else None
    name = args.prompt_model or shared or (PROMPT_MODEL if segments is None else segments.name)
    if segments is None or args.prompt_model is not None or args.prompt_weights != "auto":
        sam2 = load_sam2(name, args.prompt_weights, models[0].device, "fp32")
    else:
        sam2 = segments
    own_trunk = name != shared
    weights = "none" if sam2.loaded_from is None else f"sha256 {digest(sam2.loaded_from, 'sha256')}"
    told = {"model": name, "weights": weights, "shares_trunk": not own_trunk}
    return Prompter(PromptHead(sam2, own_trunk)), told

"""`cutie-geo evaluate --protocol clicks`: measure the masks that a model makes of clicks and boxes."""

import argparse
from pathlib import Path
from typing import Any

from cutie_geo.config import require
from cutie_geo.config.choices import CLICK_PROTOCOL, DEFAULT_MODEL

DEFAULTS = {
    "prompt_model": None, "prompt_weights": "auto", "static": None, "sets": None, "dataset": None, "data_root": None,
    "videos": None, "every": 10, "limit": None, "clicks": 20,
}  # fmt: skip
"""Options that only this protocol has, with their defaults."""


def add_click_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that only this protocol has."""
    group = parser.add_argument_group(CLICK_PROTOCOL)
    group.add_argument("--prompt-model", metavar="NAME", help="SAM 2 to measure instead of the model's prompt head")
    group.add_argument("--prompt-weights", default="auto", metavar="W", help="auto, none, or a file")
    group.add_argument("--static", type=Path, metavar="DIR", help="folder of sets of images and masks, as for training")
    group.add_argument(
        "--sets", nargs="+", metavar="NAME[:N]", help="sets to score; NAME:N takes the last N images only"
    )
    group.add_argument("--dataset", metavar="NAME", help="videos with masks, whose frames are scored as images")
    group.add_argument("--data-root", type=Path, metavar="DIR", help="folder that holds the data set")
    group.add_argument("--videos", nargs="+", metavar="NAME", help="videos to score (default: all)")
    group.add_argument("--every", type=int, default=10, metavar="N", help="score every N-th frame (default: 10)")
    group.add_argument("--limit", type=int, metavar="N", help="maximum number of images of each set, evenly spaced")
    group.add_argument(
        "--clicks", type=int, default=20, metavar="N", help="maximum number of clicks on an object (default: 20)"
    )


def refuse_click_options(args: argparse.Namespace) -> None:
    """Raise ValueError for an option that only this protocol has."""
    got = "--compare" if args.compare else f"protocol {args.protocol}"
    for name, default in DEFAULTS.items():
        text = f"--{name.replace('_', '-')}: got {got}, expected --protocol {CLICK_PROTOCOL}"
        require(getattr(args, name) == default, text)


def run_clicks(args: argparse.Namespace) -> int:
    """Measure, print and write the report; return 0. Raises ValueError for missing images and models."""
    from cutie_geo.data.io_threads import write_json
    from cutie_geo.progress import watched
    from cutie_geo.runs.clicks import ClickOptions, click_lines, measure_clicks

    others = {
        "--gt": args.gt, "--pred": args.pred, "--sequences": args.sequences, "--lenient": args.lenient,
        "--all-frames": args.all_frames, "--meta": args.meta, "--unseen": args.unseen, "--workers": args.workers,
        "--frames": args.frames,
    }  # fmt: skip
    for name, value in others.items():
        require(value in (None, False), f"{name}: got protocol {CLICK_PROTOCOL}, which has no such option")
    options = ClickOptions(
        model=args.model or DEFAULT_MODEL, weights=args.weights or "auto", prompt_model=args.prompt_model,
        prompt_weights=args.prompt_weights, device=args.device or "auto", precision=args.precision or "auto",
        max_internal_size=args.max_internal_size, static=args.static, sets=tuple(args.sets or ()),
        dataset=args.dataset, data_root=args.data_root, videos=tuple(args.videos or ()), every=args.every,
        limit=args.limit, most=args.clicks, pictures=args.plots,
    )  # fmt: skip

    def keep(report: dict[str, Any]) -> None:
        if args.json:
            write_json(args.json, report)
        print("\n".join(click_lines(report)), flush=True)

    measure_clicks(options, watched("clicking", "image"), keep)
    for name, path in (("results", args.json), ("pictures", args.plots)):
        if path:
            print(f"{name}: {path}")
    return 0

"""`cutie-geo evaluate --protocol interactive`: score propagation with simulated corrections."""

import argparse

from cutie_geo.config import require
from cutie_geo.config.choices import CLICK_PROTOCOL, DEFAULT_MODEL

INTERACTIVE = "interactive"
"""Name of the protocol."""
MODEL_OPTIONS = {
    "model": DEFAULT_MODEL, "weights": "auto", "device": "auto", "precision": "auto", "max_internal_size": None,
}  # fmt: skip
"""Options of the model, with their defaults."""
OPTIONS = {"corrections": "clicks", "rounds": 3, "round_clicks": 3}
"""Options of this protocol alone, with their defaults."""


def add_interactive_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that only this protocol has."""
    group = parser.add_argument_group(f"{INTERACTIVE}: a box on the first frame, then corrections of the worst frames")
    group.add_argument(
        "--corrections",
        choices=("clicks", "masks"),
        help="simulated clicks (default), or true masks without a prompter",
    )
    group.add_argument("--rounds", type=int, metavar="N", help="number of corrected frames (default: 3)")
    group.add_argument(
        "--round-clicks", type=int, metavar="N", help="clicks on each object of a corrected frame (default: 3)"
    )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the model."""
    group = parser.add_argument_group(f"model ({INTERACTIVE}, {CLICK_PROTOCOL})")
    group.add_argument("--model", help=f"model that is measured (default: {DEFAULT_MODEL})")
    group.add_argument("--weights", help="its weights: auto, none, or a file")
    group.add_argument("--device", help="auto, cpu, cuda, cuda:1, mps")
    group.add_argument("--precision", help="auto, fp32, bf16, fp16")
    group.add_argument("--max-internal-size", type=int, metavar="N", help="shorter side that the network sees")


def refuse_interactive_options(args: argparse.Namespace, names: tuple[str, ...] = tuple(OPTIONS)) -> None:
    """Raise ValueError for an option that only this protocol has."""
    for name in names:
        require(getattr(args, name) is None, f"--{name.replace('_', '-')}: expected --protocol {INTERACTIVE} with it")


def run_interactive(args: argparse.Namespace) -> int:
    """Run the benchmark, print and write the report; return 0. Raises ValueError."""
    from cutie_geo.data.io_threads import write_json
    from cutie_geo.progress import watched
    from cutie_geo.runs.interactive import InteractiveOptions, interactive, report_lines

    require(args.gt is not None, "--gt: expected a folder of masks")
    for name in ("pred", "lenient", "all_frames", "meta", "unseen", "plots", "base", "allow_void", "vc", "pictures"):
        given = getattr(args, name) not in (None, False)
        require(not given, f"--{name.replace('_', '-')}: got protocol {INTERACTIVE}, which has no such option")
    defaults = MODEL_OPTIONS | OPTIONS
    chosen = {name: other if getattr(args, name) is None else getattr(args, name) for name, other in defaults.items()}
    report = interactive(
        InteractiveOptions(args.gt, args.frames, args.sequences, **chosen), watched("sequences", "sequence")
    )
    if args.json:
        write_json(args.json, report)
    print("\n".join(report_lines(report)))
    if args.json:
        print(f"results: {args.json}")
    return 0

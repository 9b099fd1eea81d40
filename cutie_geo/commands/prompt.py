"""`cutie-geo prompt`: make masks from points and boxes for inspection."""

import argparse
from pathlib import Path

from cutie_geo.commands.prompting import add_prompts, prompts_of
from cutie_geo.config.choices import DEFAULT_MODEL

HELP = "make masks and overlay images from points and boxes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("video and prompts")
    what.add_argument("--video", type=Path, required=True, help="a video file or a folder of frames")
    add_prompts(what)
    how = parser.add_argument_group("how")
    how.add_argument(
        "--model", default=DEFAULT_MODEL, help="model that will segment the video; its trunk is shared if possible"
    )
    how.add_argument("--weights", default="auto", help="its weights: auto, none, or a file")
    how.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    how.add_argument("--precision", default="auto", help="auto, fp32, bf16, fp16")
    how.add_argument("--max-internal-size", "--size", type=int, metavar="N", help="as for infer")
    parser.add_argument(
        "--output", "-o", type=Path, default=Path("prompted"), help="folder of masks (default: prompted)"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")


def run(args: argparse.Namespace) -> int:
    """Write a mask and an overlay image for each frame with prompts, as input for `infer --mask`; return 0."""
    from cutie_geo.data.masks import MAX_PALETTE_ID
    from cutie_geo.runs.prompts import HEAD, PICTURES, PromptOptions, write_prompt_masks

    options = PromptOptions(
        args.video, prompts_of(args), args.output, args.model, args.weights, args.prompt_model, args.prompt_weights,
        args.device, args.precision, args.max_internal_size,
    )  # fmt: skip
    ids: set[int] = set()
    for number, mask in enumerate(write_prompt_masks(options)):
        if number == 0:
            maker, shares = mask.described["model"], mask.described["shares_trunk"]
            through = f", through {args.model}'s trunk" if shares else ""
            print(f"masks by the prompt head of {args.model}" if maker == HEAD else f"masks by {maker}{through}")
        ids |= mask.areas.keys()
        print(f"{mask.path}: " + ", ".join(f"object {i}: {area} pixels" for i, area in mask.areas.items()))
    more = " --long-ids" if max(ids) > MAX_PALETTE_ID else ""
    print(f"look at {args.output / PICTURES}, then: infer --video {args.video} --mask {args.output}{more}")
    return 0

"""`cutie-geo prompt`: the masks that points and boxes stand for, to look at before a video is segmented."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image

from cutie_geo.commands.infer import DEFAULT_MODEL, DEFAULT_SIZE
from cutie_geo.commands.models import fitted
from cutie_geo.commands.prompting import add_prompts, load_prompter, prompts_of
from cutie_geo.config import require
from cutie_geo.data.background import atomic_write
from cutie_geo.data.masks import MAX_PALETTE_ID, write_labels
from cutie_geo.data.overlay import draw
from cutie_geo.data.prompts import FramePrompts
from cutie_geo.data.video import open_source, read_frames
from cutie_geo.inference.options import RunOptions
from cutie_geo.inference.sam2_tracker import Sam2Tracker
from cutie_geo.inference.tracker import Tracker
from cutie_geo.model.load import load_model
from cutie_geo.model.sam2 import Sam2Model, is_sam2, load_sam2
from cutie_geo.ops import nearest_labels
from cutie_geo.structures import Frame

HELP = "make masks of points and boxes, and pictures of them"
PICTURES = "pictures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    what = parser.add_argument_group("what is pointed at, and where")
    what.add_argument("--video", type=Path, required=True, help="a video file or a folder of frames")
    add_prompts(what)
    how = parser.add_argument_group("how")
    how.add_argument("--model", default=DEFAULT_MODEL, help="the model that will segment; its trunk is used if it fits")
    how.add_argument("--weights", default="auto", help="of that model: auto, none, or a file")
    how.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    how.add_argument("--precision", default="auto", help="auto, fp32, bf16, fp16")
    how.add_argument("--size", type=int, help="as of infer")
    parser.add_argument("--output", type=Path, default=Path("prompted"), help="folder of masks (default: prompted)")
    parser.add_argument("-v", "--verbose", action="store_true", help="say more")


def run(args: argparse.Namespace) -> int:
    """Write a mask for each frame that is pointed at, as `infer --mask` takes them, and a picture of it; returns 0."""
    prompts = prompts_of(args)
    require(bool(prompts), "prompt: nothing points at anything, wanted --point, --box or --prompts")
    clash = args.output.resolve() == args.video.resolve()
    require(not clash, f"--output: masks would overwrite the frames in {args.output}; wanted another folder")
    options = RunOptions(size=DEFAULT_SIZE if args.size is None else args.size)
    next(_prompted_frames(args, prompts, options.size))  # what is wrong with prompts is said before anything is loaded
    load = load_sam2 if is_sam2(args.model) else load_model
    model = load(args.model, args.weights, args.device, args.precision)
    prompter, told = load_prompter(args, [model])
    method = Sam2Tracker(model) if isinstance(model, Sam2Model) else Tracker(model, max_internal_size=-1)
    shared = f", through {args.model}'s trunk" if told["shares_trunk"] else ""
    print(f"masks by {told['model']}{shared}")
    long_ids = any(i > MAX_PALETTE_ID for objects in prompts.values() for i in objects)
    for frame in _prompted_frames(args, prompts, fitted(args, [model], options).size):
        with torch.inference_mode():
            mask, _ = prompter.given(method, frame)
        assert frame.size is not None, "frames of files have the file's size"
        labels = nearest_labels(torch.from_numpy(mask.labels), frame.size).numpy()
        path = args.output / f"{frame.name}.png"
        write_labels(path, labels, long_ids=long_ids)
        assert frame.source is not None, "pictures are asked for"
        with atomic_write(args.output / PICTURES / f"{frame.name}.jpg") as part:
            Image.fromarray(draw(frame.source, labels)).save(part, format="JPEG", quality=92)
        areas = ", ".join(f"object {i}: {int((labels == i).sum())} pixels" for i in mask.ids)
        print(f"{path}: {areas}")
    more = " --long-ids" if long_ids else ""
    print(f"look at {args.output / PICTURES}, then: infer --video {args.video} --mask {args.output}{more}")
    return 0


def _prompted_frames(args: argparse.Namespace, prompts: dict[str, FramePrompts], size: int) -> Iterator[Frame]:
    """The frames of the video that are pointed at, shrunk to the shorter side `size`."""
    source = open_source(args.video)
    for frame in read_frames(source, size=size, keep_source=True, prompts=prompts):
        if frame.prompts:
            yield frame

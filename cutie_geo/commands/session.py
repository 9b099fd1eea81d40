"""`cutie-geo session`: list, export and replay a session folder."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from cutie_geo.config import require

if TYPE_CHECKING:
    from cutie_geo.inference.session.status import Frames
    from cutie_geo.runs.session import Session

HELP = "list, export and replay an annotation session"
SHOWN = 20
"""Number of actions that are listed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="folder of the session")
    parser.add_argument("--video", type=Path, help="path of the video, if it was moved")
    parser.add_argument("--json", action="store_true", help="list as JSON")
    export = parser.add_argument_group("export")
    export.add_argument("--export", metavar="FORMAT", help="write the masks: davis, coco, cvat, ... as `export masks`")
    export.add_argument("--output", "-o", type=Path, metavar="DIR", help="folder of --export or --replay")
    replay = parser.add_argument_group("replay")
    replay.add_argument(
        "--replay", action="store_true", help="do all actions again in a new session, for example with another model"
    )
    replay.add_argument("--model", help="another model (default: that of the session)")
    replay.add_argument("--weights", help="its weights: auto, none, or a file")
    replay.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    replay.add_argument("--precision", default="auto", help="auto, fp32, bf16, fp16")
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")


def run(args: argparse.Namespace) -> int:
    """List, export or replay; return 0. Raises ValueError."""
    from cutie_geo.runs.session import Session

    require(not (args.export and args.replay), "--export and --replay: expected one of them")
    wanted = bool(args.export or args.replay)
    require((args.output is not None) == wanted, "--output: expected with --export or --replay, and only with them")
    used = args.replay or (args.model is None and args.weights is None)
    require(used, "--model, --weights: expected --replay with them")
    options = {"video": args.video, "device": args.device, "precision": args.precision}
    with Session.load(args.folder, **options) as session:
        if args.export:
            files = session.export(args.output, args.export)
            print(f"{args.export}: {len(files)} files\nresults: {args.output.resolve()}")
        elif args.replay:
            with session.replay(args.output, args.model, weights=args.weights) as copy:
                print("\n".join(_lines(copy)))
            print(f"results: {args.output.resolve()}")
        elif args.json:
            status = session.status()._asdict()
            print(json.dumps({"video": session.video_name, **status, "actions": session.history()}))
        else:
            print("\n".join(_lines(session)))
    return 0


def _lines(session: "Session") -> list[str]:
    """Return the lines that describe a session."""
    status = session.status()
    lines = [f"video: {session.video_name}, {status.frames} frames of {session.size[1]}x{session.size[0]}"]
    for object_id, name in status.objects.items():
        lines.append(f"object {object_id} ({name}): prompted on {_shown(status.prompted[object_id])}")
    for name in ("locked", "propagated", "stale", "missing"):
        frames = getattr(status, name)
        lines.append(f"{name}: {len(frames)} frames" + (f", {_shown(frames)}" if frames else ""))
    actions = session.history()
    lines.append(f"actions: {len(actions)}" + (f", the last {SHOWN}:" if len(actions) > SHOWN else ""))
    for action in actions[-SHOWN:]:
        words = [f"{key} {value}" for key, value in action.items() if key != "do" and value not in (None, [])]
        lines.append(f"  {action['do']} {', '.join(words)}".rstrip())
    return lines


def _shown(frames: "Frames") -> str:
    """Return frames as ranges, with both ends."""
    return ", ".join(str(a) if b == a + 1 else f"{a}-{b - 1}" for a, b in frames.ranges) or "none"

"""`cutie-geo export onnx`: export a network to ONNX graphs, which run without torch."""

import argparse
from pathlib import Path

from cutie_geo.config import preset_names, require
from cutie_geo.config.choices import DEFAULT_MODEL

HELP = "write a model as ONNX graphs for programs without torch, and for browsers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, help=f"{', '.join(preset_names())}, a YAML file or a folder (default: "
        f"{DEFAULT_MODEL})",
    )  # fmt: skip
    parser.add_argument(
        "--weights", default="auto", help="auto (bundled, cached or downloaded), none (random), or a file"
    )
    parser.add_argument("--size", required=True, metavar="HxW", help="height and width of frames, such as 288x512")
    parser.add_argument("--output", "-o", type=Path, required=True, metavar="DIR", help="folder to write into")
    parser.add_argument("--precision", choices=["fp32", "fp16"], default="fp32", help="default: fp32")
    parser.add_argument("--max-mem-frames", type=int, metavar="N", help="frames in working memory (default: 5)")
    parser.add_argument("--permanent-frames", type=int, metavar="N", help="frames in permanent memory (default: 1)")
    parser.add_argument("--max-objects", type=int, metavar="N", help="objects that a tracker accepts (default: 64)")
    parser.add_argument("--top-k", type=int, metavar="K", help="memory tokens read per position (default: the model's)")
    parser.add_argument(
        "--prompt-points", type=int, metavar="N", help="clicks that the prompt head takes (default: 16)"
    )
    parser.add_argument(
        "--check", action="store_true", help="run both programs on the bundled clip and print the largest difference"
    )
    parser.add_argument("--check-frames", type=int, default=12, metavar="N", help="frames of --check (default: 12)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="model options")
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")


def run(args: argparse.Namespace) -> int:
    """Export, and compare if requested; return 0. Raises ValueError, also for a difference that is too large."""
    from cutie_geo.checkpoints.load import load_model
    from cutie_geo.export.onnx_folder import OnnxOptions, export_onnx
    from cutie_geo.runs.benchmark.inputs import parse_size

    given = {
        name: getattr(args, name)
        for name in ("max_mem_frames", "permanent_frames", "max_objects", "top_k", "prompt_points")
    }
    options = OnnxOptions(parse_size(args.size), **{name: n for name, n in given.items() if n is not None})
    require(args.check_frames >= 4, f"--check-frames: got {args.check_frames}, expected at least 4")
    model = load_model(args.model, args.weights, "cpu", args.precision, args.overrides)
    described = export_onnx(model, args.model, args.output, options, lambda line: print(line, flush=True))
    memory = described["memory"]
    print(f"memory: {memory['capacity']} tokens of each object, opset {described['opset']}, {args.precision}")
    if args.check:
        from cutie_geo.runs.onnx_check import check

        reference = model
        if args.precision != "fp32":
            reference = load_model(args.model, args.weights, "cpu", "fp32", args.overrides)
        result = check(reference, args.output, args.check_frames)
        print(result.text())
        result.require_close(args.precision)
    print(f"results: {args.output.resolve()}")
    return 0

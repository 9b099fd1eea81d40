"""`cutie-geo bench`: speed and memory of segmentation, of training clips and of training steps."""

import argparse
import shlex
from pathlib import Path

from cutie_geo.config import preset_names, require
from cutie_geo.config.choices import DEFAULT_MODEL

HELP = "measure speed and memory"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--flops", action="store_true", help="count GFLOP and time of each part of the network")
    parser.add_argument(
        "--suite", choices=["gpu"], help="gpu: the paper's model in bf16 with 1, 5 and 20 objects, and its ensemble"
    )
    parser.add_argument("--prompts", action="store_true", help="measure encoding a frame and the mask of a click")
    parser.add_argument("--lookahead", type=int, default=4, metavar="N", help="for --suite: frames per batch")
    parser.add_argument(
        "--peak-tflops", type=float, default=790.0, metavar="X", help="for --suite: the device's peak (default: 790)"
    )
    parser.add_argument(
        "--onnx", type=Path, metavar="DIR", help="compare exported graphs with their network, frame by frame in turns"
    )
    parser.add_argument("--compile", action="store_true", help="compile the network first")
    parser.add_argument("--model", help=f"{', '.join(preset_names())}, or a YAML file (default: {DEFAULT_MODEL})")
    parser.add_argument("--weights", default="none", help="auto, none (default; the speed is the same), or a file")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--precision", nargs="+", default=[], help="one or more of auto, fp32, bf16, fp16")
    parser.add_argument("--objects", nargs="+", type=int, default=[], help="numbers of objects (default: 1 5)")
    parser.add_argument("--frames", nargs="+", type=int, default=[], help="video lengths, 4 or more (default: 23)")
    parser.add_argument("--size", nargs="+", default=["480x854"], help="frame sizes, HEIGHTxWIDTH (default: 480x854)")
    parser.add_argument("--cpu-threads", type=int, help="torch threads on the CPU")
    parser.add_argument("--json", type=Path, help="write the report to this file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="tracker or model options")

    clips = parser.add_argument_group("training clips")
    clips.add_argument("--data", action="store_true", help="measure the throughput of training clips")
    clips.add_argument("--config", help="a training stage or its YAML file (default: short rendered clips)")
    clips.add_argument("--data-root", type=Path, help="folder of the stage's data sets")
    clips.add_argument("--workers", nargs="+", type=int, default=[], help="worker processes (default: 0, 1, all cores)")
    clips.add_argument("--clips", type=int, default=32, metavar="M", help="clips per measurement (default: 32)")

    training = parser.add_argument_group("training steps")
    training.add_argument("--training", metavar="STAGE", help="measure steps of a stage, or of its YAML file, on noise")
    training.add_argument("--steps", type=int, default=10, help="measured steps (default: 10)")


def run(args: argparse.Namespace) -> int:
    """Measure, print and write the report; return 0. Raises ValueError."""
    from cutie_geo.data.io_threads import write_json
    from cutie_geo.runs.benchmark import run as benchmarks

    program, *arguments = args.command_line
    overrides, command = tuple(args.overrides), f"{program} {shlex.join(arguments)}".rstrip()
    asked = {"--data": args.data, "--training": args.training, "--flops": args.flops, "--suite": args.suite,
             "--prompts": args.prompts, "--onnx": args.onnx}  # fmt: skip
    names = [name for name, value in asked.items() if value]
    require(len(names) <= 1, f"{' and '.join(names)}: expected only one of them")

    def say(line: str) -> None:
        print(line, flush=True)

    if args.data:
        clips = benchmarks.ClipBenchOptions(
            args.config, args.data_root, tuple(args.workers), args.clips, overrides, command
        )
        report = benchmarks.benchmark_clips(clips, say)
    elif args.onnx is not None:
        from cutie_geo.runs.benchmark.onnx import OnnxBenchOptions, benchmark_onnx

        report = benchmark_onnx(
            OnnxBenchOptions(
                args.onnx, args.model, args.weights, tuple(args.objects) or (1, 3), next(iter(args.frames), 20),
                args.cpu_threads, overrides, command,
            ),
            say,
        )  # fmt: skip
    elif args.training is not None:
        steps = benchmarks.TrainingBenchOptions(
            args.training, args.model, args.device, next(iter(args.precision), None), args.compile, args.steps,
            args.cpu_threads, overrides, command,
        )  # fmt: skip
        report = benchmarks.benchmark_training(steps, say)
    else:
        measure = "parts" if args.flops else "gpu" if args.suite else "prompts" if args.prompts else "frames"
        frames = benchmarks.BenchOptions(
            measure, args.model, args.weights, args.device,
            tuple(args.precision), args.compile, tuple(args.objects), tuple(args.frames), tuple(args.size),
            args.lookahead, args.peak_tflops, args.cpu_threads, overrides, command,
        )  # fmt: skip
        report = benchmarks.benchmark_frames(frames, say)
    if args.json:
        write_json(args.json, report)
        print(f"results: {args.json.resolve()}")
    return 0

"""What VISOR's test container runs: the listed sequences in, one PNG for each of their frames out.

`/app/data` holds VISOR in the layout of DAVIS, with the masks of the reference frames; the masks go to
`/app/data/results/<sequence>/<frame>.png`, and nothing else goes there. Options that this program doesn't
know are those of `cutie-geo infer`.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cutie_geo.__main__ import run_one
from cutie_geo.data.index import ANNOTATIONS, VideoRecord, dataset
from cutie_geo.data.io_threads import atomic_write
from cutie_geo.data.submission.check import video_problems
from cutie_geo.data.submission.servers import SERVERS, VISOR

DATA = Path("/app/data")
MODEL = Path(__file__).resolve().parent / "model"
"""A saved model, or the name of a preset in `preset.txt`."""
FAILED = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Segment all; return 0, or 2 where something went wrong. What could be segmented is written all the same."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--data", type=Path, default=DATA, help=f"the tree of VISOR (default: {DATA})")
    parser.add_argument("--results", type=Path, help="where the masks go (default: results in --data)")
    parser.add_argument("--dataset", default="visor-test", help="which sequences (default: visor-test)")
    parser.add_argument("--work", type=Path, help="folder for files in between (default: a temporary one)")
    args, options = parser.parse_known_args(argv)
    try:
        records = dataset(args.dataset, args.data)[1]
        if "--model" not in options:
            options = ["--model", chosen_model(MODEL), *options]
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    what = ["--dataset", args.dataset, "--data-root", str(args.data)]
    results = args.results or args.data / "results"
    with tempfile.TemporaryDirectory(prefix="visor-", dir=args.work) as work:
        status = run_one("infer", [*what, "--output", work, *options], "visor")
        deliver(records, Path(work), results)
    problems = [text for record in records for text in video_problems(SERVERS[VISOR], record, results)]
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    print(f"{len(records)} sequences, {len(problems)} problems: {results}")
    return status or (FAILED if problems else 0)


def chosen_model(folder: Path) -> str:
    """The saved model in `folder`, or the preset that it names. Raises ValueError if there is neither."""
    if (folder / "model.safetensors").is_file():
        return str(folder)
    if (folder / "preset.txt").is_file():
        return (folder / "preset.txt").read_text(encoding="utf-8").strip()
    raise ValueError(f"{folder}: neither model.safetensors nor preset.txt, expected one of them or --model")


def deliver(records: Sequence[VideoRecord], work: Path, results: Path) -> None:
    """Copy the masks, and nothing of what else a run leaves."""
    for record in records:
        for path in sorted((work / ANNOTATIONS / record.name).glob("*.png")):
            with atomic_write(results / record.name / path.name) as part:
                shutil.copyfile(path, part)


if __name__ == "__main__":
    sys.exit(main())

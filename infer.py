"""Segment videos: `python infer.py --video clip.mp4 --mask first.png --output out`. See `python infer.py --help`."""

import sys

from cutie_geo.__main__ import run_one

if __name__ == "__main__":
    sys.exit(run_one("infer"))

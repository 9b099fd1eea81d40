"""Segment videos: `python infer.py --video clip.mp4 --mask first.png --output out`. See `python infer.py --help`."""

if __name__ == "__main__":
    from cutie_geo.interrupts import leave_at_once

    leave_at_once()  # before the imports that take seconds

    import sys

    from cutie_geo.__main__ import run_one

    sys.exit(run_one("infer"))

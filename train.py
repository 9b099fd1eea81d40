"""Train a model: `accelerate launch train.py --stage 2 --data-root DATA`. See `python train.py --help`."""

import sys

from cutie_geo.__main__ import run_one

if __name__ == "__main__":
    sys.exit(run_one("train"))

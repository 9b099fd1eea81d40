"""Scoring of predicted masks and comparison of reports, as called by `evaluate`."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutie_geo.config import WHOLE, Shard, require
from cutie_geo.config.choices import SEMANTIC_PROTOCOLS
from cutie_geo.data.index import is_own, masks_root, own_truth
from cutie_geo.evaluation.compare import compare_reports, read_report
from cutie_geo.evaluation.folders import listed_names, sequence_names
from cutie_geo.evaluation.parts import part_of
from cutie_geo.evaluation.protocols import PROTOCOLS, WITH_META, Settings, find_meta, find_unseen, read_meta
from cutie_geo.evaluation.report import Report, build_report
from cutie_geo.evaluation.scoring import jobs, score_sequences
from cutie_geo.evaluation.tables import LISTED_WARNINGS, workers_for

log = logging.getLogger(__name__)

Watch = Callable[[Iterable[Any], int], Iterable[Any]]
"""Wraps an iterable of results and their number, to draw a progress bar."""


@dataclass(frozen=True)
class EvaluateOptions:
    """Masks to score, and how."""

    gt: Path
    """Ground truth: a folder of PNG masks for each sequence, or a set of own videos."""
    pred: Path
    """Predictions in folders of the same names, or what `infer` wrote."""
    protocol: str = "davis2017"
    sequences: Path | None = None
    """Text file with the sequences to score. None: all."""
    lenient: bool = False
    """Score missing masks as empty, other sizes resized, unknown ids as background."""
    all_frames: bool = False
    """vos-benchmark: score the first and last frame too."""
    meta: Path | None = None
    """Meta file of the data set. None: the one beside the ground truth, if it exists."""
    unseen: Path | None = None
    """List of unseen sequences (YouTube-VOS: categories). None: the one beside the ground truth, if it exists."""
    workers: int | None = None
    """Number of processes. None: one for each core."""
    shard: Shard | None = None
    """Part of the sequences to score. None: all, and the result is a report instead of a part."""


def evaluate(options: EvaluateOptions, watch: Watch = lambda results, count: results) -> Report:
    """Return the report of a folder of predictions, ready for JSON; of a shard its part, for `merge_parts`.

    Raises:
        ValueError: for a missing folder, an unknown protocol, and masks that cannot be scored.
    """
    for name, root in (("--gt", options.gt), ("--pred", options.pred)):
        require(root.is_dir(), f"{name} {root}: no such folder; expected a folder of masks")
    pred, settings = masks_root(options.pred), _settings(options)
    own = own_truth(options.gt) if is_own(options.gt) else {}
    found = list(own) or (sequence_names(options.gt) if options.sequences is None else [])
    names = found if options.sequences is None else listed_names(options.sequences)
    require(bool(names), f"{options.sequences}: the list is empty, expected a sequence on each line")
    missing = ", ".join([n for n in names if not own.get(n, options.gt / n).is_dir()][:LISTED_WARNINGS])
    require(not missing, f"{options.sequences}: {options.gt} has no ground truth for {missing}")
    part = (options.shard or WHOLE).of(names)
    results = score_sequences(jobs(options.gt, pred, part, settings, own), workers_for(options.workers, len(part)))
    scores = list(watch(results, len(part)))
    if options.shard is not None:
        return part_of(options.shard, names, scores, settings, options.gt, pred)
    return {**build_report(scores, settings), "gt": str(options.gt), "pred": str(pred)}


def _settings(options: EvaluateOptions) -> Settings:
    protocol, known = options.protocol, ", ".join((*PROTOCOLS, *SEMANTIC_PROTOCOLS))
    require(protocol in PROTOCOLS, f"--protocol: got {protocol}, expected one of {known}")
    fits = options.meta is None or protocol in WITH_META
    require(fits, f"--meta: got protocol {protocol}, expected one of {', '.join(WITH_META)}")
    meta = options.meta or find_meta(options.gt, protocol)
    unseen = options.unseen or find_unseen(options.gt, protocol)
    for what, path in (("objects and frames", meta), ("unseen sequences", unseen)):
        if path is not None:
            log.info("%s: %s", what, path)
    return Settings(
        protocol,
        options.lenient,
        options.all_frames,
        read_meta(meta) if meta else {},
        frozenset(listed_names(unseen)) if unseen else frozenset(),
    )


def compare(first: Path, second: Path) -> dict[str, Any]:
    """Return the differences of two reports, second minus first. Raises ValueError."""
    outcome = compare_reports(read_report(first), read_report(second))
    return {**outcome, "first": str(first), "second": str(second)}

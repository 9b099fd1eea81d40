"""Scoring protocols of benchmarks: objects, frames and aggregation.

A protocol turns a sequence's true masks and optional meta file into a `Plan`. Sources: the official programs of DAVIS
2016 and 2017, VISOR, MOSE v2, LVOS and vos-benchmark. YouTube-VOS is scored by a server whose frame rule is not public.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from cutie_geo.config import read_json
from cutie_geo.data.listing import natural_order
from cutie_geo.evaluation.folders import WHITE, EvaluationError, Reader, frame_names, labels_in
from cutie_geo.structures import VOID

LVOS_STEP = 5
"""Interval of annotated frames."""
NO_ZEROS: Mapping[int, int] = MappingProxyType({})


@dataclass(frozen=True)
class Settings:
    """Settings that determine the scores."""

    protocol: str = "davis2017"
    lenient: bool = False
    """Score faulty masks as empty, resized or background instead of raising."""
    all_frames: bool = False
    """vos-benchmark: score the first and the last frame too."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Entries of the data set's meta file by sequence."""
    unseen: frozenset[str] = frozenset()
    """Sequences (YouTube-VOS: categories) that are not in the training data."""

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"protocol: got {self.protocol!r}, expected one of {', '.join(PROTOCOLS)}")
        if self.all_frames and self.protocol != "vos-benchmark":
            raise ValueError(f"all frames: got protocol {self.protocol}, expected vos-benchmark")


class Plan(NamedTuple):
    """Objects and frames of a sequence to score."""

    frames: tuple[str, ...]
    objects: Mapping[int, frozenset[str]] | None
    """Frames of each object. None: objects are the labels of the scored frames, from their first frame on."""
    known: frozenset[int] | None
    """Labels that predictions may have. None: any."""
    warnings: tuple[str, ...] = ()
    single: bool = False
    """All labels are the object 1."""
    void: bool = True
    """VOID in true masks is background."""
    zeros: Mapping[int, int] = NO_ZEROS
    """Number of further frames of an object that score 0."""


def plan(reader: Reader, settings: Settings) -> Plan:
    """Return the plan of a protocol for a sequence. Raises EvaluationError."""
    return PROTOCOLS[settings.protocol](reader, frame_names(reader.truth), settings)


def _davis2017(reader: Reader, frames: tuple[str, ...], settings: Settings) -> Plan:
    """Score objects 1 to the highest label of the first frame, without the first and the last frame."""
    return _from_first_frame(reader, frames, frames[1:-1])


def _visor(reader: Reader, frames: tuple[str, ...], settings: Settings) -> Plan:
    """Score as DAVIS 2017, with the last frame."""
    return _from_first_frame(reader, frames, frames[1:])


def _from_first_frame(reader: Reader, frames: tuple[str, ...], scored: tuple[str, ...]) -> Plan:
    present = [i for i in labels_in(reader.true_labels(frames[0])) if i != VOID]
    ids = range(1, max(present, default=0) + 1)
    phantoms = sorted(set(ids) - set(present))
    warnings = []
    if phantoms:
        text = ", ".join(map(str, phantoms))
        warnings.append(f"labels {text} are missing in the first true frame and count as objects, as in DAVIS")
    if not present:
        warnings.append(f"no object in the first true frame: contributes nothing{_white_hint(reader, frames)}")
    _require_frames(reader, frames, scored)
    return Plan(scored, _all_on(scored, ids), frozenset(ids), tuple(warnings))


def _white_hint(reader: Reader, frames: tuple[str, ...]) -> str:
    """Return advice for true masks with one white object, judged by the first mask that is not blank."""
    for frame in frames:
        if labels := labels_in(reader.true_labels(frame)):
            return WHITE if labels == [VOID] else ""
    return ""


def _require_frames(reader: Reader, frames: tuple[str, ...], scored: tuple[str, ...]) -> None:
    """Raise EvaluationError if no frame is left to score; if lenient, the sequence contributes nothing."""
    if not scored:
        unscored = "first and last frames" if len(frames) > 1 else "first frames"
        reader.treat(None, f"{len(frames)} true masks leave none to score: {unscored} are not scored", "left out")


def _all_on(scored: tuple[str, ...], ids: Iterable[int]) -> dict[int, frozenset[str]]:
    """Return the same frames for every object; no objects if there are no frames."""
    return {i: frozenset(scored) for i in ids} if scored else {}


def _davis2016(reader: Reader, frames: tuple[str, ...], settings: Settings) -> Plan:
    """Score one object with any label, without the first and the last frame."""
    scored = frames[1:-1]
    _require_frames(reader, frames, scored)
    return Plan(scored, _all_on(scored, (1,)), None, single=True)


def _vos_benchmark(reader: Reader, frames: tuple[str, ...], settings: Settings) -> Plan:
    """Score every label of the scored true frames, including 255."""
    scored = frames if settings.all_frames else frames[1:-1]
    warnings = () if scored else (f"{len(frames)} true masks leave none to score: contributes nothing",)
    return Plan(scored, None, None, warnings, void=False)


def _mosev2(reader: Reader, frames: tuple[str, ...], settings: Settings) -> Plan:
    """Score the objects of the meta file, without the first and the last frame."""
    scored, warnings = frames[1:-1], ()
    _require_frames(reader, frames, scored)
    video = settings.meta.get(reader.sequence)
    if video is None:
        ids = frozenset(_seen(reader, frames))
        warnings = ("not in a meta file: objects are the labels of all true frames",)
    else:
        ids = frozenset(_ids(reader, video))
    return Plan(scored, _all_on(scored, sorted(ids)), ids, warnings)


def _youtubevos(reader: Reader, frames: tuple[str, ...], settings: Settings) -> Plan:
    """Score each object on the frames that the meta file lists for it, without the first one."""
    video, warnings = settings.meta.get(reader.sequence), ()
    if video is None:
        seen = _seen(reader, frames)
        objects = {i: frozenset(frames[frames.index(first) + 1 :]) for i, (first, _) in sorted(seen.items())}
        warnings = ("not in a meta file: objects are scored on all true frames after their first",)
    else:
        listed = {i: natural_order(video["objects"][str(i)].get("frames", ())) for i in _ids(reader, video)}
        objects = {i: frozenset(stems[1:]) for i, stems in listed.items()}
    return _of_objects(objects, warnings)


def _lvos(reader: Reader, frames: tuple[str, ...], settings: Settings) -> Plan:
    """Score each object on its own range of frames, without its first and last frame."""
    video, warnings = settings.meta.get(reader.sequence), ()
    if video is None:
        seen = _seen(reader, frames)
        spans = {i: frames[frames.index(first) : frames.index(last) + 1] for i, (first, last) in sorted(seen.items())}
        warnings = ("not in a meta file: an object's range of frames is from where its label is first to last seen",)
        return _of_objects({i: frozenset(span[1:-1]) for i, span in spans.items()}, warnings)
    objects, zeros = {}, {}
    for i in _ids(reader, video):
        start, end, count = _lvos_range(reader, video, i)
        stems = [f"{number:08d}" for number in range(start, end, LVOS_STEP)]
        objects[i] = frozenset(stem for place, stem in enumerate(stems) if 0 < place < count - 1)
        zeros[i] = max(count - 2 - len(objects[i]), 0)
        if zeros[i] or len(stems) > count:
            warnings += (f"object {i}: frame_nums {count} does not fit its range: {zeros[i]} frames count as 0",)
    return _of_objects(objects, warnings, zeros)


def _lvos_range(reader: Reader, video: Mapping[str, Any], object_id: int) -> tuple[int, int, int]:
    try:
        given = video["objects"][str(object_id)]["frame_range"]
        return int(given["start"]), int(given["end"]), int(given["frame_nums"])
    except (KeyError, TypeError, ValueError) as error:
        text = f"the meta file's frame_range of object {object_id} cannot be read, expected start, end and frame_nums"
        raise EvaluationError(reader.sequence, None, text) from error


def _of_objects(
    objects: Mapping[int, frozenset[str]], warnings: tuple[str, ...], zeros: Mapping[int, int] = NO_ZEROS
) -> Plan:
    """Return a plan of objects with individual frames; objects without frames contribute nothing."""
    scored = {i: own for i, own in objects.items() if own or zeros.get(i)}
    if empty := [i for i in objects if i not in scored]:
        warnings += (f"objects {', '.join(map(str, empty))} have no frame to score: contribute nothing",)
    frames = tuple(natural_order(frozenset[str]().union(*scored.values())))
    return Plan(frames, scored, frozenset(objects), warnings, zeros={i: zeros[i] for i in zeros if i in scored})


def _seen(reader: Reader, frames: tuple[str, ...]) -> dict[int, tuple[str, str]]:
    """Return the first and last true frame of each label."""
    seen: dict[int, tuple[str, str]] = {}
    for frame in frames:
        for i in labels_in(reader.true_labels(frame)):
            if i != VOID:
                seen[i] = (seen[i][0] if i in seen else frame, frame)
    return seen


def _ids(reader: Reader, video: Mapping[str, Any]) -> list[int]:
    """Return the objects of a sequence in the meta file: a list of ids, or a mapping from ids."""
    try:
        return sorted(int(i) for i in video["objects"])
    except (KeyError, TypeError, ValueError) as error:
        raise EvaluationError(reader.sequence, None, "the meta file's objects cannot be read, expected ids") from error


PROTOCOLS: dict[str, Callable[[Reader, tuple[str, ...], Settings], Plan]] = {
    "davis2016": _davis2016,
    "davis2017": _davis2017,
    "visor": _visor,
    "youtubevos": _youtubevos,
    "mose": _davis2017,
    "mosev2": _mosev2,
    "lvos": _lvos,
    "vos-benchmark": _vos_benchmark,
}
WITH_META = ("youtubevos", "mosev2", "lvos")
GROUPED = ("youtubevos", "lvos")
"""Protocols whose scores are means over seen and unseen."""


# --------------------------------------------------------------------------------------------------- datasets' files
def read_meta(path: Path) -> dict[str, Any]:
    """Return the `videos` of a meta file. Raises ValueError if it has none."""
    try:
        videos = read_json(path)["videos"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: cannot be read as a meta file, expected JSON with videos") from error
    if not isinstance(videos, dict):
        raise ValueError(f"{path}: videos is a {type(videos).__name__}, expected an object with one entry for each")
    return videos


def find_meta(truth: Path, protocol: str) -> Path | None:
    """Return the meta file beside or in the root of the true masks: `meta.json`, or the only `*_meta.json`."""
    if protocol not in WITH_META:
        return None
    for folder in (truth, truth.resolve().parent):
        plain = folder / "meta.json"
        found = [plain] if plain.is_file() else sorted(folder.glob("*_meta.json"))
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise ValueError(f"{folder}: several meta files, {names}; expected --meta with one of them")
        if found:
            return found[0]
    return None


def find_unseen(truth: Path, protocol: str) -> Path | None:
    """Return the list of unseen sequences in the layouts of LVOS and VISOR; None if it is missing."""
    root = truth.resolve()
    places = {"lvos": root.parent / "unseen_videos.txt"}
    if protocol == "visor":
        places |= {"visor": root.parent.parent / "ImageSets" / "2022" / "val_unseen.txt"}
    place = places.get(protocol)
    return place if place is not None and place.is_file() else None

"""Checks of data sets: counts what is there and reports missing, damaged and inconsistent files.

Names, lists and file sizes are always compared, and the first frame and mask of each video are always read. A deep
check decodes every file.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

from PIL import UnidentifiedImageError

from cutie_geo.config import require
from cutie_geo.data.images import open_image
from cutie_geo.data.index import (
    DATASETS,
    LABELLED,
    ClassEncoding,
    LabelledSpec,
    LabelledVideo,
    VideoRecord,
    frame_files,
    mask_files,
)
from cutie_geo.data.index.benchmarks import for_frames
from cutie_geo.data.index.labelled import static_files, static_home, static_sets
from cutie_geo.data.index.records import some
from cutie_geo.data.io_threads import map_ahead
from cutie_geo.data.masks import MAX_LONG_ID, OBJECT_GREY, object_ids, read_labels
from cutie_geo.data.video import read_image, upright_size
from cutie_geo.structures import MAX_OBJECT_ID, VOID

STATIC = "static"
"""Name of the static-image data set."""
GENERIC, OWN = "generic", "own"
"""Names of a user's own videos: in the layout of DAVIS, and in any layout."""

Watch = Callable[[Iterable["Look"], int], Iterable["Look"]]
"""Wraps an iterable of results and their number, to draw a progress bar."""


Kind = Literal["head", "image", "mask", "long mask", "grey mask"]
"""How a file is read: image header, whole image, palette or grey ids, RGB ids, or an object in white."""


class Task(NamedTuple):
    """A file to read."""

    path: Path
    kind: Kind


class Look(NamedTuple):
    """Content of a file."""

    size: tuple[int, int] | None = None
    """(H, W). None if the file cannot be read."""
    ids: tuple[int, ...] = ()
    """Labels in a mask, ascending, without 0."""
    problem: str | None = None
    """Why the file cannot be read, starting with its name."""


@dataclass(frozen=True)
class Subject:
    """One video or one set of static images, with the conditions that its files must meet."""

    name: str
    frames: Mapping[str, Path] = field(default_factory=dict)
    masks: Mapping[str, Path] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    """Faults found in folders and lists."""
    encoding: ClassEncoding | None = None
    """Encoding of semantic classes in masks. None: masks hold object ids."""
    long_ids: bool = False
    ids: Set[int] | None = None
    """The only object ids allowed in masks. None: any id in the range."""
    largest_id: int = VOID - 1
    may_ignore: bool = False
    """Masks may show VOID."""
    starts: Mapping[str, Set[int]] = field(default_factory=dict)
    """Object ids that must be visible in a mask because they start there, by mask stem."""
    first_must_show: bool = False
    """The first mask with an object is the prompt; a video without one cannot be tracked."""
    still: bool = False
    """Images have individual sizes, and none is the first."""


@dataclass(frozen=True)
class Findings:
    """Counts and problems of a data set."""

    videos: int = 0
    frames: int = 0
    masks: int = 0
    objects: int = 0
    """Number of objects of all videos, or of different classes: as listed, else as found in the masks that were read.
    """
    problems: list[str] = field(default_factory=list)
    """One line for each problem, starting with the video's name."""
    usable: int = 0
    """Number of videos whose folders and lists are valid."""
    folders: frozenset[Path] = frozenset()
    """Folders with the frames of usable videos."""


def checkable_names(labelled: Mapping[str, LabelledSpec] = LABELLED) -> list[str]:
    """Return the names of data sets that `check` accepts with the same `labelled`."""
    return list(dict.fromkeys((*DATASETS, *labelled, STATIC)))


def check(
    names: Sequence[str],
    root: Path,
    deep: bool = False,
    workers: int = 1,
    watch: Watch = lambda looks, _: looks,
    labelled: Mapping[str, LabelledSpec] = LABELLED,
) -> dict[str, Findings]:
    """Check data sets under `root`. A file that several data sets share is read once.

    Args:
        names: data sets to check, of `checkable_names(labelled)`.
        root: folder of the files.
        deep: decode every file, instead of the first of each video.
        workers: number of threads that read files.
        watch: wraps the iterable of results, for a progress bar.
        labelled: data sets with masks on all frames, by name; other subpackages add their own.

    Returns:
        The findings by data set name.

    Raises:
        ValueError: if a name is unknown.
    """
    known = checkable_names(labelled)
    unknown = [name for name in names if name not in known]
    require(not unknown, f"{', '.join(unknown)}: no such dataset; expected one of {', '.join(known)}")
    found = {name: _subjects_or_problem(name, root, labelled) for name in names}
    subjects = [subject for several in found.values() if not isinstance(several, str) for subject in several]
    planned = [tasks(subject, deep).values() for tasks in (_frame_tasks, _mask_tasks) for subject in subjects]
    tasks = list(dict.fromkeys(chain.from_iterable(planned)))
    watched = watch(map_ahead(look_at, tasks, workers, ahead=4 * workers), len(tasks))
    looks = dict(zip(tasks, watched, strict=True))
    return {
        name: Findings(problems=[several]) if isinstance(several, str) else _judge_all(several, looks, deep)
        for name, several in found.items()
    }


# ----------------------------------------------------------------------------------------------------------- subjects
def _subjects_or_problem(name: str, root: Path, labelled: Mapping[str, LabelledSpec]) -> list[Subject] | str:
    """Return the subjects of a data set, or the reason why they cannot be listed."""
    try:
        return subjects_of(name, root, labelled)
    except (ValueError, OSError) as error:
        return " ".join(str(error).split())


def subjects_of(name: str, root: Path, labelled: Mapping[str, LabelledSpec] = LABELLED) -> list[Subject]:
    """Return the subjects of the data set `name` under `root`; for training sets, with all of their masks.

    Raises:
        ValueError: if the files are not in the published layout.
        OSError: if a folder cannot be listed.
    """
    if name == STATIC:
        return [_still_subject(static_home(root), each) for each in static_sets(static_home(root))]
    tracked = name in DATASETS and name != OWN
    if name in labelled and name != GENERIC:  # whose ids are any
        spec = labelled[name]
        several = spec.index(root, strict=False)
        return [_labelled_subject(video, spec.masked == "every frame", tracked) for video in several]
    largest = VOID if DATASETS[name].single_object else MAX_OBJECT_ID if name == GENERIC else VOID - 1
    first = DATASETS[name].masks == "first"
    return [_tracked_subject(record, largest, first) for record in DATASETS[name].index(root, strict=False)]


def _labelled_subject(video: LabelledVideo, every_frame: bool, tracked: bool) -> Subject:
    """Return the subject of a video whose masks are all checked."""
    problems = [video.problem] if video.problem else []
    bare = sorted(set(video.frames) - set(video.masks)) if every_frame and video.masks else []
    if bare:
        problems.append(f"{len(bare)} of {len(video.frames)} frames without a mask: {some(bare)}")
    listed = video.listed or {}
    largest = MAX_LONG_ID if video.long_ids else VOID if video.single_object else VOID - 1
    return Subject(
        video.name,
        video.frames,
        video.masks,
        (*problems, *_unlisted_files(listed, video.frames)),
        encoding=video.encoding,
        long_ids=video.long_ids,
        ids=frozenset(listed) if listed else None,
        largest_id=largest,
        may_ignore=True,
        first_must_show=tracked and video.encoding is None,
    )


def _tracked_subject(record: VideoRecord, largest: int, first: bool) -> Subject:
    """Return the subject of a video whose first masks are prompts; its other masks are ground truth."""
    if record.problem or not record.masks:
        return Subject(record.name, problems=(record.problem or f"{record.source}: no masks",))
    frames = frame_files(record.source)
    folder = next(iter(record.masks.values())).parent
    masks = for_frames(mask_files(folder), list(frames))
    problems = []
    if strangers := sorted(set(masks) - set(frames)):
        problems.append(f"{folder}: no frame for the masks {some(strangers)}")
    listed = record.listed or {}
    if unmasked := sorted({stems[0] for stems in listed.values() if stems} - set(masks)):
        problems.append(f"{folder}: no mask where listed objects start: {some(unmasked)}")
    return Subject(
        record.name,
        frames,
        masks,
        (*problems, *_unlisted_files(listed, frames)),
        long_ids=record.long_ids,
        ids=frozenset(listed) if listed else None,
        largest_id=MAX_LONG_ID if record.long_ids else largest,
        may_ignore=record.void is not None,
        starts=record.keep_ids or {},
        first_must_show=first,
    )


def _unlisted_files(listed: Mapping[int, Sequence[str]], frames: Mapping[str, Path]) -> Iterator[str]:
    """Yield the problems of the frames that a list names."""
    missing = sorted({stem for stems in listed.values() for stem in stems} - set(frames))
    if missing:
        yield f"{len(missing)} listed frames are missing: {some(missing)}"


def _still_subject(home: Path, name: str) -> Subject:
    """Return the subject of one set of static images."""
    try:
        images, masks = static_files(home / name)
    except ValueError as error:
        return Subject(name, problems=(str(error),), still=True)
    problems = []
    if not images:
        problems.append(f"{home / name}: no images, expected <name>.jpg and <name>.png side by side")
    for kind, bare in (("images without a mask", set(images) - set(masks)), ("masks alone", set(masks) - set(images))):
        if bare:
            problems.append(f"{home / name}: {len(bare)} {kind}: {some(sorted(bare))}")
    return Subject(name, images, masks, tuple(problems), largest_id=VOID, still=True)


# -------------------------------------------------------------------------------------------------------------- looks
def _frame_tasks(subject: Subject, deep: bool) -> dict[str, Task]:
    """Return the images to read by stem: all of them, or the first."""
    kind = "image" if deep else "head"
    return {stem: Task(subject.frames[stem], kind) for stem in list(subject.frames)[: None if deep else 1]}


def _mask_tasks(subject: Subject, deep: bool) -> dict[str, Task]:
    """Return the masks to read by stem: all of them, or the first."""
    kind = "grey mask" if subject.still else "long mask" if subject.long_ids else "mask"
    return {stem: Task(subject.masks[stem], kind) for stem in list(subject.masks)[: None if deep else 1]}


def look_at(task: Task) -> Look:
    """Read a file; if that fails, the result has a `problem`."""
    try:
        return _LOOKS[task.kind](task.path)
    except ValueError as error:
        return Look(problem=" ".join(str(error).split()))


def _look_at_head(path: Path) -> Look:
    """Read an image header. Raises ValueError with the file name if it is invalid."""
    try:
        with open_image(path) as image:
            return Look(upright_size(image))
    except Exception as error:  # on damaged bytes Pillow's readers raise nearly anything
        text = "not an image" if isinstance(error, UnidentifiedImageError) else " ".join(str(error).split())
        raise ValueError(f"{path}: cannot be read as an image: {text or type(error).__name__}") from error


def _look_at_image(path: Path) -> Look:
    image = read_image(path)
    return Look((image.shape[0], image.shape[1]))


def _look_at_mask(path: Path, long_ids: bool = False) -> Look:
    labels = read_labels(path, long_ids).labels
    return Look((labels.shape[0], labels.shape[1]), object_ids(labels))


def _look_at_grey_mask(path: Path) -> Look:
    image = read_image(path)
    return Look((image.shape[0], image.shape[1]), (1,) if image.max() >= OBJECT_GREY else ())


_LOOKS: dict[Kind, Callable[[Path], Look]] = {
    "head": _look_at_head,
    "image": _look_at_image,
    "mask": _look_at_mask,
    "long mask": partial(_look_at_mask, long_ids=True),
    "grey mask": _look_at_grey_mask,
}


# ---------------------------------------------------------------------------------------------------------- judgement
def _judge_all(subjects: Sequence[Subject], looks: Mapping[Task, Look], deep: bool) -> Findings:
    """Return the findings of one data set."""
    problems, objects, classes, usable = [], 0, set(), []
    for subject in subjects:
        images = {stem: looks[task] for stem, task in _frame_tasks(subject, deep).items()}
        masks = {stem: looks[task] for stem, task in _mask_tasks(subject, deep).items()}
        problems += [f"{subject.name}: {line}" for line in _judge(subject, images, masks)]
        seen = {label for look in masks.values() for label in look.ids}
        if subject.encoding is not None:
            classes |= subject.encoding.classes(seen)
        elif subject.still:
            objects += len(subject.masks)
        else:
            objects += len(subject.ids or [label for label in seen if label <= subject.largest_id])
        if subject.frames and not subject.problems:
            usable.append(subject)
    return Findings(
        len(subjects),
        sum(len(subject.frames) for subject in subjects),
        sum(len(subject.masks) for subject in subjects),
        objects + len(classes),
        problems,
        len(usable),
        frozenset(next(iter(subject.frames.values())).parent for subject in usable),
    )


def _judge(subject: Subject, images: Mapping[str, Look], masks: Mapping[str, Look]) -> Iterator[str]:
    """Yield the problems of one video, one line for each kind of problem that affects several files."""
    yield from subject.problems
    yield from (look.problem for look in (*images.values(), *masks.values()) if look.problem)
    yield from _empty_files(subject, images, masks)
    yield from _sizes(subject, images, masks)
    yield from _ids(subject, masks)
    yield from _first_masks(subject, masks)


def _empty_files(subject: Subject, images: Mapping[str, Look], masks: Mapping[str, Look]) -> Iterator[str]:
    """Yield a problem for empty files among those that were not read."""
    unseen = [path for stem, path in subject.frames.items() if stem not in images]
    unseen += [path for stem, path in subject.masks.items() if stem not in masks]
    empty = [str(path) for path in unseen if os.stat(path).st_size == 0]
    if empty:
        yield f"{len(empty)} files are empty: {some(empty)}"


def _sizes(subject: Subject, images: Mapping[str, Look], masks: Mapping[str, Look]) -> Iterator[str]:
    """Yield frames that differ in size from the first, and masks that differ in size from their frames."""
    first = next((look.size for look in images.values() if look.size), None)
    if not subject.still:
        odd = [stem for stem, look in images.items() if look.size and look.size != first]
        yield from _odd_sizes("frames", subject.frames, images, odd, first)
    wanted = {stem: images[stem].size if stem in images else None if subject.still else first for stem in masks}
    odd = [stem for stem, look in masks.items() if look.size and wanted[stem] and look.size != wanted[stem]]
    yield from _odd_sizes("masks", subject.masks, masks, odd, wanted[odd[0]] if odd else None)


def _odd_sizes(
    kind: str, files: Mapping[str, Path], looks: Mapping[str, Look], odd: list[str], wanted: tuple[int, int] | None
) -> Iterator[str]:
    if odd:
        whose = "the first frame's" if kind == "frames" else "its frame's"
        yield (
            f"{files[odd[0]]}: got (H, W) = {looks[odd[0]].size}, expected {wanted}, {whose} size"
            f" ({len(odd)} of {len(looks)} {kind} looked at)"
        )


def _ids(subject: Subject, masks: Mapping[str, Look]) -> Iterator[str]:
    """Yield labels out of range, and ids missing from the data set's list."""
    if subject.still:
        return
    strange = {stem: _strange(subject, look.ids) for stem, look in masks.items()}
    yield from _strange_ids(strange, subject, _range(subject))
    if subject.ids is not None:
        unlisted = {
            stem: [i for i in look.ids if i not in (*subject.ids, VOID) and i <= subject.largest_id]
            for stem, look in masks.items()
        }
        yield from _strange_ids(unlisted, subject, f"those listed, {some([str(i) for i in sorted(subject.ids)])}")


def _strange(subject: Subject, ids: Iterable[int]) -> list[int]:
    """Return the labels of a mask that are out of range."""
    if subject.encoding is not None:
        return subject.encoding.invalid(ids)
    return [i for i in ids if i > subject.largest_id and not (subject.may_ignore and i == VOID)]


def _range(subject: Subject) -> str:
    return f"1 to {subject.largest_id}" if subject.encoding is None else subject.encoding.expected


def _strange_ids(strange: Mapping[str, list[int]], subject: Subject, wanted: str) -> Iterator[str]:
    """Yield one line about all masks with invalid labels."""
    where = [stem for stem, ids in strange.items() if ids]
    if where:
        ids = sorted({label for stem in where for label in strange[stem]})
        yield (
            f"{subject.masks[where[0]]}: ids {some([str(i) for i in ids])}, expected {wanted}"
            f" ({len(where)} of {len(strange)} masks looked at)"
        )


def _first_masks(subject: Subject, masks: Mapping[str, Look]) -> Iterator[str]:
    """Yield masks that lack an object listed to start there."""
    whole = {stem: look for stem, look in masks.items() if not look.problem}
    for stem, ids in subject.starts.items():
        if stem in whole and (missing := sorted(ids - set(whole[stem].ids))):
            yield f"{subject.masks[stem]}: no object {some([str(i) for i in missing])}, which is listed to start here"
    first = next(iter(subject.masks), None)
    looked_at_all = len(whole) == len(subject.masks)  # otherwise a later mask may show an object
    shows = any(i <= subject.largest_id for look in whole.values() for i in look.ids)
    if first in whole and subject.first_must_show and looked_at_all and not shows:
        yield f"{subject.masks[first]}: no mask shows an object, so that there is nothing to track"
    elif len(whole) == len(subject.masks) > 0:
        seen = {label for look in whole.values() for label in look.ids}
        folder = subject.masks[next(iter(whole))].parent
        if not seen:
            yield f"{folder}: no mask shows anything"
        elif subject.may_ignore and subject.encoding is None and subject.largest_id < VOID and seen == {VOID}:
            yield (
                f"{folder}: no mask shows an object, nothing but 0 and {VOID}, which marks pixels to ignore; "
                "an object has an id from 1 on"
            )

"""Are the files of a data set whole, and do they fit each other? What is there is counted, what is wrong is named.

Names, lists and sizes in bytes are always compared, and the first frame and the first mask of each video are always
looked at; a deep check decodes every file.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

from PIL import Image, UnidentifiedImageError

from cutie_geo.config import require
from cutie_geo.data.background import map_ahead
from cutie_geo.data.index import (
    CLASSES,
    DATASETS,
    LABELLED,
    LabelledVideo,
    Values,
    VideoRecord,
    classes_among,
    frame_files,
    labelled_spec,
    mask_files,
    strange_classes,
)
from cutie_geo.data.index.labelled import static_files, static_home, static_sets
from cutie_geo.data.index.records import some
from cutie_geo.data.masks import MAX_LONG_ID, object_ids, read_labels
from cutie_geo.data.video import read_image
from cutie_geo.structures import MAX_OBJECT_ID

STATIC = "static"
"""The name of the still images."""
IGNORED = 255
"""In masks to train on, the label of pixels that don't count."""
GREY_HALF = 127
"""Above this, a pixel of a still image's mask shows the object."""

Watch = Callable[[Iterable["Look"], int], Iterable["Look"]]
"""Given looks as they come and how many there will be: the same looks, watched by a progress bar."""


Kind = Literal["head", "image", "mask", "long mask", "grey mask"]
"""What a file is looked at as: the head of an image, all of it, ids, RGB ids, or an object in white."""


class Task(NamedTuple):
    """A file to look at."""

    path: Path
    kind: Kind


class Look(NamedTuple):
    """What a file turned out to hold."""

    size: tuple[int, int] | None = None
    """(H, W), None where it can't be read."""
    ids: tuple[int, ...] = ()
    """Labels in a mask, ascending, without 0."""
    problem: str | None = None
    """Why it can't be read; it starts with the file's name."""


@dataclass(frozen=True)
class Subject:
    """One video, or one set of still images, and what must hold for it."""

    name: str
    frames: Mapping[str, Path] = field(default_factory=dict)
    masks: Mapping[str, Path] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    """What its folders and lists show."""
    values: Values = "objects"
    long_ids: bool = False
    ids: Set[int] | None = None
    """The only object ids that masks may show, None for any in the range."""
    largest_id: int = IGNORED - 1
    may_ignore: bool = False
    """Masks may show IGNORED."""
    starts: Mapping[str, Set[int]] = field(default_factory=dict)
    """By stem of a mask, the ids that it has to show, since they start there."""
    first_must_show: bool = False
    """The first mask is what is tracked: without an object there is nothing to do."""
    still: bool = False
    """Each image has a size of its own, and there is no first one."""


@dataclass(frozen=True)
class Findings:
    """What there is of a data set, and what is wrong with it."""

    videos: int = 0
    frames: int = 0
    masks: int = 0
    objects: int = 0
    """Objects of all videos, or different classes: as listed, else as seen in the masks that were looked at."""
    problems: list[str] = field(default_factory=list)
    """One line each; the first word is the video."""
    usable: int = 0
    """Videos whose folders and lists are as they should be."""
    folders: frozenset[Path] = frozenset()
    """Folders with the frames of usable videos."""


def checkable_names() -> list[str]:
    """Names that `check` understands."""
    return list(dict.fromkeys((*DATASETS, *LABELLED, STATIC)))


def check(
    names: Sequence[str], root: Path, deep: bool = False, workers: int = 1, watch: Watch = lambda looks, _: looks
) -> dict[str, Findings]:
    """By name, what there is of each data set under `root`. A file that several share is looked at once.

    deep: decode every file, by `workers` threads. Raises ValueError for an unknown name.
    """
    unknown = [name for name in names if name not in checkable_names()]
    require(not unknown, f"{', '.join(unknown)}: no such dataset; wanted one of {', '.join(checkable_names())}")
    found = {name: _subjects_or_problem(name, root) for name in names}
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
def _subjects_or_problem(name: str, root: Path) -> list[Subject] | str:
    """What there is to check of a data set, or why nothing is."""
    try:
        return subjects_of(name, root)
    except (ValueError, OSError) as error:
        return " ".join(str(error).split())


def subjects_of(name: str, root: Path) -> list[Subject]:
    """What there is to check of the data set `name` under `root`; names of training sets mean all of their masks.

    Raises ValueError where the files aren't as published, and OSError where a folder can't be listed.
    """
    if name == STATIC:
        return [_still_subject(static_home(root), each) for each in static_sets(static_home(root))]
    tracked = name in DATASETS
    if name in LABELLED:
        spec = labelled_spec(name)
        several = spec.index(root, strict=False)
        return [_labelled_subject(video, spec.masked == "every frame", tracked) for video in several]
    largest = IGNORED if DATASETS[name].single_object else MAX_OBJECT_ID if name == "generic" else IGNORED - 1
    first = DATASETS[name].masks == "first"
    return [_tracked_subject(record, largest, first) for record in DATASETS[name].index(root, strict=False)]


def _labelled_subject(video: LabelledVideo, every_frame: bool, tracked: bool) -> Subject:
    """A video of which all masks are wanted."""
    problems = [video.problem] if video.problem else []
    bare = sorted(set(video.frames) - set(video.masks)) if every_frame and video.masks else []
    if bare:
        problems.append(f"{len(bare)} of {len(video.frames)} frames without a mask: {some(bare)}")
    listed = video.listed or {}
    largest = MAX_LONG_ID if video.long_ids else IGNORED if video.single_object else IGNORED - 1
    return Subject(
        video.name,
        video.frames,
        video.masks,
        (*problems, *_unlisted_files(listed, video.frames)),
        values=video.values,
        long_ids=video.long_ids,
        ids=frozenset(listed) if listed else None,
        largest_id=largest,
        may_ignore=not tracked,
        first_must_show=tracked and video.values == "objects",
    )


def _tracked_subject(record: VideoRecord, largest: int, first: bool) -> Subject:
    """A video of which the first masks are tracked; others that lie beside these are truth to compare with."""
    if record.problem or not record.masks:
        return Subject(record.name, problems=(record.problem or f"{record.source}: no masks",))
    frames = frame_files(record.source)
    folder = next(iter(record.masks.values())).parent
    masks = mask_files(folder)
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
        starts=record.keep_ids or {},
        first_must_show=first,
    )


def _unlisted_files(listed: Mapping[int, Sequence[str]], frames: Mapping[str, Path]) -> Iterator[str]:
    """What is wrong with the frames that a list has."""
    missing = sorted({stem for stems in listed.values() for stem in stems} - set(frames))
    if missing:
        yield f"{len(missing)} listed frames are not there: {some(missing)}"


def _still_subject(home: Path, name: str) -> Subject:
    """One set of still images."""
    try:
        images, masks = static_files(home / name)
    except ValueError as error:
        return Subject(name, problems=(str(error),), still=True)
    problems = []
    if not images:
        problems.append(f"{home / name}: no images, wanted <name>.jpg and <name>.png side by side")
    for kind, bare in (("images without a mask", set(images) - set(masks)), ("masks alone", set(masks) - set(images))):
        if bare:
            problems.append(f"{home / name}: {len(bare)} {kind}: {some(sorted(bare))}")
    return Subject(name, images, masks, tuple(problems), largest_id=IGNORED, still=True)


# -------------------------------------------------------------------------------------------------------------- looks
def _frame_tasks(subject: Subject, deep: bool) -> dict[str, Task]:
    """By stem, the images to look at: all of them, or the first."""
    kind = "image" if deep else "head"
    return {stem: Task(subject.frames[stem], kind) for stem in list(subject.frames)[: None if deep else 1]}


def _mask_tasks(subject: Subject, deep: bool) -> dict[str, Task]:
    """By stem, the masks to look at: all of them, or the first."""
    kind = "grey mask" if subject.still else "long mask" if subject.long_ids else "mask"
    return {stem: Task(subject.masks[stem], kind) for stem in list(subject.masks)[: None if deep else 1]}


def look_at(task: Task) -> Look:
    """What a file holds; one that can't be read has a `problem`."""
    try:
        look = _LOOKS[task.kind](task.path)
        _require_sound(task.path)
        return look
    except ValueError as error:
        return Look(problem=" ".join(str(error).split()))


def _look_at_head(path: Path) -> Look:
    """Raises ValueError naming a file that doesn't begin as an image does."""
    try:
        with Image.open(path) as image:
            return Look((image.height, image.width))
    except Exception as error:  # on damaged bytes Pillow's readers raise nearly anything
        text = "not an image" if isinstance(error, UnidentifiedImageError) else " ".join(str(error).split())
        raise ValueError(f"{path}: can't be read as an image: {text or type(error).__name__}") from error


def _require_sound(path: Path) -> None:
    """Raise ValueError unless a PNG file is there to its end: pixels are read from one that lacks the last bytes."""
    if path.suffix.lower() == ".png":
        try:
            with Image.open(path) as image:
                image.verify()  # lengths and checksums of all chunks
        except Exception as error:
            raise ValueError(f"{path}: can't be read as a whole PNG file: cut off or damaged") from error


def _look_at_image(path: Path) -> Look:
    image = read_image(path)
    return Look((image.shape[0], image.shape[1]))


def _look_at_mask(path: Path, long_ids: bool = False) -> Look:
    labels = read_labels(path, long_ids).labels
    return Look((labels.shape[0], labels.shape[1]), object_ids(labels))


def _look_at_grey_mask(path: Path) -> Look:
    image = read_image(path)
    return Look((image.shape[0], image.shape[1]), (1,) if image.max() > GREY_HALF else ())


_LOOKS: dict[Kind, Callable[[Path], Look]] = {
    "head": _look_at_head,
    "image": _look_at_image,
    "mask": _look_at_mask,
    "long mask": partial(_look_at_mask, long_ids=True),
    "grey mask": _look_at_grey_mask,
}


# ---------------------------------------------------------------------------------------------------------- judgement
def _judge_all(subjects: Sequence[Subject], looks: Mapping[Task, Look], deep: bool) -> Findings:
    """The findings of one data set."""
    problems, objects, classes, usable = [], 0, set(), []
    for subject in subjects:
        images = {stem: looks[task] for stem, task in _frame_tasks(subject, deep).items()}
        masks = {stem: looks[task] for stem, task in _mask_tasks(subject, deep).items()}
        problems += [f"{subject.name}: {line}" for line in _judge(subject, images, masks)]
        seen = {label for look in masks.values() for label in look.ids}
        if subject.values != "objects":
            classes |= classes_among(seen, subject.values)
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
    """What is wrong with one video, a line for each kind of thing that isn't about one file alone."""
    yield from subject.problems
    yield from (look.problem for look in (*images.values(), *masks.values()) if look.problem)
    yield from _empty_files(subject, images, masks)
    yield from _sizes(subject, images, masks)
    yield from _ids(subject, masks)
    yield from _first_masks(subject, masks)


def _empty_files(subject: Subject, images: Mapping[str, Look], masks: Mapping[str, Look]) -> Iterator[str]:
    """Files without a byte among those that weren't looked at."""
    unseen = [path for stem, path in subject.frames.items() if stem not in images]
    unseen += [path for stem, path in subject.masks.items() if stem not in masks]
    empty = [str(path) for path in unseen if os.stat(path).st_size == 0]
    if empty:
        yield f"{len(empty)} files are empty: {some(empty)}"


def _sizes(subject: Subject, images: Mapping[str, Look], masks: Mapping[str, Look]) -> Iterator[str]:
    """Frames that differ in size from the first, and masks that differ from their frames."""
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
            f"{files[odd[0]]}: got (H, W) = {looks[odd[0]].size}, wanted {wanted}, {whose} size"
            f" ({len(odd)} of {len(looks)} {kind} looked at)"
        )


def _ids(subject: Subject, masks: Mapping[str, Look]) -> Iterator[str]:
    """Labels that can't be, and ids that the data set's list doesn't have."""
    if subject.still:
        return
    strange = {stem: _strange(subject, look.ids) for stem, look in masks.items()}
    yield from _strange_ids(strange, subject, _range(subject))
    if subject.ids is not None:
        unlisted = {
            stem: [i for i in look.ids if i not in (*subject.ids, IGNORED) and i <= subject.largest_id]
            for stem, look in masks.items()
        }
        yield from _strange_ids(unlisted, subject, f"those listed, {some([str(i) for i in sorted(subject.ids)])}")


def _strange(subject: Subject, ids: Iterable[int]) -> list[int]:
    """The labels among those of a mask that are out of range."""
    if subject.values != "objects":
        return strange_classes(list(ids), subject.values)
    return [i for i in ids if i > subject.largest_id and not (subject.may_ignore and i == IGNORED)]


def _range(subject: Subject) -> str:
    return f"1 to {subject.largest_id}" if subject.values == "objects" else f"classes 1 to {CLASSES}"


def _strange_ids(strange: Mapping[str, list[int]], subject: Subject, wanted: str) -> Iterator[str]:
    """One line about all masks with labels that shouldn't be there."""
    where = [stem for stem, ids in strange.items() if ids]
    if where:
        ids = sorted({label for stem in where for label in strange[stem]})
        yield (
            f"{subject.masks[where[0]]}: ids {some([str(i) for i in ids])}, wanted {wanted}"
            f" ({len(where)} of {len(strange)} masks looked at)"
        )


def _first_masks(subject: Subject, masks: Mapping[str, Look]) -> Iterator[str]:
    """Masks that don't show what starts there."""
    whole = {stem: look for stem, look in masks.items() if not look.problem}
    for stem, ids in subject.starts.items():
        if stem in whole and (missing := sorted(ids - set(whole[stem].ids))):
            yield f"{subject.masks[stem]}: no object {some([str(i) for i in missing])}, which is listed to start here"
    first = next(iter(subject.masks), None)
    if first in whole and subject.first_must_show and not whole[first].ids:
        yield f"{subject.masks[first]}: the first mask is empty, so that there is nothing to track"
    elif len(whole) == len(subject.masks) > 0 and not any(look.ids for look in whole.values()):
        yield f"{subject.masks[next(iter(whole))].parent}: no mask shows anything"

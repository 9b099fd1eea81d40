"""Sessions with models by name, prompts and export: the public `Session`."""

import json
import logging
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cutie_geo.config import TrackerConfig, build, require, to_dict
from cutie_geo.config.choices import DEFAULT_MODEL
from cutie_geo.data.index import ANNOTATIONS, OWN_VIDEOS
from cutie_geo.data.io_threads import write_json
from cutie_geo.data.masks import write_labels
from cutie_geo.data.random_access import RandomAccess, video_digest
from cutie_geo.data.session_file import FILE
from cutie_geo.data.video import open_source
from cutie_geo.export.masks import export_masks
from cutie_geo.export.options import ExportOptions
from cutie_geo.inference.options import RunOptions
from cutie_geo.inference.prompting import FramePrompter
from cutie_geo.inference.results import NOTES
from cutie_geo.inference.session.session import VideoSession
from cutie_geo.inference.session.store import SessionStore
from cutie_geo.runs.models import VideoModel, load_any, model_settings
from cutie_geo.runs.prompts import load_frame_prompter

log = logging.getLogger(__name__)


class Session(VideoSession):
    """Annotation of the objects of one video, on disk: prompts, propagation, corrections, approval, undo.

    Every action is on disk when the method returns. A session that was closed, or whose process was killed, is opened
    again with `Session.load` or with the same arguments, and continues with equal results.

    >>> import cutie_geo, numpy as np
    >>> session = cutie_geo.Session(cutie_geo.example_frames())
    >>> mask = np.zeros(session.size, bool)
    >>> mask[60:120, 100:160] = True
    >>> session.set_mask(0, object=1, mask=mask)
    >>> [index for index, labels in session.propagate(stop=2)]
    [1]
    >>> session.status().propagated.ranges
    [(1, 2)]

    Args:
        video: Video file or folder of frames.
        model: Name of a model as for `load_model`, or a network. It is loaded when a propagation needs it.
        folder: Folder of the session, created if it is missing; None for a temporary one.
        prompter: Predictor of masks from clicks and boxes; None loads the model's own when a prompt needs it.
        weights: As for `load_model`.
        device: As for `load_model`.
        precision: As for `load_model`.
        tracker: Options of the tracker; None for the defaults.

    Raises:
        ValueError: If the video cannot be read, or if the folder has a session of another video.
    """

    def __init__(
        self,
        video: str | Path,
        model: str | VideoModel = DEFAULT_MODEL,
        folder: str | Path | None = None,
        prompter: FramePrompter | None = None,
        weights: str = "auto",
        device: str = "auto",
        precision: str = "auto",
        tracker: TrackerConfig | None = None,
    ) -> None:
        temporary = None if folder is not None else tempfile.mkdtemp(prefix="cutie-geo-session-")
        if temporary is not None:
            weakref.finalize(self, shutil.rmtree, temporary, ignore_errors=True)
        self.folder = Path(str(temporary if folder is None else folder))
        """Folder of the session."""
        source = open_source(video)
        frames = RandomAccess(source)
        described = {
            "path": str(Path(video).absolute()),
            "name": source.name,
            "digest": video_digest(source),
            "frames": len(frames),
            "size": list(frames.size),
        }
        path = self.folder / FILE
        name = model if isinstance(model, str) else None
        chosen = {"name": name, "weights": weights}
        if path.exists():
            store = SessionStore(path)
            _require_same(store, described)
            if tracker is None:
                tracker = build(TrackerConfig, _mapping(store.meta, "tracker", path), f"{path}: tracker")
            changed = {"video": described, "model": chosen, "tracker": to_dict(tracker)}
            if any(store.meta.get(key) != value for key, value in changed.items()):
                other = store.meta.get("tracker") != to_dict(tracker) or store.meta.get("model") != chosen
                with store.notes():
                    store.set_meta(**changed, **({"pending": None} if other else {}))
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            tracker = tracker or TrackerConfig()
            store = SessionStore(path, {"video": described, "model": chosen, "tracker": to_dict(tracker)})
        self.video_name: str = source.name
        """Name of the video."""
        self._source_path = Path(video)
        self._chosen, self._weights, self._device, self._chosen_precision = model, weights, device, precision
        self._given_prompter = prompter
        options = RunOptions(tracker=tracker, default_size=OWN_VIDEOS.size)
        super().__init__(frames, store, options, self._loaded_model, self._loaded_prompter)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        video: str | Path | None = None,
        model: str | VideoModel | None = None,
        prompter: FramePrompter | None = None,
        weights: str | None = None,
        device: str = "auto",
        precision: str = "auto",
    ) -> "Session":
        """Open a session that was made before.

        Args:
            folder: Folder of the session.
            video: Path of the video, if it was moved.
            model: Another model; needed if the session was made with a network instead of a name.
            prompter: As for `Session`.
            weights: Other weights.
            device: As for `load_model`.
            precision: As for `load_model`.

        Raises:
            ValueError: If there is no session, its file is damaged or of a later version, or the video is missing or
                another one.
        """
        path = Path(folder) / FILE
        store = SessionStore(path)
        try:
            known = _mapping(store.meta, "video", path)
            stored = _mapping(store.meta, "model", path)
        finally:
            store.close()
        place = known.get("path") if video is None else video
        if not isinstance(place, (str, Path)) or not Path(place).exists():
            raise ValueError(f"{path}: its video {place} is missing; tell where it is with video=")
        chosen = model if model is not None else stored.get("name")
        if chosen is None:
            chosen = DEFAULT_MODEL
            log.warning("%s: was made with a network from Python, using %s unless model= is given", path, chosen)
        weights = weights or (str(stored.get("weights", "auto")) if model is None else "auto")
        return cls(place, chosen, folder, prompter, weights, device, precision)

    def save(self) -> None:
        """Write everything to the one file of the session, `FOLDER/session.sqlite`, so that it can be copied.

        It need not be called for safety: every action is on disk when its method returns.
        """
        self._store.flush()

    def close(self) -> None:
        """Close the files. The session cannot be used afterwards."""
        self._store.close()
        self._video.close()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def export(self, output: str | Path, format: str = "davis", options: ExportOptions | None = None) -> list[Path]:
        """Write the masks of all frames that have some, in any format of `cutie-geo export masks`.

        Objects have the names of the session unless `options` names them.

        Returns:
            The files that were written.

        Raises:
            ValueError: For an unknown format, without any mask, and for masks that the format cannot represent.
        """
        if stale := self.status().stale:
            log.warning("%s: masks of %d frames are stale; propagate before exporting", self.folder, len(stale))
        options = options or ExportOptions()
        options = replace(options, names={**self.objects, **options.names})
        with tempfile.TemporaryDirectory(prefix="cutie-geo-export-") as place:
            self.write_run(Path(place))
            return export_masks(place, format, output, options, self._source_path)

    def replay(
        self,
        folder: str | Path,
        model: str | VideoModel | None = None,
        prompter: FramePrompter | None = None,
        weights: str | None = None,
    ) -> "Session":
        """Do all actions of this session again in a new one, for example with another model.

        Args:
            folder: Folder of the new session.
            model: Another model; None for that of this session.
            prompter: Another prompter; None for the model's own.
            weights: Weights of the model.

        Raises:
            ValueError: If there is a session in the folder already.
        """
        require(not (Path(folder) / FILE).exists(), f"{folder}: there is a session already, expected another folder")
        weights = weights or (self._weights if model is None else "auto")
        chosen = self._chosen if model is None else model
        tracker = build(TrackerConfig, _mapping(self._store.meta, "tracker", self._store.path), "tracker")
        copy = Session(
            self._source_path, chosen, folder, prompter or self._given_prompter, weights, self._device,
            self._chosen_precision, tracker,
        )  # fmt: skip
        copy.repeat(self)
        return copy

    def write_run(self, output: Path) -> list[str]:
        """Write the masks as a finished run, `Annotations/<video>/<frame>.png` with notes; return the frames' names."""
        with self._lock:
            shown = self._shown()
            require(bool(shown), f"{self.folder}: no frame has a mask; prompt and propagate before exporting")
            for index in shown:
                write_labels(output / ANNOTATIONS / self.video_name / f"{self.names[index]}.png", self.labels(index))
            presence = {str(i): [scores[k] for k in shown] for i, scores in self.status().presence.items()}
            frames = [self.names[k] for k in shown]
            note = {"video": self.video_name, "frames": frames, "presence": presence}
            write_json(output / NOTES / f"{self.video_name}.json", note)
            return frames

    def _shown(self) -> list[int]:
        """Return the frames with masks."""
        found = set(self._locked)
        for i in self._ids:
            found |= self._prompted[i] | self._layers[i]
        return sorted(found)

    # ----------------------------------------------------------------------------------------------------- loading
    def _loaded_model(self) -> VideoModel:
        if not isinstance(self._chosen, str):
            return self._chosen
        model = self._named_model(self._chosen)
        settings = json.loads(json.dumps(model_settings(self._chosen, self._weights, model)))  # as it is stored
        before = self._store.meta.get("settings")
        if before != settings:
            if before is not None:
                log.warning("%s: earlier masks were made with other weights or settings of the model", self.folder)
            with self._store.notes():
                self._store.set_meta(settings=settings, **({} if before is None else {"pending": None}))
        return model

    def _named_model(self, name: str) -> VideoModel:
        return load_any(name, self._weights, self._device, self._chosen_precision)

    def _loaded_prompter(self) -> FramePrompter:
        return self._given_prompter or load_frame_prompter(self._network())


def _mapping(meta: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    content = meta.get(name)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: {name}: got {content!r:.40}, expected an object")
    return content


def _require_same(store: SessionStore, now: Mapping[str, Any]) -> None:
    """Raise ValueError if a session belongs to another video."""
    known = _mapping(store.meta, "video", store.path)
    same = known.get("digest") == now["digest"] and known.get("frames") == now["frames"]
    require(
        same,
        f"{store.path}: is the session of another video, {str(known.get('path'))[:200]}; got {now['path']}, expected "
        "the same contents. Choose another folder",
    )

"""Sessions of the app's videos, which share one network."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from cutie_geo.app.library import Video
from cutie_geo.checkpoints.catalogue import location
from cutie_geo.config.choices import DEFAULT_MODEL, PROMPT_MODEL
from cutie_geo.inference.prompting import FramePrompter
from cutie_geo.runs.models import VideoModel, load_any
from cutie_geo.runs.prompts import load_frame_prompter, turns_prompts_into_masks
from cutie_geo.runs.session import Session
from cutie_geo.sam2.prompter import shared_prompts

NO_PROMPTER = f"Clicks need a model that is not installed: cutie-geo download {PROMPT_MODEL}. Boxes are filled."
"""Message on the page if clicks do not work."""


@dataclass
class Sessions:
    """Opens sessions. May be used from several threads."""

    model: str | VideoModel = DEFAULT_MODEL
    """Model that tracks, as for `Session`."""
    weights: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    prompt_model: str | None = None
    """SAM 2 for clicks, downloaded if needed. None: the model's own prompt head, or a SAM 2 that is installed."""
    frame_prompter: FramePrompter | None = None
    """Predictor of masks from clicks. None: loaded when it is first needed."""
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _loaded: bool = False
    _network: VideoModel | None = None

    def open(self, video: Video) -> Session:
        """Open the session of a video, or make a new one. Raises ValueError and OSError as `Session`."""
        return _AppSession(video, self)

    def network(self) -> VideoModel:
        """Return the network that tracks, loaded on the first call."""
        with self._lock:
            if self._network is None:
                name = self.model
                loaded = load_any(name, self.weights, self.device, self.precision) if isinstance(name, str) else name
                self._network = loaded
            return self._network

    def prompter(self) -> FramePrompter | None:
        """Return the predictor of masks from clicks, loaded on the first call; None if no model of it is installed."""
        with self._lock:
            if self.frame_prompter is None and not self._loaded:
                self.frame_prompter = self._load()
            self._loaded = True
            return self.frame_prompter

    async def load(self) -> FramePrompter | None:
        """Load the network and the predictor of masks from clicks, as `prompter` does.

        Every thread in which torch has computed keeps threads of its own. With more of them than cores, torch computes
        half as fast, so this thread ends with the loading.
        """
        pool = ThreadPoolExecutor(1, thread_name_prefix="loading")
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, self.prompter)
        finally:
            pool.shutdown(wait=False)

    def _load(self) -> FramePrompter | None:
        model = self.network()
        needs_another = self.prompt_model is None and not turns_prompts_into_masks(model)
        if needs_another and not location(shared_prompts(model) or PROMPT_MODEL).is_file():
            return None
        return load_frame_prompter(model, self.prompt_model)


class _AppSession(Session):
    """Session whose models are those of all sessions of the app."""

    def __init__(self, video: Video, sessions: Sessions) -> None:
        self._sessions = sessions
        model, weights = sessions.model, sessions.weights
        super().__init__(video.path, model, video.session, None, weights, sessions.device, sessions.precision)

    def _named_model(self, name: str) -> VideoModel:
        return self._sessions.network()

    def _loaded_prompter(self) -> FramePrompter:
        prompter = self._sessions.prompter()
        if prompter is None:
            raise ValueError(NO_PROMPTER)
        return prompter

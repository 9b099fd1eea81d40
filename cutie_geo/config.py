"""Every knob: frozen dataclasses, loaded strictly from YAML files and `key=value` overrides."""

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import yaml

T = TypeVar("T")


def require(condition: bool, message: str) -> None:
    """Raise ValueError(message) unless `condition`."""
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class EncoderConfig:
    """The pixel encoder: one image in, features at strides 16, 8 and 4 out."""

    vision: Literal[
        "resnet50", "resnet18", "hiera-large", "hiera-base-plus", "hiera-small", "hiera-tiny", "hiera-nano"
    ] = "resnet50"
    """Backbone of the image features: Cutie's ResNets, or SAM 2's Hiera trunks."""
    vision_init: Literal["sam2.1", "sam2", "mae", "none"] = "sam2.1"
    """What a Hiera trunk starts from: SAM 2.1, SAM 2, Hiera's own masked autoencoder, or random weights."""
    vision_features: Literal["trunk", "fpn"] = "trunk"
    """Of a Hiera trunk: the ends of its stages, or the feature pyramid that SAM 2 puts behind them."""
    geometry: Literal[
        "none", "depth-anything-v2-large", "depth-anything-v2-base", "depth-anything-v2-small", "depth-nano"
    ] = "none"
    """The depth network whose features are fused with those of a Hiera trunk."""
    geometry_init: Literal["depth-anything-v2", "none"] = "depth-anything-v2"
    """What the depth network starts from: Depth Anything V2, or random weights."""
    freeze: bool = True
    """Keep a network that starts from published weights as it is. One that starts at random is always trained."""
    channels: tuple[int, int, int] = (1024, 512, 256)
    """What vision and geometry are fused to, at strides 16, 8 and 4; a ResNet brings its own."""

    def __post_init__(self) -> None:
        require(min(self.channels) > 0, f"channels: got {self.channels}, wanted positive numbers")
        require(
            self.is_hiera or self.geometry == "none",
            f"geometry: got {self.geometry} with {self.vision}, wanted it with one of the Hiera trunks",
        )
        published = self.vision != "hiera-nano" or self.vision_init == "none" or not self.is_hiera
        require(published, f"vision_init: got {self.vision_init} with {self.vision}, of which only none exists")
        published = self.geometry != "depth-nano" or self.geometry_init == "none"
        require(published, f"geometry_init: got {self.geometry_init} with {self.geometry}, of which only none exists")
        require(
            self.vision_features == "trunk" or self.vision_init != "mae",
            "vision_features: got fpn with vision_init mae, which has no feature pyramid; wanted trunk",
        )

    @property
    def is_hiera(self) -> bool:
        """Whether vision is a Hiera trunk and not one of Cutie's ResNets."""
        return self.vision.startswith("hiera")

    @property
    def starts(self) -> dict[str, str]:
        """Of the parts `vision` and `geometry` that this encoder has from published weights: where these come from."""
        vision = {"vision": self.vision_init} if self.is_hiera and self.vision_init != "none" else {}
        has_geometry = self.geometry != "none" and self.geometry_init != "none"
        return vision | ({"geometry": self.geometry_init} if has_geometry else {})

    @property
    def frozen(self) -> tuple[str, ...]:
        """The parts that training leaves as they are."""
        return tuple(self.starts) if self.freeze else ()


@dataclass(frozen=True)
class WeightsConfig:
    """Files that parts of a network start from. Empty: what the catalogue has for the part."""

    vision: str = ""
    """A SAM 2 file in any of its forms, or, with `vision_init=mae`, timm's file of Hiera's masked autoencoder."""
    geometry: str = ""
    """A Depth Anything V2 file, in its authors' form or that of transformers."""
    warm_start: str = ""
    """A Cutie checkpoint for all that lies behind the encoder."""


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the network; the defaults are those of Cutie's base model."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    mask_encoder: Literal["resnet50", "resnet18"] = "resnet18"
    """Backbone of the mask encoder."""
    key_dim: int = 64
    """Channels CK of keys and selections."""
    value_dim: int = 256
    """Channels of pixel features, mask values, sensory memory and object queries alike."""
    num_queries: int = 16
    """Object queries Q: the first half looks at foreground, the second at background."""
    num_heads: int = 8
    num_blocks: int = 3
    """Blocks of the object transformer."""
    feedforward_dim: int = 2048
    decoder_dim: int = 128
    """Channels of the decoder at strides 8 and 4."""
    position_scale: float = 32.0
    """Positions run from 0 to this value across the feature map before they become sines."""
    position_temperature: float = 128.0
    single_object: bool = False
    """No "other objects" channels: the network of still-image pre-training."""

    def __post_init__(self) -> None:
        for name in (
            "key_dim",
            "value_dim",
            "num_queries",
            "num_heads",
            "num_blocks",
            "feedforward_dim",
            "decoder_dim",
        ):
            require(getattr(self, name) > 0, f"{name}: got {getattr(self, name)}, wanted a positive number")
        require(self.position_scale > 0, f"position_scale: got {self.position_scale}, wanted more than 0")
        temperature = self.position_temperature
        require(temperature > 1, f"position_temperature: got {temperature}, wanted more than 1")
        require(self.num_queries % 2 == 0, f"num_queries: got {self.num_queries}, wanted an even number")
        require(
            self.value_dim % self.num_heads == 0,
            f"value_dim: got {self.value_dim}, wanted a multiple of num_heads={self.num_heads}",
        )
        require(
            self.value_dim % 4 == 0, f"value_dim: got {self.value_dim}, wanted a multiple of 4 (2-D sine positions)"
        )


@dataclass(frozen=True)
class LongTermConfig:
    """Long-term memory: when working memory is consolidated, and how many tokens are kept."""

    max_mem_frames: int = 10
    """Working memory is consolidated when it holds this many frames, the pinned one counted."""
    min_mem_frames: int = 5
    """Frames left in working memory by a consolidation, the pinned one counted."""
    num_prototypes: int = 128
    """Tokens that one consolidation adds."""
    max_num_tokens: int = 10000
    """Tokens that long-term memory never exceeds, for each group of objects that share tokens."""
    buffer_tokens: int = 2000
    """Tokens freed beyond the need when the least used ones are dropped."""
    count_usage: bool = True
    """Rank long-term tokens by usage; otherwise the oldest are dropped first."""

    def __post_init__(self) -> None:
        # with one frame left, the frame just written, which nothing has read yet, would be ranked by a usage of zero
        require(self.min_mem_frames >= 2, f"long_term.min_mem_frames: got {self.min_mem_frames}, wanted at least 2")
        require(
            self.max_mem_frames > self.min_mem_frames,
            f"long_term.max_mem_frames: got {self.max_mem_frames}, "
            f"wanted more than min_mem_frames={self.min_mem_frames}",
        )
        require(
            self.num_prototypes > 0, f"long_term.num_prototypes: got {self.num_prototypes}, wanted a positive number"
        )
        require(self.buffer_tokens >= 0, f"long_term.buffer_tokens: got {self.buffer_tokens}, wanted 0 or more")
        require(
            self.max_num_tokens >= self.num_prototypes + self.buffer_tokens,
            f"long_term.max_num_tokens: got {self.max_num_tokens}, wanted at least num_prototypes + buffer_tokens = "
            f"{self.num_prototypes + self.buffer_tokens}",
        )


@dataclass(frozen=True)
class TrackerConfig:
    """What one video's tracker remembers, and how it reads it. Source: spec of Cutie's inference options."""

    mem_every: int = 5
    """A frame enters memory every this many frames."""
    stagger_updates: int = 5
    """The decoder updates sensory memory on this many of the frames between two memory frames."""
    max_mem_frames: int = 5
    """Frames in working memory without long-term memory, the pinned one counted."""
    top_k: int = 30
    """Memory tokens that each query position reads."""
    chunk_size: int = -1
    """Objects that go through the network together; -1 for all. Bounds memory; changes values by rounding only, about
    1e-6 in float32."""
    max_internal_size: int = -1
    """Frames whose shorter side is longer than this are shrunk to it for the network; -1 for never."""
    use_long_term: bool = False
    long_term: LongTermConfig = field(default_factory=LongTermConfig)

    def __post_init__(self) -> None:
        for name in ("mem_every", "stagger_updates", "top_k"):
            require(getattr(self, name) >= 1, f"{name}: got {getattr(self, name)}, wanted 1 or more")
        require(self.max_mem_frames >= 1, f"max_mem_frames: got {self.max_mem_frames}, wanted 1 or more")
        for name in ("chunk_size", "max_internal_size"):
            value = getattr(self, name)
            require(value == -1 or value >= 1, f"{name}: got {value}, wanted -1 or a positive number")


# --------------------------------------------------------------------------------------------------------- loading
def build(cls: type[T], given: Any, where: str = "config") -> T:
    """`given` as a `cls`, nested dataclasses too.

    Raises ValueError that names the place for unknown names, missing names without a default and values of another
    type.
    """
    require(isinstance(given, Mapping), f"{where}: got {type(given).__name__}, wanted a mapping of names to values")
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(str(name) for name in set(given) - set(known))
    require(not unknown, f"{where}: unknown {', '.join(unknown)}; known are {', '.join(known)}")
    no_default = {name for name, f in known.items() if f.default is MISSING and f.default_factory is MISSING}
    missing = sorted(no_default - set(given))
    require(not missing, f"{where}: missing {', '.join(missing)}")
    values = {name: _convert(known[name].type, value, f"{where}.{name}") for name, value in given.items()}
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _convert(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type `hint`; ints become floats and lists become tuples, nothing else is coerced."""
    if is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else build(hint, value, where)
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        for option in args:
            try:
                return _convert(option, value, where)
            except ValueError:
                continue
    elif origin is Literal:
        if value in args and type(value) in {type(a) for a in args}:
            return value
        raise ValueError(f"{where}: got {value!r}, wanted one of {', '.join(map(repr, args))}")
    elif origin is tuple and isinstance(value, (list, tuple)):
        inner = [args[0]] * len(value) if len(args) == 2 and args[1] is Ellipsis else list(args)
        if len(inner) == len(value):
            return tuple(_convert(h, v, f"{where}[{i}]") for i, (h, v) in enumerate(zip(inner, value)))
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif origin is None and isinstance(hint, type) and isinstance(value, hint) and (type(value), hint) != (bool, int):
        return value
    wanted = hint.__name__ if isinstance(hint, type) else str(hint)
    raise ValueError(f"{where}: got {value!r} ({type(value).__name__}), wanted {wanted}")


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ValueError naming the file if it can't be read or holds something else."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: can't be read as YAML: {' '.join(str(error).split())}") from None
    require(content is None or isinstance(content, dict), f"{path}: got {type(content).__name__}, wanted a mapping")
    return content or {}


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it, mapping by mapping."""
    out = dict(base)
    for name, value in changes.items():
        old = out.get(name)
        out[name] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return out


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """`["a.b=1", "c=x"]` as `{"a": {"b": 1}, "c": "x"}`; values are read as YAML.

    Raises ValueError for an item without `=` or with an unreadable value.
    """
    out: dict[str, Any] = {}
    for item in overrides:
        path, equals, text = item.partition("=")
        names = path.strip().split(".")
        require(bool(equals) and all(names), f"override {item!r}: wanted name=value or group.name=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ValueError(f"override {item!r}: can't read the value {text!r}") from None
        for name in reversed(names):
            value = {name: value}
        out = merge(out, value)
    return out


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain dictionaries, lists and scalars, ready for YAML or JSON."""
    return asdict(config)


def split_overrides(overrides: Iterable[str]) -> tuple[list[str], list[str]]:
    """`key=value` items that are the model's, and all the others, which are the tracker's."""
    names = {f.name for f in fields(ModelConfig)}
    items = list(overrides)
    of_model = [item for item in items if item.partition("=")[0].partition(".")[0].strip() in names]
    return of_model, [item for item in items if item not in of_model]


# --------------------------------------------------------------------------------------------------------- presets
def config_root() -> Path:
    """The folder `configs`: beside the package in a checkout, inside it when installed from a wheel."""
    inside = Path(__file__).parent / "configs"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "configs"


def preset_names() -> list[str]:
    """Names that `model_config` understands."""
    return sorted(path.stem for path in (config_root() / "models").glob("*.yaml"))


def model_config(name: str, overrides: Iterable[str] = ()) -> ModelConfig:
    """The model configuration of a preset or of a YAML file, with `key=value` overrides.

    Raises ValueError for a name that is neither, and for anything wrong inside.
    """
    path = config_root() / "models" / f"{name}.yaml"
    if not path.is_file():
        path = Path(name)
        known = f"{name}: no such model; wanted one of {', '.join(preset_names())}, or a YAML file"
        require(path.suffix in (".yaml", ".yml") and path.is_file(), known)
    return build(ModelConfig, merge(read_yaml(path), parse_overrides(overrides)), str(path.name))

"""`cutie-geo app`: annotate videos in a browser."""

import argparse
from importlib.util import find_spec
from pathlib import Path

from cutie_geo.config import require
from cutie_geo.config.choices import DEFAULT_MODEL

HELP = "annotate videos in a browser: click, correct, track, export"
RESUMES = True
"""Everything is saved; the same command opens it again."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "source",
        type=Path,
        nargs="?",
        metavar="VIDEO",
        help="a video file, a folder of frames, or a folder of these (default: uploads, and the bundled example)",
    )
    parser.add_argument("--work", type=Path, default=Path("cutie_geo_app"), metavar="DIR",
                        help="folder for sessions, uploads and exports (default: cutie_geo_app)")  # fmt: skip
    server = parser.add_argument_group("server")
    server.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine "
                        "only); others need the token that is printed with the address")  # fmt: skip
    server.add_argument("--port", type=int, default=0, help="port (default: 0, a free one)")
    server.add_argument("--no-browser", action="store_true", help="do not open the page in a browser")
    server.add_argument("--max-upload", type=int, default=2048, metavar="MIB", help="largest upload (default: 2048)")
    model = parser.add_argument_group("model")
    model.add_argument("--model", default=DEFAULT_MODEL, help=f"model that tracks (default: {DEFAULT_MODEL})")
    model.add_argument("--weights", default="auto", help="auto (cached or downloaded), none (random), or a file")
    model.add_argument("--prompt-model", metavar="NAME", help="SAM 2 for clicks and boxes, downloaded if needed "
                       "(default: the model's own prompt head, or a SAM 2 that is installed)")  # fmt: skip
    model.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    model.add_argument("--precision", default="auto", help="auto, fp32, bf16, fp16")
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C; return 0. Raises ValueError for what cannot be opened."""
    missing = [name for name in ("starlette", "uvicorn", "websockets") if find_spec(name) is None]
    require(not missing, f"app: needs {', '.join(missing)}; install them with: pip install 'cutie_geo[app]'")
    from cutie_geo.app.server import AppOptions, serve
    from cutie_geo.app.sessions import Sessions

    options = AppOptions(args.source, args.work, args.host, args.port, args.max_upload, not args.no_browser)
    sessions = Sessions(args.model, args.weights, args.device, args.precision, args.prompt_model)
    try:
        serve(options, sessions, _tell)
    except KeyboardInterrupt:
        print("stopped; everything is saved, and the same command opens it again", flush=True)
    return 0


def _tell(url: str) -> None:
    print(f"ready: {url}\nCtrl-C stops the program.", flush=True)

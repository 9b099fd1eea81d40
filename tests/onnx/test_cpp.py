"""The loop in C++ of docs/cpp: it compiles, and its masks are those of `OnnxTracker` with whole frames."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

import cutie_geo
from cutie_geo.data.masks import read_labels
from cutie_geo.onnx import OnnxTracker

SOURCE = Path(cutie_geo.__file__).parents[1] / "docs" / "cpp" / "track.cpp"
COMPILER = shutil.which("c++") or shutil.which("g++")
LIBRARIES = sorted((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
FRAMES = 8


def has_headers() -> bool:
    """Return True if the compiler finds onnxruntime's headers, for example through CPATH."""
    if COMPILER is None:
        return False
    command = [COMPILER, "-std=c++17", "-fsyntax-only", "-x", "c++", "-"]
    text = "#include <onnxruntime_cxx_api.h>\n"
    return subprocess.run(command, input=text, text=True, capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not LIBRARIES, reason="this onnxruntime has no shared library")
def test_the_loop_in_cpp_makes_the_masks_of_the_tracker(bundled_folder: Path, tmp_path: Path) -> None:
    if not has_headers():
        pytest.skip("no C++ compiler, or it does not find onnxruntime's headers; set CPATH to their folder")
    assert COMPILER is not None
    about = OnnxTracker(bundled_folder, threads=1).about
    program, (height, width) = tmp_path / "track", about.size
    sizes = {"HEIGHT": height, "WIDTH": width, "MAX_MEM_FRAMES": about.max_mem_frames, "MEM_EVERY": about.mem_every}
    command = [COMPILER, "-std=c++17", "-O1", str(SOURCE), *(f"-D{name}={size}" for name, size in sizes.items())]
    command += [str(LIBRARIES[-1]), f"-Wl,-rpath,{LIBRARIES[-1].parent}", "-o", str(program)]
    compiled = subprocess.run(command, capture_output=True, text=True)
    assert compiled.returncode == 0, compiled.stderr

    frames = [np.array(Image.open(path)) for path in sorted(cutie_geo.example_frames().glob("*.jpg"))[:FRAMES]]
    first = read_labels(cutie_geo.example_masks() / "00000.png").labels
    (tmp_path / "frames.rgb").write_bytes(b"".join(frame.tobytes() for frame in frames))
    (tmp_path / "first.raw").write_bytes(first.astype(np.uint8).tobytes())
    files = [str(tmp_path / name) for name in ("frames.rgb", "first.raw", "masks.raw")]
    done = subprocess.run([str(program), str(bundled_folder), *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    masks = np.frombuffer((tmp_path / "masks.raw").read_bytes(), np.uint8).reshape(FRAMES, height, width)

    tracker = OnnxTracker(bundled_folder, threads=1, full_frame_every=1)
    for i, frame in enumerate(frames):
        labels = tracker.labels(tracker.step(frame, first if i == 0 else None))
        assert (labels == masks[i]).mean() >= 0.999
    refused = subprocess.run([str(program)], capture_output=True, text=True)
    assert (refused.returncode, refused.stderr) == (2, "usage: track DIR frames.rgb first.raw masks.raw\n")

"""Speed and memory of `cutie-geo app` with the bundled model: `python tests/helpers/app_speed.py [FRAMES]`.

Prints, for a clip of 854x480 pixels: the time from the program's "ready" to the first frame on the screen, from a click
to its mask, from a key to the next frame that is cached, and the memory of the server and the page while scrubbing.
"""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
from browser import browser, page_at, wait_until

HEIGHT, WIDTH = 480, 854
CLICKS, STEPS = 10, 30


def write_frames(folder: Path, count: int) -> None:
    """A moving disc over noise, which compresses like a real video."""
    folder.mkdir()
    noise = cv2.resize(np.random.default_rng(0).integers(0, 90, (120, 214, 3), np.uint8), (WIDTH, HEIGHT))
    for index in range(count):
        image = np.roll(noise, 3 * index, 1)
        centre = (100 + (index * 5) % 650, 240)
        cv2.circle(image, centre, 60, (40, 60, 220), -1)
        cv2.imwrite(str(folder / f"{index:05d}.jpg"), image)


def drawn(page: Any, action: str) -> float:
    """Milliseconds from an action, JavaScript that returns a promise, until the screen shows its result."""
    return page.evaluate(
        f"""async () => {{
          const start = performance.now();
          await ({action});
          await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
          return performance.now() - start;
        }}"""
    )


def measure(page: Any, server: psutil.Process, count: int) -> None:
    started = time.monotonic()
    wait_until(page, "editor.prompter.available !== null")
    print(f"model for clicks loaded: {time.monotonic() - started:.1f} s later")
    page.evaluate("editor.addObject()")
    for name, pause in (("after a pause of a second on the frame", 1.0), ("at once after moving to the frame", 0.0)):
        clicks, used = [], []
        for index in range(1, CLICKS + 1):
            frame = index if pause else CLICKS + index
            page.evaluate(f"editor.show({frame})")
            page.wait_for_timeout(1000 * pause)
            before = cpu_seconds(server)
            clicks.append(drawn(page, f"editor.addPoint({{ point: [{100 + 5 * frame}, 240], label: 1 }})"))
            used.append(1000 * (cpu_seconds(server) - before))
        print(f"click to mask, {name}: median {statistics.median(clicks):.0f} ms, largest {max(clicks):.0f} ms; "
              f"computing of the server: median {statistics.median(used):.0f} ms")  # fmt: skip
    page.evaluate("editor.show(40)")
    page.wait_for_timeout(3000)
    steps = []
    for _ in range(STEPS):
        wait_until(page, "editor.frames.has(editor.frame + 1)")
        steps.append(drawn(page, "editor.seek(editor.frame + 1)"))
    print(f"next cached frame: median {statistics.median(steps):.0f} ms, largest {max(steps):.0f} ms")
    protocol = page.context.new_cdp_session(page)
    for turn in range(3):
        page.evaluate(f"(async () => {{ for (let f = 0; f < {count}; f += 2) await editor.seek(f); }})()")
        protocol.send("HeapProfiler.collectGarbage")
        heap = page.evaluate("performance.memory.usedJSHeapSize") / 2**20
        kept = page.evaluate("[editor.frames.bitmaps.items.size, editor.frames.labels.items.size]")
        memory = server.memory_info().rss / 2**20
        print(f"after scrubbing {turn + 1} times: server {memory:.0f} MiB, page {heap:.1f} MiB of objects, "
              f"{kept[0]} images, {kept[1]} label maps")  # fmt: skip


def cpu_seconds(process: psutil.Process) -> float:
    """Seconds of computing so far, of all threads."""
    times = process.cpu_times()
    return float(times.user + times.system)


def main(count: int) -> None:
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder, browser() as opened:
        write_frames(Path(folder) / "clip", count)
        program = ["-m", "cutie_geo", "app", f"{folder}/clip", "--work", f"{folder}/work", "--no-browser"]
        with subprocess.Popen([sys.executable, *program], stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            url = server.stdout.readline().removeprefix("ready: ").strip().rstrip("/")
            ready = time.monotonic()
            with page_at(opened, url) as page:
                wait_until(page, "window.editor?.shown")
                print(f"first frame on the screen: {1000 * (time.monotonic() - ready):.0f} ms after the program was "
                      f"ready, {page.evaluate('editor.firstShown'):.0f} ms after the page was opened")  # fmt: skip
                measure(page, psutil.Process(server.pid), count)
            server.send_signal(signal.SIGINT)
            server.communicate()  # its last words


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)

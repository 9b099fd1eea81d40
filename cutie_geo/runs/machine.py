"""Description of the machine for results and measurements: devices, processor, package versions."""

import os
import platform
import re
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

VERSIONS = (
    "cutie_geo",
    "torch",
    "timm",
    "sam2",
    "transformers",
    "accelerate",
    "av",
    "numpy",
    "pillow",
    "opencv-python-headless",
)
"""Packages that results depend on."""


def device_name(device: Any) -> str:
    """Return a torch device with the name of its GPU."""
    torch = sys.modules["torch"]  # imported already, since there is a device
    return f"{device}, {torch.cuda.get_device_name(device)}" if device.type == "cuda" else str(device)


def versions() -> dict[str, str]:
    """Return the installed versions of Python and of all VERSIONS."""
    found = {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


def cpu_name() -> str:
    """Return the processor's name, or its architecture where the system has no name for it."""
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        info = ""
    found = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def run_facts(settings: Any, models: Iterable[Any], videos: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the entries of run.json that all runs share; reports do not repeat `settings`.

    Args:
        settings: Settings of the run.
        models: Networks, for their devices.
        videos: Reports by video, also those of earlier calls.
    """
    for name, report in videos.items():
        same = report.get("settings") == settings
        videos[name] = {key: value for key, value in report.items() if not (same and key == "settings")}
    return {
        "settings": settings,
        "versions": versions(),
        "machine": f"{platform.machine()} {platform.system()}, {os.cpu_count()} cores",
        "device": "; ".join(dict.fromkeys(device_name(model.device) for model in models)),
        "videos": videos,
    }


def describe_machine(device: Any) -> dict[str, str]:
    """Return device, processor and versions, which are printed and stored with measurements."""
    threads = sys.modules["torch"].get_num_threads()
    return {
        "device": device_name(device),
        "cpu": f"{cpu_name()}, {os.cpu_count()} cores, {threads} threads",
        "system": f"{platform.system()} {platform.machine()}, python {platform.python_version()}, "
        f"torch {version('torch')}",
    }

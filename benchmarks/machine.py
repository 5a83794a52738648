"""What a result says of the machine that it was measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any


def machine(**more: Any) -> dict[str, Any]:
    """Processor, system, cores and Python, and whatever else matters to a benchmark."""
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **more,
    }

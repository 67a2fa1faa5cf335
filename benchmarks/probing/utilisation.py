"""How busy a GPU is while something runs."""

from __future__ import annotations

import subprocess

from typing_extensions import Self


class Utilisation:
    """Samples nvidia-smi's utilisation twice a second."""

    def __init__(self, device: str) -> None:
        self.text, self._device = "not sampled", device
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        if self._device.startswith("cuda"):
            query = ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits"]
            self._process = subprocess.Popen([*query, "-lms", "500"], stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            lines = [line.split(",") for line in self._process.communicate()[0].splitlines() if "," in line]
            if lines:
                used = max(int(memory) for _, memory in lines)
                self.text = f"{sum(int(u) for u, _ in lines) / len(lines):.0f} % on average, {used} MiB at most"

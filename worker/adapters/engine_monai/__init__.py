"""Runs MONAI bundles and single-file models; the only package that imports torch and MONAI."""

from worker.adapters.engine_monai.device import choose_device
from worker.adapters.engine_monai.engine import MonaiEngine

__all__ = ["MonaiEngine", "choose_device"]

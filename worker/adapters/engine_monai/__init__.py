"""Runs MONAI bundles and single-file models; the only package that imports torch and MONAI."""

from worker.adapters.engine_monai.engine import MonaiEngine, choose_device

__all__ = ["MonaiEngine", "choose_device"]

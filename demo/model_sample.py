"""Write the sample that `models verify` runs the demonstration model on.

    python -m demo.model_sample models/demo_brain_tumor/sample

One coarse phantom with one tumour, a NIfTI file for each channel, all on one grid, in a byte for
each voxel: small enough to lie beside the model.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nibabel as nib
import numpy as np

from demo.anatomy import draw_anatomy
from demo.fields import Grid, rotation_from_degrees
from demo.phantom import ScanQuality, lay_out, render
from demo.phantom_dicom import AXIAL, PROTOCOLS
from demo.seeds import SAMPLE_SEED

SHAPE = (60, 72, 54)
SPACING_MM = (3.0, 3.0, 3.0)


def write_model_sample(folder: Path, *, seed: int = SAMPLE_SEED) -> list[Path]:
    """Write one file for each channel, named as `metadata.json` names it."""
    grid = Grid.centred(SHAPE, SPACING_MM, rotation=rotation_from_degrees((0, 0, 0)) @ AXIAL)
    scene = lay_out(draw_anatomy(seed, lesions=1), grid)
    quality = ScanQuality.draw(np.random.default_rng(seed))
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for number, protocol in enumerate(PROTOCOLS):
        image = render(scene, protocol.sequence, quality, (seed, number))
        scaled = np.clip(np.rint(image * (250 / np.percentile(image, 99.9))), 0, 255)
        path = folder / f"{protocol.sequence}.nii.gz"
        nib.save(nib.Nifti1Image(scaled.astype(np.uint8), grid.affine_ras), path)
        written.append(path)
    return written


def main() -> int:
    """Write the sample and say where."""
    parser = argparse.ArgumentParser(prog="python -m demo.model_sample", description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT")
    for path in write_model_sample(parser.parse_args().out):
        print(f"{path}  {path.stat().st_size // 1024} kB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

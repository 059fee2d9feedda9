"""Writes the mask as NIfTI, for research tools: RAS affine, label values as the model gives them.

A NIfTI header has free text fields; nothing of the patient goes into them.
"""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from worker.core.geometry import Geometry
from worker.core.segments import LabelArray, Labels

# "Scanner anatomical": the coordinates are the scanner's own, not those of an atlas.
_SCANNER = 1


def write_nifti(labels: Labels, geometry: Geometry, path: Path) -> None:
    """Write a label map as ``.nii.gz`` with equal sform and qform.

    Parameters
    ----------
    labels : Labels
        Overlapping masks are flattened (`flatten`).
    geometry : Geometry
        The grid of the labels.
    path : Path
        Ends with ``.nii.gz``.
    """
    array = flatten(labels)
    image = nib.Nifti1Image(array, geometry.affine_ras, dtype=array.dtype)
    image.set_qform(geometry.affine_ras, code=_SCANNER)
    image.set_sform(geometry.affine_ras, code=_SCANNER)
    image.header.set_xyzt_units(xyz="mm")
    image.header.set_intent("label")
    image.header["descrip"] = b"segmentation label map"
    nib.save(image, path)


def flatten(labels: Labels) -> LabelArray:
    """Give one label map: (I, J, K) uint8, or uint16 where a label value needs it.

    Where masks overlap, the one with fewer voxels is painted over the one with more, so that a
    region inside another (an enhancing rim in a whole tumour) stays visible.
    """
    dtype = np.uint8 if max(labels.values, default=0) <= np.iinfo(np.uint8).max else np.uint16
    if not labels.is_overlapping:
        return np.asarray(labels.array.astype(dtype, copy=False))
    flat = np.zeros(labels.shape, dtype=dtype, order="F")  # as it lies in the file
    part, masks = flat[labels.box], [mask[labels.box] for mask in labels.array]
    sizes = [int(np.count_nonzero(mask)) for mask in masks]
    for index in sorted(range(len(sizes)), key=lambda n: -sizes[n]):
        part[masks[index] != 0] = labels.values[index]
    return flat

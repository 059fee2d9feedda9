"""The lab script as it was, written from the contract: a program that loads the model per case.

    python -m benchmarks.old_way CASE_DIR... --bundle BUNDLE --out DIR [--orthanc URL USER PASSWORD]

Each CASE_DIR holds one folder for each series. For every case it polls (the 30 s between two polls
are counted, not slept), fetches the files one by one (from Orthanc where one is named), reads them
with pydicom, builds the bundle's network and reads its weights anew, runs the bundle's own
transforms and inferer, and writes a DICOM SEG with highdicom. It checks nothing and overlaps
nothing. Prints one JSON line for each case.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Sequence
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import numpy.typing as npt
import pydicom
import requests
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

POLL_S = 30.0
# A request that arrives at a random moment waits half the interval.
MEAN_WAIT_S = POLL_S / 2

Fetch = Any  # a callable of a Path that gives the file's bytes


def serve_case(series: Sequence[Path], bundle: Path, out: Path, fetch: Fetch) -> dict[str, float]:
    """Segment one case as the script did; give the seconds of each part."""
    marks = [("start", time.perf_counter())]
    datasets = [_read(folder, fetch) for folder in series]
    channels = np.stack([_volume(slices) for slices in datasets])
    affine = _affine(datasets[0])
    marks.append(("fetch and read", time.perf_counter()))
    parser, network = _load(bundle)
    marks.append(("load model", time.perf_counter()))
    mask = _infer(parser, network, channels, affine)
    marks.append(("infer", time.perf_counter()))
    _write(datasets[0], mask, out)
    marks.append(("write", time.perf_counter()))
    return {name: round(after - before, 3) for (_, before), (name, after) in pairwise(marks)}


def _read(folder: Path, fetch: Fetch) -> list[Dataset]:
    slices = [pydicom.dcmread(BytesIO(fetch(path))) for path in sorted(folder.iterdir())]
    return sorted(slices, key=lambda dataset: float(dataset.ImagePositionPatient[2]))


def _volume(slices: Sequence[Dataset]) -> npt.NDArray[np.float32]:
    planes = [dataset.pixel_array.astype(np.float32).T for dataset in slices]
    return np.stack(planes, axis=-1)


def _affine(slices: Sequence[Dataset]) -> npt.NDArray[np.float64]:
    first, last = slices[0], slices[-1]
    row, column = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    origin = np.array(first.ImagePositionPatient, float)
    step = (np.array(last.ImagePositionPatient, float) - origin) / (len(slices) - 1)
    affine = np.eye(4)
    affine[:3, 0] = row * float(first.PixelSpacing[1])
    affine[:3, 1] = column * float(first.PixelSpacing[0])
    affine[:3, 2], affine[:3, 3] = step, origin
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _load(bundle: Path) -> tuple[Any, Any]:
    import torch
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    parser["bundle_root"] = str(bundle)
    network = parser.get_parsed_content("network")
    weights = bundle / "models" / "model.pt"
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return parser, network.eval()


def _infer(
    parser: Any, network: Any, channels: npt.NDArray[np.float32], affine: npt.NDArray[np.float64]
) -> npt.NDArray[np.uint8]:
    import torch
    from monai.data import MetaTensor
    from monai.transforms import Compose, Invertd, LoadImaged, SaveImaged

    def without(name: str, kinds: tuple[type, ...]) -> Compose:
        steps = parser.get_parsed_content(name).transforms
        return Compose([step for step in steps if not isinstance(step, kinds)])

    preprocessing = without("preprocessing", (LoadImaged,))
    for step in (kept := without("postprocessing", (SaveImaged,))).transforms:
        if isinstance(step, Invertd):
            step.transform = preprocessing
    with torch.inference_mode():
        image = MetaTensor(torch.from_numpy(channels), affine=torch.from_numpy(affine))
        data = preprocessing({"image": image})
        pred = parser.get_parsed_content("inferer")(inputs=data["image"][None], network=network)[0]
        data["pred"] = MetaTensor(
            pred, meta=data["image"].meta, applied_operations=data["image"].applied_operations
        )
        return np.asarray(kept(data)["pred"][0].numpy(), dtype=np.uint8)


def _write(slices: Sequence[Dataset], mask: npt.NDArray[np.uint8], out: Path) -> None:
    planes = mask.transpose(2, 1, 0)
    values = [int(value) for value in np.unique(planes) if value] or [1]
    stack = np.stack([planes == value for value in values], axis=-1).astype(np.uint8)
    algorithm = hd.AlgorithmIdentificationSequence(
        name="old", version="1", family=codes.DCM.ArtificialIntelligence
    )
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=f"label {value}",
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Neoplasm,
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
        )
        for number, value in enumerate(values, start=1)
    ]
    seg = hd.seg.Segmentation(
        source_images=slices,
        pixel_array=stack,
        segmentation_type="BINARY",
        segment_descriptions=descriptions,
        series_instance_uid=generate_uid(),
        series_number=100,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="old",
        manufacturer_model_name="old",
        software_versions="1",
        device_serial_number="1",
    )
    out.mkdir(parents=True, exist_ok=True)
    seg.save_as(out / "mask.dcm")


def _from_orthanc(url: str, user: str, password: str) -> Fetch:
    """Fetch each instance by a call of its own, on a connection of its own, as the script did."""

    def fetch(path: Path) -> bytes:
        uid = pydicom.dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID
        auth = (user, password)
        found = requests.post(f"{url}/tools/lookup", data=uid, auth=auth, timeout=60).json()
        answer = requests.get(f"{url}/instances/{found[0]['ID']}/file", auth=auth, timeout=60)
        answer.raise_for_status()
        return answer.content

    return fetch


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="+", type=Path, metavar="CASE_DIR")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--orthanc", nargs=3, metavar=("URL", "USER", "PASSWORD"))
    options = parser.parse_args()
    fetch = _from_orthanc(*options.orthanc) if options.orthanc else Path.read_bytes
    warnings.simplefilter("ignore")
    for number, case in enumerate(options.cases):
        series = sorted(path for path in case.iterdir() if path.is_dir())
        seconds = serve_case(series, options.bundle, options.out / str(number), fetch)
        print(json.dumps({"case": str(case), "seconds": seconds}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

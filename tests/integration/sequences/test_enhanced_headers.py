from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from tests.support.dicom_phantoms import write_enhanced
from worker.adapters.sequence_header import read_sequence_header
from worker.core.sequences import recognise


def macro(**values: object) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def test_an_enhanced_instance_tells_its_physics_in_functional_groups(tmp_path: Path) -> None:
    def describe(dataset: Dataset) -> None:
        shared = dataset.SharedFunctionalGroupsSequence[0]
        shared.MRTimingAndRelatedParametersSequence = Sequence(
            [macro(RepetitionTime=9000.0, FlipAngle=150.0)]
        )
        shared.MREchoSequence = Sequence([macro(EffectiveEchoTime=94.0)])
        shared.MRModifierSequence = Sequence(
            [macro(InversionRecovery="YES", InversionTimes=2500.0)]
        )
        dataset.EchoPulseSequence = "SPIN"
        dataset.AcquisitionDateTime = "20260301101530.5"

    (path,) = write_enhanced(tmp_path / "one.dcm", edit=describe)
    header = read_sequence_header([pydicom.dcmread(path)])
    assert recognise(header).sequence == "FLAIR"
    assert header.flip_angle_deg == 150
    assert header.acquired_s is not None
    assert header.acquired_s % 86400 == 10 * 3600 + 15 * 60 + 30.5


def test_values_that_are_none_of_their_kind_count_as_absent() -> None:
    broken = Dataset()
    broken.add_new("EchoTime", "DS", "")
    broken.add_new("AcquisitionTime", "TM", "")
    broken.add_new("ContrastBolusAgent", "LO", "")
    header = read_sequence_header([broken])
    assert (header.echo_time_ms, header.acquired_s, header.contrast_agent) == (None, None, "")

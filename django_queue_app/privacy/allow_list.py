"""What may leave the hospital: every other element is dropped, at every depth.

Not one attribute of free text is here. Values are checked too: a code string must be one of the
words below, a number must be a number; a name written into either does not pass.

References
----------
DICOM PS3.15 E (Basic Profile), PS3.3 C.8.3 (MR image), C.8.13 (enhanced MR), C.7.6.16
"""

from __future__ import annotations

from enum import Enum, auto

from pydicom.datadict import tag_for_keyword


class Treatment(Enum):
    """What happens to an allowed element."""

    NUMBER = auto()  # text numbers (DS, IS): kept if they are numbers
    BINARY = auto()  # US, FD, ...: kept
    WORD = auto()  # kept if in the vocabulary
    UID = auto()  # pseudonym, unless of the standard
    DATE = auto()
    DATE_TIME = auto()
    TIME = auto()
    LABEL = auto()  # kept if a small number, else a pseudonym
    PIXELS = auto()  # untouched
    SEQUENCE = auto()  # its items pass through this same list


_KEYWORDS: dict[Treatment, str] = {
    Treatment.UID: """
        SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID
        DimensionOrganizationUID ConcatenationUID SOPInstanceUIDOfConcatenationSource
    """,
    Treatment.DATE: """
        InstanceCreationDate StudyDate SeriesDate AcquisitionDate ContentDate
    """,
    Treatment.DATE_TIME: "AcquisitionDateTime FrameAcquisitionDateTime FrameReferenceDateTime",
    Treatment.TIME: """
        InstanceCreationTime StudyTime SeriesTime AcquisitionTime ContentTime
    """,
    Treatment.WORD: """
        ImageType FrameType Modality PhotometricInterpretation BurnedInAnnotation
        LossyImageCompression LossyImageCompressionMethod PresentationLUTShape RescaleType
        ModalityLUTType BodyPartExamined Laterality ImageLaterality FrameLaterality PatientPosition
        ScanningSequence SequenceVariant ScanOptions MRAcquisitionType AngioFlag ImagedNucleus
        ResonantNucleus InPlanePhaseEncodingDirection VariableFlipAngleFlag ContentQualification
        PixelPresentation VolumetricProperties VolumeBasedCalculationTechnique
        ComplexImageComponent AcquisitionContrast EchoPulseSequence
        MultipleSpinEcho PhaseContrast TimeOfFlightContrast Spoiling
        SteadyStatePulseSequence EchoPlanarPulseSequence SaturationRecovery
        SpectrallySelectedSuppression OversamplingPhase GeometryOfKSpaceTraversal
        SegmentedKSpaceTraversal RectilinearPhaseEncodeReordering KSpaceFiltering PartialFourier
        PartialFourierDirection ParallelAcquisition ParallelAcquisitionTechnique InversionRecovery
        FlowCompensation FlowCompensationDirection DiffusionDirectionality
        DiffusionAnisotropyType DimensionOrganizationType CardiacSynchronizationTechnique
        RespiratoryMotionCompensationTechnique MagnetizationTransfer T2Preparation
        BloodSignalNulling SpatialPresaturation VOILUTFunction
    """,
    Treatment.NUMBER: """
        SeriesNumber AcquisitionNumber InstanceNumber NumberOfFrames TemporalPositionIdentifier
        NumberOfTemporalPositions ImagesInAcquisition EchoNumbers
        ImagePositionPatient ImageOrientationPatient SliceLocation PixelSpacing SliceThickness
        SpacingBetweenSlices PixelAspectRatio
        RescaleIntercept RescaleSlope WindowCenter WindowWidth LossyImageCompressionRatio
        EchoTime RepetitionTime InversionTime EchoTrainLength FlipAngle NumberOfAverages
        ImagingFrequency MagneticFieldStrength PixelBandwidth PercentSampling
        PercentPhaseFieldOfView NumberOfPhaseEncodingSteps ReconstructionDiameter TriggerTime
        SAR dBdt
    """,
    Treatment.BINARY: """
        SamplesPerPixel PlanarConfiguration Rows Columns BitsAllocated BitsStored HighBit
        PixelRepresentation SmallestImagePixelValue LargestImagePixelValue PixelPaddingValue
        PixelPaddingRangeLimit LUTDescriptor LUTData AcquisitionMatrix
        EffectiveEchoTime DiffusionBValue DiffusionGradientOrientation FrameAcquisitionNumber
        FrameAcquisitionDuration TemporalPositionIndex TemporalPositionTimeOffset
        InStackPositionNumber DimensionIndexValues DimensionIndexPointer FunctionalGroupPointer
        InConcatenationNumber InConcatenationTotalNumber ConcatenationFrameOffsetNumber
        AcquisitionDuration MRAcquisitionFrequencyEncodingSteps
        MRAcquisitionPhaseEncodingStepsInPlane MRAcquisitionPhaseEncodingStepsOutOfPlane
        InversionTimes TransmitterFrequency GradientEchoTrainLength RFEchoTrainLength
        ParallelReductionFactorInPlane ParallelReductionFactorOutOfPlane SlabThickness
        SlabOrientation MidSlabPosition DiffusionBValueXX DiffusionBValueXY DiffusionBValueXZ
        DiffusionBValueYY DiffusionBValueYZ DiffusionBValueZZ
    """,
    Treatment.LABEL: "StackID",
    Treatment.PIXELS: """
        PixelData FloatPixelData DoubleFloatPixelData ExtendedOffsetTable
        ExtendedOffsetTableLengths
    """,
    Treatment.SEQUENCE: """
        SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence PixelMeasuresSequence
        PlanePositionSequence PlaneOrientationSequence PixelValueTransformationSequence
        FrameVOILUTSequence FrameContentSequence MRImageFrameTypeSequence
        MRTimingAndRelatedParametersSequence MREchoSequence MRModifierSequence
        MRFOVGeometrySequence MRAveragesSequence MRDiffusionSequence
        DiffusionGradientDirectionSequence DiffusionBMatrixSequence TemporalPositionSequence
        DimensionOrganizationSequence DimensionIndexSequence ModalityLUTSequence
    """,
}

# Words of these attributes in PS3.3, and those of vendors that mean something to a reader.
VOCABULARY = frozenset(
    """
    MR CT SEG OT SC PT
    ORIGINAL DERIVED MIXED PRIMARY SECONDARY OTHER NONE UNKNOWN YES NO Y N
    M P R I F FFE IR MPR ND NORM DIS2D DIS3D MOSAIC ADC TRACEW TRACE FA SUB MIP MINIP AVG MEAN
    ADD DIXON WATER FAT IN_PHASE OUT_PHASE OPP_PHASE W IP OP FM PHASE_MAP ECHO T1 T2 T2_STAR
    PD PROTON_DENSITY
    MAGNITUDE PHASE REAL IMAGINARY VOLUME SAMPLED DISTORTED RESAMPLED LOCALIZER AXIAL PROJECTION
    MAX_IP MIN_IP VOLUME_RENDER SURFACE_RENDER CURVED_MPR DIFFUSION DIFFUSION_ANISO FLOW_ENCODED
    FLUID_ATTENUATED PERFUSION STIR TAGGING TOF ANGIO CARDIAC CARDIAC_CTRL COLOR MONOCHROME
    TRUE_COLOR PRODUCT RESEARCH SERVICE FILTERED COMPRESSED UNCOMPRESSED
    MONOCHROME1 MONOCHROME2 RGB YBR_FULL YBR_FULL_422 YBR_ICT YBR_RCT YBR_PARTIAL_420
    00 01 ISO_10918_1 ISO_14495_1 ISO_15444_1 ISO_15444_15 ISO_13818_2 ISO_14496_10 ISO_23008_2
    IDENTITY INVERSE LINEAR LINEAR_EXACT SIGMOID US HU OD
    BRAIN HEAD HEADNECK NECK SKULL ORBIT FACE IAC PITUITARY SELLA BREAST CHEST ABDOMEN LIVER
    PELVIS PROSTATE KIDNEY PANCREAS HEART SPINE CSPINE TSPINE LSPINE SSPINE EXTREMITY KNEE HIP
    SHOULDER ELBOW WRIST HAND ANKLE FOOT UTERUS BLADDER WHOLEBODY
    L B U
    HFS HFP HFDR HFDL FFS FFP FFDR FFDL HFV FFV AFP AFS AFDL AFDR PFP PFS PFDL PFDR
    SE GR EP RM SK MTC SS TRSS SP MP OSP PER RG CG PPG FC PFF PFP SPR FS PFS
    SAT1 SAT2 SAT3 SFS ACC_GEMS FAST_GEMS EPI_GEMS VASCOF_GEMS PFF PFP
    1D 2D 3D ROW COL
    1H 3HE 7LI 13C 19F 23NA 31P 129XE
    SPIN GRADIENT BOTH RF RF_AND_GRADIENT SPIN_ECHO GRADIENT_ECHO
    FREE_PRECESSION TRANSVERSE TIME_REVERSED LONGITUDINAL
    FREQUENCY SLICE_SELECT FREQUENCY_PHASE SLICE COMBINATION ACCELERATION VELOCITY
    RECTILINEAR RADIAL SPIRAL SINGLE PARTIAL FULL HALF_ECHO
    REVERSE_LINEAR CENTRIC SEGMENTED REVERSE_CENTRIC
    PILS SENSE SMASH GRAPPA ARC ASSET CAIPIRINHA
    DIRECTIONAL BMATRIX ISOTROPIC FRACTIONAL RELATIVE VOLUME_RATIO
    3D_TEMPORAL TILED_FULL TILED_SPARSE
    ON_RESONANCE OFF_RESONANCE SLAB FAT_SAT WATER_SAT SILICON
    """.split()  # noqa: SIM905  (a page of words reads better than a page of quotes)
)


def _by_tag() -> dict[int, Treatment]:
    allowed: dict[int, Treatment] = {}
    for treatment, keywords in _KEYWORDS.items():
        for keyword in keywords.split():
            tag = tag_for_keyword(keyword)
            if tag is None:
                raise ValueError(f"{keyword} is no attribute of the DICOM dictionary")
            allowed[tag] = treatment
    return allowed


ALLOWED = _by_tag()

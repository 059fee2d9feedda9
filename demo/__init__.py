"""The demonstration: synthetic patients, a small network trained on them, a sample case.

Nothing here is for clinical use. `phantom` and `anatomy` make volumes with known truth,
`phantom_dicom` writes them as MR series, `train` and `evaluate` make and judge the bundle in
`models/demo_brain_tumor`.
"""

"""Why a request failed, in a few words of the page's language.

The worker's sentence, which names instance and numbers, stands beside it as it was sent. A code
that is not listed here is shown by its sentence alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

TITLES: Mapping[str, Promise] = {
    # --- the series
    "bad_orientation": _("The orientation of the slices can't be used"),
    "bad_rescale": _("The rescale values of the images can't be used"),
    "bad_spacing": _("The pixel spacing is missing or can't be used"),
    "bad_pixel_format": _("The pixel format can't be used"),
    "channel_count": _("The model wants another number of series"),
    "duplicate_positions": _("Several slices lie at one position"),
    "duplicate_series": _("One series was chosen twice"),
    "duplicate_sop_uid": _("Two different images have the same UID"),
    "encrypted": _("The images are encrypted"),
    "frame_of_reference_mismatch": _("The series do not share a frame of reference"),
    "irregular_spacing": _("The distance between the slices varies"),
    "missing_geometry": _("An image does not say where it lies"),
    "missing_slices": _("Slices are missing"),
    "mixed_frame_of_reference": _("The images do not share a frame of reference"),
    "mixed_matrix": _("The slices have different sizes"),
    "mixed_orientation": _("The slices lie in different directions"),
    "mixed_patients": _("The images belong to different patients"),
    "mixed_pixel_format": _("The slices have different pixel formats"),
    "mixed_spacing": _("The slices have different pixel spacings"),
    "monochrome1": _("The images are inverted (MONOCHROME1)"),
    "mosaic": _("The series is a mosaic of many slices in one picture"),
    "multiple_series": _("The images belong to several series"),
    "no_overlap": _("The series do not overlap in space"),
    "no_pixel_data": _("An image has no pixel data"),
    "not_finite": _("The images hold values that are not numbers"),
    "not_mr": _("This is no MR series"),
    "series_invalid": _("The series can't be segmented"),
    "sequence_order_unclear": _("Which series is which sequence is not clear"),
    "series_changed": _("The series changed meanwhile"),
    "sheared": _("The slices are shifted sideways"),
    "too_few_slices": _("The series has too few slices"),
    "too_large": _("The series is too large"),
    "truncated": _("An image is cut off"),
    "unreadable": _("An image can't be read"),
    "unsupported_transfer_syntax": _("The images are compressed in a way that can't be read"),
    "wrong_sequence_order": _("The series are in another order than the model wants"),
    "registration_poor": _("The series could not be aligned"),
    "registration_too_far": _("The series lie too far apart to be aligned"),
    "constant_image": _("A series is empty: all of its values are the same"),
    "main_series_missing": _("The main series is not among the series of the request"),
    "multiple_studies": _("The series belong to different studies"),
    # --- the way
    "digest_mismatch": _("The images arrived damaged"),
    "input_vanished": _("The images are no longer in the archive"),
    "pacs_forbidden": _("The image archive does not let the worker read"),
    "input_unavailable": _("The worker could not get the images"),
    "instance_missing": _("An image is no longer in the archive"),
    "pacs_credentials_refused": _("The image archive refused the worker's password"),
    "pacs_unavailable": _("The image archive did not answer"),
    "result_refused": _("The site did not take the result"),
    # --- the worker
    "damaged": _("The worker's stored result is damaged"),
    "failed": _("The worker failed"),
    "disk_full": _("The worker's disk is full"),
    "engine_broken": _("The worker's GPU or its driver failed"),
    "engine_crashed": _("The computation crashed"),
    "engine_hung": _("The computation stood still"),
    "lease_expired": _("The worker was not heard of any more"),
    "mask_misplaced": _("The mask would not have lain on the images"),
    "label_without_code": _("The model gave a label that has no code"),
    "labels_of_other_type": _("The model gave no labels"),
    "labels_on_other_grid": _("The model's mask does not fit the images"),
    "labels_overlap": _("Segments overlap, which this kind of mask can't hold"),
    "model_changed": _("The model's files have changed since they were added"),
    "model_failed": _("The model failed"),
    "model_invalid": _("The model can't be used on this worker"),
    "model_not_added": _("The model was not added on this worker"),
    "model_not_found": _("The model's files are not on the worker"),
    "model_unknown": _("The worker does not know the model"),
    "model_without_codes": _("The model gives labels that have no code"),
    "model_without_weights": _("The model has no weights"),
    "network_not_finite": _("The network gave values that are not numbers"),
    "out_of_memory": _("The worker's memory was not enough"),
    "protocol": _("The worker failed"),
    "unexpected": _("The worker failed"),
    "worker_restart": _("The worker was ended in the middle of this case"),
    "worker_failed": _("The worker failed"),
}


def title_of(code: str) -> Promise | str:
    """Give the words for a failure's code; nothing for an unknown one."""
    return TITLES.get(code, "")

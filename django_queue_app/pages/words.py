"""What the page's scripts say, in the language of the page."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext as _

from django_queue_app.pages.failures import TITLES


def study_words() -> dict[str, Any]:
    """Give the words of the study page; `{name}` is filled in by the script."""
    return {
        "sending": _("Sending the request…"),
        "already_running": _("This analysis is under way already; here it is."),
        "pending": _("Waiting for a worker"),
        "place": _("Place {place} in the queue"),
        "processing": _("Being worked on"),
        "downloading": _("The worker fetches the images"),
        "loading": _("The images are being read"),
        "inferring": _("The network is at work"),
        "writing": _("The mask is being written"),
        "uploading": _("The mask is on its way back"),
        "completed": _("Done"),
        "nothing_found": _("Done: the model found no lesion"),
        "failed": _("It did not work"),
        "cancelled": _("Cancelled"),
        "failed_because": _("It did not work: {reason}"),
        "failures": {code: str(title) for code, title in TITLES.items()},
        "unreachable": _("The server does not answer; trying again."),
        "not_sent": _("The server does not answer, so nothing was sent. Try again in a minute."),
        "signed_out": _("You are signed out"),
        "signed_out_hint": _("Load the page again and sign in; the analysis goes on meanwhile."),
        "no_such_request": _("There is no such analysis; choose a series and start one."),
        "elapsed": _("{time} so far"),
        "expected": _("usually {time}"),
        "attempt": _("attempt {number} of {most}"),
        "try_again_hint": _("“Try again” files the same series once more."),
        "percent": _("{percent} %"),
        "seconds": _("{count} s"),
        "minutes": _("{minutes} min {seconds} s"),
        "model": _("Model {name} {version}"),
        "research": _("For research use only"),
        "worker": _("by {name}"),
        "millilitres": _("{volume} mL"),
        **_viewer_words(),
    }


def _viewer_words() -> dict[str, Any]:
    return {
        "loading_images": _("Loading the images…"),
        "files": {
            "mask.dcm": _("DICOM SEG"),
            "mask.nii.gz": _("NIfTI"),
            "preview.png": _("Preview"),
            "report.html": _("Report"),
            "report.json": _("Report for programs"),
        },
        "no_webgl": _("This browser has no WebGL 2: slices are shown one by one."),
        "no_planes": _("Three planes can't be shown: slices are shown one by one."),
        "slice_of": _("Slice {number} of {count}"),
        "position": _("{x} · {y} · {z} mm"),
        "intensity": _("Intensity {value}"),
        "outside": _("outside every segment"),
        "go_to": _("Go to {name}"),
        "show": _("Show {name}"),
        "lesion_of": _("Lesion {number} of {count}: {voxels} voxels"),
        "lesion_of_one": _("Lesion {number} of {count}: 1 voxel"),
        "planes_label": _(
            "Axial, coronal and sagittal planes with the mask. Arrow keys and Home/End move "
            "through the slices; the slider below does the same."
        ),
        "other_grid": _("The mask lies on another series; it is not shown here."),
        "main_series": _("the mask's own"),
    }

"""Durations, ids and names as a person reads them."""

from __future__ import annotations

from django import template
from django.utils.translation import gettext as _

register = template.Library()

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


@register.filter
def duration(seconds: float | None) -> str:
    """Give seconds in the two largest units that say something: "3 min 20 s"."""
    if seconds is None:
        return "—"
    whole = max(0, round(seconds))
    if whole < _MINUTE:
        return _("%(s)d s") % {"s": whole}
    if whole < _HOUR:
        return _("%(m)d min %(s)d s") % {"m": whole // _MINUTE, "s": whole % _MINUTE}
    minutes = round(whole / _MINUTE)
    if minutes < _DAY // _MINUTE:
        return _("%(h)d h %(m)d min") % {"h": minutes // 60, "m": minutes % 60}
    hours = round(whole / _HOUR)
    return _("%(d)d d %(h)d h") % {"d": hours // 24, "h": hours % 24}


@register.filter
def percent(fraction: float) -> int:
    """Give a fraction from 0 to 1 as whole percents, never 100 before the end."""
    return 100 if fraction >= 1 else min(99, round(fraction * 100))


@register.filter
def short_id(value: object) -> str:
    """Give the eight characters by which people tell requests and series apart."""
    return str(value)[:8]


@register.filter
def person(name: str) -> str:
    """Give a name of DICOM (PN) without its carets."""
    return " ".join(str(name or "").replace("^", " ").replace("=", " = ").split())

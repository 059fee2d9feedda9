"""Signals sent after a commit, so that whoever waits can look again.

Both are sent with `request_id` (UUID), `status` and `lane`.
"""

from __future__ import annotations

from django.dispatch import Signal

request_filed = Signal()
"""A request became available to workers: filed, released, or due for another attempt."""

request_changed = Signal()
"""A request's status, stage or progress changed."""

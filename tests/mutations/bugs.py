"""The planted bugs: each breaks one promise in a way that somebody could break it by mistake."""

from __future__ import annotations

from dataclasses import dataclass

QUEUE = "tests/integration/queue"
WORKER = "tests/unit/worker_daemon"


@dataclass(frozen=True, kw_only=True)
class Bug:
    """One edit of one file, and the fast tests that are to catch it."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def _site(name: str, file: str, old: str, new: str, *tests: str) -> Bug:
    found = tuple(f"{QUEUE}/{test}.py" for test in tests)
    return Bug(name=name, file=f"django_queue_app/{file}", old=old, new=new, tests=found)


def _worker(name: str, file: str, old: str, new: str, *tests: str) -> Bug:
    found = tuple(f"{WORKER}/{test}.py" for test in tests)
    return Bug(name=name, file=f"worker/{file}", old=old, new=new, tests=found)


BUGS = (
    _site(
        "a failure counts without the current lease",
        "results.py",
        "if request.status != Status.PROCESSING or request.lease_id != lease_id:",
        "if request.status != Status.PROCESSING:",
        "test_results",
    ),
    _site(
        "the last result wins",
        "results.py",
        '        return "replay" if is_same else "superseded"\n',
        "        if not is_same:\n"
        "            SegmentationRequest.objects.filter(pk=request.pk).update(result=stored)\n"
        '        return "replay" if is_same else "superseded"\n',
        "test_results",
    ),
    _site(
        "a file replaces another after there is a result",
        "results.py",
        "    if request.status == Status.COMPLETED:\n        raise RequestFinished\n",
        "",
        "test_results",
    ),
    _site(
        "a cancelled request takes a result",
        "results.py",
        "    if request.status == Status.CANCELLED:\n"
        "        raise RequestCancelled\n"
        "    stored = clean_json(dict(result))\n",
        "    if request.status == Status.CANCELLED:\n"
        "        request.status = Status.PENDING\n"
        "        SegmentationRequest.objects.filter(pk=request.pk).update(status=Status.PENDING)\n"
        "    stored = clean_json(dict(result))\n",
        "test_results",
    ),
    _site(
        "a release keeps the lease",
        "results.py",
        "        attempt_count=request.attempt_count - 1,\n"
        "        progress=0.0,\n"
        "        **WITHOUT_LEASE,\n",
        "        attempt_count=request.attempt_count - 1,\n        progress=0.0,\n",
        "test_claims",
    ),
    _site(
        "a release counts as an attempt",
        "results.py",
        "attempt_count=request.attempt_count - 1",
        "attempt_count=request.attempt_count",
        "test_results",
    ),
    _site(
        "nothing is reaped",
        "leases.py",
        "    reaped = list(expired.skipping_locked()[:_REAPED_AT_ONCE])\n",
        "    reaped = list(expired.none())\n",
        "test_claims",
    ),
    _site(
        "a heartbeat revives a released job",
        "leases.py",
        "        pk=attempt.request_id,\n"
        "        status=Status.PROCESSING,\n"
        "        lease_id=attempt.lease_id,\n"
        "        deadline_at__gt=now,\n"
        "    )\n",
        "        pk=attempt.request_id, status__in=[Status.PROCESSING, Status.PENDING]\n"
        "    )\n"
        "    seen |= {'status': Status.PROCESSING, 'lease_id': attempt.lease_id}\n"
        "    seen |= {'deadline_at': deadline or expires_at}\n",
        "test_claims",
    ),
    _site(
        "a heartbeat goes past the deadline",
        "leases.py",
        "        expires_at = min(expires_at, deadline)\n",
        "        pass\n",
        "test_claims",
    ),
    _site(
        "a lease is looked up by its request only",
        "statements.py",
        'columns_given(Attempt, "lease_id", "request")',
        'columns_given(Attempt, "request")',
        "test_results",
    ),
    _site(
        "a key that was granted is granted again",
        "leases.py",
        '.select_related("request", "token").filter(lease_id=lease_id).first()\n'
        "    if attempt is None:\n        return None\n",
        ".none().first()\n    if attempt is None:\n        return None\n",
        "test_claims",
    ),
    _site(
        "attempts never run out",
        "leases.py",
        "if is_retryable and request.attempt_count < conf.max_attempts:",
        "if is_retryable:",
        "test_claims",
    ),
    _site(
        "the same request is filed twice",
        "filing.py",
        "same = None if is_forced else _active_one_like(fingerprint)",
        "same, request.is_forced = None, True",
        "test_filing",
    ),
    _site(
        "an existing worker touches a live lease",
        "legacy.py",
        "    return is_live and _holder(request, token) is None\n",
        "    return False\n",
        "test_existing_workers",
    ),
    _site(
        "listeners are told before the commit",
        "changes.py",
        "    transaction.on_commit(partial(_send, signals.request_changed, facts))\n",
        "    _send(signals.request_changed, facts)\n",
        "test_history",
    ),
    _site(
        "a clock that was set back is believed",
        "wrong_clock.py",
        "    if not seen.values_list(sign).union(filed.values_list(sign), all=True)[:1]:\n",
        "    if True:\n",
        "test_wrong_clock",
    ),
    Bug(
        name="the digest of an upload is not checked",
        file="django_queue_app/api/uploads.py",
        old="if found.hexdigest() != digest:",
        new="if not digest:",
        tests=("tests/integration/api/test_worker_calls.py",),
    ),
    _worker(
        "the outbox is emptied before the site has answered",
        "delivery.py",
        "    try:\n        outcome = _send(server, entry, end, on_progress)\n",
        "    outbox.drop(entry)\n"
        "    try:\n        outcome = _send(server, entry, end, on_progress)\n",
        "test_outbox_states",
    ),
    _worker(
        "a result is dropped when the site is away",
        "delivery.py",
        "        return Delivered.KEPT\n    except (ResultRefused",
        "        outcome = Delivered.NOT_WANTED\n    except (ResultRefused",
        "test_outbox_states",
    ),
    _worker(
        "a file gets its name before it is on the disk",
        "durable.py",
        "                os.fsync(file.fileno())\n            move(temporary, path)\n",
        "            move(temporary, path)\n",
        "test_durable_order",
    ),
    _worker(
        "a result is called whole before its artifacts are on the disk",
        "outbox.py",
        "            sync_file(entry.outputs_dir / name)\n",
        "            (entry.outputs_dir / name).stat()\n",
        "test_durable_order",
    ),
    _worker(
        "a lease is asked for before it is written down",
        "outbox.py",
        'write_json(folder / "lease.json", {"id": lease_id})\n',
        "pass\n",
        "test_outbox_states",
    ),
)

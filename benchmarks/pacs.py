"""How long a series in a real Orthanc takes to list, describe, read and prepare.

    python -m benchmarks.pacs [--instances 536]

Starts Debian's Orthanc and a site's database in a temporary folder, fills it with a generated
series, and asks by REST and by DICOMweb.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# A series that was just written is looked at anew each time.
SETTLED_S = 5.0


def main() -> None:
    """Print the times."""
    parser = argparse.ArgumentParser(prog="benchmarks.pacs", description=__doc__)
    parser.add_argument("--instances", type=int, default=536)
    instances = parser.parse_args().instances
    with tempfile.TemporaryDirectory() as name:
        _set_up(Path(name))
        from tests.support import orthanc_server

        server = orthanc_server.start(Path(name) / "orthanc")
        try:
            _measure(server, instances)
        finally:
            server.stop()


def _set_up(folder: Path) -> None:
    os.environ["SEGMENTATION_DATA_DIR"] = str(folder / "site")
    os.environ["DJANGO_SETTINGS_MODULE"] = "reference_site.settings"
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)


def _measure(server: Any, instances: int) -> None:
    from django.conf import settings

    from benchmarks.privacy import make_series

    files = make_series(instances)
    for data in files:
        server.call("POST", "/instances", data=data)
    print(f"{instances} instances, {sum(map(len, files)) / 2**20:.0f} MiB")
    (series_id,) = server.ids("series")
    time.sleep(SETTLED_S)
    for kind in ("orthanc", "dicomweb"):
        for name, value in server.settings(kind).items():
            setattr(settings, name, value)
        print(kind)
        _measure_one(series_id)
        _forget_everything()


def _measure_one(series_id: str) -> None:
    from django_queue_app import preparation
    from django_queue_app.pacs import get_pacs

    pacs = get_pacs()
    _timed("list, first time", pacs.list_series)
    _timed("list, again", pacs.list_series)
    series = _timed("describe, first time", lambda: pacs.describe_series(series_id))
    _timed("describe, again", lambda: pacs.describe_series(series_id))
    _timed("one instance", lambda: pacs.read_instance(series.instances[0].id))
    _timed("the whole series", lambda: list(pacs.read_series(series)))
    _timed("prepare for a worker", lambda: preparation.list_series(series).result())
    _timed("prepared already", lambda: preparation.list_series(series).result())


def _forget_everything() -> None:
    from django_queue_app import input_cache, preparation
    from django_queue_app.models import ServedDigest

    ServedDigest.objects.all().delete()
    input_cache.clear()
    preparation.forget()


def _timed(what: str, work: Callable[[], Any]) -> Any:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"  {what:22} {wall:7.3f} s, {cpu:6.3f} s of CPU here")
    return result


if __name__ == "__main__":
    main()

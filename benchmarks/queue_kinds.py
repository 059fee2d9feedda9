"""Queues that are compared, each reduced to: put jobs in, take one and finish it."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Callable
from typing import Any, Protocol

# Seconds until a job was taken, or None when there was none, and whether it was finished.
Take = Callable[[], float | None]


class Kind(Protocol):
    """One kind of queue on the database of Django's settings."""

    name: str

    def fill(self, count: int) -> None:
        """Put jobs in."""
        ...

    def worker(self, number: int) -> Take:
        """Return what takes and finishes one job; called in the worker's own process."""
        ...


class Ours:
    """The services of this project: claim and complete, with attempt and events."""

    name = "this project"

    def fill(self, count: int) -> None:
        """File requests."""
        from benchmarks.queue_rows import add_pending, clear_pending

        clear_pending()
        add_pending(count)

    def worker(self, number: int) -> Take:
        """Claim by a token of its own."""
        from django_queue_app import services
        from django_queue_app.models import ApiToken

        token = ApiToken.objects.get(name=f"pc-{number}")
        info = services.WorkerInfo(name=token.name, version="1.0", device="cpu", models=("demo",))

        def take() -> float | None:
            began = time.perf_counter()
            lease_id = uuid.uuid4()
            request = services.claim(token=token, lease_id=lease_id, worker=info)
            seconds = time.perf_counter() - began
            if request is None:
                return None
            services.complete(
                request_id=request.pk,
                lease_id=lease_id,
                token=token,
                result={"tumor_detected": False},
                artifacts={},
            )
            return seconds

        return take


class DjangoTasks:
    """django-tasks' database backend: what its worker does with each job, without the job."""

    name = "django-tasks-db"

    def fill(self, count: int) -> None:
        """Enqueue."""
        from django.utils import timezone
        from django_tasks_db.models import DBTaskResult

        DBTaskResult.objects.all().delete()
        now = timezone.now()
        DBTaskResult.objects.bulk_create(
            [
                DBTaskResult(
                    args_kwargs={"args": [], "kwargs": {}},
                    task_path="benchmarks.queue_kinds.no_task",
                    backend_name="default",
                    run_after=now,
                )
                for _ in range(count)
            ],
            batch_size=5000,
        )

    def worker(self, number: int) -> Take:
        """Take as `manage.py db_worker` does."""
        from django.db import OperationalError
        from django_tasks_db.models import DBTaskResult
        from django_tasks_db.utils import exclusive_transaction

        def take() -> float | None:
            began = time.perf_counter()
            tasks = DBTaskResult.objects.ready().filter(backend_name="default")
            while True:
                try:
                    with exclusive_transaction(tasks.db):
                        task = tasks.get_locked()
                        if task is not None:
                            task.claim(f"worker-{number}")
                    break
                except OperationalError:  # its worker ignores a locked database and tries again
                    continue
            seconds = time.perf_counter() - began
            if task is None:
                return None
            task.set_successful(None)
            return seconds

        return take


class Procrastinate:
    """procrastinate: its job manager's fetch and finish, as its worker calls them."""

    name = "procrastinate"

    def __init__(self) -> None:
        self._conninfo = os.environ["DATABASE_URL"]
        self._has_schema = False

    def fill(self, count: int) -> None:
        """Defer."""
        import procrastinate

        connector = procrastinate.SyncPsycopgConnector(
            conninfo=self._conninfo, min_size=1, max_size=1
        )
        app = procrastinate.App(connector=connector)

        @app.task(name="job")
        def job() -> None: ...

        with app.open():
            if not self._has_schema:
                app.schema_manager.apply_schema()
                self._has_schema = True
            connector.execute_query("DELETE FROM procrastinate_jobs")
            for start in range(0, count, 1000):
                job.batch_defer(*[{} for _ in range(min(1000, count - start))])

    def worker(self, number: int) -> Take:  # noqa: ARG002
        """Fetch on a connection of its own."""
        import procrastinate
        from procrastinate.jobs import Status

        loop = asyncio.new_event_loop()
        connector = procrastinate.PsycopgConnector(conninfo=self._conninfo, min_size=1, max_size=1)
        app = procrastinate.App(connector=connector)
        loop.run_until_complete(app.open_async())
        worker_id = loop.run_until_complete(app.job_manager.register_worker())

        async def fetch_and_finish() -> float | None:
            began = time.perf_counter()
            job = await app.job_manager.fetch_job(queues=None, worker_id=worker_id)
            seconds = time.perf_counter() - began
            if job is None:
                return None
            await app.job_manager.finish_job(job, status=Status.SUCCEEDED, delete_job=False)
            return seconds

        return lambda: loop.run_until_complete(fetch_and_finish())


def kinds(database: str) -> list[Any]:
    """Return the queues that this kind of database can hold."""
    both: list[Any] = [Ours(), DjangoTasks()]
    return [*both, Procrastinate()] if database == "postgresql" else both

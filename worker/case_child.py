"""The child process: reads a case, segments it, writes the mask; one at a time, model kept warm.

It speaks JSON lines with its parent (`worker.adapters.case_process`). Everything that can crash,
hang or run out of memory happens here: decoding, the network, code of bundles.

Parent to child: ``case`` (a `Case`), ``warm`` (a model's name), ``device_granted``, ``exit``.
Child to parent: ``ready``, ``progress``, ``warm`` when a model is loaded, ``device_wanted`` and
``device_done`` around the network, ``result`` (a `CaseResult`), ``error``. The child ends when its
input ends, since then its parent is gone.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import logging
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from worker.adapters.freed_arrays import FreedArrays, give_back_freed
from worker.catalogue import find_model
from worker.core.errors import (
    EXIT_ENGINE_BROKEN,
    EXIT_OK,
    DiskFull,
    EngineBroken,
    EngineOutOfMemory,
    ModelInvalid,
    SeriesInvalid,
    SettingsError,
    WorkerError,
)
from worker.core.job import Case
from worker.durable import is_disk_full
from worker.settings import Settings, load_settings

if TYPE_CHECKING:
    from worker.ports import Engine

logger = logging.getLogger(__name__)

Message = dict[str, Any]
Send = Callable[[Message], None]
Turn = Callable[[], AbstractContextManager[None]]

# A person sees four a second as movement; more would only fill the pipe.
_PROGRESS_INTERVAL_S = 0.25

# Cases that come in a row use the same memory again; a worker that has nothing to do keeps none.
IDLE_S = 5.0

_KINDS: Mapping[type[WorkerError], str] = {
    SeriesInvalid: "series_invalid",
    ModelInvalid: "model_invalid",
    EngineOutOfMemory: "out_of_memory",
    EngineBroken: "engine_broken",
    SettingsError: "bad_settings",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the parent until it says ``exit`` or is gone; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m worker.case_child")
    parser.add_argument("--config", type=Path, default=None)
    parser.add_argument("--device", default=None, help="instead of inference.device")
    options = parser.parse_args(arguments)
    incoming, outgoing = _take_streams()
    faulthandler.enable(sys.stderr)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(message)s")
    logging.captureWarnings(True)
    channel = _Channel(outgoing)
    messages = _read_in_background(incoming)
    try:
        settings = load_settings(options.config)
        engine = _start_engine(settings, options.device)
    except Exception as error:
        logger.exception("child_failed_to_start")
        channel.send(error_message(error))
        return getattr(error, "exit_code", EXIT_ENGINE_BROKEN)
    channel.send(
        {
            "type": "ready",
            "device": engine.device,
            "models": list(settings.models),
            "report": _report(engine),
        }
    )
    return serve(
        Messages(messages),
        channel.send,
        settings=settings,
        engine=engine,
        freed_arrays=_freed_arrays(settings, engine.device),
    )


def _freed_arrays(settings: Settings, device: str) -> FreedArrays | None:
    # On a GPU the large arrays are the card's, and torch keeps those.
    return FreedArrays(sharers=settings.inference.processes_on(device)) if device == "cpu" else None


class Messages:
    """What the parent said, in order; what a case waits for may overtake the rest."""

    def __init__(self, incoming: queue.Queue[Message]) -> None:
        self._incoming = incoming
        self._put_off: deque[Message] = deque()

    def next(self, on_idle: Callable[[], None]) -> Message:
        """Wait for the next message; `on_idle` is called once where none comes for a while."""
        if self._put_off:
            return self._put_off.popleft()
        try:
            return self._incoming.get(timeout=IDLE_S)
        except queue.Empty:
            on_idle()
        return self._incoming.get()

    def wait_for(self, kind: str) -> Message:
        """Wait for one kind of message, and keep the others for later."""
        while (message := self._incoming.get()).get("type") != kind:
            self._put_off.append(message)
        return message


def serve(
    messages: Messages,
    send: Send,
    *,
    settings: Settings,
    engine: Engine,
    freed_arrays: FreedArrays | None = None,
) -> int:
    """Answer messages one by one; gives the exit code."""

    @contextmanager
    def turn() -> Iterator[None]:
        # Siblings of this process use the same device: the parent says whose turn it is.
        send({"type": "device_wanted"})
        granted = messages.wait_for("device_granted")
        try:
            yield
        finally:
            if granted.get("is_shared"):
                engine.leave_device()
            send({"type": "device_done"})

    while True:
        message = messages.next(on_idle=give_back_freed if freed_arrays else lambda: None)
        if message.get("type") == "exit":
            return EXIT_OK
        try:
            answer = _answer(message, send, settings, engine, turn)
            if freed_arrays and answer["type"] == "result":
                freed_arrays.after_case(int(answer["peak_memory_bytes"]))
            send(answer)
        except Exception as error:
            logger.exception("child_message_failed")
            if freed_arrays and isinstance(error, MemoryError | EngineOutOfMemory):
                freed_arrays.after_shortage()
            send({**error_message(error), "during": message.get("type")})
            if isinstance(error, EngineBroken):
                # After a CUDA fault every later call of this process fails.
                return EXIT_ENGINE_BROKEN


def error_message(error: Exception) -> Message:
    """Describe an error to the parent: only what was raised on purpose in its own words."""
    if isinstance(error, MemoryError):
        error = EngineOutOfMemory("The memory of the computer ran out: close other programs.")
    if isinstance(error, OSError) and is_disk_full(error):
        error = DiskFull("The disk of the work folder is full: free some space there.")
    if not isinstance(error, WorkerError):
        error = WorkerError(
            "The segmentation failed for a reason that was not foreseen "
            f"({type(error).__name__}); the worker's log has the details."
        )
    return {
        "type": "error",
        "code": error.code,
        "message": error.message,
        "retryable": error.is_retryable,
        "kind": next((kind for cls, kind in _KINDS.items() if isinstance(error, cls)), "failed"),
    }


class ProgressReports:
    """Sends progress: each change of stage, each end of one, and else four a second."""

    def __init__(self, send: Send, now: Callable[[], float] = time.monotonic) -> None:
        self._send = send
        self._now = now
        self._stage = ""
        self._sent_at = 0.0

    def __call__(self, stage: str, progress: float) -> None:
        """Report how much of a stage is done, 0 to 1."""
        now = self._now()
        is_due = now - self._sent_at >= _PROGRESS_INTERVAL_S
        if stage == self._stage and progress < 1 and not is_due:
            return
        self._stage, self._sent_at = stage, now
        self._send({"type": "progress", "stage": stage, "progress": round(progress, 4)})


def _answer(
    message: Message, send: Send, settings: Settings, engine: Engine, turn: Turn
) -> Message:
    match message.get("type"):
        case "warm":
            model = find_model(settings, message.get("model"))
            engine.load(model)
            return {"type": "warm", "model": model.name}
        case "case":
            return {"type": "result", **_segment(message, send, settings, engine, turn)}
        case other:
            raise WorkerError(f"The child doesn't know the message {other!r}.", code="protocol")


def _segment(
    message: Message, send: Send, settings: Settings, engine: Engine, turn: Turn
) -> Message:
    from worker.pipeline import segment_case

    case = Case.from_json(message)
    # Hashed again for each case: a model changed under a running worker is refused too.
    model = find_model(settings, case.model)
    return segment_case(
        case, model=model, engine=engine, on_progress=ProgressReports(send), turn=turn
    ).to_json()


def _start_engine(settings: Settings, device: str | None) -> Engine:
    # Here and not above: importing torch takes seconds and prints, so the streams come first.
    from worker.adapters.engine_monai import MonaiEngine
    from worker.model_memory import ModelMemory

    return MonaiEngine(
        device or settings.inference.devices[0],
        threshold=settings.inference.threshold,
        known=ModelMemory(settings.worker.work_dir),
    )


def _report(engine: Engine) -> Message:
    from worker.adapters.engine_monai.device_report import report_device

    return report_device(engine.device)


def _take_streams() -> tuple[IO[bytes], IO[bytes]]:
    """Keep stdin and stdout for the protocol alone.

    Whatever a library prints, even from native code, goes to stderr, and so to the log.
    """
    incoming = os.fdopen(os.dup(0), "rb")
    outgoing = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    sys.stdout.flush()
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return incoming, outgoing


def _read_in_background(incoming: IO[bytes]) -> queue.Queue[Message]:
    messages: queue.Queue[Message] = queue.Queue()

    def read() -> None:
        for line in incoming:
            messages.put(_decode(line))
        # The parent is gone, and nobody wants the rest of a case. This also works in the middle of
        # a long native call, where an exception would wait for its end.
        os._exit(EXIT_OK)

    threading.Thread(target=read, daemon=True, name="parent").start()
    return messages


def _decode(line: bytes) -> Message:
    try:
        message = json.loads(line)
    except ValueError:
        return {"type": "unreadable"}
    return message if isinstance(message, dict) else {"type": "unreadable"}


class _Channel:
    def __init__(self, outgoing: IO[bytes]) -> None:
        self._outgoing = outgoing
        self._lock = threading.Lock()

    def send(self, message: Message) -> None:
        # ASCII, so that no code page of Windows can change it.
        line = json.dumps(message, ensure_ascii=True, default=str).encode("ascii") + b"\n"
        with self._lock:
            try:
                self._outgoing.write(line)
                self._outgoing.flush()
            except OSError:
                os._exit(EXIT_OK)  # the parent is gone


if __name__ == "__main__":
    sys.exit(main())

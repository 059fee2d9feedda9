"""A child that speaks the real one's protocol and fails as it is told: fault injection.

What to do stands in the first image of the case: succeed, slow, crash, hang, oom, error, broken,
exit, chatter, brief, told (until the file `go` lies beside the log), pause-STAGE (stays there the
first time), turn (asks for the device; "turn long" has it for four seconds), turn-crash (dies on
it). It writes four small artifacts where the real child writes the mask.
"""

import json
import os
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path


def send(**message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def error(kind, code, retryable):
    send(type="error", kind=kind, code=code, message=f"The {code} sentence.", retryable=retryable)


def result(output_dir):
    names = ["mask.dcm", "mask.nii.gz", "preview.png", "report.json"]
    for name in names:
        (output_dir / name).write_bytes(name.encode() * 5000)
    code = {"value": "108369006", "scheme": "SCT", "meaning": "Neoplasm"}
    send(
        type="result",
        tumor_detected=True,
        tumor_volume_voxels=12,
        tumor_volume_ml=0.012,
        segments=[{"number": 1, "label": "Tumour", "code": code, "voxels": 12, "volume_ml": 0.012}],
        total_slices=3,
        start_slice_index=1,
        end_slice_index=2,
        elapsed_time_seconds=0.5,
        model={"name": "fake", "version": "1", "sha256": "0" * 64},
        sop_instance_uid="2.25.1",
        warnings=[],
        timings={"loading": 0.1, "inferring": 0.2, "writing": 0.05},
        artifacts=names,
    )


def pause(what, stage, case):
    paused = Path(os.environ.get("FAKE_CHILD_LOG", "cases.log")).with_name("paused")
    if what != f"pause-{stage}" or paused.exists():
        return
    if stage == "writing":
        (Path(case["output_dir"]) / "mask.dcm").write_bytes(b"torn")
    send(type="progress", stage=stage, progress=0.5)
    paused.write_text(stage)
    time.sleep(60)
    sys.exit(1)


@contextmanager
def on_device(request_id):
    """Take turns, and note when, so that a test can see that no two are at it."""
    send(type="device_wanted")
    assert json.loads(sys.stdin.readline())["type"] == "device_granted"
    note(request_id, "begins")
    yield
    note(request_id, "ends")
    send(type="device_done")


def note(request_id, what):
    if times := os.environ.get("FAKE_CHILD_TIMES"):
        with Path(times).open("a") as file:
            file.write(f"{time.monotonic()} {os.getpid()} {request_id} {what}\n")


def serve_case(case):
    first = Path(case["series"][0]["files"][0])
    words = first.read_text().split()
    what = words[0]
    log = os.environ.get("FAKE_CHILD_LOG")
    if log:
        with Path(log).open("a") as file:
            file.write(f"{case['request_id']} {what}\n")
    pause(what, "loading", case)
    send(type="progress", stage="loading", progress=1.0)
    if what in ("turn", "turn-crash"):
        with on_device(case["request_id"]):
            steps = 80 if "long" in words else 10
            for step in range(steps):
                send(type="progress", stage="inferring", progress=step / steps)
                time.sleep(0.05)
            if what == "turn-crash":
                os.kill(os.getpid(), signal.SIGKILL)
    if what == "crash":
        print("about to crash", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "exit":
        sys.exit(3)
    if what == "hang":
        while True:
            send(type="progress", stage="inferring", progress=0.5)
            time.sleep(0.05)
    if what == "oom":
        return error("out_of_memory", "out_of_memory", True)
    if what == "error":
        return error("series_invalid", "missing_slices", False)
    if what == "broken":
        return error("engine_broken", "cuda_fault", True)
    if what == "settings":
        return error("bad_settings", "bad_settings", False)
    if what == "chatter":
        sys.stdout.write("a library prints here\n[1, 2]\n\n")
    if what == "slow":
        for step in range(100):
            send(type="progress", stage="inferring", progress=step / 100)
            time.sleep(0.1)
    if what == "brief":
        for step in range(20):
            send(type="progress", stage="inferring", progress=step / 20)
            time.sleep(0.1)
    while what == "told" and not Path(log).with_name("go").exists():
        send(type="progress", stage="inferring", progress=0.5)
        time.sleep(0.05)
    pause(what, "inferring", case)
    pause(what, "writing", case)
    send(type="progress", stage="writing", progress=1.0)
    return result(Path(case["output_dir"]))


def main():
    if os.environ.get("FAKE_CHILD_START") == "fail":
        print("No module named torch", file=sys.stderr)
        sys.exit(1)
    if os.environ.get("FAKE_CHILD_START") == "never":
        time.sleep(60)
    while gate := os.environ.get("FAKE_CHILD_GATE"):
        if Path(gate).exists():
            break
        time.sleep(0.05)
    send(type="ready", device="cpu", models=["fake"])
    while line := sys.stdin.readline():
        message = json.loads(line)
        if message["type"] == "exit":
            return
        if message["type"] == "warm":
            send(type="warm", model=message["model"])
        else:
            serve_case(message)


if __name__ == "__main__":
    main()

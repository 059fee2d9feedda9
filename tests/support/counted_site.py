"""The reference site, writing down each call: method, path, status and bytes of the answer.

Where `COUNTED_SITE_BODIES` names a folder, the body of each call is kept there, too.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

from reference_site.asgi import application as site

CALLS = "COUNTED_SITE_CALLS"
BODIES = "COUNTED_SITE_BODIES"
_numbers = itertools.count()


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        await site(scope, receive, send)
        return
    seen = {"status": 0, "bytes": 0}

    async def counted(message: dict[str, Any]) -> None:
        seen["status"] = message.get("status", seen["status"])
        seen["bytes"] += len(message.get("body", b""))
        await send(message)

    body = bytearray()

    async def kept() -> Any:
        message = await receive()
        body.extend(message.get("body", b""))
        return message

    try:
        await site(scope, kept, counted)
    finally:
        line = f"{scope['method']} {scope['path']} {seen['status']} {seen['bytes']}\n"
        with Path(os.environ[CALLS]).open("a", encoding="utf-8") as calls:
            calls.write(line)
        if os.environ.get(BODIES) and body:
            name = f"{next(_numbers):04d} {scope['method']} {scope['path'].replace('/', '_')}"
            (Path(os.environ[BODIES]) / name).write_bytes(body)

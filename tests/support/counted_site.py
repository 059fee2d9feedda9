"""The reference site, writing down each call: method, path, status and bytes of the answer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from reference_site.asgi import application as site

CALLS = "COUNTED_SITE_CALLS"


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        await site(scope, receive, send)
        return
    seen = {"status": 0, "bytes": 0}

    async def counted(message: dict[str, Any]) -> None:
        seen["status"] = message.get("status", seen["status"])
        seen["bytes"] += len(message.get("body", b""))
        await send(message)

    try:
        await site(scope, receive, counted)
    finally:
        line = f"{scope['method']} {scope['path']} {seen['status']} {seen['bytes']}\n"
        with Path(os.environ[CALLS]).open("a", encoding="utf-8") as calls:
            calls.write(line)

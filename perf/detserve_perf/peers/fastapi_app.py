"""FastAPI behind uvicorn, one worker process a core; the picture is the body, JSON comes back."""

from __future__ import annotations

from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool

from detserve_perf.peers.detector import CORES, PORT, as_json, open_detector

app = FastAPI()
_detect = open_detector() if __name__ != "__main__" else None


@app.post("/detect")
async def detect(request: Request) -> dict[str, Any]:
    """Detect in one picture, in a thread so that the loop goes on reading."""
    assert _detect is not None  # noqa: S101
    return as_json(await run_in_threadpool(_detect, await request.body()))


@app.get("/health")
async def health() -> dict[str, Any]:
    """Answer once the detector is open."""
    return {}


if __name__ == "__main__":
    uvicorn.run(
        "detserve_perf.peers.fastapi_app:app", host="127.0.0.1", port=PORT, workers=CORES, access_log=False
    )

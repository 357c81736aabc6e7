"""For schemathesis: bodies that are pictures, since random bytes are none."""

from __future__ import annotations

import base64

import schemathesis
from hypothesis import strategies as st

from tests.live.conftest import SAMPLES

PICTURES = st.sampled_from([path.read_bytes() for path in sorted(SAMPLES.glob("*.jpg"))[:3]])

for media_type in ("image/jpeg", "image/png", "image/webp", "image/bmp", "application/octet-stream"):
    schemathesis.openapi.media_type(media_type, PICTURES)
schemathesis.openapi.format("byte", PICTURES.map(lambda picture: base64.b64encode(picture).decode()))

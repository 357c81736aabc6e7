"""Run by the system's Python, which has GStreamer: JPEG files, over and over, at rtsp://127.0.0.1:PORT/clip.

Arguments: a folder of JPEG files, their width and height, frames per second, the port (0: a free one). Prints
the port.
"""

from __future__ import annotations

import sys
from itertools import cycle
from pathlib import Path
from typing import Any

import gi  # type: ignore[import-not-found]

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # type: ignore[import-not-found]  # noqa: E402

folder, width, height, fps, port = sys.argv[1:]
pictures = cycle([path.read_bytes() for path in sorted(Path(folder).glob("*.jpg"))])
camera: list[Any] = []


def shoot() -> bool:
    for source in camera:
        source.emit("push-buffer", Gst.Buffer.new_wrapped(next(pictures)))
    return True


Gst.init(None)
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(
    f"( appsrc name=camera is-live=true do-timestamp=true format=time "
    f'caps="image/jpeg,width={width},height={height},framerate={fps}/1" ! rtpjpegpay name=pay0 pt=26 )'
)
factory.set_shared(True)
factory.connect("media-configure", lambda _, media: camera.append(media.get_element().get_by_name("camera")))
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(port)
server.get_mount_points().add_factory("/clip", factory)
if server.attach(None) == 0:
    sys.exit(f"cannot listen on 127.0.0.1:{port}")
GLib.timeout_add(round(1000 / int(fps)), shoot)
print(server.get_bound_port(), flush=True)
GLib.MainLoop().run()

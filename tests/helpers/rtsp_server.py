"""A program: serve moving pictures over RTSP on loopback with GStreamer's server, until standard input closes.

Run by the system's Python, which has GStreamer's bindings (Debian: gir1.2-gst-rtsp-server-1.0, python3-gi and
gstreamer1.0-plugins-good). Prints the URL. Arguments: number of frames, frames per second, port (0: any), height.
"""

import sys
import threading

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

frames, fps, port, height = (int(word) for word in sys.argv[1:5])
Gst.init(None)
server, factory, loop = GstRtspServer.RTSPServer(), GstRtspServer.RTSPMediaFactory(), GLib.MainLoop()
server.set_address("127.0.0.1")
server.set_service(str(port))
factory.set_launch(
    f"( videotestsrc is-live=true num-buffers={frames} pattern=ball "
    f"! video/x-raw,format=I420,width=96,height={height},framerate={fps}/1 ! jpegenc ! rtpjpegpay name=pay0 pt=96 )"
)
server.get_mount_points().add_factory("/ball", factory)
if not server.attach(None):
    sys.exit("no port")
print(f"rtsp://127.0.0.1:{server.get_bound_port()}/ball", flush=True)
threading.Thread(target=lambda: (sys.stdin.read(), loop.quit()), daemon=True).start()
loop.run()

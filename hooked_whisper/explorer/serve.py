"""Start the page on this machine, say where it is, and stop without a trace."""

from __future__ import annotations

import contextlib
import socket
import webbrowser
from collections.abc import Callable

from hooked_whisper.errors import HookedWhisperError, MissingExtraError
from hooked_whisper.explorer.app import Explorer, make_app

ADDRESS = "127.0.0.1"


def serve(explorer: Explorer, port: int = 0, announce: Callable[[str], None] = print, browser: bool = False) -> None:
    """Serve until Ctrl-C, SIGTERM or the page's own stop button.

    Args:
        port: 0 takes a free one.
        announce: is given the page's address, token included, once it can be opened.
        browser: open it too.

    Raises:
        HookedWhisperError: the port is taken. MissingExtraError: uvicorn or starlette is not installed.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise MissingExtraError("the explorer needs uvicorn: pip install 'hooked-whisper[explore]'") from error
    app = make_app(explorer)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((ADDRESS, port))
        except OSError as error:
            raise HookedWhisperError(f"port {port} cannot be used ({error.strerror}): leave out --port") from error
        listener.listen()  # from here on a browser waits for us instead of failing
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2, server_header=False)
        )
        explorer.stop = lambda: setattr(server, "should_exit", True)
        address = f"http://{ADDRESS}:{listener.getsockname()[1]}/?token={explorer.token}"
        announce(address)
        if browser:
            webbrowser.open(address)
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again once everything is closed
            server.run(sockets=[listener])

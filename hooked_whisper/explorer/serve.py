"""Serve the page on this machine until it is stopped."""

from __future__ import annotations

import contextlib
import socket
import webbrowser
from collections.abc import Callable

from hooked_whisper.errors import HookedWhisperError, MissingExtraError
from hooked_whisper.explorer.app import Explorer, make_app

ADDRESS = "127.0.0.1"


def serve(explorer: Explorer, port: int = 0, announce: Callable[[str], None] = print, browser: bool = False) -> None:
    """Serve the page until Ctrl-C, SIGTERM or its stop button.

    Args:
        port: 0 selects a free port.
        announce: called with the address of the page, including the token, when it can be opened.
        browser: also open the page in a browser.

    Raises:
        HookedWhisperError: if the port cannot be used.
        MissingExtraError: if uvicorn or starlette is not installed.
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
            raise HookedWhisperError(f"port {port} cannot be used ({error.strerror}): omit --port") from error
        listener.listen()  # from now on a browser waits instead of failing
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2, server_header=False)
        )
        explorer.stop = lambda: setattr(server, "should_exit", True)
        address = f"http://{ADDRESS}:{listener.getsockname()[1]}/?token={explorer.token}"
        announce(address)
        if browser:
            webbrowser.open(address)
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again after closing
            server.run(sockets=[listener])

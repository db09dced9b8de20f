"""The Flower ``ClientApp``: a shim that hands every kind of request to one function.

``Agent.handle`` tells the kinds apart itself. Which agent answers, in this process or behind a
local socket, is for the caller to say.
"""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from ..wire.requests import KINDS

Handle = Callable[[Message, Context], Message]
"""Answers a request; the context holds the node's own configuration."""


def build_client_app(handle: Handle) -> ClientApp:
    """A client app in which `handle` answers every kind of request.

    An engine that runs clients in other processes pickles the app with every message, so `handle`
    should be a module's function or a small object of a module's class.
    """
    app = ClientApp()
    for kind in KINDS:
        # "query.prepare" is action "prepare" of ``app.query``; "train" is the default action.
        category, *action = kind.split(".")
        getattr(app, category)(*action)(handle)
    return app

"""An observer's commands: a key of its own, and what it may read with it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConsortiumError, DeploymentError
from ..foreign import say
from .group import command_group

observer_app = command_group(
    "Read how a consortium's runs stand, without being able to change anything.",
)

Folder = Annotated[Path, typer.Argument(help="The observer's folder.", show_default=False)]
PORT = 9444


@observer_app.command()
def init(
    folder: Folder,
    consortium: Annotated[
        Path, typer.Option(help="The consortium.json that the operator gave.", show_default=False)
    ],
) -> None:
    """Make a key for an observer; the operator grants it by its public half."""
    from ..consortium.card import Card
    from ..privacy.secagg.keys import Identity
    from ..storage.files import new_folder, write_durably

    card, key = Card.read(consortium), Identity(os.urandom(64))
    with new_folder(folder) as new:
        card.write(new / "consortium.json")
        write_durably(new / "observer.key", key.to_secret_bytes(), secret=True)
    say(f"Key:  {key.public.signing.hex()}  (tell the operator, by telephone)")
    say(f"Card: {card.fingerprint}  (compare it with the operator)")


@observer_app.command()
def read(
    folder: Folder,
    what: Annotated[
        str, typer.Argument(help="runs, runs/NAME, or runs/NAME/report.", show_default=False)
    ] = "runs",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of umbel window.")] = PORT,
    address: Annotated[
        str | None, typer.Option(help="Where it is [the consortium's host].", show_default=False)
    ] = None,
) -> None:
    """Print as JSON what the server's folder says of its runs."""
    import http.client
    import ssl

    from ..consortium.card import Card
    from ..privacy.secagg.keys import Identity
    from ..server.observers import asking

    card, path = Card.read(folder / "consortium.json"), "/" + what.strip("/")
    try:
        key = Identity((folder / "observer.key").read_bytes())
    except (OSError, ValueError) as error:
        raise ConsortiumError(
            f"{folder / 'observer.key'} cannot be used: {error}. An observer's folder is made with: "
            "umbel observer init"
        ) from None
    context = ssl.create_default_context(cadata=card.ca_certificate)
    connection = http.client.HTTPSConnection(
        address or card.host, port, timeout=30, context=context
    )
    try:
        connection.request(
            "GET", path, headers={"Authorization": f"Umbel {asking(key, card.id, path)}"}
        )
        answer = connection.getresponse()
        found = json.loads(answer.read())
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise DeploymentError(
            f"{address or card.host}:{port} does not answer ({error}). Does umbel window run there?"
        ) from None
    finally:
        connection.close()
    if answer.status != 200:
        raise ConsortiumError(str(found.get("error", f"status {answer.status}")))
    say(json.dumps(found, indent=2))

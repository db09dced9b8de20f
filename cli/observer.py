"""An observer's commands: a key of its own, and what it may read with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ConsortiumError, DeploymentError, ProtocolError
from ..foreign import say, typed
from .answers import answers
from .group import command_group

observer_app = command_group(
    "Read the state of a consortium's runs, without the power to change anything.",
)

Folder = Annotated[Path, typer.Argument(help="The observer's folder.", show_default=False)]
PORT = 9444


@observer_app.command()
@answers
def init(
    folder: Folder,
    consortium: Annotated[
        Path, typer.Option(help="The consortium.json that the operator gave.", show_default=False)
    ],
) -> Any:
    """Make a key for an observer; the operator grants it by its public half."""
    from ..consortium.observing import ObserverFolder

    made = ObserverFolder.create(folder, consortium)
    say(f"Key:  {made.key.public.signing.hex()}  (tell the operator, by telephone)")
    say(f"Card: {made.card.fingerprint}  (compare it with the operator)")
    return {"key": made.key.public.signing.hex(), "card": made.card.fingerprint}


@observer_app.command()
@answers
def trust(
    card: Annotated[
        Path, typer.Argument(help="The consortium's newest consortium.json.", show_default=False)
    ],
    folder: Folder,
) -> Any:
    """Follow the consortium's keys by its newest card, and believe a former authority no more.

    The card is taken only if its keys were handed over from those that this folder knows.
    """
    from ..consortium.card import Card
    from ..consortium.observing import ObserverFolder

    observer = ObserverFolder(folder)
    try:
        changed = observer.trust(Card.read(card))
    except ProtocolError as error:
        raise ConsortiumError(f"{card}: {error}. Ask the operator, by telephone.") from None
    say("The new keys are accepted." if changed else "These keys are already known.")
    say(f"Fingerprint: {observer.card.fingerprint}")
    return {"changed": changed, "fingerprint": observer.card.fingerprint}


@observer_app.command()
def read(
    folder: Folder,
    what: Annotated[
        str, typer.Argument(help="runs, runs/NAME, or runs/NAME/report.", show_default=False)
    ] = "runs",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of umbel window.")] = PORT,
    address: Annotated[
        str | None, typer.Option(help="Its address [the consortium's host].", show_default=False)
    ] = None,
) -> None:
    """Print as JSON what the server's folder says of its runs."""
    import http.client
    import ssl

    from ..consortium.observing import ObserverFolder
    from ..server.observers import asking

    observer, path = ObserverFolder(folder), "/" + what.strip("/")
    card, key = observer.card, observer.key
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
    except ssl.SSLCertVerificationError as error:
        raise DeploymentError(
            f"{address or card.host}:{port} shows a certificate that this consortium's authority did not "
            f"sign for it ({error.verify_message}). If the authority was replaced, ask for the newest "
            f"card, then: umbel observer trust consortium.json {typed(folder)}. Otherwise ask the "
            "operator, by telephone."
        ) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise DeploymentError(
            f"{address or card.host}:{port} does not answer ({error}). Ask the operator whether "
            "umbel window runs there."
        ) from None
    finally:
        connection.close()
    if answer.status != 200:
        raise ConsortiumError(str(found.get("error", f"status {answer.status}")))
    say(json.dumps(found, indent=2))

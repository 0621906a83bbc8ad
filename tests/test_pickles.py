"""Pickles that are good, and pickles that would do harm if they were obeyed."""

import collections
import datetime
import os
import pickle
import struct

import numpy as np
import pytest

from cifar_jax import UserError
from cifar_jax.data import pickles

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 12), np.uint8)
MARK, STOP = b"(", b"."


def refuse(content, match):
    with pytest.raises(UserError, match=match) as refused:
        pickles.read_batch(content, "batch.pkl")
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("batch.pkl cannot be read as a pickled batch")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "value",
    [
        IMAGES,
        np.asfortranarray(IMAGES),
        IMAGES[:0],
        np.arange(5, dtype=">i4"),
        np.linspace(0, 1, 3, dtype=np.float32),
        np.array([True, False]),
        IMAGES[::2, ::3],
    ],
    ids=["rows", "fortran", "empty", "big-endian", "float", "bool", "strided"],
)
def test_arrays_come_back(protocol, value):
    batch = pickles.read_batch(pickle.dumps({b"data": value}, protocol), "batch.pkl")
    np.testing.assert_array_equal(batch["data"], value)
    assert batch["data"].dtype == value.dtype


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_comes_back(protocol):
    labels = [3, 0, 255, 256, 70_000, -1, 2**40]
    batch = {
        "labels": labels,
        "again": labels,  # by reference
        b"batch_label": b"testing batch \xff 1 of 1",
        "filenames": ["caf\u00e9.png", b"\x80.png"],
        "scalars": [np.int64(7), np.uint8(200), 4, np.float32(0.5)],
        "rest": (1, 2.5, True, False, None, (), {"x": []}, (1, 2), (1, 2, 3, 4)),
    }
    read = pickles.read_batch(pickle.dumps(batch, protocol), "batch.pkl")
    expected = {**batch, "scalars": [7, 200, 4, 0.5]}
    expected["batch_label"] = expected.pop(b"batch_label")
    assert read == expected


def python2(protocol):
    """What cPickle of Python 2 writes of {'data': array, 'labels': [1, 0]}."""
    data = IMAGES[:2].tobytes()
    if protocol == 0:
        quoted = "".join(f"\\x{byte:02x}" for byte in data).encode()
        return (
            b"(dp1\nS'data'\np2\ncnumpy.core.multiarray\n_reconstruct\np3\n"
            b"(cnumpy\nndarray\np4\n(I0\ntp5\nS'b'\np6\ntp7\nRp8\n"
            b"(I1\n(I2\nI12\ntp9\ncnumpy\ndtype\np10\n(S'u1'\np11\nI0\nI1\ntp12\nRp13\n"
            b"(I3\nS'|'\np14\nNNNI-1\nI-1\nI0\ntp15\nbI00\nS'" + quoted + b"'\np16\n"
            b"tp17\nbsS'labels'\np18\n(lp19\nI1\naI0\nas."
        )
    return (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03"
        b"cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87Rq\x05(K\x01K\x02K\x0c\x86"
        b"cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<i", len(data)) + data + b"tb"
        b"U\x06labelsq\x07]q\x08(K\x01K\x00eu."
    )


@pytest.mark.parametrize("protocol", [0, 2])
def test_pickles_of_python_2(protocol):
    content = python2(protocol)
    oracle = pickle.loads(content, encoding="latin1")
    np.testing.assert_array_equal(oracle["data"], IMAGES[:2])
    batch = pickles.read_batch(content, "batch.pkl")
    np.testing.assert_array_equal(batch["data"], IMAGES[:2])
    assert batch["labels"] == [1, 0]


class Calls:
    """A pickle of a call."""

    def __init__(self, function, *arguments):
        self._call = function, arguments

    def __reduce__(self):
        return self._call


class Slotted:
    pass


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("place", ["top", "key", "list", "array"])
def test_nothing_is_called(protocol, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for call in (
        Calls(os.system, "touch canary"),
        Calls(eval, "open('canary', 'w')"),
        Calls(exec, "open('canary', 'w')"),
        Calls(open, "canary", "w"),
        Calls(getattr, os, "system"),
        Calls(np.load, "canary"),
        Calls(np.memmap, "canary", "u1", "w+", 0, 9),
        Calls(__import__, "os"),
    ):
        batch = {
            "top": call,
            "key": {"data": call},
            "list": {"data": IMAGES, "labels": [1, [2, (call,)]]},
            "array": {"data": np.array([call], object)},
        }[place]
        try:
            content = pickle.dumps(batch, protocol)
        except (TypeError, pickle.PicklingError):  # a module cannot be pickled
            continue
        refuse(content, "it names|an array of dtype 'O8'")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "value",
    [
        np.array([1, "a", None], object),
        np.zeros(2, [("a", "u1"), ("b", "O")]),
        np.array(["2020-01-01"], "M8[D]"),
        Slotted(),
        {1, 2},
        frozenset([1]),
        collections.OrderedDict(a=1),
        datetime.date(2020, 1, 1),
        1 + 2j,
        np.dtype("u1"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_objects_are_refused(value):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        batch = {"data": IMAGES, "labels": value}
        refuse(pickle.dumps(batch, protocol), "it (names|is damaged, or holds|holds) ")


SYSTEM = b"cposix\nsystem\n"
CALL = b"(S'touch canary'\nt"
NDARRAY = b"cnumpy\nndarray\n"


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (SYSTEM + CALL + b"R.", "it names 'posix.system'"),
        (b"(S'touch canary'\niposix\nsystem\n.", "it is damaged, or holds more"),
        (MARK + SYSTEM + b"S'touch canary'\no.", "it names 'posix.system'"),
        (MARK + NDARRAY + b"S'touch canary'\no.", "it is damaged, or holds more"),
        (NDARRAY + b")\x81.", "it is damaged, or holds more"),
        (NDARRAY + b")}\x92.", "it is damaged, or holds more"),
        (b"\x82\x01.", "it is damaged, or holds more"),
        (b"\x83\x01\x00.", "it is damaged, or holds more"),
        (b"\x84\x01\x00\x00\x00.", "it is damaged, or holds more"),
        (b"Pos.system\n.", "it is damaged, or holds more"),
        (b"S'x'\nQ.", "it is damaged, or holds more"),
        (b"\x97.", "it is damaged, or holds more"),
        (NDARRAY + b"}b.", "it sets the state of a partial"),
        (b"]}b.", "it sets the state of a list"),
        (b"}(S'__class__'\nI1\nsb.", "damaged|sets"),
        (NDARRAY + b"(I9\ntR.", "it holds a _Call instead of a dictionary"),
        (b"I1\n2.", "it is damaged, or holds more"),
        (b"c__builtin__\nbytes\n(I9\ntR.", "it is damaged|not in latin1"),
        (b"I1\n)R.", "it is damaged"),
        (b"]I1\nR.", "it is damaged"),
        (b"cnumpy\ndtype\nI1\nR.", "it is damaged"),
        (b"\x8c\x02os\x8c\x06system\x93.", "it names 'os.system'"),
        (b"I1\nI2\n\x93.", "STACK_GLOBAL requires str"),
        (b"cnumpy.core.multiarray\nscalar.__globals__\n.", "it names"),
        (b"cnumpy\nload\n.", "it names 'numpy.load'"),
        (b"c_codecs\ndecode\n.", "it names '_codecs.decode'"),
        (b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.", "it is damaged|not in latin1"),
        (b"}I1\nI2\ns.", "keys that are not strings"),
        (b"}(I1\nt(I1\nts.", "keys that are not strings"),
        (b"}S'a'\n(I1\nu.", "it is damaged"),
        (b"I1\nI2\na.", "it is damaged"),
        (b"\x80\x06}.", "in protocol 0 to 5"),
        (b"h\x07.", "Memo value not found at index 7"),
        (b"jABCD.", "Memo value not found at index"),
        (b"0.", "it is damaged"),
        (b".", "it is damaged"),
        (b"t.", "it is damaged"),
        (b"\x87.", "it is damaged"),
        (b"cnumpy\n\\u0000\n.", "it names 'numpy"),
        (b"\x8c\x03a\nb\x8c\x03\x1b[m\x93.", r"it names 'a\\nb.\\x1b\[m'"),
        (b"", "it is damaged"),
        (b"}", "it is damaged"),
        (b"\xff", "it is damaged"),
        (b"<html>", "it is damaged"),
        (b"].", "it holds a list instead of a dictionary"),
        (b"(.", "it is damaged"),
    ],
)
def test_instructions_that_no_batch_needs_are_refused(content, match):
    refuse(content, match)


def test_a_size_beyond_the_file_allocates_nothing():
    huge = struct.pack("<Q", 1 << 46)
    for content in (
        b"\x8e" + huge + b"x.",  # BINBYTES8
        b"\x96" + huge + b"x.",  # BYTEARRAY8
        b"\x8d" + huge + b"x.",  # BINUNICODE8
        b"B\xff\xff\xff\xffx.",
        b"\x8b\xff\xff\xff\x7f.",  # LONG4
        b"I" + b"9" * 10_000 + b"\n.",
    ):
        refuse(content, "it is damaged")
    memo = b"}r\xff\xff\xff\x7f."  # an entry of the memo that a list would not hold
    assert pickles.read_batch(memo, "batch.pkl") == {}


@pytest.mark.parametrize(
    "shape", [(1 << 60, 1 << 60), (7, 12), (-6, -12), (6, 12, 1.0)]
)
def test_a_shape_that_its_bytes_do_not_fill_is_refused(shape):
    good = pickle.dumps({"data": IMAGES}, 2)
    old = pickle.dumps((6, 12), 2)[2:-3]  # as tuple2 within
    new = pickle.dumps(shape, 2)[2:-1].replace(b"q\x00", b"")
    assert good.count(old) == 1
    refuse(good.replace(old, new), "it is damaged")


def test_a_conversion_cannot_be_repeated_without_end():
    call = b"(g1\nS'latin1'\ntR0"
    content = b"c_codecs\nencode\np0\n0V" + b"x" * 100_000 + b"\np1\n0"
    refuse(content + 1000 * (b"g0\n" + call) + b"}.", "it encodes too much")


def test_what_holds_itself_is_read():
    batch = pickles.read_batch(b"}p0\nS'self'\ng0\ns.", "batch.pkl")
    assert batch["self"] is not None
    deep = b"}S'deep'\n" + 100_000 * b"]" + 99_999 * b"a" + b"s."
    assert pickles.read_batch(deep, "batch.pkl").keys() == {"deep"}

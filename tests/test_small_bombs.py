"""Small files that would exhaust memory or time, or end in a traceback: one line."""

import bz2
import gzip
import io
import pickle
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image
from support import opening

IMAGES = np.zeros((4, 4, 4, 3), np.uint8)


def header(name, size, kind=tarfile.REGTYPE, digits=None):
    """Returns a tar header; `digits` are written as its size, whatever they are."""
    member = tarfile.TarInfo(name)
    member.type = kind
    member.size = size if digits is None else 0
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    if digits is not None:
        block[124:136] = digits
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def bomb(kind, size=4 << 30):
    """A header of a kind that tarfile obeys, and a body of zeros."""
    # Streams of bzip2 may follow one another.
    part = bz2.compress(bytes(1 << 26))
    return bz2.compress(header("long", size, kind)) + part * (size >> 26)


def pax(body):
    return header("pax", len(body), tarfile.XHDTYPE) + body + bytes(-len(body) % 512)


def tower(depth):
    """Pickled tuples, each of the one before it twice: 2 ** depth leaves."""
    numbers = [struct.pack("<I", 1000 + k) for k in range(depth)]
    return b"K\x01" + b"".join(b"r%bj%b\x86" % (n, n) for n in numbers)


def nested(depth):
    return b"K\x01" + b"\x85" * depth


def batch(labels, key=b"labels"):
    """A pickled batch whose labels are made by these instructions."""
    data = pickle.dumps(np.zeros((4, 48), np.uint8), 2)[2:-1]
    return b"\x80\x02}(U\x04data" + data + b"U%c%b" % (len(key), key) + labels + b"u."


def dtype_of(argument):
    """A pickled array whose dtype is made of an argument."""
    whole = pickle.dumps(np.zeros((4, 48), np.uint8), 2)[2:-1]
    start = whole.index(b"cnumpy\ndtype\n") + len(b"cnumpy\ndtype\nq\x04")
    end = whole.index(b"\x87", start)
    return b"\x80\x02}(U\x04data" + whole[:start] + argument + whole[end - 4 :] + b"u."


def npz(**arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def npz_bomb(count=300_000):
    """An archive of black images, deflated a thousandfold."""
    text = io.BytesIO()
    description = {"descr": "|u1", "fortran_order": False, "shape": (count, 32, 32, 3)}
    np.lib.format.write_array_header_1_0(text, description)
    deflate = zlib.compressobj(9, wbits=-15)
    content = deflate.compress(text.getvalue()) + deflate.flush(zlib.Z_FULL_FLUSH)
    # A part that depends on none before it can be repeated.
    part = deflate.compress(bytes(count * 3)) + deflate.flush(zlib.Z_FULL_FLUSH)
    content += part * 1024 + deflate.flush()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("images.npy", content)
    whole, sizes = bytearray(file.getvalue()), struct.pack("<I", len(content)) * 2
    inflated = struct.pack("<II", len(content), len(text.getvalue()) + count * 3072)
    for magic, method in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        start = whole.rindex(magic)
        whole[start + method : start + method + 2] = b"\x08\0"
        place = whole.index(sizes, start)
        whole[place : place + 8] = inflated
    return bytes(whole)


def scans(count, side=7000):
    """A progressive JPEG that repeats its last scan."""
    file = io.BytesIO()
    Image.new("L", (side, side), 128).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    start = content.rindex(b"\xff\xda")
    return content[:-2] + content[start:-2] * count + content[-2:]


def deflated(size):
    """Zeros, deflated a thousandfold; as a stream without the right checksum."""
    deflate, part = zlib.compressobj(9), bytes(1 << 20)
    content = deflate.compress(part) + deflate.flush(zlib.Z_FULL_FLUSH)
    # A part that depends on none before it can be repeated.
    content += (deflate.compress(part) + deflate.flush(zlib.Z_FULL_FLUSH)) * (
        size >> 20
    )
    return content + deflate.flush()


def png(side, *chunks):
    """A PNG that claims a width and a height, with any chunks."""
    head = (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n"
    for kind, body in (head, *chunks, (b"IEND", b"")):
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        content += struct.pack(">I", len(body)) + kind + body + checksum
    return content


def tiff(side, strip):
    """A deflated grey TIFF, whose one strip may hold more than its rows."""
    tags = {256: side, 257: side, 258: 8, 259: 8, 262: 1, 273: 200, 277: 1, 278: side}
    tags[279] = len(strip)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries
    return head.ljust(200, b"\0") + strip


def run_length_bmp(side, codes):
    """A BMP of palette indices, coded by their run lengths."""
    start = 14 + 40 + 1024
    sizes = struct.pack("<IHHI", start + len(codes), 0, 0, start)
    head = struct.pack(
        "<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(codes), 0, 0, 256, 0
    )
    return b"BM" + sizes + head + bytes(1024) + codes


FILES = {
    "huge.png": lambda: png(60_000, (b"IDAT", deflated(1 << 20))),
    "pixels.png": lambda: png(32, (b"IDAT", deflated(900 << 20))),
    "text.png": lambda: png(
        32, *[(b"zTXt", b"%d\0\0" % k + deflated(65 << 20)) for k in (1, 2)]
    ),
    "huge.tif": lambda: tiff((1 << 32) - 1, b""),
    "strip.tif": lambda: tiff(32, deflated(900 << 20)),
    "skips.bmp": lambda: run_length_bmp(7000, b"\0\2\xff\xff" * 200_000),
    "tuples.pkl": lambda: batch(tower(40)),
    "fine_tuples.pkl": lambda: batch(tower(40), b"fine_labels"),
    "ids_tuples.pkl": lambda: batch(tower(40), b"ids"),
    "deep.pkl": lambda: batch(nested(200_000)),
    "dtype_tuples.pkl": lambda: dtype_of(tower(40)),
    "dtype_deep.pkl": lambda: dtype_of(nested(200_000)),
    "digits.pkl": lambda: batch(
        b"](" + b"\x8b\x00\x10\x00\x00" + b"\x7f" * 4096 + b"K\x01" * 3 + b"e", b"ids"
    ),
    "long_name.tar.bz2": lambda: bomb(tarfile.GNUTYPE_LONGNAME),
    "pax.tar.bz2": lambda: bomb(tarfile.XHDTYPE),
    "skipped.tar.gz": lambda: gzip.compress(header("a", 0, digits=b"77777777777\0")),
    "claims.tar": lambda: header("a", 200 << 30) + header("b", 0),
    "negative.tar": lambda: header("a", 0) + header("b", 0, digits=b"\xff" * 12),
    "minus.tar": lambda: header("a", 0) + header("b", 0, digits=b"-0000002000\0"),
    "power_62.tar": lambda: header(
        "a", 0, digits=b"\x80\0\0\0" + (1 << 62).to_bytes(8, "big")
    ),
    "power_80.tar": lambda: header(
        "a", 0, digits=b"\x80\0" + (1 << 79).to_bytes(10, "big")
    ),
    "pax_digits.tar": lambda: pax(b"1" * 900_000),
    "pax_length.tar": lambda: pax(b"1" * 23 + b" path=x\n") + header("a", 0),
    "pax_chain.tar": lambda: pax(b"11 path=ab\n") * 900,
    "npz_bomb.npz": npz_bomb,
    "surrogates.npz": lambda: npz(
        images=IMAGES, ids=np.frombuffer(b"\x00\xd8\x00\x00" * 4, "<U1")
    ),
    "no_unicode.npz": lambda: npz(
        images=IMAGES, ids=np.frombuffer(b"\xff" * 16, "<U1")
    ),
    "scans.jpg": lambda: scans(500),
}
# What the first rows need is all that is decoded of pixels.png and strip.tif.
READ = {"surrogates.npz", "pixels.png", "strip.tif", "skips.bmp"}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bombs")
    for name, make in FILES.items():
        (folder / name).write_bytes(make())
        assert (folder / name).stat().st_size < 1_000_000, name
    return opening.open_all(folder / name for name in FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_small_file_costs_little_and_is_one_line(outcomes, name):
    found = outcomes[name]
    if name in READ:
        assert found["outcome"] == "read", found
    else:
        assert found["outcome"].startswith("refused: "), found
        assert "Memory" not in found["outcome"], found
        assert "\n" not in found["outcome"] and len(found["outcome"]) < 1000
    assert found["seconds"] < 10
    assert found["peak"] < 2e6  # kB

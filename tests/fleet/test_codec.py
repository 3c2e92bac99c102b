"""Payloads on their way to Temporal and back: laws of the codec, and a run on a real server."""

import asyncio
import base64
import os
import uuid
from contextlib import asynccontextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from temporalio.api.common.v1 import Payload
from temporalio.client import Client, WorkflowFailureError
from temporalio.converter import DataConverter

from fleet import codec
from fleet.codec import Codec, TooLarge, data_converter
from fleet.errors import BadInput, PayloadLost
from fleet.keyring import Keyring
from fleet.settings import Settings
from tests.fleet.fetching import MEGABYTE, Fetching, worker

OLD, NEW = base64.b64encode(bytes(32)).decode(), base64.b64encode(bytes(range(32))).decode()
RINGS = {
    "none": None,
    "old": Keyring.parse(f"old:{OLD}"),
    "prepared": Keyring.parse(f"old:{OLD}\nnew:{NEW}"),
    "rotated": Keyring.parse(f"# in force since spring\nnew:{NEW}\n\nold:{OLD}\n"),
}
COMPRESSIONS = ["none", "zlib", "zstd"]
FAST = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

ENCODINGS = st.sampled_from([b"json/plain", b"binary/plain", b"binary/null", b"binary/zlib", b"binary/zstd", b"x" * 20])
METADATA = st.dictionaries(st.text(max_size=8), st.binary(max_size=12), max_size=3)
CONTENTS = st.one_of(
    st.binary(max_size=200),
    st.builds(lambda seed, times: seed * times, st.binary(min_size=1, max_size=40), st.integers(50, 400)),
    st.builds(lambda size, seed: bytes([seed]) + os.urandom(size), st.integers(2000, 4000), st.integers(0, 255)),
)


@st.composite
def payloads(draw):
    metadata = draw(METADATA)
    if draw(st.booleans()):
        metadata["encoding"] = draw(ENCODINGS)
    return Payload(metadata=metadata, data=draw(CONTENTS))


def encoded(payload, compression="zstd", ring="none"):
    (found,) = asyncio.run(Codec(compression, RINGS[ring]).encode([payload]))
    return found


def decoded(payload, ring="none", compression="none"):
    (found,) = asyncio.run(Codec(compression, RINGS[ring]).decode([payload]))
    return found


@FAST
@given(payloads(), st.sampled_from(COMPRESSIONS), st.sampled_from(list(RINGS)), st.sampled_from(COMPRESSIONS))
def test_what_was_encoded_decodes_to_the_same_whatever_the_reader_compresses_with(payload, written, ring, read):
    before = payload.SerializeToString(deterministic=True)
    sent = encoded(payload, written, ring)
    assert decoded(sent, ring, read) == payload
    assert payload.SerializeToString(deterministic=True) == before


@FAST
@given(payloads(), st.sampled_from(["old", "prepared", "rotated"]), st.sampled_from(["prepared", "rotated"]))
def test_a_key_that_no_longer_encrypts_still_decrypts(payload, written, read):
    sent = encoded(payload, "zstd", written)
    assert sent.metadata["encryption-key-id"] == (b"new" if written == "rotated" else b"old")
    assert decoded(sent, read) == payload


@FAST
@given(payloads(), st.data())
def test_an_encrypted_payload_with_any_bit_changed_is_refused(payload, data):
    sent = encoded(payload, "none", "rotated")
    at = data.draw(st.integers(0, len(sent.data) - 1))
    changed = bytearray(sent.data)
    changed[at] ^= 1 << data.draw(st.integers(0, 7))
    sent.data = bytes(changed)
    with pytest.raises(PayloadLost, match="not what was written"):
        decoded(sent, "rotated")


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("encryption-key-id", b"old", "not what was written"),
        ("encryption-key-id", b"lost", "'lost', which FLEET_PAYLOAD_KEYS does not have .it has: new, old|'lost'"),
        ("encryption-cipher", b"AES-128-GCM", "cipher b'AES-128-GCM' is not AES-256-GCM"),
        ("encoding", b"binary/zstd", "not whole"),
    ],
)
def test_an_encrypted_payload_with_changed_metadata_is_refused(key, value, why):
    sent = encoded(Payload(metadata={"encoding": b"json/plain"}, data=b'"secret"'), "zstd", "rotated")
    sent.metadata[key] = value
    with pytest.raises(PayloadLost, match=why):
        decoded(sent, "rotated")


def test_metadata_that_somebody_adds_to_an_encrypted_payload_is_dropped():
    payload = Payload(metadata={"encoding": b"json/plain"}, data=b"1")
    sent = encoded(payload, ring="old")
    sent.metadata["messageType"] = b"evil"
    assert decoded(sent, "old") == payload


@pytest.mark.parametrize("content", [b"", b"short", b"\0" * 40])
def test_what_only_calls_itself_encrypted_is_refused(content):
    alike = Payload(
        metadata={"encoding": b"binary/encrypted", "encryption-cipher": codec.CIPHER, "encryption-key-id": b"old"},
        data=content,
    )
    with pytest.raises(PayloadLost, match="not what was written"):
        decoded(alike, "old")


def test_two_encryptions_of_the_same_differ():
    payload = Payload(metadata={"encoding": b"json/plain"}, data=b"1")
    assert len({encoded(payload, ring="old").data[:12] for _ in range(100)}) == 100


def test_small_payloads_and_those_that_grow_by_it_are_not_compressed():
    small = Payload(metadata={"encoding": b"json/plain"}, data=b"a" * (codec.COMPRESS_FROM - 1))
    random = Payload(metadata={"encoding": b"json/plain"}, data=os.urandom(5000))
    assert encoded(small) is small
    assert encoded(random) is random
    large = Payload(metadata={"encoding": b"json/plain"}, data=b"a" * codec.COMPRESS_FROM)
    assert encoded(large).ByteSize() < 100


def test_what_was_written_before_there_were_keys_is_read():
    for compression in COMPRESSIONS:
        payload = Payload(metadata={"encoding": b"json/plain"}, data=b"a" * 5000)
        assert decoded(encoded(payload, compression), "rotated") == payload


def test_without_keys_an_encrypted_payload_says_which_key_is_missing():
    sent = encoded(Payload(data=b"1"), ring="old")
    with pytest.raises(PayloadLost, match="with the key 'old', and FLEET_PAYLOAD_KEYS is not set"):
        decoded(sent)


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
def test_a_payload_that_would_decompress_without_end_is_refused(compression, monkeypatch):
    sent = encoded(Payload(data=bytes(100_000)), compression)
    monkeypatch.setattr(codec, "MOST_BYTES", 50_000)
    with pytest.raises(PayloadLost, match="has more than 50000 bytes"):
        decoded(sent)
    sent.data = sent.data[:-3]
    monkeypatch.undo()
    with pytest.raises(PayloadLost, match=r"cut off|not whole"):
        decoded(sent)


@pytest.mark.parametrize(("compression", "spent"), [("zlib", 1001), ("zstd", 0)])
@pytest.mark.parametrize("ring", ["none", "old"])
async def test_decompression_ends_where_there_is_no_more_room(compression, spent, ring):
    sealing = Codec(compression, RINGS[ring])
    payload = Payload(data=bytes(10_000_000))
    (sent,) = await sealing.encode([payload])
    with pytest.raises(TooLarge, match="has more than 1000 bytes") as lost:
        await sealing.decoded_within(sent, 1000)
    assert lost.value.spent == spent
    assert await sealing.decoded_within(sent, payload.ByteSize()) == payload
    with pytest.raises(TooLarge):
        await sealing.decoded_within(sent, payload.ByteSize() - 1)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "holds no key|there is no key"),
        ("# none\n", "there is no key"),
        (OLD, "line 1 is not id:base64"),
        (f"k 1:{OLD}", "line 1 is not id:base64"),
        (f"old:{OLD}\nold:{NEW}", "line 2: a key 'old' is there already"),
        ("old:AAAA", "line 1: the key 'old' has 3 bytes; it must have 32"),
        (f"old:{OLD[:-3]}%%=", "line 1: the key 'old' is not base64"),
    ],
)
def test_a_bad_key_file_is_refused_without_showing_it(tmp_path, text, why):
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(BadInput, match=why) as refused:
        data_converter(Settings(payload_keys=f"file:{file}"))
    assert OLD[:8] not in str(refused.value)


@pytest.mark.parametrize("reference", [f"old:{OLD}", "keys", "env:", "file:"])
def test_keys_given_instead_of_where_they_are_are_refused_without_showing_them(reference):
    with pytest.raises(BadInput, match="must say where the keys are") as refused:
        data_converter(Settings(payload_keys=reference))
    assert OLD not in str(refused.value)


def test_keys_that_cannot_be_read_do_not_turn_encryption_off(tmp_path):
    with pytest.raises(BadInput, match="cannot be read"):
        data_converter(Settings(payload_keys=f"file:{tmp_path}/none"))
    with pytest.raises(BadInput, match="env:NOT_SET holds no key"):
        data_converter(Settings(payload_keys="env:NOT_SET"))


def test_a_keyring_shows_no_key():
    assert OLD[:8] not in repr(RINGS["rotated"])
    assert str(bytes(range(32)))[2:20] not in repr(RINGS["rotated"])


# ---- on a real server

SECRET = "the-merger-is-on-friday"


@asynccontextmanager
async def serving(address, converter):
    client = await Client.connect(address, data_converter=converter)
    queue = str(uuid.uuid4())
    async with worker(client, queue):
        yield client, queue


async def run_of(client, queue, said="go"):
    handle = await client.start_workflow(
        Fetching.run, SECRET, id=f"run-{uuid.uuid4()}", task_queue=queue,
        memo={"goal": SECRET}, static_summary=f"about {SECRET}", static_details=SECRET,
    )  # fmt: skip
    assert await handle.query(Fetching.say, SECRET) == SECRET
    assert await handle.execute_update(Fetching.ask, SECRET) == SECRET
    await handle.signal(Fetching.hear, f"{said}:{SECRET}")
    return handle


def everything(settings, tmp_path):
    """All bytes in the store's files."""
    return b"".join(file.read_bytes() for file in sorted(tmp_path.rglob("*")) if file.is_file() and file.name != "keys")


def crypted(tmp_path):
    (tmp_path / "keys").write_text(f"new:{NEW}\nold:{OLD}\n")
    return Settings(
        payload_keys=f"file:{tmp_path}/keys", payload_store=f"file:{tmp_path}/payloads", payload_compression="zstd"
    )


@pytest.mark.parametrize("keys", [False, True])
async def test_a_result_of_a_megabyte_leaves_the_history_small_and_comes_back(temporal_address, tmp_path, keys):
    where = crypted(tmp_path) if keys else Settings(payload_store=f"file:{tmp_path}/payloads")
    async with serving(temporal_address, data_converter(where)) as (client, queue):
        handle = await run_of(client, queue)
        result = await handle.result()
        assert result.startswith(SECRET)
        assert len(result) > MEGABYTE
        history = await handle.fetch_history()
        described = await handle.describe()
        assert await described.memo() == {"goal": SECRET, "note": SECRET}
        assert await described.static_summary() == f"about {SECRET}"
    raw = b"".join(event.SerializeToString() for event in history.events)
    assert len(raw) < 12_000
    assert described.raw_description.workflow_execution_info.history_size_bytes < 12_000
    kept = everything(where, tmp_path)
    # what the activity returned and what the run returned, encrypted with two nonces or once for both
    assert len(kept) > (2 if keys else 1) * 700_000
    found = SECRET.encode() in raw + kept + described.raw_description.SerializeToString()
    assert found is (not keys)


async def test_texts_of_failures_are_encrypted_and_can_be_read(temporal_address, tmp_path):
    async with serving(temporal_address, data_converter(crypted(tmp_path))) as (client, queue):
        handle = await run_of(client, queue, "fail")
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
        assert failed.value.cause.message == f"lost {SECRET}"
        history = await handle.fetch_history()
        assert SECRET.encode() not in b"".join(event.SerializeToString() for event in history.events)
        failure = history.events[-1].workflow_execution_failed_event_attributes.failure
        assert (failure.message, failure.application_failure_info.type) == ("Encoded failure", "Lost")
        plain = await codec.readable(failure, client.data_converter)
        assert plain.message == f"lost {SECRET}"
        assert "raise ApplicationError" in plain.stack_trace
        assert failure.message == "Encoded failure"
        (started,) = [
            event.activity_task_started_event_attributes
            for event in history.events
            if event.HasField("activity_task_started_event_attributes")
        ]
        assert (await codec.readable(started.last_failure, client.data_converter)).message == f"not yet, {SECRET}"


async def test_a_run_goes_on_on_workers_with_a_rotated_key(temporal_address, tmp_path):
    where = crypted(tmp_path)
    (tmp_path / "keys").write_text(f"old:{OLD}\n")
    before = data_converter(where)
    (tmp_path / "keys").write_text(f"new:{NEW}\nold:{OLD}\n")
    after = data_converter(where)
    client = await Client.connect(temporal_address, data_converter=before)
    queue = str(uuid.uuid4())
    handle = await client.start_workflow(Fetching.run, SECRET, id=f"run-{uuid.uuid4()}", task_queue=queue)
    async with worker(client, queue):
        assert await handle.execute_update(Fetching.ask, SECRET) == SECRET
    rotated = await Client.connect(temporal_address, data_converter=after)
    async with worker(rotated, queue):
        again = rotated.get_workflow_handle(handle.id)
        await again.signal(Fetching.hear, "go")
        assert (await again.result()).startswith(SECRET)
    with pytest.raises(PayloadLost, match="with the key 'new', which FLEET_PAYLOAD_KEYS does not have"):
        await handle.result()


async def test_a_history_of_before_is_read_by_who_now_encrypts(temporal, temporal_address, tmp_path):
    queue = str(uuid.uuid4())
    handle = await temporal.start_workflow(Fetching.run, SECRET, id=f"run-{uuid.uuid4()}", task_queue=queue)
    async with serving(temporal_address, data_converter(crypted(tmp_path))) as (client, _), worker(client, queue):
        assert await client.get_workflow_handle(handle.id).execute_update(Fetching.ask, SECRET) == SECRET


async def test_who_has_no_store_is_told_in_one_line(temporal_address, tmp_path):
    where = Settings(payload_store=f"file:{tmp_path}/payloads")
    async with serving(temporal_address, data_converter(where)) as (client, queue):
        handle = await run_of(client, queue)
        await handle.result()
        lacking = await Client.connect(temporal_address, data_converter=data_converter(Settings()))
        with pytest.raises(PayloadLost, match=r"lies in external storage \(fleet.file\).*FLEET_PAYLOAD_STORE=file:"):
            await lacking.get_workflow_handle(handle.id).result()


async def test_the_default_converter_reads_what_is_small_and_not_encrypted(temporal_address):
    (payload,) = await data_converter(Settings()).encode([{"a": [1, None, "ü"]}])
    assert payload.metadata["encoding"] == b"json/plain"
    assert await DataConverter.default.decode([payload]) == [{"a": [1, None, "ü"]}]

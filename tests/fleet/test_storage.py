"""Large payloads outside of histories: the folder, S3, and what may be deleted."""

import asyncio
import base64
import gc
import os
import stat
import time
import uuid
from datetime import UTC, datetime, timedelta

import boto3
import pytest
from moto.server import ThreadedMotoServer
from temporalio.api.common.v1 import Payload
from temporalio.api.sdk.v1.external_storage_pb2 import ExternalStorageReference
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleSpec,
    ScheduleState,
)
from temporalio.converter import (
    StorageDriverClaim,
    StorageDriverRetrieveContext,
    StorageDriverStoreContext,
    StorageDriverWorkflowInfo,
)

from fleet.cli.codec import examine, prune
from fleet.client import connect, is_embedded
from fleet.codec import data_converter
from fleet.errors import BadInput, PayloadLost
from fleet.settings import Settings
from fleet.storage import files, objects, pruning
from fleet.storage.files import FileStore
from fleet.storage.places import belongs, claimed, places
from tests.fleet.fetching import Fetching, worker

HERE = StorageDriverStoreContext(target=StorageDriverWorkflowInfo(namespace="default"))
ANY = StorageDriverRetrieveContext()
PAYLOAD = Payload(metadata={"encoding": b"json/plain", "a": b"b", "c": b"d"}, data=b'"' + b"x" * 1000 + b'"')


def every_file(folder):
    return [path for path in folder.rglob("*") if path.is_file() and path.name != "lock"]


async def test_what_was_stored_comes_back_and_only_its_user_may_read_it(tmp_path):
    store = FileStore([tmp_path / "s"])
    (claim,) = await store.store(HERE, [PAYLOAD])
    assert await store.retrieve(ANY, [claim]) == [PAYLOAD]
    (file,) = every_file(tmp_path)
    assert file.name == claim.claim_data["digest"]
    assert file.parent.parent.name == "ns-default"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_dir()} == {0o700}


async def test_the_same_bytes_are_one_file_which_storing_makes_young_again(tmp_path):
    store = FileStore([tmp_path])
    claims = await store.store(HERE, [PAYLOAD, PAYLOAD])
    (file,) = every_file(tmp_path)
    assert claims[0] == claims[1]
    os.utime(file, (1, 1))
    await store.store(HERE, [PAYLOAD])
    assert file.stat().st_mtime > time.time() - 60


async def test_many_who_store_the_same_at_once_leave_one_whole_file(tmp_path):
    stores = [FileStore([tmp_path]) for _ in range(8)]
    claims = await asyncio.gather(*(store.store(HERE, [PAYLOAD]) for store in stores for _ in range(4)))
    (file,) = every_file(tmp_path)
    assert {claim.claim_data["digest"] for (claim,) in claims} == {file.name}
    assert await stores[0].retrieve(ANY, claims[0]) == [PAYLOAD]


async def test_a_file_that_was_changed_is_refused_and_one_cut_off_is_written_again(tmp_path):
    store = FileStore([tmp_path])
    (claim,) = await store.store(HERE, [PAYLOAD])
    (file,) = every_file(tmp_path)
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"?")
    with pytest.raises(PayloadLost, match="is not what was written"):
        await store.retrieve(ANY, [claim])
    file.write_bytes(content[:-1])
    await store.store(HERE, [PAYLOAD])
    assert await store.retrieve(ANY, [claim]) == [PAYLOAD]


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "ab/" * 21 + "a", "A" * 64, "a" * 63, "a" * 64 + "\n"])
async def test_a_claim_that_names_no_digest_is_refused(tmp_path, digest):
    with pytest.raises(PayloadLost, match="names no SHA-256"):
        await FileStore([tmp_path]).retrieve(ANY, [StorageDriverClaim({"namespace": "default", "digest": digest})])


@pytest.mark.parametrize("namespace", ["..", "../../etc", "a/b", "/", "ä", "", ".", "x\0y"])
async def test_no_namespace_leads_out_of_the_folder(tmp_path, namespace):
    inside = files.path(tmp_path / "s", namespace, "a" * 64)
    assert inside.resolve().is_relative_to((tmp_path / "s").resolve())
    assert inside.parent.parent.parent == tmp_path / "s"
    store = FileStore([tmp_path / "s"])
    where = StorageDriverStoreContext(target=StorageDriverWorkflowInfo(namespace=namespace))
    assert await store.retrieve(ANY, await store.store(where, [PAYLOAD])) == [PAYLOAD]


async def test_what_is_missing_is_told_with_the_folders_that_were_looked_into(tmp_path):
    (claim,) = await FileStore([tmp_path / "other"]).store(HERE, [PAYLOAD])
    with pytest.raises(PayloadLost, match=f"not in {tmp_path}/s: it was written with another"):
        await FileStore([tmp_path / "s"]).retrieve(ANY, [claim])
    assert await FileStore([tmp_path / "s", tmp_path / "other"]).retrieve(ANY, [claim]) == [PAYLOAD]


async def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path):
    (tmp_path / "s").write_text("a file")
    with pytest.raises(PayloadLost, match="cannot be written"):
        await FileStore([tmp_path / "s"]).store(HERE, [PAYLOAD])
    # nothing half-written stays behind
    assert every_file(tmp_path) == [tmp_path / "s"]


async def test_more_than_the_most_is_not_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MOST_BYTES", 1000)
    with pytest.raises(PayloadLost, match="1000 are the most"):
        await FileStore([tmp_path]).store(HERE, [PAYLOAD])


# ---- settings


@pytest.mark.parametrize("text", ["", "file:relative", "s3://", "s3://Bucket", "s3://a/b", "http://x", "file:/a,,"])
def test_a_store_that_cannot_be_is_refused(text):
    with pytest.raises(BadInput, match="must be file:/absolute/folder, s3://bucket or none"):
        data_converter(Settings(payload_store=text))


def test_only_the_embedded_stack_has_a_store_by_default(tmp_path, monkeypatch):
    where = Settings(state_dir=tmp_path)
    assert str(places(where, embedded=False)) == "none"
    assert str(places(where, embedded=True)) == f"{tmp_path}/payloads"
    assert not is_embedded(where)
    (tmp_path / "dev.json").write_text('{"temporal": "127.0.0.1:7"}')
    assert is_embedded(where)
    monkeypatch.setenv("TEMPORAL_ADDRESS", "temporal.example.com:7233")
    assert not is_embedded(where)


async def test_several_stores_are_read_and_the_first_is_written(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    text = "x" * 300_000
    (old,) = await data_converter(Settings(payload_store=f"file:{second}", payload_compression="none")).encode([text])
    both = data_converter(Settings(payload_store=f"file:{first},file:{second}", payload_compression="none"))
    assert await both.decode([old]) == [text]
    await both.encode([text + "y"])
    assert [len(every_file(folder)) for folder in (first, second)] == [1, 1]
    reading = data_converter(Settings(payload_store=f"none,file:{second}", payload_compression="none"))
    assert await reading.decode([old]) == [text]
    assert (await reading.encode([text]))[0].ByteSize() > 300_000


async def test_payloads_below_the_threshold_stay_in_the_history(tmp_path):
    converter = data_converter(
        Settings(payload_store=f"file:{tmp_path}", payload_threshold=2000, payload_compression="none")
    )
    small, large = await converter.encode(["x" * 1900, "x" * 2100])
    assert claimed(small) is None
    assert claimed(large) is not None


# ---- S3


@pytest.fixture(scope="module")
def s3():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3, monkeypatch):
    for name, value in {
        "AWS_ENDPOINT_URL": s3, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "eu-central-1", "AWS_EC2_METADATA_DISABLED": "true", "AWS_MAX_ATTEMPTS": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    name = f"payloads-{uuid.uuid4()}"
    where = boto3.client("s3")
    where.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    yield name
    where.close()


async def test_a_megabyte_goes_through_s3_and_leaves_the_history_small(temporal_address, bucket):
    converter = data_converter(Settings(payload_store=f"s3://{bucket}", payload_compression="none"))
    client = await Client.connect(temporal_address, data_converter=converter)
    queue = str(uuid.uuid4())
    async with worker(client, queue):
        handle = await client.start_workflow(Fetching.run, "it", id=f"run-{uuid.uuid4()}", task_queue=queue)
        await handle.signal(Fetching.hear, "go")
        assert len(await handle.result()) > 1_000_000
        described = await handle.describe()
    assert described.raw_description.workflow_execution_info.history_size_bytes < 12_000
    where = boto3.client("s3")
    keys = [found["Key"] for found in where.list_objects_v2(Bucket=bucket)["Contents"]]
    where.close()
    assert keys
    assert all(key.startswith("v0/ns/default/") for key in keys)


def test_each_event_loop_opens_its_own_connection_and_closes_it(bucket, recwarn):
    store = objects.Bucket(bucket)

    async def work():
        claims = await asyncio.gather(*(store.store(HERE, [PAYLOAD]) for _ in range(3)))
        assert await store.retrieve(ANY, claims[0]) == [PAYLOAD]

    asyncio.run(work())
    asyncio.run(work())


def test_a_connection_whose_user_is_forgotten_is_closed_with_its_loop(bucket, recwarn):
    async def work():
        await objects.Bucket(bucket).store(HERE, [PAYLOAD])
        gc.collect()

    asyncio.run(work())
    gc.collect()
    assert not [told for told in recwarn if told.category is ResourceWarning]


async def test_a_bucket_that_is_not_there_is_told_in_one_line(bucket):
    with pytest.raises(
        PayloadLost, match=r"cannot be written: .*bucket=nowhere.*look at FLEET_PAYLOAD_STORE and AWS_\*"
    ):
        await objects.Bucket("nowhere").store(HERE, [PAYLOAD])


async def test_s3_that_does_not_answer_is_told_in_one_line(bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(PayloadLost, match="EndpointConnectionError") as lost:
        await objects.Bucket(bucket).store(HERE, [PAYLOAD])
    assert "\n" not in str(lost.value)


async def test_the_doctor_sends_a_payload_the_whole_way_and_leaves_nothing(tmp_path, bucket):
    (tmp_path / "keys").write_text(f"k2:{base64.b64encode(bytes(32)).decode()}\n")
    where = Settings(state_dir=tmp_path, payload_store=f"file:{tmp_path}/s", payload_keys=f"file:{tmp_path}/keys")
    told = await examine(where)
    assert told.startswith("encrypted with 'k2' (keys: k2); compression zstd; stored in ")
    assert told.endswith("/s: written, read back, deleted")
    assert every_file(tmp_path / "s") == []
    assert "s3://" in await examine(where.model_copy(update={"payload_store": f"s3://{bucket}"}))
    s3 = boto3.client("s3")
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)
    s3.close()
    assert (await examine(Settings(state_dir=tmp_path))).endswith("nothing is stored outside of histories")


# ---- whose a claim is


@pytest.mark.parametrize(
    ("driver", "claim", "mine"),
    [
        ("fleet.file", {"namespace": "acme"}, True),
        ("fleet.file", {"namespace": "other"}, False),
        ("fleet.file", {}, False),
        ("aws.s3driver", {"bucket": "b-1", "key": "v0/ns/acme/wt/w/d/sha256/1"}, True),
        ("aws.s3driver", {"bucket": "b-2", "key": "v0/ns/acme/wt/w/d/sha256/1"}, False),
        ("aws.s3driver", {"bucket": "b-1", "key": "v0/ns/acme2/wt"}, False),
        ("aws.s3driver", {"bucket": "b-1", "key": "v0/ns/acme/../other/d"}, False),
        ("aws.s3driver", {"bucket": "b-1", "key": "v0/d/sha256/1"}, False),
        ("other", {"namespace": "acme"}, False),
    ],
)
def test_a_claim_of_another_namespace_or_bucket_is_not_followed(tmp_path, driver, claim, mine):
    found = places(Settings(payload_store=f"file:{tmp_path},s3://b-1"), embedded=False)
    assert belongs(ExternalStorageReference(driver_name=driver, claim_data=claim), "acme", found) is mine


# ---- pruning


def aged(folder, days=30.0):
    for file in every_file(folder):
        os.utime(file, (time.time() - days * 86_400,) * 2)


async def visible(client, *ids):
    """Return once they are listed: visibility lags behind, by less than payloads are left alone."""
    query = " OR ".join(f"WorkflowId = '{name}'" for name in ids)
    async with asyncio.timeout(20):
        while (await client.count_workflows(query)).count < len(ids):
            await asyncio.sleep(0.02)


async def test_pruning_spares_what_open_runs_closed_runs_and_schedules_refer_to(temporal_address, tmp_path):
    converter = data_converter(Settings(payload_store=f"file:{tmp_path}", payload_compression="none"))
    client = await Client.connect(temporal_address, data_converter=converter)
    large = {kind: f"{kind} {uuid.uuid4()} " + "x" * 200_000 for kind in ("open", "closed", "scheduled", "lost")}
    queue = str(uuid.uuid4())
    parked = await client.start_workflow(Fetching.run, large["open"], id=f"open-{uuid.uuid4()}", task_queue=queue)
    ended = await client.start_workflow(Fetching.run, large["closed"], id=f"closed-{uuid.uuid4()}", task_queue=queue)
    await ended.terminate()
    paused = Schedule(
        action=ScheduleActionStartWorkflow(Fetching.run, large["scheduled"], id="s", task_queue=queue),
        spec=ScheduleSpec(start_at=datetime.now(UTC) + timedelta(days=100)),
        state=ScheduleState(paused=True),
    )
    schedule = await client.create_schedule(f"schedule-{uuid.uuid4()}", paused)
    (claim,) = await client.data_converter.external_storage.drivers[0].store(HERE, [Payload(data=b"nobody's")])
    try:
        young = await pruning.prune(client, tmp_path)
        assert (young.found, young.deleted) == (0, 0)
        aged(tmp_path)
        before = every_file(tmp_path)
        await visible(client, parked.id, ended.id)
        planned = await pruning.prune(client, tmp_path, dry_run=True)
        assert every_file(tmp_path) == before
        done = await pruning.prune(client, tmp_path)
        assert (
            (done.found, done.claimed, done.deleted) == (planned.found, planned.claimed, planned.deleted) == (4, 3, 1)
        )
        assert claim.claim_data["digest"] not in {file.name for file in every_file(tmp_path)}
        async with worker(client, queue):
            await parked.signal(Fetching.hear, "go")
            assert (await parked.result()).startswith(large["open"])
    finally:
        await schedule.delete()


async def test_pruning_below_the_retention_is_refused(temporal, tmp_path):
    with pytest.raises(BadInput, match=r"--older-than 0.5 days: closed runs are kept for 1 days"):
        await pruning.prune(temporal, tmp_path, older_than=timedelta(hours=12))


async def test_a_payload_that_is_stored_again_while_it_is_pruned_stays(tmp_path):
    store = FileStore([tmp_path])
    await store.store(HERE, [PAYLOAD])
    (file,) = every_file(tmp_path)
    aged(tmp_path)
    before = time.time() - 3600
    await store.store(HERE, [PAYLOAD])
    assert files.delete(file, folder=tmp_path, untouched_since=before) == 0
    aged(tmp_path)
    size = file.stat().st_size
    assert files.delete(file, folder=tmp_path, untouched_since=before) == size
    assert files.delete(file, folder=tmp_path, untouched_since=before) == 0


@pytest.mark.parametrize("dry_run", [False, True])
async def test_what_another_prunes_meanwhile_is_passed_over(temporal, tmp_path, monkeypatch, dry_run):
    store, every = FileStore([tmp_path]), files.stored
    for name in (b"1", b"2", b"3"):
        await store.store(HERE, [Payload(data=name)])
    aged(tmp_path)

    def vanishing(folder, namespace):
        first, *others = list(every(folder, namespace))
        first.unlink()
        yield from (first, *others)

    async def nothing(client):
        every_file(tmp_path)[0].unlink()
        return set()

    monkeypatch.setattr(files, "stored", vanishing)
    monkeypatch.setattr(pruning, "_marked", nothing)
    done = await pruning.prune(temporal, tmp_path, dry_run=dry_run)
    assert (done.found, done.deleted, len(every_file(tmp_path))) == (2, 1, int(dry_run))


@pytest.mark.parametrize("days", [1e30, float("inf"), float("nan"), -1.0])
def test_pruning_what_is_older_than_there_are_years_is_refused(days):
    with pytest.raises(BadInput, match="days from 0 to 36500"):
        prune(older_than=days, dry_run=True, json=False)


async def test_a_client_of_the_embedded_stack_uses_its_folder(temporal_address, tmp_path):
    where = Settings(state_dir=tmp_path)
    (tmp_path / "dev.json").write_text(f'{{"temporal": "{temporal_address}"}}')
    client = await connect(where)
    (payload,) = await client.data_converter.encode([os.urandom(200_000)])
    assert claimed(payload) is not None
    assert len(every_file(tmp_path / "payloads")) == 1

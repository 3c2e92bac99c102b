"""The benchmark of the limiter's store measures what it says; its figures are no test."""

import time
from dataclasses import asdict

import pytest
from redis.crc import key_slot

from fleet.errors import BadInput
from load.bench import masters, stores
from load.bench.masters import SLOTS, Held, Masters, shares, slot, spread
from load.bench.stores import CLUSTER, CROWDED, NESTED, ONE, Usage
from ratelimit.keys import tag
from ratelimit.store import RedisStore


@pytest.mark.parametrize("count", [1, 3, 7])
def test_masters_share_all_slots_and_each_has_a_provider(count):
    found = shares(count)
    assert [slot for first, last in found for slot in range(first, last + 1)] == list(range(SLOTS))
    for provider, (first, last) in zip(spread(count), found, strict=True):
        assert first <= slot(provider) <= last
        assert slot(provider) == key_slot(tag(f"{provider}/model").encode())


def test_what_a_call_costs_is_told_for_each_call_and_each_server():
    before = Usage(at=10.0, cpu_s=[1.0, 2.0], scripts=[100, 200], bytes=[1000, 1000])
    after = Usage(at=12.0, cpu_s=[1.6, 2.2], scripts=[1000, 500], bytes=[41_000, 11_000])
    found = (after - before).figures(400, p50_ms=1.5, client_cpu_s=0.4)
    assert found == pytest.approx(
        {
            "calls_per_s": 200.0, "p50_ms": 1.5, "scripts_per_call": 3.0, "server_us": 2000.0, "client_us": 1000.0,
            "core_carries_per_s": 500.0, "busiest_cores": 0.3, "busiest_share": 0.75, "bytes_per_call": 125.0,
        }
    )  # fmt: skip


async def called(case, url):
    now = time.time()
    return await stores.call({"url": url, "case": asdict(case), "process": 0}, now, now, now + 0.15)


async def scripts_called(url):
    store = RedisStore.from_url(url)
    told = (await store.execute("INFO", "commandstats")).decode()
    await store.aclose()
    line = next(line for line in told.splitlines() if line.startswith("cmdstat_evalsha:"))
    return int(line.partition("calls=")[2].partition(",")[0])


@pytest.mark.parametrize("case", [ONE, NESTED])
async def test_a_call_books_settles_and_learns(valkey, case):
    before = await scripts_called(valkey) if case is NESTED else 0
    found = await called(case, valkey)
    assert found["calls"] > 0
    assert found["p50_ms"] > 0
    assert found["cpu_s"] > 0
    # settled and learnt one by one, booked together
    assert await scripts_called(valkey) - before >= 2 * found["calls"]
    store = RedisStore.from_url(valkey)
    charged = stores.scopes(case)
    chain = [*charged, *[scope for scope in stores.quotas(case) if case.nested and "*" not in scope]]
    for scope in chain:
        assert (await store.inspect(scope)).counters.grants >= found["calls"]
    assert (await store.learnt(stores.spread(1)[0] + "/model", stores.ROLE)).calls >= found["calls"]
    await store.aclose()


def test_every_provider_of_a_case_is_called():
    assert len({scope.partition("/")[0] for scope in stores.scopes(CLUSTER)}) == 3
    assert len(stores.scopes(CROWDED)) == 1


async def test_one_server_is_one_store(tmp_path):
    async with Masters(tmp_path, 1) as one:
        (told,) = await one.info("cpu")
        assert told["used_cpu_user"] >= 0
        url = one.url
        store = RedisStore.from_url(url)
        await store.ping()
        await store.aclose()
    assert url.startswith("redis://")


def test_who_may_not_hold_a_server_to_its_share_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(masters, "GROUPS", tmp_path / "nowhere")
    with (
        pytest.raises(BadInput, match=r"^--share: no control group can be made in .*nowhere .*: leave it out"),
        Held(1, 0.2),
    ):
        pass


def test_a_server_is_held_to_its_share_and_let_go(tmp_path, monkeypatch):
    monkeypatch.setattr(masters, "GROUPS", tmp_path)
    held = Held(4711, 0.2)
    with held:
        (group,) = tmp_path.iterdir()
        assert {file.name: file.read_text() for file in group.iterdir()} == {
            "cpu.cfs_period_us": "10000", "cpu.cfs_quota_us": "2000", "cgroup.procs": "4711",
        }  # fmt: skip
        for file in group.iterdir():
            file.unlink()  # the kernel's are no files of the group's folder
    assert list(tmp_path.iterdir()) == []


@pytest.mark.trial
@pytest.mark.timeout(120)
async def test_providers_are_divided_over_the_masters_of_a_cluster():
    report = await stores.run(seconds=1, rounds=1, say=lambda line: None, cases=(stores.THREE, CLUSTER, CROWDED))
    rows = {row["limiter"]: row for row in report.rows}
    assert set(rows) == {stores.THREE.label, CLUSTER.label, CROWDED.label}
    assert rows[CROWDED.label]["busiest_share"] > 0.99
    assert 0.33 <= rows[CLUSTER.label]["busiest_share"] < 0.5
    # each call reserves and settles; of those that the window cuts, not all that they ask falls into it
    assert all(row["calls_per_s"] > 0 and row["scripts_per_call"] > 1 for row in rows.values()), rows

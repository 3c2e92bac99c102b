"""The one client, where not everything can be read."""

import asyncio
import base64
from pathlib import Path
from uuid import uuid4

from fleet import manifest as manifests
from fleet.client import UNREADABLE, FleetClient, connect
from fleet.settings import Settings

MANIFEST = manifests.load(Path("deploy/fleet.toml"))


async def test_a_run_whose_key_is_missing_is_listed_and_can_be_ended(temporal_address, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"k1:{base64.b64encode(bytes(32)).decode()}\n")
    with_key = await connect(Settings(payload_keys=f"file:{keys}"), address=temporal_address)
    without = FleetClient(await connect(Settings(), address=temporal_address), MANIFEST)
    run_id = await FleetClient(with_key, MANIFEST).start("researcher", "a secret goal", run_id=f"r-{uuid4().hex}")
    async with asyncio.timeout(20):
        # visibility hears of it a little later
        while not (found := [one async for one in without.runs(query=f"WorkflowId = '{run_id}'")]):
            await asyncio.sleep(0.05)
    (listed,) = found
    assert (listed.id, listed.agent, listed.goal, listed.tenant) == (run_id, "researcher", UNREADABLE, "default")
    assert (await without.info(run_id)).goal == UNREADABLE
    await without.terminate(run_id, "its key is lost")
    assert (await without.info(run_id)).state == "terminated"

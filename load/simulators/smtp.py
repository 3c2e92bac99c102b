"""A mail relay with a quota: what it accepts is filed before it says so."""

import asyncio
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope, Session

from load.simulators.ledger import Row, digest
from load.simulators.world import World

IDENT = "simulated relay"


class _Relay(SMTP):
    """Knows its own transport, so that a handler can break the connection."""

    def abort(self) -> None:
        """Break the connection."""
        transport: Any = self.transport
        if transport is not None:
            transport.abort()


class _Handler:
    def __init__(self, world: World) -> None:
        self._world = world

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's
        del session
        world = self._world
        row = world.row("smtp", "DATA")
        row.sender, row.recipients = envelope.mail_from, list(envelope.rcpt_tos)
        content = envelope.original_content or b""
        row.digest = digest(content)
        fault = world.fault("smtp", "")
        if fault and fault.drop and not fault.after:
            return self._broken(server, row)
        options = world.options.smtp
        cost = {"messages": 1.0, "recipients": float(len(envelope.rcpt_tos))}
        row.asked = {name: units for name, units in cost.items() if name in options.limits()}
        refusal = world.meter("smtp", "", "", options.limits()).admit(cost, row.wall)
        if refusal:
            world.close(row, "429", 451)
            return f"451 4.7.1 Rate limit exceeded: {refusal.limit}, try again later"
        row.charged = row.asked
        await world.pause(options.latency_s)
        if fault and fault.status:
            world.close(row, str(fault.status), fault.status)
            return f"{fault.status} {_REASONS.get(fault.status, 'Requested action not taken')}"
        mail = world.mailbox.file(content, row.sender or "", row.recipients or [])
        row.message_id = mail.message_id
        if fault and fault.drop:
            return self._broken(server, row)
        await world.pause(fault.hang_s if fault else 0.0)
        world.close(row, "ok", 250)
        return f"250 2.0.0 Ok: queued as {row.digest}"

    def _broken(self, server: SMTP, row: Row) -> str:
        self._world.close(row, "dropped", 0)
        assert isinstance(server, _Relay)
        server.abort()
        return "421 4.3.0 connection broken"


_REASONS = {
    421: "4.3.2 Service not available, closing transmission channel",
    450: "4.2.1 Mailbox temporarily unavailable",
    451: "4.3.0 Requested action aborted: local error in processing",
    452: "4.3.1 Insufficient system storage",
    550: "5.7.1 Message rejected",
    552: "5.2.2 Storage exceeded",
    554: "5.6.0 Transaction failed",
}


async def serve(world: World, port: int, host: str = "127.0.0.1") -> tuple[asyncio.Server, int]:
    """Listen. Returns the server and its port."""
    handler: Any = _Handler(world)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Relay(handler, hostname="localhost", ident=IDENT, loop=loop), host, port)
    return server, int(server.sockets[0].getsockname()[1])

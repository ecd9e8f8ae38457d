#!/usr/bin/env python3
"""WebSocket load for load.sh: `serve CERTIFICATE KEY ADDRESS PORT` sends back what it is sent, `ask SECONDS URI` asks on
16 connections, one message of 64 bytes at a time, and prints how many came back."""
import asyncio
import ssl
import sys
import time

import websockets


async def serve(certificate, key, address, port):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)

    async def echo(peer, *_):
        async for message in peer:
            await peer.send(message)

    async with websockets.serve(echo, address, int(port), ssl=tls, compression=None):
        await asyncio.Future()


async def ask(seconds, uri):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    until = time.monotonic() + float(seconds)

    async def connection():
        count = 0
        async with websockets.connect(uri, ssl=tls, compression=None) as peer:
            while time.monotonic() < until:
                await peer.send("m" * 64)
                assert len(await peer.recv()) == 64
                count += 1
        return count

    print(sum(await asyncio.gather(*(connection() for _ in range(16)))))


asyncio.run({"serve": serve, "ask": ask}[sys.argv[1]](*sys.argv[2:]))

#!/usr/bin/env python3
"""Holds the client crate against opamp-go's client and prints one table (see benches/client.sh).

What a client does inside (encode, decode, a step of the session) it measures itself; everything else is seen from the
outside: bytes through a relay, memory and processor time in /proc. Both sides meet the same server, one after the other.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time

MANY = 500     # clients at rest
WINDOW = 10.0  # seconds of watching
BEAT = 1       # seconds between beats while watching; an hour of rest has one each 30 s
HOUR = 3600 / 30
MARK = ("<!-- benches/client.sh -->", "<!-- end of benches/client.sh -->")


class Relay:
    """Passes bytes on and counts them."""

    def __init__(self, port):
        self.port, self.up, self.down, self.writers = port, 0, 0, []

    async def start(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        return self.server.sockets[0].getsockname()[1]

    async def serve(self, reader, writer):
        there, back = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers += [writer, back]
        try:
            await asyncio.gather(self.copy(reader, back, "up"), self.copy(there, writer, "down"))
        except asyncio.CancelledError:
            pass  # The measurement is over.

    async def copy(self, reader, writer, counter):
        try:
            while data := await reader.read(65536):
                setattr(self, counter, getattr(self, counter) + len(data))
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        writer.close()


class Idle:
    """A process with clients at rest."""

    def __init__(self, program, url, count, beat):
        self.process = subprocess.Popen([program, "idle", url, str(count), beat],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self.process.pid

    async def connected(self):
        line = await asyncio.to_thread(self.process.stdout.readline)
        assert json.loads(line)["connected"], line

    def memory(self):
        with open(f"/proc/{self.pid}/smaps_rollup") as file:
            return sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Private_"))

    def processor_ns(self):
        total = 0
        for task in os.listdir(f"/proc/{self.pid}/task"):
            with open(f"/proc/{self.pid}/task/{task}/schedstat") as file:
                total += int(file.read().split()[0])
        return total

    def end(self):
        self.process.kill()
        self.process.wait()


async def measure(program, server, unit):
    """One side: `unit` is what it calls a second."""
    found = json.loads(subprocess.run([program, "codec"], check=True, capture_output=True, text=True).stdout)
    hour = "3600" + unit
    # One client more or less: what the process itself needs is not a client's.
    memory = []
    for count in (1, MANY + 1):
        idle = Idle(program, f"ws://127.0.0.1:{server}/v1/opamp", count, hour)
        await idle.connected()
        await asyncio.sleep(2)
        memory.append(idle.memory())
        idle.end()
    found["memory_kib"] = round((memory[1] - memory[0]) / MANY / 1024, 1)
    idle = Idle(program, f"ws://127.0.0.1:{server}/v1/opamp", MANY, f"{BEAT}{unit}")
    await idle.connected()
    await asyncio.sleep(2)
    spent, since = idle.processor_ns(), time.monotonic()
    await asyncio.sleep(WINDOW)
    beats = MANY * (time.monotonic() - since) / BEAT
    found["beat_us"] = round((idle.processor_ns() - spent) / beats / 1000, 1)
    idle.end()
    for scheme in ("ws", "http"):
        relay = Relay(server)
        port = await relay.start()
        idle = Idle(program, f"{scheme}://127.0.0.1:{port}/v1/opamp", 1, f"{BEAT}{unit}")
        await idle.connected()
        await asyncio.sleep(1.5 * BEAT)
        hello, since = relay.up + relay.down, time.monotonic()
        await asyncio.sleep(WINDOW)
        beat = (relay.up + relay.down - hello) / ((time.monotonic() - since) / BEAT)
        found[f"{scheme}_hour"] = round(beat * HOUR / 1024, 1)
        idle.end()
        relay.server.close()
    return found


ROWS = [
    ("encode a report with a config of 4 KiB", "ns", "encode_ns"),
    ("", "allocations", "encode_allocations"),
    ("decode an offer of 4 KiB", "ns", "decode_ns"),
    ("", "allocations", "decode_allocations"),
    ("a step of the session: a change, its report, the answer", "ns", "step_ns"),
    ("", "allocations", "step_allocations"),
    ("a heartbeat and its answer, sockets and all, WebSocket", "µs of processor", "beat_us"),
    ("a connection at rest, WebSocket", "KiB of memory", "memory_kib"),
    ("an idle hour, WebSocket", "KiB on the wire", "ws_hour"),
    ("an idle hour, polling", "KiB on the wire", "http_hour"),
]


def table(ours, theirs):
    lines = ["| what | unit | this crate | opamp-go 0.23 |", "|---|---|---:|---:|"]
    for what, unit, key in ROWS:
        lines.append(f"| {what} | {unit} | {ours[key]} | {theirs.get(key, '–')} |")
    return "\n".join(lines)


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ours", required=True)
    parser.add_argument("--theirs", required=True)
    parser.add_argument("--server", required=True)
    parser.add_argument("--write", action="store_true", help="put the table into docs/opamp-client.md")
    args = parser.parse_args()
    server = subprocess.Popen([args.server, "--until-stdin-closes"],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        port = json.loads(server.stdout.readline())["opamp"]
        ours = await measure(args.ours, port, "")
        theirs = await measure(args.theirs, port, "s")
    finally:
        server.kill()
        server.wait()
    text = table(ours, theirs)
    print(text)
    if args.write:
        path = os.path.join(os.path.dirname(__file__), "..", "docs", "opamp-client.md")
        with open(path) as file:
            before, rest = file.read().split(MARK[0])
            after = rest.split(MARK[1])[1]
        with open(path, "w") as file:
            file.write(f"{before}{MARK[0]}\n{text}\n{MARK[1]}{after}")


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

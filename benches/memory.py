#!/usr/bin/env python3
"""Measures what memory supervisor and data plane need while programs send OTLP, and the limit at which they still work.

    benches/memory.py EXECUTABLE [--seconds N] [--limits]

One supervisor with one data plane: OTLP over HTTP in, OTLP over HTTP out. Senders send as fast as they are answered; then
the endpoint stops answering until the queue is full and senders are told to come again; then it answers again. A run is good
when every record that was answered with 200 arrived and the processes are the same as at the beginning. Printed are the peaks
of resident memory (VmHWM) by phase; with --limits also the smallest RLIMIT_DATA, which is all private memory a process may
write to, at which a run is still good, found by halving.
"""

import argparse
import gzip
import http.client
import http.server
import json
import os
import resource
import shutil
import socketserver
import sys
import tempfile
import threading
import time

import budgets
from budgets import ADDRESS, MIB, Failure, Supervisor, free_port

RECORDS = 1000      # of one request
SENDERS = 4
LIMIT_MAX_MIB = 256
LIMIT_STEP_MIB = 4


def request():
    """One request of log records of some 300 bytes."""
    attributes = [{"key": f"attribute.{n}", "value": {"stringValue": "value " * 4}} for n in range(4)]
    records = [{"timeUnixNano": str(time.time_ns()), "severityNumber": 9, "severityText": "INFO", "attributes": attributes,
                "body": {"stringValue": f"record {n} " + "x" * 120}} for n in range(RECORDS)]
    resource_attributes = [{"key": "service.name", "value": {"stringValue": "load"}}]
    return json.dumps({"resourceLogs": [{"resource": {"attributes": resource_attributes},
                                         "scopeLogs": [{"scope": {"name": "load"}, "logRecords": records}]}]}).encode()


class Endpoint:
    """Takes OTLP while it is open, and answers 503 while it is not. Counts records by a word of their bodies."""

    def __init__(self):
        self.open = True
        self.lock = threading.Lock()
        self.records = 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if outer.open:
                    body = gzip.decompress(body)
                    with outer.lock:
                        outer.records += body.count(b"record ")
                self.send_response(200 if outer.open else 503)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                # Whoever hung up on us is heard of elsewhere.
                pass

        self.server = Server((ADDRESS, 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Sender(threading.Thread):
    """Sends one request after the other until told to stop."""

    def __init__(self, port, body):
        super().__init__(daemon=True)
        self.port, self.body = port, body
        self.accepted = self.told_to_wait = self.broken = 0
        self.over = False

    def run(self):
        connection = None
        while not self.over:
            try:
                connection = connection or http.client.HTTPConnection(ADDRESS, self.port, timeout=30)
                connection.request("POST", "/v1/logs", self.body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
                if answer.status == 200:
                    self.accepted += RECORDS
                elif answer.status in (429, 503):
                    self.told_to_wait += 1
                    time.sleep(0.05)
                else:
                    raise Failure(f"answer {answer.status}")
            except (OSError, http.client.HTTPException):
                self.broken += 1
                connection = None
                time.sleep(0.05)


def peak(pid):
    try:
        with open(f"/proc/{pid}/status") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 1024
    except FileNotFoundError:
        pass
    raise Failure(f"process {pid} is gone")


def start(executable, state, port, endpoint, limit_mib):
    settings = f"storage: {{directory: {state}}}\nhttp: {{listen: []}}\nagents: {{a0: {{profile: adjutant, apply: {{probation: 0s}}}}}}\n"
    before = resource.getrlimit(resource.RLIMIT_DATA)
    if limit_mib:
        resource.setrlimit(resource.RLIMIT_DATA, (int(limit_mib * MIB), before[1]))
    try:
        supervisor = Supervisor(executable, settings, state)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
    try:
        first = supervisor.until("child", lambda agents: len(agents) == 1 and budgets.settled(agents))
        hash_before = first[0]["current"]["hash"]
        supervisor.apply({"collect.yaml": f"""sources: {{in: {{kind: otlp, listen: "{ADDRESS}:{port}"}}}}
uploads: {{out: {{kind: otlp_http, endpoint: "http://{ADDRESS}:{endpoint.port}", from: [in], interval: 100ms, chunk: 2000, batch: 10000}}}}
"""})
        agents = supervisor.committed(hash_before)
        return supervisor, agents[0]["child"]["pid"]
    except BaseException:
        supervisor.stop()
        raise


def run(executable, seconds, limit_mib=None):
    """One run; the peaks by phase."""
    directory = tempfile.mkdtemp(prefix="adjutant-memory-")
    state = os.path.join(directory, "state")
    os.makedirs(state, mode=0o700)
    endpoint, port = Endpoint(), free_port()
    supervisor, senders = None, []
    try:
        supervisor, child = start(executable, state, port, endpoint, limit_mib)
        peaks = {"at rest": (peak(supervisor.process.pid), peak(child))}
        body = request()
        senders = [Sender(port, body) for _ in range(SENDERS)]
        began = time.monotonic()
        for sender in senders:
            sender.start()
        time.sleep(seconds)
        rate = sum(sender.accepted for sender in senders) / (time.monotonic() - began)
        peaks["under load"] = (peak(supervisor.process.pid), peak(child))
        endpoint.open = False
        wait(lambda: all(sender.told_to_wait for sender in senders), "senders are told to wait")
        time.sleep(seconds / 2)
        peaks["queue full"] = (peak(supervisor.process.pid), peak(child))
        for sender in senders:
            sender.over = True
        for sender in senders:
            sender.join()
        endpoint.open = True
        accepted = sum(sender.accepted for sender in senders)
        wait(lambda: endpoint.records >= accepted, "everything that was accepted arrives",
             lambda: f"{endpoint.records} of {accepted}")
        peaks["drained"] = (peak(supervisor.process.pid), peak(child))
        if supervisor.agents()[0]["child"]["pid"] != child:
            raise Failure("the data plane is another process than at the beginning")
        if any(sender.broken for sender in senders):
            raise Failure(f"{sum(sender.broken for sender in senders)} requests without an answer")
        return peaks, rate, accepted
    finally:
        for sender in senders:
            sender.over = True
        if supervisor:
            supervisor.stop()
        endpoint.server.shutdown()
        endpoint.server.server_close()
        shutil.rmtree(directory, ignore_errors=True)


def wait(condition, what, seen=lambda: ""):
    end = time.monotonic() + 2 * budgets.DEADLINE
    while not condition():
        if time.monotonic() > end:
            raise Failure(f"not in {2 * budgets.DEADLINE:.0f} s: {what} {seen()}")
        time.sleep(0.05)


def smallest_limit(executable, seconds):
    """The smallest good limit of private memory, in steps."""
    bad, good = 0, LIMIT_MAX_MIB // LIMIT_STEP_MIB
    while good - bad > 1:
        middle = (bad + good) // 2
        try:
            run(executable, seconds, middle * LIMIT_STEP_MIB)
            good, word = middle, "works"
        except Failure as failure:
            bad, word = middle, f"does not: {str(failure).splitlines()[0]}"
        print(f"  limit {middle * LIMIT_STEP_MIB} MiB per process: {word}", flush=True)
    return good * LIMIT_STEP_MIB


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("executable")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--limits", action="store_true")
    options = parser.parse_args()
    try:
        peaks, rate, accepted = run(options.executable, options.seconds)
        print(f"{SENDERS} senders, {RECORDS} log records per request: {rate / 1000:.0f} thousand records a second, "
              f"{accepted} accepted, all of them arrived")
        print(f"{'peak of resident memory':<24} {'supervisor':>12} {'data plane':>12} {'both':>12}")
        for phase, (supervisor, child) in peaks.items():
            print(f"{phase:<24} {supervisor:>8.1f} MiB {child:>8.1f} MiB {supervisor + child:>8.1f} MiB")
        if options.limits:
            limit = smallest_limit(options.executable, options.seconds)
            print(f"smallest RLIMIT_DATA at which all of this still works: {limit} MiB per process")
    except Failure as failure:
        print(f"memory: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

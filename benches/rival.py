#!/usr/bin/env python3
"""Measures Adjutant beside the supervisor of the OpenTelemetry project and prints one table (see benches/rival.sh).

Both supervise the same Collector for the same kind of server, one round after the other, each round on state of its own.
Every number comes from the outside: sizes of files, /proc of the supervisor, the wall clock, connections to the ports of
the Collector that succeed or do not, and what the server was told and when.
"""

import argparse
import contextlib
import ctypes
import datetime
import http.client
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from budgets import ADDRESS, MIB, Failure, Probe, free_port, memory, tcp

DEADLINE = 90.0
SUBREAPER = 36  # of prctl: orphans of a supervisor that was killed come to us, and are not left behind
ROUNDS = 5
REST_S = 60
STARTS_MAX = 10
BEGIN, END = "<!-- begin rival -->", "<!-- end rival -->"


# ---------------------------------------------------------------- the parts


class Ended(Failure):
    """The supervisor is gone."""


class Server:
    """The server made with opamp-go, for one supervisor."""

    def __init__(self, program, port=0):
        self.process = subprocess.Popen(
            [program, "--opamp-addr", f"{ADDRESS}:{port}", "--until-stdin-closes"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        ports = json.loads(self.process.stdout.readline())
        self.api, self.port = ports["api"], ports["opamp"]

    def ask(self, method, path, body=None):
        connection = http.client.HTTPConnection(ADDRESS, self.api, timeout=10)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None)
            answer = connection.getresponse()
            text = json.loads(answer.read() or b"null")
            if answer.status != 200:
                raise Failure(f"{method} {path}: {answer.status} {text}")
            return text
        finally:
            connection.close()

    def uid(self, life):
        """Of the only agent, once it is connected."""
        def connected():
            return [uid for uid, agent in self.ask("GET", "/agents").items() if agent["connected"]]
        return wait("an agent is connected", connected, life=life)[0]

    def offer(self, uid, config):
        """Offers a config as one file without a name; when that was, and its hash."""
        now_ms = time.time() * 1000
        answer = self.ask("PUT", f"/agents/{uid}/config", {"files": {"": {"body": config, "content_type": "text/yaml"}}})
        return now_ms, answer["hash"]

    def reported(self, uid, config_hash, word="APPLIED"):
        """When the agent said this of an offer, in ms since the epoch."""
        def found():
            for message in self.ask("GET", f"/agents/{uid}/messages"):
                status = message.get("remote_config_status")
                if not status or status["hash"] != config_hash:
                    continue
                if status["status"] == word:
                    return message["at_ms"]
                if status["status"] == "FAILED":
                    raise Failure(f"the offer failed: {status['error_message']}")
            return None
        return wait(f"{word} of {config_hash[:12]}", found)

    def healthy(self, uid):
        return wait("the agent is healthy", lambda: (self.ask("GET", f"/agents/{uid}")["health"] or {}).get("healthy"))

    def close(self):
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()


class Life:
    """One run of a supervisor on a directory."""

    def __init__(self, command, directory):
        self.log = os.path.join(directory, "log")
        with open(self.log, "ab") as log:
            self.began = time.monotonic()
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory)
        self.pid = self.process.pid

    def agent(self):
        """The pid of the Collector that runs now."""
        def running():
            return [pid for pid in children(self.pid) if b"--config" in command_line(pid)]
        return wait("a Collector runs", running)[0]

    def words(self):
        """The end of what it said, and of what the Collector did, where that is a file."""
        said = ""
        for path in (self.log, os.path.join(os.path.dirname(self.log), "state/agent.log")):
            with contextlib.suppress(OSError), open(path, errors="replace") as log:
                said += log.read()[-2000:] + "\n"
        return said

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(25)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Contender:
    """A supervisor, and how its settings are written."""

    def __init__(self, key, title, program, command, settings):
        self.key, self.title, self.program, self.command, self.settings = key, title, program, command, settings

    def start(self, directory):
        path = os.path.join(directory, "supervisor.yaml")
        return Life([self.program, *self.command, "--config", path], directory)


class Stage:
    """A contender on a directory with a server, and an offer that was applied: what every measurement begins with."""

    def __init__(self, bench, contender, hup):
        self.bench, self.contender = bench, contender
        bench.count += 1
        self.directory = os.path.join(bench.directory, str(bench.count))
        os.makedirs(os.path.join(self.directory, "state"), mode=0o700)
        self.server = Server(bench.peer("opampserver"))
        self.port = free_port()
        self.second = None
        settings = contender.settings.format(
            endpoint=f"ws://{ADDRESS}:{self.server.port}/v1/opamp", state=os.path.join(self.directory, "state"),
            collector=bench.peer("otelcol"), hup=str(hup).lower(), reload="hup" if hup else "restart")
        with open(os.path.join(self.directory, "supervisor.yaml"), "w") as file:
            file.write(settings)
        self.life = None
        try:
            self.uid = self.begin(lambda: self.server.uid(self.life))
            # An offer that meets a start is at times lost by the rival.
            self.server.healthy(self.uid)
            self.apply()
        except BaseException:
            self.close()
            raise

    def begin(self, done):
        """Starts the supervisor and waits for that. One whose start failed is started again, and that is told: the
        rival asks the Collector for its feature gates, at times reads the answer too late, and then expects a `nop`
        receiver that our Collector does not have."""
        for attempt in range(STARTS_MAX):
            self.life = self.contender.start(self.directory)
            try:
                return done()
            except Ended as ended:
                if attempt + 1 == STARTS_MAX:
                    raise
                self.bench.say(f"started again: {self.contender.title}: {str(ended).splitlines()[0]}")
        return None

    def config(self):
        """Another config each time: one port stays, one is new."""
        self.second = free_port()
        return f"""receivers:
  otlp:
    protocols:
      http: {{endpoint: "{ADDRESS}:{self.port}"}}
  otlp/second:
    protocols:
      http: {{endpoint: "{ADDRESS}:{self.second}"}}
exporters:
  debug: {{}}
service:
  telemetry: {{metrics: {{level: none}}}}
  pipelines:
    logs: {{receivers: [otlp, otlp/second], exporters: [debug]}}
"""

    def apply(self):
        """Offers another config; ms until it answers, and until it is reported as applied."""
        offered_ms, config_hash = self.server.offer(self.uid, self.config())
        self.answers(self.second)
        served_ms = time.time() * 1000
        applied_ms = self.server.reported(self.uid, config_hash)
        self.server.healthy(self.uid)
        return served_ms - offered_ms, applied_ms - offered_ms

    def answers(self, port):
        wait("the Collector's port answers", lambda: connects(port), 0.001, self.life)

    def restart(self):
        """Stops the supervisor and starts it again; ms from its start to a port of the Collector that answers."""
        self.life.stop()
        if connects(self.port):
            raise Failure("the Collector outlived its supervisor's stop")
        self.begin(lambda: self.answers(self.port))
        passed = time.monotonic() - self.life.began
        self.server.healthy(self.uid)
        return passed * 1000

    def blind(self, disturb):
        """Longest ms without a connection to the port while that is done."""
        probe = Probe(tcp(self.port))
        probe.start()
        time.sleep(0.3)
        disturb()
        time.sleep(0.3)
        return probe.finish()

    def crash(self):
        """Kills the Collector; ms until its port answers again, counted from the last time it did."""
        def kill():
            pid = self.life.agent()
            os.kill(pid, signal.SIGKILL)
            wait("the killed Collector is gone", lambda: self.life.agent() != pid, 0.005, self.life)
            self.answers(self.port)
        return self.blind(kill)

    def close(self):
        if self.life:
            self.life.stop()
        self.server.close()


def wait(what, probe, pause=0.02, life=None):
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        if life and life.process.poll() is not None:
            raise Ended(f"the supervisor ended with {life.process.returncode} before {what}\n{life.words()}")
        answer = probe()
        if answer:
            return answer
        time.sleep(pause)
    raise Failure(f"not in {DEADLINE:.0f} s: {what}" + (f"\n{life.words()}" if life else ""))


def connects(port):
    try:
        tcp(port)()
        return True
    except OSError:
        return False


def children(pid):
    found = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as text:
                found += [int(word) for word in text.read().split()]
    return found


def command_line(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as text:
            return text.read()
    except OSError:
        return b""


def stripped(bench, program):
    copy = os.path.join(bench.directory, "stripped")
    subprocess.run(["strip", "-o", copy, program], check=True)
    return os.path.getsize(copy) / MIB


def spent(pid):
    """Milliseconds of processor, and times that a thread was put on one because it had waited for something."""
    clock_ms, switches = 0.0, 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/schedstat") as statistic:
            clock_ms += int(statistic.read().split()[0]) / 1e6
        with open(f"/proc/{pid}/task/{thread}/status") as status:
            switches += sum(int(line.split()[1]) for line in status if line.startswith("voluntary_ctxt_switches"))
    return clock_ms, switches


# ---------------------------------------------------------------- what is measured


class Bench:
    def __init__(self, options):
        self.options = options
        self.directory = tempfile.mkdtemp(prefix="adjutant-rival-")
        self.count = 0
        self.results = {}

    def peer(self, name):
        return os.path.join(self.options.peers, name)

    def note(self, row, contender, value):
        self.results.setdefault(row, {}).setdefault(contender.key, []).append(value)

    def say(self, text):
        print(text, file=sys.stderr, flush=True)


def at_rest(bench, contenders, seconds):
    """All of them side by side, so that what else the machine does meanwhile is the same for all."""
    stages = []
    try:
        for contender in contenders:
            stages.append(Stage(bench, contender, hup=True))
        time.sleep(10)
        before = [spent(stage.life.pid) for stage in stages]
        time.sleep(seconds)
        for stage, (clock_ms, switches) in zip(stages, before):
            clock_after_ms, switches_after = spent(stage.life.pid)
            bench.note("memory", stage.contender, memory(stage.life.pid))
            bench.note("own memory", stage.contender, memory(stage.life.pid, "Anonymous"))
            bench.note("processor", stage.contender, clock_after_ms - clock_ms)
            bench.note("wake-ups", stage.contender, switches_after - switches)
    finally:
        for stage in stages:
            stage.close()


def alone(bench):
    """The Collector without anybody: what no supervisor can be quicker than."""
    path, port = os.path.join(bench.directory, "alone.yaml"), free_port()
    with open(path, "w") as file:
        file.write(f"""receivers: {{otlp: {{protocols: {{http: {{endpoint: "{ADDRESS}:{port}"}}}}}}}}
exporters: {{debug: {{}}}}
service: {{telemetry: {{metrics: {{level: none}}}}, pipelines: {{logs: {{receivers: [otlp], exporters: [debug]}}}}}}
""")
    began = time.monotonic()
    child = subprocess.Popen([bench.peer("otelcol"), "--config", path],
                             stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait("the Collector alone answers", lambda: connects(port), 0.001)
        return (time.monotonic() - began) * 1000
    finally:
        child.terminate()
        child.wait(20)


def one_round(bench, contender):
    """Start, applies both ways, crash."""
    for hup in (False, True):
        way = "hup" if hup else "restart"
        stage = Stage(bench, contender, hup)
        try:
            if not hup:
                bench.note("start", contender, stage.restart())
            times = []
            bench.note(f"blind {way}", contender, stage.blind(lambda: times.append(stage.apply())))
            served, applied = times[0]
            bench.note(f"served {way}", contender, served)
            bench.note(f"applied {way}", contender, applied)
            if not hup:
                bench.note("crash", contender, stage.crash())
        except Failure as failure:
            raise Failure(f"{contender.title}, {way}: {failure}\n{stage.life.words()}") from failure
        finally:
            stage.close()


# The argument keeps the metrics of the rival's first Collector off a port that others on this machine may have.
SAME = """server: {{endpoint: "{endpoint}"}}
capabilities:
  accepts_remote_config: true
  reports_remote_config: true
storage: {{directory: {state}}}
agent:
  executable: {collector}
  args: ["--set=service.telemetry.metrics.level=none"]
  use_hup_config_reload: {hup}
  validate_config: true
  automatic_config_rollback: true
"""

OWN = """server: {{endpoint: "{endpoint}"}}
storage: {{directory: {state}}}
http: {{listen: []}}
agents:
  collector:
    profile: otelcol
    executable: {collector}
    apply: {{reload: {reload}}}
"""


# ---------------------------------------------------------------- the table

ROWS = [
    ("size", "executable, stripped (MiB)", 1),
    ("memory", "resident at rest (MiB)", 1),
    ("own memory", "… of that its own, not the file's (MiB)", 1),
    ("start", "start → the agent's port answers (ms)", 0),
    ("served restart", "offer → new config answers, restart (ms)", 0),
    ("served hup", "offer → new config answers, HUP (ms)", 0),
    ("applied restart", "offer → APPLIED, restart (ms)", 0),
    ("applied hup", "offer → APPLIED, HUP (ms)", 0),
    ("blind restart", "agent's port away, restart (ms)", 0),
    ("blind hup", "agent's port away, HUP (ms)", 0),
    ("crash", "agent killed → its port answers (ms)", 0),
    ("processor", "processor in a minute of rest (ms)", 1),
    ("wake-ups", "wake-ups in a minute of rest", 0),
]


def shown(values, digits):
    if not values:
        return "—"
    texts = [f"{value:,.{digits}f}".replace(",", " ") for value in (min(values), statistics.median(values), max(values))]
    return texts[1] if texts[0] == texts[2] else f"{texts[0]} / **{texts[1]}** / {texts[2]}"


def table(bench, contenders):
    lines = ["| what | " + " | ".join(contender.title for contender in contenders) + " |", "|---" * (1 + len(contenders)) + "|"]
    for key, title, digits in ROWS:
        results = bench.results.get(key, {})
        cells = [shown(results.get(contender.key, []), digits) for contender in contenders]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def machine():
    model = "processors"
    with open("/proc/cpuinfo") as info:
        for line in info:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    with open("/proc/meminfo") as info:
        total = int(info.readline().split()[1]) / MIB
    return f"{os.cpu_count()} × {model}, {total:.0f} GiB, Linux {'.'.join(platform.release().split('.')[:2])}"


def version_of(root):
    with open(os.path.join(root, "tests/peers/opampsupervisor/go.mod")) as file:
        return re.search(r"cmd/opampsupervisor v(\S+)", file.read()).group(1)


def write(root, text):
    path = os.path.join(root, "README.md")
    with open(path) as file:
        old = file.read()
    head, rest = old.split(BEGIN)
    tail = rest.split(END)[1]
    with open(path, "w") as file:
        file.write(f"{head}{BEGIN}\n{text}\n{END}{tail}")


def end_orphans():
    """Whatever outlived its supervisor is our child by now."""
    left = []
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for pid in children(os.getpid()):
            left.append(command_line(pid).replace(b"\0", b" ").decode(errors="replace")[:100])
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not children(os.getpid()):
            break
        time.sleep(0.05)
    return sorted(set(left))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adjutant", required=True)
    parser.add_argument("--peers", required=True)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--rest", type=int, default=REST_S, help="seconds of rest")
    parser.add_argument("--only", default="", help="contenders with this in their names")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    options = parser.parse_args()
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    # The rival stops its Collector by INT, which whoever starts us in the background has turned off.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # A supervisor is stopped when we are.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    bench = Bench(options)
    rival = bench.peer("opampsupervisor")
    contenders = [contender for contender in (
        Contender("rival", f"opampsupervisor {version_of(root)}", rival, [], SAME),
        Contender("same", "adjutant, the same settings file", options.adjutant, ["run"], SAME),
        Contender("own", "adjutant, its own form", options.adjutant, ["run"], OWN),
    ) if options.only in contender.title]
    status = 0
    try:
        for contender in contenders:
            bench.note("size", contender, stripped(bench, contender.program))
        floor = [alone(bench) for _ in range(options.rounds)]
        for number in range(options.rounds):
            for contender in contenders:
                one_round(bench, contender)
                bench.say(f"round {number + 1} of {options.rounds}: {contender.title}")
        minutes = min(options.rounds, 3)
        for number in range(minutes):
            at_rest(bench, contenders, options.rest)
            bench.say(f"rest {number + 1} of {minutes}")
        date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
        text = (f"{date}, {machine()}; {options.rounds} rounds, least / **median** / most. The Collector alone needs "
                f"{statistics.median(floor):.0f} ms from its start to a port that answers.\n\n{table(bench, contenders)}")
        print(text)
        if options.write:
            write(root, text)
    except Failure as failure:
        print(f"rival: {failure}", file=sys.stderr)
        status = 1
    finally:
        left = end_orphans()
        shutil.rmtree(bench.directory, ignore_errors=True)
    for line in left:
        print(f"rival: had to be ended: {line}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())

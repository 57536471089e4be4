"""Holds each mend of tools/local_aws.py to what it promises; what it must not change is compared with MiniStack unmended.

Run by tools/test: .venv/emulator/bin/python -m unittest discover -s tests/local_aws
"""

import asyncio
import contextvars
import gc
import importlib.metadata
import inspect
import io
import itertools
import json
import logging
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
import types
import unittest
import uuid
import zipfile
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
# Read when the emulator is imported.
os.environ.update(LAMBDA_EXECUTOR="local", LAMBDA_ACCOUNT_CONCURRENCY="10", AWS_DEFAULT_REGION="us-east-1", GATEWAY_PORT="1")
sys.path.insert(0, str(ROOT / "tools"))

import local_aws  # noqa: E402

from ministack.core import concurrency, lambda_runtime  # noqa: E402
from ministack.services import apigateway, dynamodb, lambda_svc, sqs  # noqa: E402
from ministack.services.cloudformation import provisioners  # noqa: E402

UNMENDED = types.SimpleNamespace(
    evaluate=dynamodb._evaluate_condition, syntax_error=dynamodb._condition_syntax_error, tokenize=dynamodb._tokenize
)
ARN = "arn:aws:lambda:us-east-1:000000000000:function:"


def setUpModule():
    logging.disable(logging.CRITICAL)  # faulty expressions and failing functions are what some tests are about
    for mend in local_aws.MENDS:
        mend()


def tearDownModule():
    lambda_runtime.reset()


def until(condition, seconds=5.0):
    """Waits for something that another thread does."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("it did not happen")
        time.sleep(0.01)


# ── Starting ──


class TheLauncher(unittest.TestCase):
    def refusal(self, call, *arguments):
        with self.assertRaises(local_aws.Refused) as refused:
            call(*arguments)
        self.assertNotIn("\n", str(refused.exception))
        return str(refused.exception)

    def start(self, version="1.5.33", **environment):
        """What main() does with this version installed: the mends it makes, whether it starts, how it exits."""
        made, started, code = [], [], None
        mend = lambda: made.append(True)  # noqa: E731
        app = types.SimpleNamespace(main=lambda: started.append(True))
        with (
            mock.patch.object(importlib.metadata, "version", lambda name: version),
            mock.patch.object(local_aws, "MENDS", (mend,)),
            mock.patch.object(local_aws, "module", lambda name: app),
            mock.patch.dict(os.environ, environment),
        ):
            try:
                local_aws.main()
            except SystemExit as exit:
                code = exit.code
        return bool(made), bool(started), code

    def test_mends_the_pinned_version_and_no_other(self):
        self.assertEqual(self.start(), (True, True, None))
        for version in ("1.5.32", "1.5.34", "1.5.33.post1"):
            made, started, code = self.start(version)
            self.assertFalse(made or started)
            self.assertIn(f"ministack {version} is installed", code)
            self.assertIn("1.5.33", code)
            self.assertNotIn("\n", code)

    def test_starts_any_version_unmended_on_request(self):
        self.assertEqual(self.start("9.9.9", LOCAL_AWS_UNMENDED="1"), (False, True, None))
        self.assertFalse(self.start("9.9.9", LOCAL_AWS_UNMENDED="0")[1])

    def test_pins_the_version_that_is_installed(self):
        pinned = (ROOT / "tools/requirements-emulator.txt").read_text().splitlines()
        self.assertIn(f"ministack=={local_aws.PINNED}", pinned)
        self.assertEqual(importlib.metadata.version("ministack"), local_aws.PINNED)

    def test_refuses_what_is_not_as_the_mends_know_it(self):
        owner = types.SimpleNamespace(__name__="emulator", there=lambda one, two=2: None, data=1)
        self.assertIs(local_aws.expected(owner, "there", "one, two"), owner.there)
        for name, parameters in (("there", "one"), ("there", "one, other"), ("missing", ""), ("data", "")):
            self.assertIn(f"emulator has no {name}", self.refusal(local_aws.expected, owner, name, parameters))
        self.assertIs(local_aws.present(owner, "data"), owner)
        self.assertIn("emulator has no gone", self.refusal(local_aws.present, owner, "data", "gone"))

    def test_says_in_the_first_line_of_each_mend_what_is_wrong_and_what_it_does(self):
        for mend in local_aws.MENDS:
            self.assertRegex(inspect.getdoc(mend).splitlines()[0], r"^[A-Z].{30,}: .{10,}", mend.__name__)


class TheProcess(unittest.TestCase):
    """The launcher as tools/stack starts it."""

    def run_one(self, **environment):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment = {**os.environ, "GATEWAY_PORT": str(port), "BIND_HOST": "127.0.0.1", "LOG_LEVEL": "WARNING", **environment}
        process = subprocess.Popen(
            [sys.executable, "tools/local_aws.py"],
            cwd=ROOT,
            env=environment,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        until(lambda: self.answer(port) or process.poll() is not None, 30)
        return process, port

    def answer(self, port):
        """The status of a request without a Host, which h11 refuses and httptools does not."""
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as client:
                client.sendall(b"GET /_ministack/health HTTP/1.1\r\n\r\n")
                return int(client.recv(99).split()[1])
        except (OSError, IndexError):
            return None

    def test_serves_in_c_and_ends_when_told_to_although_sockets_are_open(self):
        process, port = self.run_one()
        self.assertEqual(self.answer(port), 200)
        command = Path(f"/proc/{process.pid}/cmdline").read_text().split("\0")
        self.assertIn("tools/local_aws.py", command)  # what tools/stack knows its own process by
        with socket.create_connection(("127.0.0.1", port)):
            process.send_signal(signal.SIGTERM)
            process.wait(8)

    def test_is_ministack_as_it_comes_when_unmended(self):
        _, port = self.run_one(LOCAL_AWS_UNMENDED="1")
        self.assertEqual(self.answer(port), 400)


# ── Invocations ──


class Wire:
    """A connection that records every write."""

    def __init__(self, request):
        self.request, self.writes, self.options = request, [], []

    def makefile(self, mode, size=-1):
        if mode == "rb":
            return io.BytesIO(self.request)
        raw = io.RawIOBase()
        raw.writable = lambda: True
        raw.write = lambda data: self.writes.append(bytes(data)) or len(data)
        return io.BufferedWriter(raw)

    def sendall(self, data):
        self.writes.append(bytes(data))

    def setsockopt(self, *option):
        self.options.append(option)


class AnswersToFunctions(unittest.TestCase):
    def test_leave_in_one_piece_and_at_once(self):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", "5")
                self.end_headers()
                self.wfile.write(b"event")

            def log_message(self, *arguments):
                pass

        wire = Wire(b"GET /2018-06-01/runtime/invocation/next HTTP/1.0\r\n\r\n")
        Handler(wire, ("127.0.0.1", 1), None)
        self.assertEqual(len(wire.writes), 1)
        self.assertTrue(wire.writes[0].endswith(b"\r\n\r\nevent"))
        self.assertIn((socket.IPPROTO_TCP, socket.TCP_NODELAY, True), wire.options)


class Threads(unittest.TestCase):
    def test_are_used_again_with_the_context_of_the_caller(self):
        name = contextvars.ContextVar("name")

        async def three():
            seen = []
            for each in ("a", "b", "c"):
                name.set(each)
                seen.append(await concurrency.run_reentrant(lambda: (threading.current_thread(), name.get())))
                await asyncio.sleep(0.05)  # the thread becomes idle just after it has delivered
            return seen

        seen = asyncio.run(three())
        self.assertEqual([each for _, each in seen], ["a", "b", "c"])
        self.assertEqual(len({thread for thread, _ in seen}), 1)

    def test_work_that_waits_for_other_work_gets_a_thread_of_its_own(self):
        async def nested(depth):
            loop = asyncio.get_running_loop()

            def step(depth):
                if depth == 0:
                    return "bottom"
                return asyncio.run_coroutine_threadsafe(concurrency.run_reentrant(step, depth - 1), loop).result(10)

            return await concurrency.run_reentrant(step, depth)

        self.assertEqual(asyncio.run(nested(20)), "bottom")

    def test_deliver_failures_and_go_on(self):
        def fail():
            raise KeyError("lost")

        with self.assertRaises(KeyError):
            asyncio.run(concurrency.run_reentrant(fail))
        self.assertEqual(asyncio.run(concurrency.run_reentrant(lambda: 7)), 7)

    def test_can_be_waited_for(self):
        go = threading.Event()
        task = concurrency.spawn_background(go.wait)
        task.join(0.05)
        self.assertTrue(task.is_alive())
        go.set()
        task.join(5)
        self.assertFalse(task.is_alive())


class Servers(unittest.TestCase):
    def test_sleep_until_somebody_comes_or_they_are_stopped(self):
        class Counting(socketserver.ThreadingTCPServer):
            daemon_threads = True
            looks = 0

            def service_actions(self):
                self.looks += 1

        class Echo(socketserver.StreamRequestHandler):
            def handle(self):
                self.wfile.write(self.rfile.readline())

        with Counting(("127.0.0.1", 0), Echo) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            time.sleep(0.3)
            self.assertEqual(server.looks, 0)
            with socket.create_connection(server.server_address) as client:
                client.sendall(b"hello\n")
                self.assertEqual(client.recv(9), b"hello\n")
            started = time.monotonic()
            server.shutdown()
            thread.join(5)
            self.assertFalse(thread.is_alive())
            self.assertLess(time.monotonic() - started, 2)


# A custom runtime: says how often it was asked, and as many log lines as the event wants, before it answers.
BOOTSTRAP = f"""#!{sys.executable}
import http.client, json, os
api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
count = 0
while True:
    api.request("GET", "/2018-06-01/runtime/invocation/next")
    answer = api.getresponse()
    request, event = answer.headers["Lambda-Runtime-Aws-Request-Id"], json.loads(answer.read())
    count += 1
    for line in range(event["lines"]):
        print(f"{{count}}.{{line}}", flush=True)
    if event.get("die"):
        os._exit(1)
    api.request("POST", f"/2018-06-01/runtime/invocation/{{request}}/response", json.dumps({{"count": count}}))
    api.getresponse().read()
"""


def function(name, code=b"", **record):
    """A function's record, as the emulator keeps it."""
    config = {"FunctionName": name, "FunctionArn": ARN + name, "Runtime": "provided.al2023", "Timeout": 5, "Version": "$LATEST"}
    return {"config": config, "code_zip": code, "versions": {}, "aliases": {}, "concurrency": None, **record}


def package(bootstrap):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        entry = zipfile.ZipInfo("bootstrap")
        entry.external_attr = 0o755 << 16
        archive.writestr(entry, bootstrap)
    return buffer.getvalue()


class Environments(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.record = function("counting", package(BOOTSTRAP))

    def setUp(self):
        self.worker = lambda_runtime.ProvidedWorker("counting", self.record["config"], self.record["code_zip"])
        self.addCleanup(lambda_runtime.kill_workers, [self.worker])

    def invoke(self, **event):
        return self.worker.invoke(event, str(uuid.uuid4()))

    def test_every_log_line_is_reported_with_its_own_invocation(self):
        for number, lines in enumerate((0, 1, 5, 2000, 0, 3), start=1):
            result = self.invoke(lines=lines)
            self.assertEqual(result["result"], {"count": number})
            self.assertEqual(result["log"].splitlines(), [f"{number}.{line}" for line in range(lines)])

    def test_an_invocation_that_logs_nothing_waits_for_nothing(self):
        self.invoke(lines=0)
        started = time.monotonic()
        for _ in range(40):
            self.invoke(lines=0)
        self.assertLess(time.monotonic() - started, 1.6)  # unmended each waits 50 ms for a line

    def test_one_that_dies_is_reported_with_what_it_said_and_replaced(self):
        self.invoke(lines=0)
        result = self.invoke(lines=2, die=True)
        self.assertEqual(result["error"], "Runtime exited before returning a response")
        self.assertEqual(result["log"].splitlines(), ["2.0", "2.1"])
        self.assertEqual(self.invoke(lines=1)["log"], "1.0")

    def test_an_idle_one_serves_the_next_invocation(self):
        self.invoke(lines=0)
        time.sleep(0.3)
        started = time.monotonic()
        self.assertEqual(self.invoke(lines=0)["result"], {"count": 2})
        self.assertLess(time.monotonic() - started, 1)


class LogLines(unittest.TestCase):
    def lines(self, size, *pieces):
        """What comes of these pieces of output, with room for `size` lines."""
        queue, (reading, writing) = local_aws.queue.Queue(size), os.pipe()
        output = local_aws.Output(os.fdopen(reading, "rb"), queue)
        for piece in pieces:
            os.write(writing, piece)
            self.assertTrue(output.read())
        os.close(writing)
        self.assertFalse(output.read())
        self.assertFalse(output.read())
        return list(queue.queue)

    def test_are_whole_however_they_arrive(self):
        self.assertEqual(self.lines(9, b"on", b"e\ntwo\r\nth", b"ree"), ["one", "two", "three"])
        self.assertEqual(self.lines(9, "한".encode()[:1], "한".encode()[1:] + b"\n\n\xff"), ["한", "", "\ufffd"])

    def test_give_up_the_oldest_when_there_are_too_many(self):
        self.assertEqual(self.lines(2, b"1\n2\n3\n4\n"), ["3", "4"])


# ── Concurrency ──


class Concurrency(unittest.TestCase):
    """Ten executions in the account."""

    def setUp(self):
        self.addCleanup(self.forget)
        self.forget()

    def forget(self):
        lambda_svc._functions.clear()
        lambda_svc._inflight.clear()
        lambda_svc._inflight_total = 0

    def add(self, name, reserved=None):
        """Adds a function; returns a version of it, which is what an alias invokes."""
        record = lambda_svc._functions[name] = function(name, concurrency=reserved)
        version = {"config": {**record["config"], "Version": "1"}, "code_zip": b""}
        record["versions"]["1"] = version
        return version

    def take(self, record, times=1):
        return [lambda_svc._acquire_execution_slot(record, record["config"])[1] for _ in range(times)]

    def test_versions_share_the_reservation_of_their_function(self):
        version, latest = self.add("door", 3), lambda_svc._functions["door"]
        taken = self.take(version, 2) + self.take(latest) + self.take(version) + self.take(latest)
        self.assertEqual(taken, [None] * 3 + ["function"] * 2)

    def test_a_reserved_function_leaves_the_others_their_share(self):
        door, others = self.add("door", 3), self.add("others")
        self.take(door, 5)
        self.assertEqual(self.take(others, 8), [None] * 7 + ["account"])

    def test_the_others_leave_a_reserved_function_its_share(self):
        door, others, more = self.add("door", 3), self.add("others"), self.add("more")
        self.assertEqual(self.take(others, 5) + self.take(more, 4), [None] * 7 + ["account"] * 2)
        self.assertEqual(self.take(door, 4), [None] * 3 + ["function"])

    def test_nothing_reserved_means_that_all_share(self):
        one, two = self.add("one"), self.add("two")
        self.assertEqual(self.take(one, 6) + self.take(two, 6), [None] * 10 + ["account"] * 2)

    def test_zero_disables_a_function(self):
        self.assertEqual(self.take(self.add("off", 0)), ["function"])

    def test_what_is_given_back_can_be_taken_again(self):
        door = self.add("door", 1)
        key, _ = lambda_svc._acquire_execution_slot(door, door["config"])
        self.assertEqual(self.take(door), ["function"])
        lambda_svc._release_execution_slot(key)
        self.assertEqual(self.take(door), [None])

    def test_a_template_reserves_it(self):
        handlers = provisioners._RESOURCE_HANDLERS["AWS::Lambda::Function"]
        plain = {"FunctionName": "door", "Handler": "bootstrap", "Runtime": "provided.al2023"}
        reserving = {**plain, "ReservedConcurrentExecutions": "4"}
        reserved = lambda: lambda_svc._functions["door"]["concurrency"]  # noqa: E731
        handlers["create"]("Door", reserving, "stack")
        self.assertEqual(reserved(), 4)
        handlers["update"]("door", reserving, {**reserving, "ReservedConcurrentExecutions": 5}, "stack", logical_id="Door")
        self.assertEqual(reserved(), 5)
        handlers["update"]("door", reserving, plain, "stack", logical_id="Door")
        self.assertIsNone(reserved())
        lambda_svc._put_function_concurrency("door", {"ReservedConcurrentExecutions": 2})
        handlers["update"]("door", plain, {**plain, "Timeout": 9}, "stack", logical_id="Door")
        self.assertEqual(reserved(), 2)  # set by hand, and no business of this update


# ── Queues ──


class Polling(unittest.TestCase):
    """A queue with an event source; what the poller would invoke the function with is recorded instead."""

    def setUp(self):
        lambda_svc._functions["worker"] = function("worker")
        self.mapping = {"UUID": str(uuid.uuid4()), "FunctionName": "worker", "Qualifier": None, "BatchSize": 10, "Enabled": True}
        lambda_svc._esms[self.mapping["UUID"]] = self.mapping
        self.addCleanup(sqs.reset)
        self.addCleanup(lambda_svc._functions.clear)
        self.addCleanup(lambda_svc._esms.clear)
        self.batches = []
        record = lambda esm_id, run, esm, func, event, batch, *rest: self.batches.append((event["Records"], batch))  # noqa: E731
        patch = mock.patch.object(lambda_svc, "_dispatch_esm_batch", record)
        patch.start()
        self.addCleanup(patch.stop)
        self.create("queue")

    def create(self, name, **attributes):
        self.url = self.act("CreateQueue", QueueName=name, Attributes={"VisibilityTimeout": "30", **attributes})["QueueUrl"]
        self.queue = sqs._queues[self.url]
        self.mapping["EventSourceArn"] = self.queue["attributes"]["QueueArn"]

    def act(self, action, **data):
        return sqs._HANDLERS[action](data, data.get("QueueUrl", ""))

    def send(self, *bodies, **data):
        for body in bodies:
            self.act("SendMessage", QueueUrl=self.url, MessageBody=body, **data)

    def poll(self):
        """The bodies of the batches that one look of the poller makes."""
        self.batches.clear()
        lambda_svc._poll_sqs()
        return [[record["body"] for record in records] for records, _ in self.batches]


class Batches(Polling):
    def test_without_a_window_a_batch_holds_what_is_there_at_once(self):
        self.mapping["BatchSize"] = 495
        bodies = [str(number) for number in range(600)]
        self.send(*bodies)
        self.assertEqual(self.poll(), [bodies[:495]])
        self.assertEqual(self.poll(), [bodies[495:]])
        self.assertEqual(self.poll(), [])

    def test_a_batch_never_holds_more_than_its_size(self):
        for size in (1, 2, 10, "10"):
            self.mapping["BatchSize"] = size
            self.send(*"abcdefghijklm")
            self.assertEqual([len(batch) for batch in self.poll()], [int(size)])
            self.act("PurgeQueue", QueueUrl=self.url)

    def test_a_batch_fits_into_six_megabytes(self):
        self.mapping["BatchSize"] = 100
        self.send(*["x" * 1_000_000] * 8)
        first, second = self.poll()[0], self.poll()[0]
        self.assertEqual([len(first), len(second)], [6, 2])
        event = json.dumps({"Records": self.batches[0][0]})
        self.assertLess(len(event), 6 * 1024 * 1024)

    def test_what_json_makes_longer_counts_as_long_as_it_is(self):
        self.mapping["BatchSize"] = 100
        self.send(*['"' * 1_000_000] * 4)  # two bytes each in the event
        self.assertEqual([len(self.poll()[0]), len(self.poll()[0])], [3, 1])

    def test_a_message_too_large_for_any_event_goes_alone(self):
        self.send("large", "small")
        with mock.patch.object(local_aws, "PAYLOAD_BYTES", 1):
            self.assertEqual([self.poll(), self.poll(), self.poll()], [[["large"]], [["small"]], []])

    def test_with_a_window_a_batch_gathers_until_the_window_ends(self):
        self.mapping.update(BatchSize=495, MaximumBatchingWindowInSeconds=1)
        lambda_svc._esm_wake.clear()
        started = time.monotonic()
        self.send("early")
        self.assertEqual(self.poll(), [])
        self.assertEqual([message["receive_count"] for message in self.queue["messages"]], [1])
        self.send("late")
        self.assertEqual(self.poll(), [])
        lambda_svc._esm_wake.clear()
        self.assertTrue(lambda_svc._esm_wake.wait(5))  # the poller is woken for it
        self.assertGreaterEqual(time.monotonic() - started, 1)
        self.assertEqual(self.poll(), [["early", "late"]])
        self.assertEqual(self.poll(), [])

    def test_with_a_window_a_full_batch_waits_for_nothing(self):
        self.mapping.update(BatchSize=12, MaximumBatchingWindowInSeconds=5)
        self.send(*"abcdefghijklmno")
        self.assertEqual(self.poll(), [list("abcdefghijkl")])
        self.assertEqual(self.poll(), [])
        self.send(*["x" * 1_000_000] * 7)  # six megabytes are full as well
        self.assertEqual(len(self.poll()[0]), 9)

    def test_a_gathered_message_that_became_visible_again_is_left_to_whoever_receives_it(self):
        self.mapping.update(BatchSize=100, MaximumBatchingWindowInSeconds=1)
        self.send("kept", "hurried")
        self.assertEqual(self.poll(), [])
        receipt = self.queue["messages"][1]["receipt_handle"]
        self.act("ChangeMessageVisibility", QueueUrl=self.url, ReceiptHandle=receipt, VisibilityTimeout=0)
        self.act("SetQueueAttributes", QueueUrl=self.url, Attributes={"VisibilityTimeout": "20"})
        asyncio.run(self.act("ReceiveMessage", QueueUrl=self.url))  # somebody else has it now
        time.sleep(1.05)
        self.assertEqual(self.poll(), [["kept"]])

    def test_ordered_queues_keep_their_ten_and_know_no_window(self):
        self.create("queue.fifo", FifoQueue="true", ContentBasedDeduplication="true")
        self.mapping.update(BatchSize=100, MaximumBatchingWindowInSeconds=5)
        for number in range(12):
            self.send(str(number), MessageGroupId="group")
        self.assertEqual(self.poll(), [[str(number) for number in range(10)]])

    def test_a_message_received_too_often_goes_to_the_dead_letter_queue(self):
        dead = self.act("CreateQueue", QueueName="dead")["QueueUrl"]
        policy = {"deadLetterTargetArn": sqs._queues[dead]["attributes"]["QueueArn"], "maxReceiveCount": 1}
        self.act("SetQueueAttributes", QueueUrl=self.url, Attributes={"RedrivePolicy": json.dumps(policy)})
        self.send("poison")
        self.assertEqual(self.poll(), [["poison"]])
        self.queue["messages"][0]["visible_at"] = 0
        self.assertEqual(self.poll(), [])
        self.assertEqual([message["body"] for message in sqs._queues[dead]["messages"]], ["poison"])

    def test_nobody_sends_while_the_poller_rewrites_the_queue(self):
        with sqs._queues_lock:
            sending = threading.Thread(target=self.send, args=("one",), daemon=True)
            sending.start()
            sending.join(0.2)
            self.assertTrue(sending.is_alive())
            self.assertEqual(self.queue["messages"], [])
        sending.join(5)
        self.assertEqual(len(self.queue["messages"]), 1)

    def test_a_message_sent_at_the_worst_moment_is_kept(self):
        self.send("done")
        self.poll()
        sending = threading.Thread(target=self.send, args=("late",), daemon=True)

        class Messages(list):
            def __iter__(self):
                yield from super().__iter__()
                sending.start()  # all have been looked at, and the new list does not stand yet
                sending.join(0.2)

        self.queue["messages"] = Messages(self.queue["messages"])
        sqs._delete_messages_for_esm(self.url, {self.queue["messages"][0]["receipt_handle"]})
        sending.join(5)
        self.assertEqual([message["body"] for message in self.queue["messages"]], ["late"])


class ThrottledBatches(Polling):
    """One execution, taken by somebody else."""

    def setUp(self):
        super().setUp()
        lambda_svc._functions["worker"]["concurrency"] = 1
        self.runs = []
        run = lambda func, config, event, *rest: self.runs.append(event) or {"body": None}  # noqa: E731
        for name, replaced in (("_execute_function_dispatch", run), ("_emit_lambda_metrics", lambda *a, **n: None)):
            patch = mock.patch.object(lambda_svc, name, replaced)
            patch.start()
            self.addCleanup(patch.stop)
        self.addCleanup(lambda_svc._inflight.clear)
        record = lambda_svc._functions["worker"]
        self.slot, _ = lambda_svc._acquire_execution_slot(record, record["config"])

    def batch(self):
        """Runs a batch of one message; returns the thread."""
        self.send("claim")
        self.poll()
        (records, messages), func = self.batches[0], lambda_svc._functions["worker"]
        arguments = (self.mapping, func, {"Records": records}, messages, self.url, "queue")
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(lambda_svc._run_sqs_batch, *arguments), daemon=True)
        thread.start()
        return thread

    def test_run_as_soon_as_there_is_room(self):
        thread = self.batch()
        thread.join(0.4)
        self.assertTrue(thread.is_alive())
        self.assertEqual(self.runs, [])
        self.assertEqual(self.queue["messages"][0]["receive_count"], 1)
        lambda_svc._release_execution_slot(self.slot)
        thread.join(3)
        self.assertFalse(thread.is_alive())
        self.assertEqual(len(self.runs), 1)
        self.assertEqual(self.queue["messages"], [])

    def test_are_given_up_when_their_messages_become_visible_again(self):
        self.act("SetQueueAttributes", QueueUrl=self.url, Attributes={"VisibilityTimeout": "1"})
        started = time.monotonic()
        self.batch().join(5)
        self.assertLess(time.monotonic() - started, 1.1)
        self.assertGreater(time.monotonic() - started, 0.4)
        self.assertEqual(self.mapping["LastProcessingResult"], "FAILED")
        self.assertEqual(self.runs, [])
        self.assertEqual(len(self.queue["messages"]), 1)

    def test_nothing_but_a_batch_is_tried_again(self):
        started = time.monotonic()
        self.assertTrue(lambda_svc._execute_function(lambda_svc._functions["worker"], {})["throttle"])
        self.assertLess(time.monotonic() - started, 0.2)

    def test_a_batch_that_fails_otherwise_is_not_tried_again(self):
        lambda_svc._release_execution_slot(self.slot)
        fail = lambda func, config, event, *rest: self.runs.append(event) or {"body": {}, "error": True}  # noqa: E731
        with mock.patch.object(lambda_svc, "_execute_function_dispatch", fail):
            self.batch().join(5)
        self.assertEqual(len(self.runs), 1)
        self.assertEqual(len(self.queue["messages"]), 1)


# ── DynamoDB ──


def verdict(evaluate, *arguments):
    """What an evaluation comes to, be it an error."""
    try:
        return evaluate(*arguments)
    except Exception as error:
        return type(error), str(error)


class Conditions(unittest.TestCase):
    ITEMS = [
        {},
        {"pk": {"S": "a"}, "sk": {"S": "b#1"}, "n": {"N": "5"}, "tags": {"SS": ["x", "y"]}},
        {"pk": {"S": "z"}, "n": {"N": "50"}, "m": {"M": {"deep": {"L": [{"N": "1"}, {"S": "s"}]}}}, "flag": {"BOOL": True}},
        {"pk": {"N": "5"}, "n": {"S": "5"}, "b": {"B": "YWJj"}, "nothing": {"NULL": True}},
    ]
    NAMES = {"#n": "n", "#pk": "pk", "#m": "m", "#status": "status"}
    VALUES = {
        ":a": {"S": "a"},
        ":b": {"S": "b#"},
        ":x": {"S": "x"},
        ":t": {"S": "S"},
        ":five": {"N": "5"},
        ":fifty": {"N": "50"},
        ":bin": {"B": "YWI="},
    }
    ATOMS = [
        "pk = :a",
        "#n >= :five",
        "n < :fifty",
        "#n <> :five",
        "n BETWEEN :five AND :fifty",
        "n BETWEEN :fifty AND :five",
        "n IN (:five, :fifty)",
        "attribute_exists(#m.deep[1])",
        "attribute_not_exists(sk)",
        "attribute_type(pk, :t)",
        "begins_with(sk, :b)",
        "begins_with(n, :five)",
        "begins_with(b, :bin)",
        "contains(tags, :x)",
        "contains(pk, pk)",
        "size(tags) > :five",
        "m.deep[0] = :five",
        "missing = :a",
        "pk = :unknown",
        "#unknown = :a",
    ]
    FAULTY = [
        "",
        "   ",
        "pk",
        "pk =",
        "= :a",
        "pk = :a AND",
        "pk == :a",
        "(pk = :a",
        "((pk = :a))",
        "pk = :a)",
        "status = :a",
        "#status = :a AND name = :a",
        "pk = :a :a",
        "n BETWEEN :five",
        "n IN ()",
        "unknown(pk)",
        "begins_with(pk)",
        "attribute_exists(:a)",
        "NOT",
        "pk ! :a",
        "pk[x] = :a",
        "1pk = :a",
        "pk = 'a'",
        "한 = :a",
    ]
    SLOTS = ["ConditionExpression", "FilterExpression", "KeyConditionExpression"]

    def expressions(self):
        for one in self.ATOMS:
            yield from (one, f"NOT {one}", f"({one})", f" {one} ")
        for one, two in itertools.product(self.ATOMS, repeat=2):
            yield from (f"{one} AND {two}", f"{one} OR NOT ({two})", f"NOT ({one} or {two})")
        yield from self.FAULTY

    def test_every_verdict_and_every_error_is_the_unmended_one_first_and_again(self):
        for expression in self.expressions():
            for slot in self.SLOTS:
                arguments = [(expression, item, self.VALUES, self.NAMES, slot) for item in self.ITEMS]
                right = [verdict(UNMENDED.evaluate, *each) for each in arguments]
                for _ in range(2):
                    self.assertEqual([verdict(dynamodb._evaluate_condition, *each) for each in arguments], right, expression)
                self.assertEqual(dynamodb._condition_syntax_error(expression, slot), UNMENDED.syntax_error(expression, slot))

    def test_the_same_expression_with_other_values_is_judged_anew(self):
        item = {"n": {"N": "5"}}
        for low, high, right in (("1", "9", True), ("6", "9", False), ("9", "1", None)):
            values = {":l": {"N": low}, ":h": {"N": high}}
            found = verdict(dynamodb._evaluate_condition, "n BETWEEN :l AND :h", item, values, {}, "FilterExpression")
            self.assertEqual(found if right is not None else found[0], ValueError if right is None else right)
        for name, right in (("n", True), ("other", False)):
            self.assertEqual(dynamodb._evaluate_condition("attribute_exists(#x)", item, {}, {"#x": name}), right)

    def test_tokens_that_somebody_changes_stay_right_for_everybody_else(self):
        dynamodb._tokenize("a = :b").clear()
        self.assertEqual(dynamodb._tokenize("a = :b"), UNMENDED.tokenize("a = :b"))

    def test_an_expression_is_checked_once(self):
        expression = "pk = :a AND attribute_exists(only_here)"
        calls = dynamodb._condition_syntax_error.cache_info().misses
        for _ in range(100):
            dynamodb._evaluate_condition(expression, self.ITEMS[1], self.VALUES, self.NAMES)
        self.assertEqual(dynamodb._condition_syntax_error.cache_info().misses, calls + 1)


# ── WebSockets ──


class Sockets(unittest.IsolatedAsyncioTestCase):
    """A socket of an API without routes."""

    async def asyncSetUp(self):
        apigateway._apis.set_scoped("000000000000", "us-east-1", "api", {"protocolType": "WEBSOCKET"})
        self.addCleanup(apigateway._apis.clear)
        self.heard, self.said = asyncio.Queue(), asyncio.Queue()
        await self.heard.put({"type": "websocket.connect"})
        scope = {"type": "websocket", "path": "/live", "headers": [], "query_string": b"", "client": ("127.0.0.1", 1)}
        self.session = asyncio.create_task(apigateway.handle_websocket(scope, self.heard.get, self.said.put, "api"))
        self.assertEqual((await self.told())["type"], "websocket.accept")
        await asyncio.sleep(0)
        (self.connection,) = apigateway._ws_connections

    async def told(self):
        return await asyncio.wait_for(self.said.get(), 5)

    async def manage(self, method, body=b""):
        status, _, _ = await apigateway.handle_connections_api(method, "api", "live", self.connection, body, {})
        return status

    async def test_delivers_every_message_in_order(self):
        for number in range(50):
            self.assertEqual(await self.manage("POST", str(number).encode()), 200)
        told = [(await self.told())["text"] for _ in range(50)]
        self.assertEqual(told, [str(number) for number in range(50)])
        await self.end()

    async def test_wakes_for_nothing_but_a_message(self):
        loop = asyncio.get_running_loop()
        with (
            mock.patch.object(loop, "call_at", side_effect=loop.call_at) as at,
            mock.patch.object(loop, "call_later", side_effect=loop.call_later) as later,
        ):
            await loop.run_in_executor(None, time.sleep, 1.1)  # without a timer of its own
            self.assertEqual((at.call_count, later.call_count), (0, 0))
        await self.end()

    async def end(self):
        """The client leaves."""
        await self.heard.put({"type": "websocket.disconnect", "code": 1000})
        await asyncio.wait_for(self.session, 2)
        self.assertEqual(dict(apigateway._ws_connections), {})

    async def test_ends_when_the_client_leaves(self):
        await self.end()
        self.assertEqual(await self.manage("POST", b"late"), 410)

    async def test_ends_when_it_is_deleted(self):
        self.assertEqual(await self.manage("DELETE"), 204)
        await asyncio.wait_for(self.session, 2)
        self.assertEqual((await self.told())["type"], "websocket.close")

    async def test_ends_when_the_emulator_is_reset(self):
        apigateway.reset()
        await asyncio.wait_for(self.session, 2)


# ── The interpreter ──


class TheInterpreter(unittest.TestCase):
    def test_draws_ids_as_random_as_before(self):
        drawn = [uuid.uuid4() for _ in range(10_000)]
        self.assertEqual({(each.version, each.variant) for each in drawn}, {(4, uuid.RFC_4122)})
        self.assertEqual(len(set(drawn)), len(drawn))

    def test_interrupts_shortly_and_collects_rarely(self):
        self.assertLessEqual(sys.getswitchinterval(), 0.001)
        self.assertGreaterEqual(gc.get_threshold()[0], 50_000)
        self.assertGreater(gc.get_freeze_count(), 0)


if __name__ == "__main__":
    unittest.main()

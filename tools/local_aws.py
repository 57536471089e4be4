#!/usr/bin/env python3
"""Starts the local AWS (MiniStack) with its faults mended from outside; tools/stack runs it with .venv/emulator/bin/python.

Each mend is one function whose first line says what is wrong and what it does about it. The mends replace or wrap functions of
one version of MiniStack and hold none of its code; another version, or a function that is not as they know it, is refused.
LOCAL_AWS_UNMENDED=1 starts MiniStack as it comes.
"""

import asyncio
import contextvars
import functools
import gc
import importlib
import importlib.metadata
import inspect
import json
import os
import queue
import random
import select
import socket
import socketserver
import sys
import threading
import time
import uuid

PINNED = "1.5.33"


class Refused(Exception):
    """Why the local AWS is not started, in one line."""


# ── What the mends expect ──


def check_version(found):
    """The mends reach into internals, which another version may have moved: no other is started."""
    if found != PINNED:
        raise Refused(
            f"ministack {found} is installed, but tools/local_aws.py mends {PINNED} only: "
            "review its mends first, or start without them by LOCAL_AWS_UNMENDED=1"
        )


def module(name):
    """A module of the emulator."""
    return importlib.import_module(f"ministack.{name}")


def expected(owner, name, parameters):
    """The function `name` of a module or class. Refuses when it is missing or takes other parameters than expected."""
    found = getattr(owner, name, None)
    if not callable(found) or ", ".join(inspect.signature(found).parameters) != parameters:
        raise Refused(f"{owner.__name__} has no {name}({parameters}): review the mends in tools/local_aws.py")
    return found


def present(owner, *names):
    """`owner`, which must have all of these names."""
    for name in names:
        if not hasattr(owner, name):
            raise Refused(f"{owner.__name__} has no {name}: review the mends in tools/local_aws.py")
    return owner


class Overlay:
    """A module as one of the emulator's modules sees it: itself, with some names replaced."""

    def __init__(self, original, **replaced):
        self.__dict__.update(replaced)
        self._original = original

    def __getattr__(self, name):
        return getattr(self._original, name)


# ── Invocations ──


def answer_functions_at_once():
    """The Runtime API sends headers and body apart, and Nagle's algorithm holds the body back for 40 ms: sends both together."""
    socketserver.StreamRequestHandler.disable_nagle_algorithm = True
    socketserver.StreamRequestHandler.wbufsize = -1  # buffered: http.server flushes once, after the response


def reuse_threads():
    """The event loop starts a thread for every invocation and stands still until it runs: hands the work to an idle thread."""
    concurrency = module("core.concurrency")
    expected(concurrency, "run_reentrant", "fn, args, thread_name")
    expected(concurrency, "spawn_background", "fn, args, thread_name, kwargs")
    concurrency.threading = Overlay(threading, Thread=ReusedThread)


class ReusedThread:
    """What core/concurrency.py needs of a thread. Runs on the thread that became idle last; starts one only if none is idle."""

    idle = []

    def __init__(self, target, daemon, name):
        self.target, self.daemon, self.name, self.ended = target, daemon, name, threading.Event()

    def start(self):
        try:
            tasks = self.idle.pop()
        except IndexError:
            tasks = queue.SimpleQueue()
            threading.Thread(target=self.work, args=(tasks,), daemon=True, name="local-aws-reused").start()
        tasks.put(self)

    @classmethod
    def work(cls, tasks):
        while True:
            task = tasks.get()
            try:
                task.target()
            finally:
                task.ended.set()
            del task  # an idle thread keeps nothing alive
            cls.idle.append(tasks)

    def join(self, timeout=None):
        self.ended.wait(timeout)

    def is_alive(self):
        return not self.ended.is_set()


def let_environments_sleep():
    """Every environment wakes some twenty times a second to look for work, its end and its process: sleeps until there is some."""
    runtime = present(module("core.lambda_runtime"), "_PROVIDED_POLL")
    build = expected(runtime.ProvidedWorker, "_build_handler_class", "self, generation, pending")
    serve, shutdown = socketserver.BaseServer.serve_forever, socketserver.BaseServer.shutdown

    def stop(server):
        server._BaseServer__shutdown_request = True
        try:
            socket.create_connection(server.server_address, timeout=1).close()  # wakes the server, which waits for connections only
        except OSError:
            pass
        shutdown(server)

    runtime._PROVIDED_POLL = 0.5  # seconds between looks at the process of a running invocation; its answer is noticed at once
    runtime.ProvidedWorker._build_handler_class = lambda self, generation, pending: build(self, generation, PatientQueue(pending))
    socketserver.BaseServer.serve_forever = lambda server, poll_interval=None: serve(server, None)
    socketserver.BaseServer.shutdown = stop


class PatientQueue:
    """The next invocation of an environment. Who waits for it notices the end of the environment within seconds, not at once."""

    def __init__(self, pending):
        self.pending = pending

    def get(self, timeout):
        return self.pending.get(timeout=max(timeout, 5))


def read_logs_without_waiting():
    """After its answer an invocation lasts 5 to 50 ms longer to wait for log lines: reads what is in the pipe already."""
    worker = module("core.lambda_runtime").ProvidedWorker
    expected(worker, "_pump_output", "self, stream, log_queue")
    expected(worker, "_drain_stderr_bounded", "self, first_line_wait, idle_confirm, hard_cap")
    drain_queue = expected(worker, "_drain_stderr", "self")

    def pump(self, stream, log_queue):
        self.output = Output(stream, log_queue)
        self.output.pump()

    def drain(self, first_line_wait=0, idle_confirm=0, hard_cap=0):
        if output := getattr(self, "output", None):
            output.read()
        return drain_queue(self)

    worker._pump_output, worker._drain_stderr_bounded = pump, drain


class Output:
    """What a function writes. All that it wrote before its answer is in the pipe when the answer arrives."""

    def __init__(self, stream, lines):
        self.stream, self.lines, self.rest, self.lock = stream, lines, b"", threading.Lock()
        os.set_blocking(stream.fileno(), False)

    def read(self):
        """Moves what is in the pipe into the queue of lines. Returns whether more may come."""
        with self.lock:
            while not self.stream.closed:
                try:
                    data = os.read(self.stream.fileno(), 1 << 16)
                except BlockingIOError:
                    return True
                *whole, self.rest = (self.rest + data).split(b"\n")
                for line in whole if data else filter(None, [self.rest]):
                    self.keep(line.decode(errors="replace").rstrip("\r"))
                if not data:
                    self.stream.close()
            return False

    def keep(self, line):
        if self.lines.full():  # the oldest line goes: the function must never wait for a reader
            self.lines.get_nowait()
        self.lines.put_nowait(line)

    def pump(self):
        """Keeps the pipe from filling up. The pause leaves most lines to the invocation that wrote them."""
        waiting = select.poll()
        waiting.register(self.stream.fileno(), select.POLLIN)
        more = True
        while more:
            waiting.poll()
            time.sleep(0.02)
            more = self.read()


# ── Concurrency ──


def reserve_concurrency():
    """Reserved concurrency binds neither versions nor aliases and keeps nobody else out: does both, as AWS does.

    "When a function has reserved concurrency, no other function can use that concurrency", and its versions share it:
    https://docs.aws.amazon.com/lambda/latest/dg/configuration-concurrency.html
    """
    functions = module("services.lambda_svc")
    present(functions, "_functions", "_inflight", "_inflight_lock", "_inflight_total", "_ACCOUNT_CONCURRENCY_CAP")
    key_of = expected(functions, "_inflight_key", "config")
    reservation = expected(functions, "_reserved_concurrency", "func, config")
    expected(functions, "_acquire_execution_slot", "func, config")

    def reserved(func, config):
        return reservation(functions._functions.get(config.get("FunctionName")) or func, config)

    def acquire(func, config):
        key, limit = key_of(config), reserved(func, config)
        records = functions._functions.values()
        shares = {key_of(record["config"]): share for record in records if (share := reservation(record, {})) is not None}
        with functions._inflight_lock:
            running = functions._inflight
            if limit is not None:
                if running.get(key, 0) >= limit:
                    return None, "function"
            elif functions._ACCOUNT_CONCURRENCY_CAP > 0:
                unreserved = sum(count for other, count in running.items() if other not in shares)
                if unreserved >= functions._ACCOUNT_CONCURRENCY_CAP - sum(shares.values()):
                    return None, "account"
            running[key] = running.get(key, 0) + 1
            functions._inflight_total += 1
        return key, None

    functions._reserved_concurrency, functions._acquire_execution_slot = reserved, acquire


def reserve_concurrency_by_template():
    """CloudFormation ignores ReservedConcurrentExecutions: sets it on the function, and on an update only if it has changed."""
    functions = present(module("services.lambda_svc"), "_functions")
    provisioners = present(module("services.cloudformation.provisioners"), "_RESOURCE_HANDLERS")
    create = expected(provisioners, "_lambda_create", "logical_id, props, stack_name")
    update = expected(provisioners, "_lambda_update", "physical_id, old_props, new_props, stack_name, logical_id")
    name = "ReservedConcurrentExecutions"

    def reserve(made, share):
        functions._functions[made[0]]["concurrency"] = None if share is None else int(share)
        return made

    def create_reserved(logical_id, props, stack_name):
        return reserve(create(logical_id, props, stack_name), props.get(name))

    def update_reserved(physical_id, old_props, new_props, stack_name, logical_id=None):
        made = update(physical_id, old_props, new_props, stack_name, logical_id)
        kept = old_props.get(name) == new_props.get(name) and functions._functions[made[0]]["concurrency"] is not None
        return made if kept else reserve(made, new_props.get(name))

    provisioners._RESOURCE_HANDLERS["AWS::Lambda::Function"].update(create=create_reserved, update=update_reserved)


# ── Queues and their event sources ──


def keep_every_message():
    """A message that is sent while the poller rewrites the queue is lost: lets only one thread at a time at the queues."""
    queues, topics, events = module("services.sqs"), module("services.sns"), module("services.eventbridge")
    present(queues, "_HANDLERS", "_queues_lock")
    queues._queues_lock = lock = threading.RLock()

    def guarded(function):
        @functools.wraps(function)
        def call(*arguments, **named):
            with lock:
                return function(*arguments, **named)

        return call

    parameters_to_sqs = "endpoint, envelope, raw, raw_message, message_group_id, message_dedup_id, message_attributes, topic_arn"
    for owner, name, parameters in (
        (queues, "_expire_retained", "q"),
        (queues, "_dlq_sweep", "q"),
        (queues, "_collect_msgs", "q, max_n, vis_timeout"),
        (topics, "_deliver_to_sqs", parameters_to_sqs),
        (events, "_dispatch_to_sqs", "spec, payload, sqs_parameters"),
    ):
        setattr(owner, name, guarded(expected(owner, name, parameters)))
    for action, handler in queues._HANDLERS.items():
        if not inspect.iscoroutinefunction(handler):  # ReceiveMessage is one: it waits between calls of the first three
            queues._HANDLERS[action] = guarded(handler)


# https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html: what a synchronous invocation may carry.
PAYLOAD_BYTES = 6 * 1024 * 1024
# What a message adds to the event beside its body and its attributes, rounded up.
RECORD_BYTES = 1024


def fill_batches():
    """A batch holds ten messages at most, and there is no batching window: fills batches up to BatchSize, window or 6 MB."""
    functions, queues = module("services.lambda_svc"), module("services.sqs")
    mappings = expected(functions, "_iter_all_esms", "")
    receive = expected(queues, "_receive_messages_for_esm", "queue_url, max_number")
    present(functions, "_esm_wake")
    present(queues, "_queues_lock", "_get_q", "_expire_retained", "_dlq_sweep", "_collect_msgs")
    polled, gathered = threading.local(), {}

    def each_mapping():
        for account, region, mapping in mappings():
            polled.mapping = mapping
            yield account, region, mapping

    def receive_batch(queue_url, max_number):
        if queues._get_q(queue_url)["is_fifo"]:  # ten messages and no window are AWS's own rule for these
            return receive(queue_url, max_number)
        mapping = polled.mapping
        window = int(mapping.get("MaximumBatchingWindowInSeconds") or 0)
        batch = gathered.setdefault(mapping["UUID"], Batch(int(max_number)))
        batch.take(queues, queue_url)
        if batch.messages and batch.is_due(window):
            return gathered.pop(mapping["UUID"]).still_held()
        if batch.messages:
            batch.call_when_due(window, functions._esm_wake.set)
        return []

    functions._iter_all_esms, queues._receive_messages_for_esm = each_mapping, receive_batch


class Batch:
    """Messages of one future invocation. They are in flight from the moment they are taken, like those that AWS gathers."""

    def __init__(self, size):
        self.size, self.messages, self.bytes, self.full = size, [], 0, False
        self.since = self.timer = None

    def take(self, queues, queue_url):
        """Takes as many visible messages as still fit."""
        with queues._queues_lock:
            source = queues._get_q(queue_url)
            queues._expire_retained(source)
            queues._dlq_sweep(source)
            fitting = self.count_fitting(source["messages"])
            taken = queues._collect_msgs(source, fitting, int(source["attributes"].get("VisibilityTimeout", "30")))
        self.messages += [(message, message["receipt_handle"]) for message in taken]
        self.full = self.full or len(self.messages) >= self.size
        if self.since is None and self.messages:
            self.since = time.monotonic()

    def count_fitting(self, messages):
        """How many visible messages, in their order, still fit into the event. An empty batch has room for any one message."""
        count, now = 0, time.time()
        for message in messages:
            if len(self.messages) + count >= self.size:
                break
            if message.get("visible_at", 0) > now:
                continue
            needed = RECORD_BYTES + len(json.dumps([message.get("body"), message.get("message_attributes")]))
            if self.bytes + needed > PAYLOAD_BYTES and (self.messages or count):
                self.full = True
                break
            count, self.bytes = count + 1, self.bytes + needed
        return count

    def is_due(self, window):
        return self.full or time.monotonic() - self.since >= window

    def call_when_due(self, window, wake):
        if not self.timer:
            self.timer = threading.Timer(self.since + window - time.monotonic(), wake)
            self.timer.daemon = True
            self.timer.start()

    def still_held(self):
        """The messages without those that became visible again, or were received by somebody else, in the meantime."""
        now = time.time()

        def holds(message, receipt):
            return message["receipt_handle"] == receipt and message["visible_at"] > now

        return [message for message, receipt in self.messages if holds(message, receipt)]


# The first and the longest pause, in seconds, before a throttled batch is tried again.
PAUSES = (0.025, 0.4)


def retry_throttled_batches():
    """A batch that finds no concurrency left waits out its visibility timeout: tries again until then, as AWS's pollers do.

    "Lambda continues to retry the message until the message's timestamp exceeds your queue's visibility timeout":
    https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html
    """
    functions = module("services.lambda_svc")
    execute = expected(functions, "_execute_function", "func, event")
    run = expected(functions, "_run_sqs_batch", "esm, func_rec, event, batch, queue_url, queue_name")
    visible_again = contextvars.ContextVar("when the messages of the batch become visible again", default=None)

    def run_batch(esm, func_rec, event, batch, queue_url, queue_name):
        token = visible_again.set(min(message["visible_at"] for message in batch))
        try:
            return run(esm, func_rec, event, batch, queue_url, queue_name)
        finally:
            visible_again.reset(token)

    def execute_again(func, event):
        until, (pause, longest) = visible_again.get(), PAUSES
        result = execute(func, event)
        while until and result.get("throttle") and time.time() + pause < until:
            time.sleep(random.uniform(pause / 2, pause))
            result, pause = execute(func, event), min(2 * pause, longest)
        return result

    functions._run_sqs_batch, functions._execute_function = run_batch, execute_again


# ── DynamoDB ──


def check_conditions_once():
    """The syntax of a condition is checked again for every item of a partition: checks each expression once."""
    tables = module("services.dynamodb")
    tokenize = functools.lru_cache(4096)(expected(tables, "_tokenize", "expr"))
    syntax_error = functools.lru_cache(4096)(expected(tables, "_condition_syntax_error", "expr, slot"))
    evaluate = expected(tables, "_evaluate_condition", "expr, item, attr_values, attr_names, slot")
    redundant = expected(tables, "_check_redundant_parens", "tokens, slot")
    reserved = expected(tables, "_check_reserved_keyword_usage", "tokens")
    expected(tables, "_ExprEval", "tokens, item, attr_values, attr_names")

    @functools.lru_cache(4096)
    def checked(expr, slot):
        """The tokens of a faultless expression. None if it has a fault, or has BETWEEN, whose check needs the values."""
        tokens = tokenize(expr)
        between = any(text.upper() == "BETWEEN" for _, text in tokens)
        faulty = redundant(tokens, slot) or reserved(tokens) or syntax_error(expr, slot)
        return None if between or faulty else tuple(tokens)

    def evaluate_checked(expr, item, attr_values, attr_names, slot="ConditionExpression"):
        tokens = checked(expr, slot) if expr and expr.strip() else None
        if tokens:
            try:
                return tables._ExprEval(tokens, item, attr_values, attr_names).evaluate()
            except Exception:  # what follows says it in the emulator's words
                pass
        return evaluate(expr, item, attr_values, attr_names, slot)

    tables._tokenize = lambda expr: list(tokenize(expr))
    tables._condition_syntax_error, tables._evaluate_condition = syntax_error, evaluate_checked


# ── WebSockets ──


def let_sockets_sleep():
    """Every open WebSocket wakes twice a second to see whether it is closed: sleeps until a message or its end comes."""
    gateway = present(module("services.apigateway"), "asyncio", "_ws_connections")
    expected(gateway, "handle_websocket", "scope, receive, send, api_id, path_override")

    async def wait_for(message, timeout):  # only called to wait for the outbox of a socket, whose end is a message too
        return await message

    gateway.asyncio, gateway._ws_connections = Overlay(asyncio, wait_for=wait_for), Connections(gateway._ws_connections)


class Connections(dict):
    """The open connections. What closes one also ends its outbox, with None."""

    def __setitem__(self, connection, record):
        outbox, close = record["outbox"], record["close_event"].set

        def close_and_end():
            close()
            outbox.put_nowait(None)

        record["close_event"].set = close_and_end
        super().__setitem__(connection, record)


# ── The process ──


def serve_http_in_c():
    """Half of all work is HTTP in Python (hypercorn, h11): serves with uvicorn on httptools and uvloop, which are written in C."""
    import uvicorn
    import uvloop

    server = importlib.import_module("hypercorn.asyncio")
    serve_in_python = expected(server, "serve", "app, config, shutdown_trigger, mode")

    async def serve(app, config):
        if config.certfile or len(config.bind) != 1:
            return await serve_in_python(app, config)
        host, port = config.bind[0].rsplit(":", 1)
        settings = {
            "http": "httptools",
            "ws": "wsproto",
            "ws_ping_interval": None,  # API Gateway does not ping
            "ws_per_message_deflate": False,
            "lifespan": "on",
            "timeout_keep_alive": config.keep_alive_timeout,
            "timeout_graceful_shutdown": 1,
            "log_level": config.loglevel.lower(),
            "access_log": False,
            "proxy_headers": False,
            "server_header": False,
            "date_header": False,  # the emulator sets it
        }
        await uvicorn.Server(uvicorn.Config(app, host=host, port=int(port), **settings)).serve()

    server.serve = serve
    uvloop.install()


def keep_the_interpreter():
    """Each new id asks the kernel, which lets other threads interrupt the event loop for 5 ms: draws ids, and makes that shorter."""
    uuid.uuid4 = lambda: uuid.UUID(int=random.getrandbits(128), version=4)
    sys.setswitchinterval(0.0005)


def collect_garbage_rarely():
    """The collector walks through all items and log lines again and again, and everything waits: lets it do so rarely."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


MENDS = (
    answer_functions_at_once,
    reuse_threads,
    let_environments_sleep,
    read_logs_without_waiting,
    reserve_concurrency,
    reserve_concurrency_by_template,
    keep_every_message,
    fill_batches,
    retry_throttled_batches,
    check_conditions_once,
    let_sockets_sleep,
    serve_http_in_c,
    keep_the_interpreter,
    collect_garbage_rarely,
)


def main():
    try:
        if os.environ.get("LOCAL_AWS_UNMENDED") != "1":
            check_version(importlib.metadata.version("ministack"))
            for mend in MENDS:
                mend()
    except Refused as refusal:
        sys.exit(f"error: {refusal}")
    module("app").main()


if __name__ == "__main__":
    main()

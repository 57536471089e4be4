#!/usr/bin/env python3
"""Starts the local AWS (MiniStack) with its faults mended from outside; tools/stack runs it with .venv/emulator/bin/python.

Each mend is one function whose first line says what it changes and why. They know one version of MiniStack, hold none of
its code, and refuse to start when that version is not what is installed. LOCAL_AWS_UNMENDED=1 starts it as it comes.
"""

import asyncio
import contextvars
import functools
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

PINNED = "1.5.33"


class Refused(Exception):
    """Why the local AWS is not started, in one line."""


# ── Holding the emulator to what the mends expect ──


def check_version(found):
    """The mends reach into internals, which another version may have moved: no other is started."""
    if found != PINNED:
        raise Refused(f"ministack {found} is installed, and tools/local_aws.py mends {PINNED} only: look through its mends first")


def module(name):
    return importlib.import_module(f"ministack.{name}")


def expected(owner, name, parameters):
    """The function `name` of a module or class of the emulator; refuses when it, or its parameters, are not as expected."""
    found = getattr(owner, name, None)
    if not callable(found) or ", ".join(inspect.signature(found).parameters) != parameters:
        where = getattr(owner, "__qualname__", owner.__name__)
        raise Refused(f"ministack {PINNED} has no {where}.{name}({parameters}): look through the mends in tools/local_aws.py")
    return found


def present(owner, *names):
    """Refuses when something that a mend only uses is missing."""
    for name in names:
        if not hasattr(owner, name):
            raise Refused(f"ministack {PINNED} has no {owner.__name__}.{name}: look through the mends in tools/local_aws.py")
    return owner


# ── Invocations ──


def answer_functions_at_once():
    """The Runtime API sends headers and body apart, and Nagle's algorithm holds the body back for 40 ms: sends both at once."""
    socketserver.StreamRequestHandler.disable_nagle_algorithm = True
    socketserver.StreamRequestHandler.wbufsize = -1  # buffered; http.server flushes after every response


def reuse_threads():
    """Every invocation starts a thread, and the event loop stands still until that thread runs: hands it to an idle one."""
    concurrency = module("core.concurrency")
    expected(concurrency, "run_reentrant", "fn, args, thread_name")
    expected(concurrency, "spawn_background", "fn, args, thread_name, kwargs")
    concurrency.threading = _Module(threading, Thread=_Task)


class _Module:
    """A module as one of the emulator's modules sees it, with names of its own in front."""

    def __init__(self, module, **names):
        self.__dict__.update(names)
        self._module = module

    def __getattr__(self, name):
        return getattr(self._module, name)


class _Task:
    """What core/concurrency.py knows of a thread; it runs on the thread that fell idle last, or on a new one."""

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
                del task
            cls.idle.append(tasks)

    def join(self, timeout=None):
        self.ended.wait(timeout)

    def is_alive(self):
        return not self.ended.is_set()


def let_idle_environments_sleep():
    """Each idle environment wakes twenty times a second to ask for work or for its end: sleeps until there is some."""
    runtime = module("core.lambda_runtime")
    worker = runtime.ProvidedWorker
    build = expected(worker, "_build_handler_class", "self, generation, pending")
    worker._build_handler_class = lambda self, generation, pending: build(self, generation, _Patient(pending))
    serve, shutdown = socketserver.BaseServer.serve_forever, socketserver.BaseServer.shutdown

    def stop(server):
        server._BaseServer__shutdown_request = True
        try:
            socket.create_connection(server.server_address, timeout=1).close()  # what it sleeps on
        except OSError:
            pass
        shutdown(server)

    socketserver.BaseServer.serve_forever = lambda self, poll_interval=None: serve(self, None)
    socketserver.BaseServer.shutdown = stop


class _Patient:
    """The queue of an environment's next invocation. One that is shut down looks up within seconds; its process is gone by then."""

    def __init__(self, pending):
        self.pending = pending

    def get(self, timeout):
        return self.pending.get(timeout=max(timeout, 5))


def read_logs_without_waiting():
    """After every invocation its thread and its share of the concurrency wait 5 to 50 ms for log lines that are there: reads them."""
    runtime = module("core.lambda_runtime")
    worker = runtime.ProvidedWorker
    expected(worker, "_pump_output", "self, stream, log_queue")
    expected(worker, "_drain_stderr_bounded", "self, first_line_wait, idle_confirm, hard_cap")
    expected(worker, "_drain_stderr", "self")

    def pump(self, stream, log_queue):
        self.output = _Output(stream, log_queue)
        self.output.pump()

    def drain(self, first_line_wait=0, idle_confirm=0, hard_cap=0):
        if output := getattr(self, "output", None):
            output.read()
        return self._drain_stderr()

    worker._pump_output, worker._drain_stderr_bounded = pump, drain


class _Output:
    """What a function writes. What it wrote before its answer is in the pipe when the answer comes: no need to wait for it."""

    def __init__(self, stream, lines):
        self.stream, self.lines, self.rest, self.lock = stream, lines, b"", threading.Lock()
        os.set_blocking(stream.fileno(), False)

    def read(self):
        """Takes over what there is. False at the end of the stream."""
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
        if self.lines.full():  # the oldest goes; the function must not wait for a reader
            self.lines.get_nowait()
        self.lines.put_nowait(line)

    def pump(self):
        """Keeps the pipe from filling between invocations; a moment's sleep leaves most lines to the invocation that wrote them."""
        waiting = select.poll()
        waiting.register(self.stream.fileno(), select.POLLIN)
        while True:
            waiting.poll()
            time.sleep(0.02)
            if not self.read():
                return


def share_concurrency_as_aws_does():
    """Reserved concurrency is ignored for versions and aliases, and nobody is kept out of it: caps the function, and keeps the others out.

    "When a function has reserved concurrency, no other function can use that concurrency", and it holds for all its
    versions together: https://docs.aws.amazon.com/lambda/latest/dg/configuration-concurrency.html
    """
    functions = module("services.lambda_svc")
    present(functions, "_functions", "_inflight", "_inflight_lock", "_inflight_total", "_ACCOUNT_CONCURRENCY_CAP")
    key_of = expected(functions, "_inflight_key", "config")
    own = expected(functions, "_reserved_concurrency", "func, config")
    expected(functions, "_acquire_execution_slot", "func, config")

    def reserved(func, config):
        return own(functions._functions.get(config.get("FunctionName")) or func, config)

    def acquire(func, config):
        key, limit = key_of(config), reserved(func, config)
        shares = {key_of(other["config"]): share for other in functions._functions.values() if (share := own(other, {})) is not None}
        with functions._inflight_lock:
            if limit is not None:
                if functions._inflight.get(key, 0) >= limit:
                    return None, "function"
            elif functions._ACCOUNT_CONCURRENCY_CAP > 0:
                taken = sum(count for other, count in functions._inflight.items() if other not in shares)
                if taken >= functions._ACCOUNT_CONCURRENCY_CAP - sum(shares.values()):
                    return None, "account"
            functions._inflight[key] = functions._inflight.get(key, 0) + 1
            functions._inflight_total += 1
        return key, None

    functions._reserved_concurrency, functions._acquire_execution_slot = reserved, acquire


def reserve_concurrency_from_templates():
    """CloudFormation accepts ReservedConcurrentExecutions and drops it: sets it on the function."""
    functions = module("services.lambda_svc")
    provisioners = module("services.cloudformation.provisioners")
    create = expected(provisioners, "_lambda_create", "logical_id, props, stack_name")
    update = expected(provisioners, "_lambda_update", "physical_id, old_props, new_props, stack_name, logical_id")
    handlers = present(provisioners, "_RESOURCE_HANDLERS")._RESOURCE_HANDLERS["AWS::Lambda::Function"]

    def reserve(made, props):
        share = props.get("ReservedConcurrentExecutions")
        functions._functions[made[0]]["concurrency"] = None if share is None else int(share)
        return made

    handlers["create"] = lambda logical_id, props, stack_name: reserve(create(logical_id, props, stack_name), props)
    handlers["update"] = lambda physical_id, old_props, new_props, stack_name, logical_id=None: reserve(
        update(physical_id, old_props, new_props, stack_name, logical_id), new_props
    )


# ── Event sources ──

PAYLOAD = 6 * 1024 * 1024  # of a synchronous invocation: https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
RECORD = 1024  # what a message adds to the event beside its body and attributes, rounded up
_polled = threading.local()


def keep_every_message():
    """A message sent while the poller rewrites its queue is lost: lets one thread at a time at the queues."""
    queues, topics, events = module("services.sqs"), module("services.sns"), module("services.eventbridge")
    present(queues, "_HANDLERS", "_queues_lock")
    queues._queues_lock = lock = threading.RLock()

    def guarded(function):
        @functools.wraps(function)
        def call(*arguments, **named):
            with lock:
                return function(*arguments, **named)

        return call

    for owner, name, parameters in (
        (queues, "_expire_retained", "q"),
        (queues, "_dlq_sweep", "q"),
        (queues, "_collect_msgs", "q, max_n, vis_timeout"),
        (topics, "_deliver_to_sqs", "endpoint, envelope, raw, raw_message, message_group_id, message_dedup_id, message_attributes, topic_arn"),
        (events, "_dispatch_to_sqs", "spec, payload, sqs_parameters"),
    ):
        setattr(owner, name, guarded(expected(owner, name, parameters)))
    for action, handler in queues._HANDLERS.items():
        if not inspect.iscoroutinefunction(handler):  # ReceiveMessage waits between its calls of the three above
            queues._HANDLERS[action] = guarded(handler)


def fill_batches():
    """A batch holds ten messages at most and knows no batching window: fills it up to BatchSize, the window or 6 MB."""
    functions, queues = module("services.lambda_svc"), module("services.sqs")
    mappings = expected(functions, "_iter_all_esms", "")
    receive = expected(queues, "_receive_messages_for_esm", "queue_url, max_number")
    present(queues, "_queues_lock", "_get_q", "_expire_retained", "_dlq_sweep", "_collect_msgs")
    present(functions, "_esm_wake")
    gathered = {}

    def each_mapping():
        for account, region, mapping in mappings():
            _polled.mapping = mapping
            yield account, region, mapping

    def receive_batch(queue_url, max_number):
        if queues._get_q(queue_url)["is_fifo"]:  # ten messages and no window are AWS's own rule there
            return receive(queue_url, max_number)
        mapping = _polled.mapping
        window = int(mapping.get("MaximumBatchingWindowInSeconds") or 0)
        batch = gathered.setdefault(mapping["UUID"], _Batch(int(max_number)))
        batch.add(queues, queue_url)
        if window and batch.messages and not batch.full and batch.age() < window:
            batch.call_after(window, functions._esm_wake.set)
            return []
        del gathered[mapping["UUID"]]
        return batch.standing()

    functions._iter_all_esms, queues._receive_messages_for_esm = each_mapping, receive_batch


class _Batch:
    """Messages of one invocation to be. They are in flight from the moment they are taken, as those that AWS gathers are."""

    def __init__(self, size):
        self.size, self.messages, self.bytes, self.full = size, [], 0, False
        self.since = self.timer = None

    def add(self, queues, queue_url):
        with queues._queues_lock:
            queue = queues._get_q(queue_url)
            queues._expire_retained(queue)
            queues._dlq_sweep(queue)
            fitting = self.fitting(queue["messages"])
            taken = queues._collect_msgs(queue, fitting, int(queue["attributes"].get("VisibilityTimeout", "30")))
        self.messages += [(message, message["receipt_handle"]) for message in taken]
        self.full = self.full or len(self.messages) >= self.size
        if self.since is None and self.messages:
            self.since = time.monotonic()

    def fitting(self, messages):
        """How many of the visible messages, in their order, still go into the batch; one always does."""
        count, now = 0, time.time()
        for message in messages:
            if message.get("visible_at", 0) > now:
                continue
            needed = RECORD + len(json.dumps([message.get("body"), message.get("message_attributes")]))
            if len(self.messages) + count >= self.size or (self.messages or count) and self.bytes + needed > PAYLOAD:
                self.full = True
                break
            count, self.bytes = count + 1, self.bytes + needed
        return count

    def age(self):
        return time.monotonic() - self.since

    def call_after(self, window, wake):
        if not self.timer:
            self.timer = threading.Timer(window - self.age(), wake)
            self.timer.daemon = True
            self.timer.start()

    def standing(self):
        """Without those that became visible meanwhile, or were received by somebody else since."""
        now = time.time()
        return [message for message, receipt in self.messages if message["receipt_handle"] == receipt and message["visible_at"] > now]


_retry_until = contextvars.ContextVar("when the messages of the batch become visible again", default=None)
PAUSES = (0.025, 0.4)  # seconds: the first pause before a throttled batch is tried again, and the longest


def retry_throttled_batches():
    """A batch that finds no concurrency waits out its visibility time-out: tries again until then, as AWS's pollers do.

    "Lambda continues to retry the message until the message's timestamp exceeds your queue's visibility timeout":
    https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html
    """
    functions = module("services.lambda_svc")
    execute = expected(functions, "_execute_function", "func, event")
    run = expected(functions, "_run_sqs_batch", "esm, func_rec, event, batch, queue_url, queue_name")

    def run_batch(esm, func_rec, event, batch, queue_url, queue_name):
        token = _retry_until.set(min(message["visible_at"] for message in batch))
        try:
            return run(esm, func_rec, event, batch, queue_url, queue_name)
        finally:
            _retry_until.reset(token)

    def execute_again(func, event):
        result, until, (pause, longest) = execute(func, event), _retry_until.get(), PAUSES
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
        """The tokens of an expression without fault; None when there is one, or when BETWEEN makes the verdict depend on values."""
        tokens = tokenize(expr)
        if redundant(tokens, slot) or reserved(tokens) or syntax_error(expr, slot) or any(token[1].upper() == "BETWEEN" for token in tokens):
            return None
        return tuple(tokens)

    def evaluate_checked(expr, item, attr_values, attr_names, slot="ConditionExpression"):
        tokens = checked(expr, slot) if expr and expr.strip() else None
        if tokens:
            try:
                return tables._ExprEval(tokens, item, attr_values, attr_names).evaluate()
            except Exception:  # the emulator's own words for it are in what follows
                pass
        return evaluate(expr, item, attr_values, attr_names, slot)

    tables._tokenize = lambda expr: list(tokenize(expr))
    tables._condition_syntax_error, tables._evaluate_condition = syntax_error, evaluate_checked


# ── WebSockets ──


def let_idle_sockets_sleep():
    """Every open WebSocket wakes twice a second to see whether it is closed: sleeps until a message or its end comes."""
    gateway = module("services.apigateway")
    expected(gateway, "handle_websocket", "scope, receive, send, api_id, path_override")
    present(gateway, "asyncio", "_ws_connections")

    async def wait_for(waiting, timeout):  # the only one there is waits for an outbox, whose end is a message too
        return await waiting

    gateway.asyncio, gateway._ws_connections = _Module(asyncio, wait_for=wait_for), _Connections(gateway._ws_connections)


class _Connections(dict):
    """The open connections. What closes one puts the end into its outbox: None."""

    def __setitem__(self, connection, record):
        closed, outbox, close = record["close_event"], record["outbox"], record["close_event"].set

        def set_and_end():
            close()
            outbox.put_nowait(None)

        closed.set = set_and_end
        super().__setitem__(connection, record)


# ── Start ──

MENDS = (
    answer_functions_at_once,
    reuse_threads,
    let_idle_environments_sleep,
    read_logs_without_waiting,
    share_concurrency_as_aws_does,
    reserve_concurrency_from_templates,
    keep_every_message,
    fill_batches,
    retry_throttled_batches,
    check_conditions_once,
    let_idle_sockets_sleep,
)


def main():
    try:
        if os.environ.get("LOCAL_AWS_UNMENDED") != "1":
            check_version(importlib.metadata.version("ministack"))
            for mend in MENDS:
                mend()
    except (Refused, importlib.metadata.PackageNotFoundError) as refusal:
        sys.exit(f"error: {refusal}")
    module("app").main()


if __name__ == "__main__":
    main()

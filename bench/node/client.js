// One run of one variant with the official SDK, in a process of its own; prints what it measured as one line of JSON,
// as the Rust client does.
import { readFileSync } from "node:fs";
import { Agent } from "node:http";
import { parseArgs } from "node:util";
import { ApiGatewayManagementApiClient, PostToConnectionCommand } from "@aws-sdk/client-apigatewaymanagementapi";
import { NodeHttpHandler } from "@smithy/node-http-handler";
import { PromisePool } from "@supercharge/promise-pool";

const { values: options } = parseArgs({
  options: {
    variant: { type: "string" },
    endpoint: { type: "string" },
    posts: { type: "string" },
    "in-flight": { type: "string" },
    frame: { type: "string" },
  },
});
const posts = Number(options.posts);
const inFlight = Number(options["in-flight"]);
const frame = Buffer.from(options.frame);
const client = new ApiGatewayManagementApiClient({
  endpoint: options.endpoint,
  // Without it Node opens 50 sockets and lets the rest wait.
  requestHandler: new NodeHttpHandler({ httpAgent: new Agent({ keepAlive: true, maxSockets: inFlight }), socketAcquisitionWarningTimeout: 600_000 }),
});

const post = (ConnectionId) => client.send(new PostToConnectionCommand({ ConnectionId, Data: frame }));

const outcome = (error) => {
  if (!error) return "delivered";
  const status = error.$metadata?.httpStatusCode;
  return status === 410 ? "gone" : status === 429 ? "throttled" : "failed";
};

const variants = {
  async "for-await"(connections, count) {
    for (const connection of connections) {
      await post(connection).then(() => count(), count);
    }
  },
  async "all-settled"(connections, count) {
    const settled = await Promise.allSettled(connections.map(post));
    for (const { reason } of settled) count(reason);
  },
  async "promise-pool"(connections, count) {
    await PromisePool.for(connections)
      .withConcurrency(inFlight)
      .handleError((error) => count(error))
      .process(async (connection) => {
        await post(connection);
        count();
      });
  },
};

const run = async (number) => {
  const connections = Array.from({ length: number }, (_, index) => `C${String(index).padStart(14, "0")}=`);
  const counts = { delivered: 0, gone: 0, throttled: 0, failed: 0 };
  await variants[options.variant](connections, (error) => counts[outcome(error)]++);
  return counts;
};

// The connections are opened first, unmeasured, as the Rust client does.
await run(Math.min(inFlight, posts));
const cpu = process.cpuUsage();
const started = process.hrtime.bigint();
const counts = await run(posts);
const wallMicros = Number((process.hrtime.bigint() - started) / 1000n);
const { user, system } = process.cpuUsage(cpu);
const peakKib = Number(/^VmHWM:\s+(\d+)/m.exec(readFileSync("/proc/self/status", "utf8"))[1]);
console.log(JSON.stringify({ posts, wallMicros, cpuMicros: user + system, peakKib, ...counts }));
process.exit(0);
